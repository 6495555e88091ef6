"""Alignments with gaps: global, overlap and local, linear and affine."""

from __future__ import annotations

import dataclasses

from keras_struct.ops.alignment import spec
from keras_struct.ops.alignment.lattice import Lattice
from keras_struct.ops.annotations import ArrayLike, Pair
from keras_struct.ops.distribution import Distribution
from keras_struct.ops.symbolic import public

ADJACENT_GAPS = ("any", "none", "ordered")


@public
def needleman_wunsch(
    scores: ArrayLike,
    gap_open: ArrayLike,
    gap_extend: ArrayLike | None = None,
    lengths: Pair = None,
    temperature: ArrayLike = 1.0,
    adjacent_gaps: str = "any",
    mask: Pair = None,
    implementation: str | None = None,
) -> Distribution:
    """Distribution over the global alignments of two sequences.

    An alignment is a path on the lattice of nodes (i, j), "i symbols of the first sequence and j of
    the second are consumed", from (0, 0) to the lengths. A step (1, 1) matches two symbols, a step
    (1, 0) skips a row, a step (0, 1) skips a column. A run of k equal skips is a gap and scores
    `gap_open + (k - 1) * gap_extend`.

    Shapes: `...` batch axes, `L1` rows (first sequence), `L2` columns (second sequence).

    Args:
        scores: (..., L1, L2) scores of matching row i with column j.
        gap_open: Score of the first skip of a gap (usually negative): a number, (...,) per example,
            (..., L1) or (..., L1, 1) per row, (..., L2) or (..., 1, L2) per column, or
            (..., L1, L2) per cell; or a tuple of two of these, for skipped rows and skipped
            columns. A skip at node (i, j) reads cell (i-1, j-1), and before the first row or column
            reads that row or column.
        gap_extend: Score of every further skip, in the same forms; None for `gap_open` (linear
            gaps).
        lengths: Pair of integers (...,), `(len1, len2)`; None for L1 or L2. Two empty sequences
            have one alignment, of score 0.
        temperature: Positive number, tensor or variable, () or (...,); the number 0 is the
            classical algorithm.
        adjacent_gaps: Whether a gap of skipped rows and one of skipped columns may touch: `"any"`
            (every lattice path counts), `"none"`, or `"ordered"` (skipped rows before skipped
            columns only, so that every set of matched pairs counts once).
        mask: Pair of booleans (..., L1) and (..., L2), or None, instead of lengths: a symbol where
            it is False is not part of the sequence, wherever it stands.
        implementation: Name, or None for the best one (see `ops.explain`).

    Returns:
        `Distribution` with potentials `scores`, `gap_open`, `gap_extend` (pairs: `gap_open_row`,
        `gap_open_column`, ...). Events are paths (..., L1 + L2 + 1, 2), int32: the nodes in order,
        then -1.

    Raises:
        ValueError: For shapes, lengths or options that do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> d = ops.needleman_wunsch(np.zeros((1, 3, 3), "float32"), gap_open=0.0)
    >>> print(np.round(np.exp(np.array(d.value()))))  # Delannoy number D(3, 3)
    [63.]

    Source: Needleman and Wunsch (1970); affine gaps: Gotoh (1982).
    """
    return _gapped(
        "needleman_wunsch",
        "global",
        scores,
        gap_open,
        gap_extend,
        lengths,
        temperature,
        adjacent_gaps,
        mask,
        implementation,
    )


@public
def overlap(
    scores: ArrayLike,
    gap_open: ArrayLike,
    gap_extend: ArrayLike | None = None,
    lengths: Pair = None,
    temperature: ArrayLike = 1.0,
    adjacent_gaps: str = "any",
    mask: Pair = None,
    implementation: str | None = None,
) -> Distribution:
    """Distribution over the alignments with free end gaps (semi-global, all four ends free).

    As `needleman_wunsch`, but a path starts at any node of the first row or column of the lattice,
    ends at any node of the last row or column, and has at least one step; no step runs along the
    first row or column. So an empty sequence has no alignment, and value minus infinity.

    Args:
        scores: (..., L1, L2) scores of matching row i with column j.
        gap_open: See `needleman_wunsch`.
        gap_extend: See `needleman_wunsch`.
        lengths: Pair of integers (...,); None for L1 or L2.
        temperature: See `needleman_wunsch`.
        adjacent_gaps: See `needleman_wunsch`.
        mask: See `needleman_wunsch`.
        implementation: Name, or None for the best one (see `ops.explain`).

    Returns:
        `Distribution`; see `needleman_wunsch`.

    Raises:
        ValueError: For shapes, lengths or options that do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> d = ops.overlap(np.eye(4, k=2, dtype="float32")[None], -1.0, temperature=0)
    >>> print(np.array(d.value()))
    [2.]
    """
    return _gapped(
        "overlap",
        "overlap",
        scores,
        gap_open,
        gap_extend,
        lengths,
        temperature,
        adjacent_gaps,
        mask,
        implementation,
    )


@public
def smith_waterman(
    scores: ArrayLike,
    gap_open: ArrayLike,
    gap_extend: ArrayLike | None = None,
    lengths: Pair = None,
    temperature: ArrayLike = 1.0,
    adjacent_gaps: str = "any",
    mask: Pair = None,
    implementation: str | None = None,
) -> Distribution:
    """Distribution over the local alignments of two sequences.

    As `needleman_wunsch`, but a path starts and ends anywhere, its first and its last step being a
    match. The empty alignment is not counted, so an empty sequence has value minus infinity.

    Args:
        scores: (..., L1, L2) scores of matching row i with column j.
        gap_open: See `needleman_wunsch`.
        gap_extend: See `needleman_wunsch`.
        lengths: Pair of integers (...,); None for L1 or L2.
        temperature: See `needleman_wunsch`.
        adjacent_gaps: See `needleman_wunsch`.
        mask: See `needleman_wunsch`.
        implementation: Name, or None for the best one (see `ops.explain`).

    Returns:
        `Distribution`; see `needleman_wunsch`. The first node of an event is the one before its
        first match.

    Raises:
        ValueError: For shapes, lengths or options that do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> scores = 2 * np.eye(4, k=1, dtype="float32") - 1
    >>> d = ops.smith_waterman(scores[None], gap_open=-2.0, gap_extend=-1.0, temperature=0)
    >>> print(np.array(d.value()))
    [3.]

    Source: Smith and Waterman (1981); affine gaps: Gotoh (1982).
    """
    return _gapped(
        "smith_waterman",
        "local",
        scores,
        gap_open,
        gap_extend,
        lengths,
        temperature,
        adjacent_gaps,
        mask,
        implementation,
    )


@public
def saigo_vert(
    scores: ArrayLike,
    gap_open: ArrayLike,
    gap_extend: ArrayLike | None = None,
    lengths: Pair = None,
    temperature: ArrayLike = 1.0,
    mask: Pair = None,
    implementation: str | None = None,
) -> Distribution:
    """Distribution of the local alignment kernel: every set of matched pairs once.

    As `smith_waterman` with `adjacent_gaps="ordered"`, plus one empty alignment of score 0, so that
    `exp(log_partition)` is the kernel. An empty sequence has value 0.

    Args:
        scores: (..., L1, L2) scores of matching row i with column j.
        gap_open: See `needleman_wunsch`.
        gap_extend: See `needleman_wunsch`.
        lengths: Pair of integers (...,); None for L1 or L2.
        temperature: See `needleman_wunsch`; one over the kernel's beta.
        mask: See `needleman_wunsch`.
        implementation: Name, or None for the best one (see `ops.explain`).

    Returns:
        `Distribution`; see `smith_waterman`. The empty alignment is -1 everywhere.

    Raises:
        ValueError: For shapes, lengths or options that do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> d = ops.saigo_vert(np.zeros((1, 2, 3), "float32"), gap_open=0.0)
    >>> print(np.round(np.exp(np.array(d.value()))))  # 1 + 2*3 + 1*3 sets of pairs
    [10.]

    Source: Saigo, Vert, Ueda and Akutsu (2004), Protein homology detection using string alignment
    kernels.
    """
    return _gapped(
        "saigo_vert",
        "local",
        scores,
        gap_open,
        gap_extend,
        lengths,
        temperature,
        "ordered",
        mask,
        implementation,
    )


def _gapped(
    op,
    mode,
    scores,
    gap_open,
    gap_extend,
    lengths,
    temperature,
    adjacent_gaps,
    mask,
    implementation,
):
    if adjacent_gaps not in ADJACENT_GAPS:
        raise ValueError(
            f"Expected adjacent_gaps among {ADJACENT_GAPS}. "
            f"Received: adjacent_gaps={adjacent_gaps!r}"
        )
    gaps = _named("gap_open", gap_open)
    extend = {} if gap_extend is None else _named("gap_extend", gap_extend)
    pairs = len(gaps) == 2, len(extend) == 2
    rule = spec.alignment(mode, gap_extend is not None, adjacent_gaps, pairs)
    if op == "saigo_vert":
        rule = dataclasses.replace(rule, empty=True)
    structure = Lattice(op, rule, {"scores": scores}, {**gaps, **extend}, lengths, mask)
    return Distribution(structure, temperature, implementation)


def _named(name, gap):
    """One potential, or one for rows and one for columns."""
    if not isinstance(gap, tuple):
        return {name: gap}
    if len(gap) != 2:
        raise ValueError(
            f"Expected {name}, or a tuple of two for rows and columns. Received: {name}={gap}"
        )
    return {f"{name}_row": gap[0], f"{name}_column": gap[1]}
