"""Edit distances: Levenshtein, optimal string alignment, longest common subsequence."""

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.alignment import spec
from keras_struct.ops.alignment.lattice import Lattice
from keras_struct.ops.distribution import Distribution
from keras_struct.ops.numerics import FORBIDDEN, reduce_to
from keras_struct.ops.structure import as_temperature, flatten_shared


def levenshtein(
    substitutions,
    deletion=1.0,
    insertion=1.0,
    lengths=None,
    temperature=1.0,
    implementation=None,
):
    """Distribution over the ways to edit the first sequence into the second.

    A path on the lattice of nodes (i, j) from (0, 0) to the lengths: a step (1, 1) substitutes
    (costs nothing where symbols are equal, if `substitutions` says so), (1, 0) deletes a symbol of
    the first sequence, (0, 1) inserts one of the second. `value` is the soft minimum of the cost.

    Shapes: `...` batch axes, `L1` and `L2` symbols of the sequences.

    Args:
        substitutions: (..., L1, L2) cost of turning symbol i into symbol j, 0 where they are equal.
        deletion: Cost of a deletion, in the forms of `gap_open` in `needleman_wunsch`.
        insertion: Cost of an insertion, in the same forms.
        lengths: Pair of integers (...,); None for L1 or L2. Two empty sequences: value 0.
        temperature: Positive number, tensor or variable, () or (...,); the number 0 is the classical
            distance.
        implementation: Name, or None for the best one (see `ops.explain`).

    Returns:
        `Distribution` with potentials `substitutions`, `deletion`, `insertion`; marginals are
        expected uses, at least 0. Events are paths (..., L1 + L2 + 1, 2), int32: the nodes in
        order, then -1.

    Raises:
        ValueError: For shapes or lengths that do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> x, y = (np.array([ord(c) for c in word]) for word in ("kitten", "sitting"))
    >>> costs = (x[:, None] != y).astype("float32")
    >>> print(np.array(ops.levenshtein(costs, temperature=0).value()))
    3.0

    Source: Levenshtein (1966); Wagner and Fischer (1974).
    """
    structure = Lattice(
        "levenshtein",
        spec.edit(swaps=False),
        ("edit", (0, 1, 2)),
        {"substitutions": substitutions},
        {"deletion": deletion, "insertion": insertion},
        lengths,
        costs=True,
    )
    temperature = as_temperature(temperature, structure.batch_shape, structure.compute)
    return Distribution(structure, temperature, implementation)


def osa(
    substitutions,
    swaps,
    deletion=1.0,
    insertion=1.0,
    transposition=1.0,
    lengths=None,
    temperature=1.0,
    implementation=None,
):
    """Optimal string alignment: `levenshtein` plus swaps of two neighbours, never edited again.

    Args:
        substitutions: (..., L1, L2) cost of turning symbol i into symbol j.
        swaps: (..., L1, L2) booleans: whether symbols i-1 and i of the first sequence, swapped, may
            become symbols j-1 and j of the second (see `adjacent_swaps`).
        deletion: Cost of a deletion, in the forms of `gap_open` in `needleman_wunsch`.
        insertion: Cost of an insertion, in the same forms.
        transposition: Cost of a swap, in the same forms; (i, j) as in `swaps`.
        lengths: Pair of integers (...,); None for L1 or L2.
        temperature: See `levenshtein`.
        implementation: Name, or None for the best one (see `ops.explain`).

    Returns:
        `Distribution` with potentials `substitutions`, `deletion`, `insertion`, `transposition`;
        see `levenshtein`. A swap is a step (2, 2).

    Raises:
        ValueError: For shapes or lengths that do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> x, y = (np.array([ord(c) for c in word]) for word in ("form", "from"))
    >>> costs = (x[:, None] != y).astype("float32")
    >>> print(np.array(ops.osa(costs, ops.adjacent_swaps(x, y), temperature=0).value()))
    1.0

    Source: Boytsov (2011), Indexing methods for approximate dictionary searching, section 2.
    """
    structure = OSA(substitutions, swaps, deletion, insertion, transposition, lengths)
    temperature = as_temperature(temperature, structure.batch_shape, structure.compute)
    return Distribution(structure, temperature, implementation)


class OSA(Lattice):
    def __init__(self, substitutions, swaps, deletion, insertion, transposition, lengths):
        super().__init__(
            "osa",
            spec.edit(swaps=True),
            ("edit", (0, 1, 2, 3)),
            {"substitutions": substitutions},
            {"deletion": deletion, "insertion": insertion, "transposition": transposition},
            lengths,
            costs=True,
        )
        self.swaps = as_cell_table("swaps", swaps, self, "bool")
        rows = ops.arange(self.rows, dtype="int32")[:, None]
        columns = ops.arange(self.columns, dtype="int32")[None]
        inner = ops.logical_and(rows > 0, columns > 0)
        self.swaps = ops.logical_and(self.swaps, inner)

    def fold(self, potentials):
        *rest, transposition = super().fold(potentials)
        return (*rest, array.where(self.swaps, transposition, FORBIDDEN))

    def unfold(self, marginals):
        *rest, transposition = marginals
        return super().unfold((*rest, reduce_to(transposition, self.potentials["transposition"])))


def lcs(scores, lengths=None, temperature=1.0, implementation=None):
    """Longest common subsequence: the matches of a path score, skips are free.

    Args:
        scores: (..., L1, L2) scores of matching symbol i with symbol j; 1 where they are equal and
            minus infinity (or 0) elsewhere gives the length at temperature 0.
        lengths: Pair of integers (...,); None for L1 or L2. An empty sequence has value 0.
        temperature: Positive number, tensor or variable, () or (...,); the number 0 is the classical
            algorithm.
        implementation: Name, or None for the best one (see `ops.explain`).

    Returns:
        `Distribution` with potential `scores` over all lattice paths; see `needleman_wunsch`.

    Raises:
        ValueError: For shapes or lengths that do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> x, y = (np.array([ord(c) for c in word]) for word in ("banana", "atana"))
    >>> scores = np.where(x[:, None] == y, 1.0, -np.inf).astype("float32")
    >>> print(np.array(ops.lcs(scores, temperature=0).value()))
    4.0

    Source: Wagner and Fischer (1974), section 4.
    """
    rules = ("edit", (0, None, None))
    structure = Lattice("lcs", spec.LCS, rules, {"scores": scores}, {}, lengths)
    temperature = as_temperature(temperature, structure.batch_shape, structure.compute)
    return Distribution(structure, temperature, implementation)


def adjacent_swaps(first, second):
    """Where two neighbouring symbols of one sequence are two of the other, swapped; for `osa`.

    Args:
        first: Integers (..., L1), token ids.
        second: Integers (..., L2), token ids.

    Returns:
        Booleans (..., L1, L2): `first[i-1] == second[j]` and `first[i] == second[j-1]`.

    Example:

    >>> from keras_struct import ops
    >>> print(ops.adjacent_swaps([1, 2, 3], [2, 1])[1, 1])
    True
    """
    first, second = ops.convert_to_tensor(first), ops.convert_to_tensor(second)
    equal = first[..., :, None] == second[..., None, :]
    swapped = ops.logical_and(equal[..., :-1, 1:], equal[..., 1:, :-1])
    batch = [(0, 0)] * (len(equal.shape) - 2)
    return ops.cast(ops.pad(ops.cast(swapped, "int32"), [*batch, (1, 0), (1, 0)]), "bool")


def as_cell_table(name, x, structure, dtype):
    """A table (..., L1, L2) without gradient as (B, L1, L2)."""
    x = ops.convert_to_tensor(x)
    if tuple(x.shape[-2:]) != (structure.rows, structure.columns):
        raise ValueError(
            f"Expected {name} of shape (..., {structure.rows}, {structure.columns}). "
            f"Received: shape of {name}={tuple(x.shape)}"
        )
    return ops.cast(flatten_shared(name, x, 2, structure.batch_shape), dtype)
