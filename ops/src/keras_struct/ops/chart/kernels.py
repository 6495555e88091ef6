"""The passes over a chart of `spec.py`, width by width, compiled by Numba.

Everything is in float64 and in log space: a product is a sum over cuts of `exp(left + right)`, and
both lie in memory in the order of the cuts. The terms of all spans of a width are collected first,
so that one long loop takes their exponentials.

Letters: K items, P products, N positions; i start, w width, e = i + w end of a span, u width of the
left part of a cut. Arrays of one example, flat (a view of an array costs more than a few cuts):

    x   (K, N + 1, N + 1)   items by start and width: what lies left of a cut is contiguous
    y   (K, N + 1, N + 1)   items by end and start: what lies right of a cut is contiguous
    z   (P, N + 1, N + 1)   products by start and width
    t   (N + 1 - w, cuts)   terms of one product, of all spans of width w

All integers inside are unsigned: Numba would test signed ones for Python's negative indices.
"""

from typing import Any, NamedTuple

import numba
import numpy as np

from keras_struct.ops.compiled import OPTIONS, compiled, exp_or_zero, log
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE

U: Any = np.uint64
ZERO, ONE, TWO = U(0), U(1), U(2)
NONE = U(1 << 62)
NOTHING, UNIT, PRODUCT, WRAPPED = U(0), U(1), U(2), U(3)
# Sums and maxima over a span may be taken in any order.
reordered = numba.njit(**OPTIONS, fastmath=True)


class Plan(NamedTuple):
    """A `Spec` as numbers.

    Attributes:
        left, right, gap, closed: Of every product, (P,).
        edge: Whether a product has the left part of width 0, (P,).
        product, wraps: Of every item, `NONE` where it has none, (K,).
        unit: Of every item, `NONE` where it has none, (K,).
        is_item, number: The order of computation.
        goal: Item.
        size: N + 1.
    """

    left: np.ndarray
    right: np.ndarray
    gap: np.ndarray
    closed: np.ndarray
    edge: np.ndarray
    product: np.ndarray
    wraps: np.ndarray
    unit: np.ndarray
    is_item: np.ndarray
    number: np.ndarray
    goal: np.uint64
    size: np.uint64


def plan(spec, n):
    """The `Plan` of a `Spec` without scored products, for N positions."""

    def optional(values):
        return np.array([int(NONE) if value is None else value for value in values], U)

    def of_products(name):
        return [getattr(p, name) for p in spec.products]

    return Plan(
        left=np.array(of_products("left"), U),
        right=np.array(of_products("right"), U),
        gap=np.array(of_products("gap"), U),
        closed=np.array(of_products("closed")),
        edge=np.array([spec.edge(k) is not None for k in range(len(spec.products))]),
        product=optional(item.product for item in spec.items),
        wraps=optional(item.wraps for item in spec.items),
        unit=optional(item.unit for item in spec.items),
        is_item=np.array([kind == "item" for kind, _ in spec.order]),
        number=np.array([k for _, k in spec.order], U),
        goal=U(spec.goal),
        size=U(n + 1),
    )


# One product, all spans of a width ----------------------------------------------------------------


class Row(NamedTuple):
    """A product at one width.

    Attributes:
        spans: How many spans of the width there are.
        cuts: How many cuts each has.
        first: Width of the left part in the first cut.
        closed: Whether the span at start 0 has the first cut only.
        left, right: Where the parts of the first cut of the first span are, in x and y.
        next_left, next_right: How far on those of the next span are.
        here: Where the product of the first span is in z; the next is `size` on.
    """

    spans: np.uint64
    cuts: np.uint64
    first: np.uint64
    closed: bool
    left: np.uint64
    right: np.uint64
    next_left: np.uint64
    next_right: np.uint64
    here: np.uint64


@compiled
def at(size, k, row, column):
    return (k * size + row) * size + column


@compiled
def row_of(plan, p, w, n):
    size, gap = plan.size, plan.gap[p]
    first = ZERO if gap == ONE or plan.edge[p] else ONE
    cuts = w + ONE - gap - first
    left, right = at(size, plan.left[p], ZERO, first), at(size, plan.right[p], w, gap + first)
    spans, here = n + ONE - w, at(size, p, ZERO, w)
    return Row(spans, cuts, first, plan.closed[p], left, right, size, size + ONE, here)


@reordered
def find_terms(row, i, x, y, t):
    """Score of every cut of a span, and the greatest of them."""
    left, right, to = row.left + i * row.next_left, row.right + i * row.next_right, i * row.cuts
    peak = 2.0 * FORBIDDEN
    for c in range(row.cuts):
        value = x[left + c] + y[right + c]
        t[to + c] = value
        peak = max(peak, value)
    if row.closed and i == ZERO:
        peak = t[ZERO]
        for c in range(ONE, row.cuts):
            t[c] = 2.0 * FORBIDDEN
    return peak


@reordered
def lower(row, i, t, by):
    for c in range(i * row.cuts, (i + ONE) * row.cuts):
        t[c] -= by


@compiled
def exponentiate(row, t):
    for c in range(row.spans * row.cuts):
        t[c] = exp_or_zero(t[c])


@reordered
def total(row, i, t):
    s = 0.0
    for c in range(i * row.cuts, (i + ONE) * row.cuts):
        s += t[c]
    return s


@compiled
def find_shares(size, row, x, y, z, t):
    """Posterior probability of every cut."""
    for i in range(row.spans):
        find_terms(row, i, x, y, t)
        lower(row, i, t, z[row.here + i * size])
    exponentiate(row, t)


@reordered
def mean_rate(row, i, t, dx, dy):
    left, right, to = row.left + i * row.next_left, row.right + i * row.next_right, i * row.cuts
    s = 0.0
    for c in range(row.cuts):
        s += t[to + c] * (dx[left + c] + dy[right + c])
    return s


@compiled
def hand_down(row, i, t, p, into_left, into_right):
    left, right, to = row.left + i * row.next_left, row.right + i * row.next_right, i * row.cuts
    for c in range(row.cuts):
        into_left[left + c] += p * t[to + c]
    for c in range(row.cuts):
        into_right[right + c] += p * t[to + c]


@compiled
def rates_of_shares(row, i, t, dx, dy, dz, p, dp):
    """What a product hands down that gets p, at the rate dp: the rate of p times the shares."""
    left, right, to = row.left + i * row.next_left, row.right + i * row.next_right, i * row.cuts
    for c in range(row.cuts):
        t[to + c] *= dp + p * (dx[left + c] + dy[right + c] - dz)


# One item, all spans of a width -------------------------------------------------------------------


class Made(NamedTuple):
    """What an item is made of at one width.

    Attributes:
        of: `UNIT`, `PRODUCT`, `WRAPPED` or `NOTHING`.
        spans: How many spans of the width there are.
        source: Where that of the first span is, in z or x; the next is `size` on.
        here, there: Where the first span is in x and in y; the next is `size`, `size` + 1 on.
        size: N + 1.
    """

    of: np.uint64
    spans: np.uint64
    source: np.uint64
    here: np.uint64
    there: np.uint64
    size: np.uint64


@compiled
def made_of(plan, k, w, n):
    size = plan.size
    of, source = NOTHING, ZERO
    if plan.unit[k] == ONE and w == ONE:
        of = UNIT
    elif plan.product[k] != NONE:
        of, source = PRODUCT, at(size, plan.product[k], ZERO, w)
    elif w >= TWO:
        of, source = WRAPPED, at(size, plan.wraps[k], ONE, w - TWO)
    return Made(of, n + ONE - w, source, at(size, k, ZERO, w), at(size, k, w, ZERO), size)


@compiled
def write_items(made, scores, x, y, z, nothing):
    """Items from what they are made of, plus their scores."""
    for i in range(made.spans):
        value = nothing if made.of == NOTHING else 0.0
        if made.of == PRODUCT:
            value = z[made.source + i * made.size]
        elif made.of == WRAPPED:
            value = x[made.source + i * made.size]
        value += scores[i]
        x[made.here + i * made.size] = value
        y[made.there + i * (made.size + ONE)] = value


@compiled
def read_items(made, left, right, found, into):
    """What the items get: for themselves, and for the product or the wrapped item."""
    for i in range(made.spans):
        p = left[made.here + i * made.size] + right[made.there + i * (made.size + ONE)]
        found[i] = p
        if made.of == PRODUCT:
            into[i] += p
        elif made.of == WRAPPED:
            left[made.source + i * made.size] += p


# Whole sweeps -------------------------------------------------------------------------------------


@compiled
def new_terms(size):
    """Room for the terms of any width: w spans of N + 1 - w cuts, or one more of both."""
    return np.empty((size // TWO + ONE) * (size // TWO + TWO))


@compiled
def by_ends(items, size, x, y, n):
    """Items by end and start."""
    for k in range(U(items)):
        for i in range(n + ONE):
            for w in range(n + ONE - i):
                y[at(size, k, i + w, i)] = x[at(size, k, i, w)]


@compiled
def inside(plan, span, lengths, scores, hard, all_x, all_z, values):
    size = plan.size
    t, y, peaks = new_terms(size), np.empty(all_x.shape[1]), np.empty(size)
    for b in range(U(span[0]), U(span[1])):
        n, x, z = lengths[b], all_x[b], all_z[b]
        x[:], y[:] = FORBIDDEN, FORBIDDEN
        for k in range(U(len(plan.unit))):
            if plan.unit[k] == ZERO:
                for i in range(n + ONE):
                    x[at(size, k, i, ZERO)], y[at(size, k, i, i)] = 0.0, 0.0
        for w in range(ONE, n + ONE):
            for step in range(U(len(plan.number))):
                k = plan.number[step]
                if plan.is_item[step]:
                    made = made_of(plan, k, w, n)
                    write_items(made, scores[b, k, w - ONE], x, y, z, FORBIDDEN)
                    continue
                row = row_of(plan, k, w, n)
                for i in range(row.spans):
                    peaks[i] = find_terms(row, i, x, y, t)
                    lower(row, i, t, peaks[i])
                if not hard and row.cuts > ZERO:
                    exponentiate(row, t)
                    for i in range(row.spans):
                        peaks[i] += log(total(row, i, t))
                for i in range(row.spans):
                    z[row.here + i * size] = peaks[i]
        value = x[at(size, plan.goal, ZERO, n)] if n > ZERO else 0.0
        values[b] = value if value > INFEASIBLE else FORBIDDEN


@compiled
def outside(plan, span, lengths, values, all_x, all_z, marginals):
    size = plan.size
    t, y = new_terms(size), np.empty(all_x.shape[1])
    left, right = np.empty_like(y), np.empty_like(y)
    into = np.empty((len(plan.left), size))
    steps = U(len(plan.number))
    for b in range(U(span[0]), U(span[1])):
        n, x, z = lengths[b], all_x[b], all_z[b]
        if n == ZERO or values[b] <= INFEASIBLE:
            continue
        by_ends(len(plan.unit), size, x, y, n)
        left[:], right[:] = 0.0, 0.0
        left[at(size, plan.goal, ZERO, n)] = 1.0
        for down in range(n):
            w = n - down
            into[:] = 0.0
            for back in range(ONE, steps + ONE):
                k = plan.number[steps - back]
                if plan.is_item[steps - back]:
                    made = made_of(plan, k, w, n)
                    handed = into[plan.product[k] if made.of == PRODUCT else ZERO]
                    read_items(made, left, right, marginals[b, k, w - ONE], handed)
                    continue
                row = row_of(plan, k, w, n)
                find_shares(size, row, x, y, z, t)
                for i in range(row.spans):
                    if into[k, i] > 0.0:
                        hand_down(row, i, t, into[k, i], left, right)


@compiled
def curvature(plan, span, lengths, values, all_x, all_z, dscores, products):
    size = plan.size
    t, y = new_terms(size), np.empty(all_x.shape[1])
    dx, dy, dz = np.empty_like(y), np.empty_like(y), np.empty(all_z.shape[1])
    left, right = np.empty_like(y), np.empty_like(y)
    dleft, dright = np.empty_like(y), np.empty_like(y)
    into, dinto = np.empty((len(plan.left), size)), np.empty((len(plan.left), size))
    spare = np.empty(size)
    steps = U(len(plan.number))
    for b in range(U(span[0]), U(span[1])):
        n, x, z = lengths[b], all_x[b], all_z[b]
        if n == ZERO or values[b] <= INFEASIBLE:
            continue
        by_ends(len(plan.unit), size, x, y, n)
        dx[:], dy[:] = 0.0, 0.0
        for w in range(ONE, n + ONE):
            for step in range(steps):
                k = plan.number[step]
                if plan.is_item[step]:
                    made = made_of(plan, k, w, n)
                    write_items(made, dscores[b, k, w - ONE], dx, dy, dz, 0.0)
                    continue
                row = row_of(plan, k, w, n)
                find_shares(size, row, x, y, z, t)
                for i in range(row.spans):
                    dz[row.here + i * size] = mean_rate(row, i, t, dx, dy)
        left[:], right[:], dleft[:], dright[:] = 0.0, 0.0, 0.0, 0.0
        left[at(size, plan.goal, ZERO, n)] = 1.0
        for down in range(n):
            w = n - down
            into[:], dinto[:] = 0.0, 0.0
            for back in range(ONE, steps + ONE):
                k = plan.number[steps - back]
                if plan.is_item[steps - back]:
                    made = made_of(plan, k, w, n)
                    product = plan.product[k] if made.of == PRODUCT else ZERO
                    read_items(made, left, right, spare, into[product])
                    read_items(made, dleft, dright, products[b, k, w - ONE], dinto[product])
                    continue
                row = row_of(plan, k, w, n)
                find_shares(size, row, x, y, z, t)
                for i in range(row.spans):
                    p, dp = into[k, i], dinto[k, i]
                    if p > 0.0:
                        hand_down(row, i, t, p, left, right)
                        rates_of_shares(row, i, t, dx, dy, dz[row.here + i * size], p, dp)
                        hand_down(row, i, t, 1.0, dleft, dright)


@compiled
def trace(plan, span, lengths, values, all_x, all_z, noise, used):
    """One structure, from the whole to its parts; noise (P, B, N, 2 N) as in `outside.Choice`."""
    size = plan.size
    t, y = new_terms(size), np.empty(all_x.shape[1])
    needed = np.empty(all_x.shape[1], np.bool_)
    into = np.empty((len(plan.left), size), np.bool_)
    steps = U(len(plan.number))
    for b in range(U(span[0]), U(span[1])):
        n, x = lengths[b], all_x[b]
        if n == ZERO or values[b] <= INFEASIBLE:
            continue
        by_ends(len(plan.unit), size, x, y, n)
        needed[:] = False
        needed[at(size, plan.goal, ZERO, n)] = True
        for down in range(n):
            w = n - down
            into[:] = False
            for back in range(ONE, steps + ONE):
                k = plan.number[steps - back]
                if not plan.is_item[steps - back]:
                    row, draws = row_of(plan, k, w, n), noise[k, b, w - ONE]
                    for i in range(row.spans):
                        if into[k, i]:
                            u = row.first + choose(row, i, x, y, t, draws, i + plan.gap[k])
                            start = i + u + plan.gap[k]
                            needed[at(size, plan.left[k], i, u)] = True
                            needed[at(size, plan.right[k], start, i + w - start)] = True
                    continue
                made = made_of(plan, k, w, n)
                for i in range(made.spans):
                    if needed[made.here + i * size]:
                        used[b, k, w - ONE, i] = True
                        if made.of == PRODUCT:
                            into[plan.product[k], i] = True
                        elif made.of == WRAPPED:
                            needed[made.source + i * size] = True


@compiled
def choose(row, i, x, y, t, noise, place):
    """The best cut after noise."""
    find_terms(row, i, x, y, t)
    best, chosen = 4.0 * FORBIDDEN, ZERO
    for c in range(row.cuts):
        score = t[i * row.cuts + c] + noise[place + row.first + c]
        if score > best:
            best, chosen = score, c
    return chosen
