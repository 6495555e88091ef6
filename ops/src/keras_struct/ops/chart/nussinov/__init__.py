"""Nested pairs: RNA secondary structures without pseudoknots (Nussinov)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.annotations import ArrayLike
from keras_struct.ops.chart import layout
from keras_struct.ops.chart.bracketing import check_square
from keras_struct.ops.chart.spec import Item, Product, Spec
from keras_struct.ops.distribution import Distribution
from keras_struct.ops.numerics import FORBIDDEN, any_over, compute_dtype
from keras_struct.ops.structure import (
    Structure,
    as_potential,
    as_sequence,
    batch_of,
    check_rank,
    flatten_batch,
    one_hot,
    time_mask,
)
from keras_struct.ops.symbolic import public
from keras_struct.ops.validation import Checks


@public
def nussinov(
    pairs: ArrayLike,
    min_loop: int = 0,
    lengths: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    mask: ArrayLike | None = None,
    implementation: str | None = None,
) -> Distribution:
    """Distribution over the nested pairings of a sequence (RNA secondary structures).

    Every position stands alone or is paired with one other, and no pair crosses another. The score
    of a pairing is the sum of `pairs[i, j]` over its pairs i < j, and of `pairs[i, i]` over the
    positions that stand alone. What stands below the diagonal is never read.

    Shapes: `...` batch axes, `N` positions. Time O(N^3), memory O(N^2).

    Args:
        pairs: (..., N, N) scores [first, second]; on the diagonal those of standing alone.
        min_loop: How many positions lie at least between two that are paired (RNA: 3).
        lengths: Integers (...,) between 0 and N; None for N. Length 0 has one structure, the empty
            one, and value 0.
        temperature: Positive number, tensor or variable, () or (...,); the number 0 is the best
            pairing.
        mask: Booleans (..., N), instead of lengths: a position where it is False is not there, and
            `min_loop` does not count it.
        implementation: Name, or None for the best one (see `ops.explain`).

    Returns:
        `Distribution`. Events are (..., N), int32: the partner of every position, its own index
        where it stands alone, -1 in the padding.

    Raises:
        ValueError: For shapes, lengths or a `min_loop` that do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> d = ops.nussinov(np.zeros((1, 5, 5), "float32"))
    >>> print(np.round(np.exp(np.array(d.value())), 3))  # the Motzkin number of 5
    [21.]

    Source: Nussinov, Pieczenik, Griggs and Kleitman (1978), Algorithms for loop matchings;
    McCaskill (1990) for the sum over all structures. See recurrence.md of `chart`.
    """
    return Distribution(Nussinov(pairs, min_loop, lengths, mask), temperature, implementation)


# A prefix, and its last position: alone (width 1) or paired with the first of its span.
PAIRINGS = Spec(
    items=(Item(product=0, unit=0), Item(wraps=0, scored=True, unit=1)),
    products=(Product(0, 1),),
    order=(("item", 1), ("product", 0), ("item", 0)),
    goal=0,
)


@dataclasses.dataclass(frozen=True)
class NussinovSpec:
    """Scores of the pairs (B, N, N), `FORBIDDEN` where a loop is too short."""

    min_loop: int
    marks: ClassVar = "pairs"
    chart: ClassVar = PAIRINGS

    def by_width(self, potentials):
        return [layout.by_width(potentials[0], FORBIDDEN)], []

    def by_part(self, items, cuts):
        return (layout.by_ends(items[0]),)

    def event(self, used):
        (pairs,) = used
        both = pairs + ops.swapaxes(pairs, 1, 2)
        partner = ops.cast(array.argmax(both, 2), "int32")
        return array.where(ops.sum(both, axis=2) > 0, partner, -1)

    def places(self, n):
        return [layout.places_of_spans(n)]


class Nussinov(Structure):
    op = "nussinov"
    family = "chart"
    axes: Mapping[str, tuple] = {"pairs": (0, 0)}

    def __init__(self, pairs, min_loop, lengths, mask):
        pairs = as_potential("pairs", pairs)
        check_rank("pairs", pairs, 2, "N, N")
        check_square("pairs", pairs, (-2, -1), "N, N")
        if not isinstance(min_loop, int) or isinstance(min_loop, bool) or min_loop < 0:
            raise ValueError(f"Expected an integer >= 0. Received: min_loop={min_loop!r}")
        self.spec = NussinovSpec(min_loop)
        self.checks = Checks()
        self.dtype = pairs.dtype
        self.compute = compute_dtype(pairs.dtype)
        self.batch_shape = batch_of(pairs, 2)
        self.n = ops.shape(pairs)[-1]
        self.potentials = {"pairs": ops.cast(flatten_batch(pairs, 2), self.compute)}
        positions = as_sequence("lengths", lengths, mask, self.batch_shape, self.n, self.checks)
        self.sequences = (positions,)
        self.context = (positions.lengths,)
        self.padding = {"pairs": (self._allowed(positions.lengths), FORBIDDEN)}
        self.compact()

    def fold(self, potentials):
        return (potentials["pairs"],)

    def restore(self, event, places):
        return places[0].positions(places[0].scatter(event, 1))

    def compacted(self, event, places):
        return places[0].ranks(places[0].gather(event, 1))

    def unfold(self, marginals):
        return {"pairs": marginals[0]}

    def parts(self, event, context):
        partner = array.where(time_mask(context[0], self.n), event, -1)
        places = ops.arange(self.n, dtype="int32")
        first = one_hot(array.where(partner >= places, partner, -1), self.n, self.compute)
        return (first,)

    def possible(self, event, context):
        """Partners of each other, inside the sequence, far enough apart, without crossing."""
        (lengths,) = context
        valid = time_mask(lengths, self.n)
        places = ops.arange(self.n, dtype="int32")[None]
        known = ops.logical_and(event >= 0, event < lengths[:, None])
        partner = array.where(ops.logical_and(valid, known), event, places)
        mutual = ops.equal(array.take_along_axis(partner, partner, 1), places)
        far = ops.abs(partner - places) > self.spec.min_loop
        apart = ops.logical_or(ops.equal(partner, places), far)
        good = ops.logical_and(known, ops.logical_and(mutual, apart))
        low, high = ops.minimum(partner, places), ops.maximum(partner, places)
        a, b, c, d = low[:, :, None], high[:, :, None], low[:, None], high[:, None]
        crosses = ops.logical_and(ops.logical_and(a < c, c < b), b < d)
        good = ops.all(ops.logical_or(good, ops.logical_not(valid)), axis=1)
        return ops.logical_and(good, ops.logical_not(any_over(crosses, (1, 2))))

    def _allowed(self, lengths):
        """(B, N, N): the pair lies before the length, and its loop is long enough."""
        places = ops.arange(self.n, dtype="int32")
        distance = places - places[:, None]
        allowed = ops.logical_or(ops.equal(distance, 0), distance > self.spec.min_loop)
        return ops.logical_and(allowed, time_mask(lengths, self.n)[:, None])
