"""Levenshtein, optimal string alignment, Damerau-Levenshtein, longest common subsequence."""

from __future__ import annotations

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.alignment import events, spec
from keras_struct.ops.alignment.lattice import Lattice
from keras_struct.ops.annotations import ArrayLike, Pair, Tensor
from keras_struct.ops.distribution import Distribution
from keras_struct.ops.masks import as_mask, places_of
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE, reduce_to
from keras_struct.ops.structure import as_pair, flatten_shared, size_of
from keras_struct.ops.symbolic import public


@public
def levenshtein(
    substitutions: ArrayLike,
    deletion: ArrayLike = 1.0,
    insertion: ArrayLike = 1.0,
    lengths: Pair = None,
    temperature: ArrayLike = 1.0,
    mask: Pair = None,
    implementation: str | None = None,
) -> Distribution:
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
        temperature: Positive number, tensor or variable, () or (...,); the number 0 is the
            classical distance.
        mask: Pair of booleans (..., L1) and (..., L2), or None, instead of lengths: a symbol where
            it is False is not part of the sequence, wherever it stands.
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
        {"substitutions": substitutions},
        {"deletion": deletion, "insertion": insertion},
        lengths,
        mask,
        costs=True,
    )
    return Distribution(structure, temperature, implementation)


@public
def osa(
    substitutions: ArrayLike,
    swaps: ArrayLike,
    deletion: ArrayLike = 1.0,
    insertion: ArrayLike = 1.0,
    transposition: ArrayLike = 1.0,
    lengths: Pair = None,
    temperature: ArrayLike = 1.0,
    mask: Pair = None,
    implementation: str | None = None,
) -> Distribution:
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
        mask: See `levenshtein`; `swaps` is to be made with it, too.
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
    structure = OSA(substitutions, swaps, deletion, insertion, transposition, lengths, mask)
    return Distribution(structure, temperature, implementation)


class OSA(Lattice):
    def __init__(self, substitutions, swaps, deletion, insertion, transposition, lengths, mask):
        super().__init__(
            "osa",
            spec.edit(swaps=True),
            {"substitutions": substitutions},
            {"deletion": deletion, "insertion": insertion, "transposition": transposition},
            lengths,
            mask,
            costs=True,
        )
        self.swaps = self._kept(as_cell_table("swaps", swaps, self, "bool"))
        rows = ops.arange(self.rows, dtype="int32")[:, None]
        columns = ops.arange(self.columns, dtype="int32")[None]
        inner = ops.logical_and(rows > 0, columns > 0)
        self.swaps = ops.logical_and(self.swaps, inner)

    def fold(self, potentials):
        *rest, transposition = super().fold(potentials)
        return (*rest, array.where(self.swaps, transposition, FORBIDDEN))

    def unfold(self, marginals):
        *rest, transposition = marginals
        return super().unfold((*rest, _as_wide(transposition, self.potentials["transposition"])))


def _as_wide(x, given):
    """The sum over rows and columns that share a potential, of each example by itself."""
    return reduce_to(x, array.zeros_like(x[:, :1, :1]) + array.zeros_like(given))


@public
def damerau(
    substitutions: ArrayLike,
    sources: ArrayLike,
    deletion: ArrayLike = 1.0,
    insertion: ArrayLike = 1.0,
    transposition: ArrayLike = 1.0,
    lengths: Pair = None,
    temperature: ArrayLike = 1.0,
    mask: Pair = None,
    implementation: str | None = None,
) -> Distribution:
    """Damerau-Levenshtein distance: `levenshtein` plus swaps with edits in between.

    A transposition consumes symbols k ... i of the first and l ... j of the second sequence, where
    k matches j and l matches i: it deletes what lies between k and i, inserts what lies between l
    and j, and costs `transposition + (i-k-1) * deletion + (j-l-1) * insertion`.

    Args:
        substitutions: (..., L1, L2) cost of turning symbol i into symbol j.
        sources: (..., L1, L2, 2) integers: the last k < i and l < j for every pair (i, j), -1 for
            none (see `transposition_sources`). Others, and what is masked out, are none, too.
        deletion: Cost of a deletion: a number, or (...,) per example.
        insertion: Cost of an insertion, in the same forms.
        transposition: Cost of a transposition, in the forms of `gap_open` in `needleman_wunsch`.
        lengths: Pair of integers (...,); None for L1 or L2.
        temperature: See `levenshtein`.
        mask: See `levenshtein`; `sources` is to be made with it, too.
        implementation: Name, or None for the best one (see `ops.explain`).

    Returns:
        `Distribution` with potentials `substitutions`, `deletion`, `insertion`, `transposition`;
        see `levenshtein`. A transposition is one step of an event, (2, 2) or longer.

    Raises:
        ValueError: For shapes or lengths that do not fit.
        NotImplementedError: For deletion or insertion costs by position.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> x, y = (np.array([ord(c) for c in word]) for word in ("ca", "abc"))
    >>> costs = (x[:, None] != y).astype("float32")
    >>> print(np.array(ops.damerau(costs, ops.transposition_sources(x, y), temperature=0).value()))
    2.0

    Source: Lowrance and Wagner (1975), An extension of the string-to-string correction problem.
    """
    structure = Damerau(substitutions, sources, deletion, insertion, transposition, lengths, mask)
    return Distribution(structure, temperature, implementation)


class Damerau(Lattice):
    def __init__(self, substitutions, sources, deletion, insertion, transposition, lengths, mask):
        super().__init__(
            "damerau",
            spec.DAMERAU,
            {"substitutions": substitutions},
            {"deletion": deletion, "insertion": insertion, "transposition": transposition},
            lengths,
            mask,
            costs=True,
        )
        for name in ("deletion", "insertion"):
            if dict(self.given)[name] != "scalar":
                raise NotImplementedError(
                    f"damerau takes {name} as a number or one per example, not by position"
                )
        sources = as_cell_table("sources", sources, self, "int32", trailing=1)
        batch = ops.shape(self.lengths[0])[0]
        sources = ops.broadcast_to(sources, (batch, self.rows, self.columns, 2))
        sources = self._kept(sources)
        ranks = [
            x if sequence.places is None else sequence.places.ranks(x)
            for x, sequence in zip(ops.unstack(sources, 2, axis=3), self.sequences, strict=True)
        ]
        rows = ops.arange(self.rows, dtype="int32")[:, None]
        columns = ops.arange(self.columns, dtype="int32")[None]
        known = [
            ops.logical_and(x >= 0, x < here)
            for x, here in zip(ranks, (rows, columns), strict=True)
        ]
        self.allowed_jumps = ops.logical_and(*known)
        sources = ops.stack([array.where(self.allowed_jumps, x, -1) for x in ranks], axis=3)
        self.context = (*self.lengths, sources)
        self.deleted = ops.cast(rows - 1 - sources[..., 0], self.compute)
        self.inserted = ops.cast(columns - 1 - sources[..., 1], self.compute)

    def fold(self, potentials):
        substitutions, deletion, insertion, transposition = super().fold(potentials)
        deletions = array.where(deletion > INFEASIBLE, deletion, FORBIDDEN)
        jumps = transposition + self.deleted * deletions + self.inserted * insertion
        jumps = array.where(self.allowed_jumps, jumps, FORBIDDEN)
        return substitutions, deletion, insertion, jumps

    def unfold(self, marginals):
        substitutions, deletion, insertion, jumps = marginals
        jumps = array.where(self.allowed_jumps, jumps, ops.zeros_like(jumps))
        deletion = deletion + ops.sum(jumps * self.deleted, axis=(1, 2), keepdims=True)
        insertion = insertion + ops.sum(jumps * self.inserted, axis=(1, 2), keepdims=True)
        transposition = _as_wide(jumps, self.potentials["transposition"])
        return super().unfold((substitutions, deletion, insertion, transposition))

    def possible(self, event, context):
        """A transposition has to come from its source."""
        fine = super().possible(event, context)
        i, j = events.decode(self.spec, self.layout, event)
        jump = events.used(self.spec, i, j)[-1]
        batch = ops.shape(i)[0]
        inner = [array.where(jump, n[:, 1:] - 1, 0 * n[:, 1:]) for n in (i, j)]
        index = inner[0] * self.columns + inner[1]
        for axis, n in enumerate((i, j)):
            table = ops.reshape(context[2][..., axis], (batch, -1))
            source = array.take_along_axis(table, index, 1)
            wrong = ops.logical_and(jump, source != n[:, :-1])
            fine = ops.logical_and(fine, ops.logical_not(ops.any(wrong, axis=1)))
        return fine


@public
def lcs(
    scores: ArrayLike,
    lengths: Pair = None,
    temperature: ArrayLike = 1.0,
    mask: Pair = None,
    implementation: str | None = None,
) -> Distribution:
    """Longest common subsequence: the matches of a path score, skips are free.

    Args:
        scores: (..., L1, L2) scores of matching symbol i with symbol j; 1 where they are equal and
            minus infinity (or 0) elsewhere gives the length at temperature 0.
        lengths: Pair of integers (...,); None for L1 or L2. An empty sequence has value 0.
        temperature: Positive number, tensor or variable, () or (...,); the number 0 is the
            classical algorithm.
        mask: See `levenshtein`.
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
    structure = Lattice("lcs", spec.LCS, {"scores": scores}, {}, lengths, mask)
    return Distribution(structure, temperature, implementation)


def adjacent_swaps(first: ArrayLike, second: ArrayLike, mask: ArrayLike | None = None) -> Tensor:
    """Where two neighbouring symbols of one sequence are two of the other, swapped; for `osa`.

    Args:
        first: Integers (..., L1), token ids.
        second: Integers (..., L2), token ids.
        mask: Pair of booleans (..., L1) and (..., L2), or None: neighbours are those without what
            is masked out.

    Returns:
        Booleans (..., L1, L2): `first[i-1] == second[j]` and `first[i] == second[j-1]`.

    Example:

    >>> from keras_struct import ops
    >>> print(ops.adjacent_swaps([1, 2, 3], [2, 1])[1, 1])
    True
    """
    first, second, places, batch_shape = _tokens(first, second, mask)
    equal = ops.equal(first[:, :, None], second[:, None, :])
    swapped = ops.logical_and(equal[:, :-1, 1:], equal[:, 1:, :-1])
    swapped = ops.pad(ops.cast(swapped, "int32"), [(0, 0), (1, 0), (1, 0)])
    for axis, place in enumerate(places, 1):
        swapped = swapped if place is None else place.scatter(swapped, axis)
    return ops.reshape(ops.cast(swapped, "bool"), (*batch_shape, *ops.shape(swapped)[1:]))


def transposition_sources(first: ArrayLike, second: ArrayLike, mask: Pair = None) -> Tensor:
    """For every pair (i, j), the symbols that a transposition ending there swaps; for `damerau`.

    Args:
        first: Integers (..., L1), token ids.
        second: Integers (..., L2), token ids.
        mask: Pair of booleans (..., L1) and (..., L2), or None: what is masked out is no symbol.

    Returns:
        int32 (..., L1, L2, 2): the last k < i with `first[k] == second[j]` and the last l < j with
        `second[l] == first[i]`; -1 and -1 if one of them does not exist.

    Example:

    >>> from keras_struct import ops
    >>> print(ops.transposition_sources([3, 1], [1, 2, 3])[1, 2])
    [0 0]
    """
    first, second, places, batch_shape = _tokens(first, second, mask)
    equal = ops.equal(first[:, :, None], second[:, None, :])
    sources = [_last_before(equal, axis) for axis in (1, 2)]
    for axis, place in enumerate(places):
        if place is not None:
            sources[axis] = place.positions(sources[axis])
            sources = [place.scatter(x, axis + 1) for x in sources]
    known = ops.logical_and(sources[0] >= 0, sources[1] >= 0)
    table = ops.stack([array.where(known, x, -1) for x in sources], axis=-1)
    return ops.reshape(table, (*batch_shape, *ops.shape(table)[1:]))


def _tokens(first, second, mask):
    """Both sequences (B, L) without what is masked out, `Places` or None of each, batch axes."""
    given = [ops.convert_to_tensor(x) for x in (first, second)]
    rank = max(len(x.shape) for x in given)
    wide = next(x for x in given if len(x.shape) == rank)
    batch_shape = tuple(ops.shape(wide)[:-1])
    places, tokens = [], []
    for x, masked in zip(given, as_pair("mask", mask), strict=True):
        shape = (*batch_shape, ops.shape(x)[-1])
        x = ops.reshape(ops.broadcast_to(x, shape), (size_of(batch_shape), shape[-1]))
        place = None if masked is None else places_of(as_mask("mask", masked, shape))
        places.append(place)
        tokens.append(x if place is None else place.gather(x, 1))
    return *tokens, places, batch_shape


def _last_before(hits, axis):
    """Index of the last hit before each place along an axis, -1 for none."""
    hits = ops.moveaxis(hits, axis, 0)
    none = ops.cast(hits[0], "int32") * 0 - 1

    def step(carry, x):
        index, hit = x
        return (array.where(hit, index, carry[0]),), carry

    indices = ops.arange(ops.shape(hits)[0], dtype="int32")
    _, (last,) = array.scan(step, (none,), (indices, hits), like=(none,))
    return ops.moveaxis(last, 0, axis)


def as_cell_table(name, x, structure, dtype, trailing=0):
    """A table (..., L1, L2) without gradient, and `trailing` axes, as (B, L1, L2)."""
    x = ops.convert_to_tensor(x)
    sizes = x.shape[len(x.shape) - 2 - trailing :][:2]
    pairs = zip(sizes, (structure.rows, structure.columns), strict=True)
    if any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs):
        raise ValueError(
            f"Expected {name} of shape (..., {structure.rows}, {structure.columns}). "
            f"Received: shape of {name}={tuple(x.shape)}"
        )
    return ops.cast(flatten_shared(name, x, 2 + trailing, structure.batch_shape), dtype)
