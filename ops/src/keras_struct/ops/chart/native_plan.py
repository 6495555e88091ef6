"""The chart of `spec.py` as numbers for loops that Numba compiles, and where its cells lie.

Letters: K items, P products, N positions; i start, w width, e = i + w end of a span, u width of the
left part of a cut. Arrays of one example, flat (a view of an array costs more than a few cuts), of
(N + 1) (N + 2) / 2 cells for each item or product:

    x   items by start and width: what lies left of a cut is contiguous
    y   items by end and start: what lies right of a cut is contiguous
    z   products by width and start
    q   products by start and width, r by end and start: the probability of a span over its weight

Everything is in float64. The numbers of an example are weights over `exp(slope * width)`, with one
slope for the example, or logarithms (see `native_inside.py`).

All integers inside are unsigned: Numba would test signed ones for Python's negative indices.
"""

from typing import Any, NamedTuple

import numpy as np

from keras_struct.ops.compiled import inlined

U: Any = np.uint64
ZERO, ONE, TWO = U(0), U(1), U(2)
NONE = U(1 << 62)
NOTHING, UNIT, PRODUCT, WRAPPED = U(0), U(1), U(2), U(3)


class Plan(NamedTuple):
    """A `Spec` as numbers.

    Attributes:
        left, right, gap, closed: Of every product, (P,).
        product, wraps: Of every item, `NONE` where it has none, (K,).
        unit: Of every item, `NONE` where it has none, (K,).
        scored: Of every item, (K,).
        places: Where in the scores of an example that of item k at [w - 1, i] is, -1 where it is
            forbidden, (K, N, N).
        is_item, number: The order of computation.
        goal: Item.
        size: N + 1.
    """

    left: np.ndarray
    right: np.ndarray
    gap: np.ndarray
    closed: np.ndarray
    product: np.ndarray
    wraps: np.ndarray
    unit: np.ndarray
    scored: np.ndarray
    places: np.ndarray
    is_item: np.ndarray
    number: np.ndarray
    goal: np.uint64
    size: np.uint64


def plan(spec, places):
    """The `Plan` of a `Spec` without scored products; places (N, N) of every scored item."""
    n = places[0].shape[0]
    every = np.zeros((len(spec.items), n, n), "int32")
    for k, where in zip(spec.scored, places, strict=True):
        every[k] = where

    def optional(values):
        return np.array([int(NONE) if value is None else value for value in values], U)

    def of_products(name):
        return [getattr(p, name) for p in spec.products]

    return Plan(
        left=np.array(of_products("left"), U),
        right=np.array(of_products("right"), U),
        gap=np.array(of_products("gap"), U),
        closed=np.array(of_products("closed")),
        product=optional(item.product for item in spec.items),
        wraps=optional(item.wraps for item in spec.items),
        unit=optional(item.unit for item in spec.items),
        scored=np.array([item.scored for item in spec.items]),
        places=every,
        is_item=np.array([kind == "item" for kind, _ in spec.order]),
        number=np.array([k for _, k in spec.order], U),
        goal=U(spec.goal),
        size=U(n + 1),
    )


@inlined
def cells_of(size):
    return (size * (size + ONE)) // TWO


@inlined
def by_start(size, k, start, width):
    """Where a span is in rows of size, size - 1, ..., 1 cells."""
    return k * cells_of(size) + start * size - (start * (start - ONE)) // TWO + width


@inlined
def by_end(size, k, end, start):
    """Where a span is in rows of 1, 2, ..., size cells."""
    return k * cells_of(size) + (end * (end + ONE)) // TWO + start


@inlined
def by_width(size, k, width, start):
    """Where a span is in rows of size, size - 1, ..., 1 cells."""
    return by_start(size, k, width, start)


class Row(NamedTuple):
    """A product at one width.

    Attributes:
        width: Of the spans.
        spans: How many there are.
        cuts: How many cuts each has.
        first: Width of the left part in the first cut.
        gap: Between the parts.
        closed: Whether the span at start 0 has the first cut only.
        product: Its number.
        left, right: Items of the parts.
        here: Where the first span is in z.
        size: N + 1.
    """

    width: np.uint64
    spans: np.uint64
    cuts: np.uint64
    first: np.uint64
    gap: np.uint64
    closed: bool
    product: np.uint64
    left: np.uint64
    right: np.uint64
    here: np.uint64
    size: np.uint64


@inlined
def least_width(plan, k):
    """Of an item as a part of a product."""
    return ZERO if plan.unit[k] == ZERO else ONE


@inlined
def row_of(plan, p, w, n):
    size, gap, left, right = plan.size, plan.gap[p], plan.left[p], plan.right[p]
    first, last = least_width(plan, left), w - gap - least_width(plan, right)
    here, spans, cuts = by_width(size, p, w, ZERO), n + ONE - w, last + ONE - first
    return Row(w, spans, cuts, first, gap, plan.closed[p], p, left, right, here, size)


@inlined
def cuts_of(row, i):
    """Where the parts of the first cut of a span are in x and y, and how many cuts it has."""
    left = by_start(row.size, row.left, i, row.first)
    right = by_end(row.size, row.right, i + row.width, i + row.first + row.gap)
    return left, right, min(row.cuts, ONE) if row.closed and i == ZERO else row.cuts


class Made(NamedTuple):
    """What an item is made of at one width.

    Attributes:
        of: `UNIT`, `PRODUCT`, `WRAPPED` or `NOTHING`.
        item: Its number.
        width: Of the spans.
        spans: How many there are.
        source: Product, or wrapped item.
        scored: Whether it has a score.
        here: Where the first span is by width and start.
        size: N + 1.
    """

    of: np.uint64
    item: np.uint64
    width: np.uint64
    spans: np.uint64
    source: np.uint64
    scored: bool
    here: np.uint64
    size: np.uint64


@inlined
def made_of(plan, k, w, n):
    size = plan.size
    of, source = NOTHING, ZERO
    if plan.unit[k] == ONE and w == ONE:
        of = UNIT
    elif plan.product[k] != NONE:
        of, source = PRODUCT, plan.product[k]
    elif w >= TWO:
        of, source = WRAPPED, plan.wraps[k]
    here = by_width(size, k, w, ZERO)
    return Made(of, k, w, n + ONE - w, source, plan.scored[k], here, size)
