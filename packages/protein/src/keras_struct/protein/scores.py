"""How good an alignment of two chains is: by their coordinates, and against a reference."""

from __future__ import annotations

import numpy as np

from keras_struct.ops.annotations import ArrayLike
from keras_struct.protein.chain import Chain

LEAST_PAIRS = 3  # for a superposition
FRAGMENTS = (1, 2, 4, 8)  # of the alignment, whose superpositions the search starts from
STEPS = 20


def checked_pairs(first, second, pairs, least=1):
    """The pairs as an array, or a `ValueError`; `first` and `second` have the lengths."""
    pairs = np.asarray(pairs)
    shape_fits = pairs.ndim == 2 and pairs.shape[1] == 2
    if not shape_fits or not np.issubdtype(pairs.dtype, np.integer):
        raise ValueError(
            f"Expected pairs of indices (N, 2). Received: shape={pairs.shape}, dtype={pairs.dtype}"
        )
    if len(pairs) < least:
        raise ValueError(f"Expected at least {least} pairs. Received: {len(pairs)}")
    if len(pairs) and (pairs.min() < 0 or (pairs.max(axis=0) >= [len(first), len(second)]).any()):
        raise ValueError(
            f"Expected indices below {len(first)} and {len(second)}. "
            f"Received: between {pairs.min(axis=0)} and {pairs.max(axis=0)}"
        )
    return pairs


def fit(fixed, moving, weights=None):
    """Rotation and translation of (weighted) least squares, after Kabsch."""
    weights = np.ones(len(fixed)) if weights is None else weights
    weights = (weights / weights.sum())[:, None]
    centers = [(weights * x).sum(axis=0) for x in (fixed, moving)]
    u, _, v = np.linalg.svd((moving - centers[1]).T @ (weights * (fixed - centers[0])))
    if np.linalg.det(u @ v) < 0:
        u[:, 2] *= -1
    rotation = (u @ v).T
    return rotation, centers[0] - rotation @ centers[1]


def d0(length):
    """The distance, in angstrom, at which a pair counts half in a TM-score of this length."""
    return max(0.5, 1.24 * (length - 15) ** (1 / 3) - 1.8) if length > 15 else 0.5


def superposition(
    first: Chain | np.ndarray,
    second: Chain | np.ndarray,
    pairs: ArrayLike,
    length: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The superposition of the second chain on the first that has the highest TM-score.

    Searched as in TM-score: from least-squares fits of pieces of the alignment, each refined on the
    pairs that come close.

    Args:
        first, second: `Chain` with coordinates, or CA coordinates `(L, 3)`.
        pairs: `(N, 2)`, N >= 3: indices of aligned residues.
        length: Of the TM-score; None for the length of the first.

    Returns:
        Rotation `(3, 3)` and translation `(3,)` in angstrom: `rotation @ x + translation`.
    """
    return _search(first, second, pairs, length)[1:]


def tm_score(
    first: Chain | np.ndarray,
    second: Chain | np.ndarray,
    pairs: ArrayLike,
    length: int | None = None,
) -> float:
    """TM-score of an alignment, in (0, 1]: that of its best superposition.

    Args:
        first, second: `Chain` with coordinates, or CA coordinates `(L, 3)`.
        pairs: `(N, 2)`: indices of aligned residues.
        length: What to normalise by; None for the length of the first.

    Example:

    >>> import numpy as np
    >>> from keras_struct import protein
    >>> helix = np.array([[2.3 * np.cos(1.75 * k), 2.3 * np.sin(1.75 * k), 1.5 * k]
    ...                   for k in range(40)])
    >>> pairs = np.stack([np.arange(40)] * 2, 1)
    >>> round(protein.tm_score(helix, helix[:, [1, 2, 0]], pairs), 3)
    1.0

    Source: Zhang and Skolnick (2004), Scoring function for automated assessment of protein
    structure template quality.
    """
    pairs = checked_pairs(first, second, pairs, 0)
    if len(pairs) < LEAST_PAIRS:
        return 0.0
    return float(_search(first, second, pairs, length)[0])


def _search(first, second, pairs, length):
    pairs = checked_pairs(first, second, pairs, LEAST_PAIRS)
    fixed, moving = _ca(first)[pairs[:, 0]], _ca(second)[pairs[:, 1]]
    length = len(first) if length is None else length
    scale, near = d0(length), min(8.0, max(4.5, d0(length)))
    best, seen = (-1.0, None, None), set()
    count = len(pairs)
    sizes = dict.fromkeys(max(LEAST_PAIRS + 1, count // f) for f in FRAGMENTS)
    for size in sizes:
        size = min(size, count)
        for start in range(0, count - size + 1, max(1, size // 2)):
            chosen = np.arange(start, start + size)
            for _ in range(STEPS):
                key = chosen.tobytes()
                if key in seen:
                    break
                seen.add(key)
                rotation, shift = fit(fixed[chosen], moving[chosen])
                distance = np.linalg.norm(moving @ rotation.T + shift - fixed, axis=1)
                score = float((1 / (1 + (distance / scale) ** 2)).sum() / length)
                if score > best[0]:
                    best = (score, rotation, shift)
                # At least the closest ones, where the pieces lie far apart.
                limit = max(near, np.partition(distance, LEAST_PAIRS - 1)[LEAST_PAIRS - 1])
                chosen = np.flatnonzero(distance <= limit)
    return best


def rmsd(first: Chain | np.ndarray, second: Chain | np.ndarray, pairs: ArrayLike) -> float:
    """Root mean square distance, in angstrom, of the aligned CA atoms after their best fit."""
    pairs = checked_pairs(first, second, pairs, LEAST_PAIRS)
    fixed, moving = _ca(first)[pairs[:, 0]], _ca(second)[pairs[:, 1]]
    rotation, shift = fit(fixed, moving)
    return float(np.sqrt(((moving @ rotation.T + shift - fixed) ** 2).sum(axis=1).mean()))


def lddt(first: Chain | np.ndarray, second: Chain | np.ndarray, pairs: ArrayLike) -> float:
    """Local distance difference test of an alignment, in [0, 1], over CA atoms.

    Of the distances below 15 angstrom between aligned residues of the first chain, the share that
    the second keeps within 0.5, 1, 2 and 4 angstrom, averaged over the aligned residues, as
    Foldseek judges alignments; 0 where no two aligned residues are near each other.

    Source: Mariani, Biasini, Barbato and Schwede (2013), lDDT: a local superposition-free score.
    """
    from biotite import structure

    pairs = checked_pairs(first, second, pairs, 0)
    if len(pairs) < 2:
        return 0.0
    fixed, moving = _ca(first)[pairs[:, 0]], _ca(second)[pairs[:, 1]]
    atoms = structure.AtomArray(len(pairs))
    atoms.coord, atoms.res_id = fixed, np.arange(1, len(pairs) + 1)
    atoms.chain_id[:], atoms.atom_name[:], atoms.res_name[:] = "A", "CA", "ALA"
    other = atoms.copy()
    other.coord = moving
    per_residue = structure.lddt(atoms, other, aggregation="residue")
    return float(np.nan_to_num(per_residue).mean())


def coverage(length: int, pairs: ArrayLike) -> float:
    """The share of the residues of a chain of this length that are aligned."""
    return len(pairs) / length


def identity(first: Chain, second: Chain, pairs: ArrayLike) -> float:
    """The share of aligned residues that are the same amino acid; 0 without pairs."""
    pairs = checked_pairs(first.sequence, second.sequence, pairs, 0)
    same = [first.sequence[i] == second.sequence[j] != "X" for i, j in pairs]
    return float(np.mean(same)) if same else 0.0


def pair_scores(predicted: ArrayLike, reference: ArrayLike) -> dict[str, float]:
    """Precision, recall and F1 of predicted pairs against those of a reference.

    Args:
        predicted, reference: `(N, 2)`, indices of aligned residues.

    Returns:
        Dictionary `precision`, `recall`, `f1`, each in [0, 1]; 0 where nothing is right.

    Example:

    >>> from keras_struct import protein
    >>> protein.pair_scores([[0, 0], [1, 1]], [[0, 0], [1, 2], [2, 3]])["precision"]
    0.5
    """
    found = {(int(i), int(j)) for i, j in predicted}
    right = {(int(i), int(j)) for i, j in reference}
    both = len(found & right)
    return {
        "precision": both / len(found) if found else 0.0,
        "recall": both / len(right) if right else 0.0,
        "f1": 2 * both / (len(found) + len(right)) if found or right else 0.0,
    }


def _ca(chain):
    return np.asarray(getattr(chain, "ca", chain), "float64")
