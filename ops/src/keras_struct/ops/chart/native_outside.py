"""The pass from wide to narrow spans, compiled by Numba (see `native_plan.py`).

A part of a product gets its share of the probability of the product, `x * sum(other part * q)` over
all wider spans: those that it starts, and those that it ends.
"""

from typing import NamedTuple

import numpy as np

from keras_struct.ops.chart.native_cuts import (
    dot,
    exponentiate,
    find_ends,
    put,
    read_items,
    total_of,
)
from keras_struct.ops.chart.native_plan import (
    ONE,
    PRODUCT,
    ZERO,
    U,
    by_end,
    by_start,
    by_width,
    least_width,
    made_of,
    row_of,
)
from keras_struct.ops.compiled import compiled, inlined, reordered
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE


@compiled
def outside(plan, span, lengths, all_x, all_z, slopes, values, marginals):
    size, steps = plan.size, U(len(plan.number))
    y, got = np.empty(all_x.shape[1]), np.empty(all_x.shape[1])
    q, r = np.empty(all_z.shape[1]), np.empty(all_z.shape[1])
    into, t = np.empty((len(plan.left), size)), np.empty(size)
    for b in range(U(span[0]), U(span[1])):
        n, x, z, slope, scaled = lengths[b], all_x[b], all_z[b], slopes[b, 0], slopes[b, 1] > 0.0
        if n == ZERO or values[b] <= INFEASIBLE:
            continue
        find_ends(plan, n, x, y)
        q[:], r[:] = (0.0, 0.0) if scaled else (FORBIDDEN, FORBIDDEN)
        got[:] = 0.0
        got[by_width(size, plan.goal, n, ZERO)] = 1.0
        for down in range(n):
            w = n - down
            into[:] = 0.0
            for back in range(ONE, steps + ONE):
                k = plan.number[steps - back]
                if plan.is_item[steps - back]:
                    made = made_of(plan, k, w, n)
                    handed = into[made.source if made.of == PRODUCT else ZERO]
                    if scaled:
                        gather_weights(plan, k, w, n, x, y, q, r, got)
                    else:
                        gather_logs(plan, k, w, n, x, y, q, r, got, t)
                    read_items(made, plan.places[k, w - ONE], got, marginals[b], handed)
                else:
                    divide(row_of(plan, k, w, n), z, scaled, slope, into[k], q, r, t)


@compiled
def divide(row, z, scaled, slope, p, q, r, v):
    """The probabilities of a product over its weights, or the logarithms of that."""
    by = np.exp(-slope * row.gap)
    for i in range(row.spans):
        total = z[row.here + i]
        if scaled:
            v[i] = by * p[i] / total if total > 0.0 else 0.0
        else:
            v[i] = np.log(p[i]) - total if p[i] > 0.0 else FORBIDDEN
    put(row.size, row.product, row.width, row.spans, v, q, r)


@reordered
def gather_weights(plan, k, v, n, x, y, q, r, got):
    """What an item of width v gets as a part of wider spans."""
    for p in range(U(len(plan.left))):
        if k == plan.left[p]:
            gather_side(plan, k, p, True, v, n, x, q, x, got)
        if k == plan.right[p]:
            gather_side(plan, k, p, False, v, n, y, r, x, got)


@compiled
def gather_logs(plan, k, v, n, x, y, q, r, got, t):
    """The same in log space."""
    for p in range(U(len(plan.left))):
        if k == plan.left[p]:
            gather_side_of_logs(plan, k, p, True, v, n, x, q, x, got, t)
        if k == plan.right[p]:
            gather_side_of_logs(plan, k, p, False, v, n, y, r, x, got, t)


@inlined
def gather_side(plan, k, p, on_left, v, n, a, b, x, got):
    size, use = plan.size, uses_of(plan, p, on_left, v, n)
    here, own = by_width(size, k, v, ZERO), by_start(size, k, use.start, v)
    others, wholes, _ = wider(use, size, p, on_left, use.start, v, n)
    for i in range(use.start, use.stop):
        got[here + i] += dot(a, others, b, wholes, how_many(use, on_left, i, v, n)) * x[own]
        own += size - i
        others, wholes = next_wider(use, size, on_left, i, v, others, wholes)


@inlined
def gather_side_of_logs(plan, k, p, on_left, v, n, a, b, x, got, t):
    here, use = by_width(plan.size, k, v, ZERO), uses_of(plan, p, on_left, v, n)
    for i in range(use.start, use.stop):
        others, wholes, count = wider(use, plan.size, p, on_left, i, v, n)
        exponentiate(a, others, b, wholes, count, x[by_start(plan.size, k, i, v)], t)
        got[here + i] += total_of(t, count)


class Uses(NamedTuple):
    """An item as the left or the right part of a product, for all spans of a width.

    Those from `start` to before `stop` are parts of wider spans at all.

    Attributes:
        start, stop: Which spans.
        other: Item on the other side.
        least: Least width of the other part.
        gap: Between the parts.
        closed: Whether a left part at start 0 must have width 0.
    """

    start: np.uint64
    stop: np.uint64
    other: np.uint64
    least: np.uint64
    gap: np.uint64
    closed: bool


@inlined
def uses_of(plan, p, on_left, v, n):
    other, gap, closed = plan.right[p] if on_left else plan.left[p], plan.gap[p], plan.closed[p]
    least = least_width(plan, other)
    if on_left:
        start = ONE if closed and v > ZERO else ZERO
        stop = n + ONE - min(v + gap + least, n + ONE)
    else:
        start, stop = gap + least, n + ONE - v
    return Uses(start, stop, other, least, gap, closed)


@inlined
def wider(use, size, p, on_left, i, v, n):
    """Of the span at i, where the other parts and the wholes are, and how many.

    Of a left part they are in x and q, from narrow to wide; of a right one in y and r, from wide to
    narrow.
    """
    if on_left:
        others = by_start(size, use.other, i + v + use.gap, use.least)
        wholes = by_start(size, p, i, v + use.gap + use.least)
    else:
        first = ONE if use.closed and i > use.gap else ZERO
        others = by_end(size, use.other, i - use.gap, first)
        wholes = by_end(size, p, i + v, first)
    return others, wholes, how_many(use, on_left, i, v, n)


@inlined
def how_many(use, on_left, i, v, n):
    if on_left:
        return n + ONE - i - v - use.gap - use.least
    first = ONE if use.closed and i > use.gap else ZERO
    return i + ONE - use.gap - use.least - first


@inlined
def next_wider(use, size, on_left, i, v, others, wholes):
    """Where they are for the span at i + 1: rows have one cell less, or one more, than the last."""
    if on_left:
        return others + size - i - v - use.gap, wholes + size - i
    first = ONE if use.closed and i == use.gap else ZERO
    return others + i + ONE - use.gap + first, wholes + i + ONE + v + first
