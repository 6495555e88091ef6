"""The passes over a chart of `spec.py`, width by width, compiled by Numba.

Everything is in float64. The numbers of an example are weights over `exp(slope * width)`, with one
slope for the example: a product is a plain sum over cuts of `left * right`, and both parts lie in
memory in the order of the cuts. Where the slope would let weights grow or shrink too far, all are
scaled anew; where weights are farther than `LEAST` from it at any slope, and for the maximum, the
example is in log space instead: a sum of `exp(left + right)`.

Letters: K items, P products, N positions; i start, w width, e = i + w end of a span, u width of the
left part of a cut. Arrays of one example, flat (a view of an array costs more than a few cuts), of
(N + 1) (N + 2) / 2 cells for each item or product:

    x   items by start and width: what lies left of a cut is contiguous
    y   items by end and start: what lies right of a cut is contiguous
    z   products by width and start
    q   products by start and width, r by end and start: the probability of a span over its weight

A part of a product gets its share of the probability of the product, `x * sum(other part * q)` over
all wider spans: those that it starts, and those that it ends.

All integers inside are unsigned: Numba would test signed ones for Python's negative indices.
"""

from typing import Any, NamedTuple

import numpy as np

from keras_struct.ops.compiled import compiled, exp_or_zero, inlined, reordered
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE

U: Any = np.uint64
ZERO, ONE, TWO = U(0), U(1), U(2)
NONE = U(1 << 62)
NOTHING, UNIT, PRODUCT, WRAPPED = U(0), U(1), U(2), U(3)
LEAST, GREATEST = 1e-100, 1e100  # weights: the product of two is still a number
SMALL, GREAT = 1e-60, 1e60  # of all spans of a width; beyond, the slope is another one
MOST = 200.0  # magnitude of a score


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


# One product, all spans of a width ----------------------------------------------------------------


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


@inlined
def dot(x, at_x, y, at_y, count):
    total = 0.0
    for c in range(count):
        total += x[at_x + c] * y[at_y + c]
    return total


@inlined
def dot_of_sums(x, dx, at_x, y, dy, at_y, count):
    """Rate of `dot`."""
    total = 0.0
    for c in range(count):
        total += dx[at_x + c] * y[at_y + c] + x[at_x + c] * dy[at_y + c]
    return total


@compiled
def is_lost(x, at_x, y, at_y, count):
    """Whether there is a cut, however small its weight."""
    found = False
    for c in range(count):
        found = found or (x[at_x + c] > 0.0 and y[at_y + c] > 0.0)
    return found


@reordered
def weigh(row, x, y, z, slope):
    """Weights of a product; False if some are too small."""
    by = np.exp(-slope * row.gap)
    left, right, cuts = cuts_of(row, ZERO)
    for i in range(row.spans):
        total = dot(x, left, y, right, cuts)
        if total < LEAST * LEAST and is_lost(x, left, y, right, cuts):
            return False
        z[row.here + i] = by * total
        left, right, cuts = left + row.size - i, right + row.width + i + TWO, row.cuts
    return True


@reordered
def greatest(x, at_x, y, at_y, count):
    peak = 2.0 * FORBIDDEN
    for c in range(count):
        peak = max(peak, x[at_x + c] + y[at_y + c])
    return peak


@compiled
def exponentiate(x, at_x, y, at_y, count, by, t):
    """Exponentials of terms, less or more by one number; above 1 they are only by rounding."""
    for c in range(count):
        t[c] = min(x[at_x + c] + y[at_y + c] + by, 0.0)
    for c in range(count):
        t[c] = exp_or_zero(t[c])


@reordered
def total_of(t, count):
    total = 0.0
    for c in range(count):
        total += t[c]
    return total


@reordered
def mean_of(t, dx, at_x, dy, at_y, count):
    total = 0.0
    for c in range(count):
        total += t[c] * (dx[at_x + c] + dy[at_y + c])
    return total


@compiled
def find_logs(row, x, y, z, hard, t):
    """Logarithms of a product, or maxima."""
    for i in range(row.spans):
        left, right, cuts = cuts_of(row, i)
        peak = greatest(x, left, y, right, cuts)
        if not hard and cuts > ZERO:
            exponentiate(x, left, y, right, cuts, -peak, t)
            peak += np.log(total_of(t, cuts))
        z[row.here + i] = peak


@reordered
def find_rates_of_weights(row, x, y, z, slope, dx, dy, dz):
    """Rates of the logarithms of a product."""
    by = np.exp(-slope * row.gap)
    for i in range(row.spans):
        left, right, cuts = cuts_of(row, i)
        rate = dot_of_sums(x, dx, left, y, dy, right, cuts)
        dz[row.here + i] = by * rate / z[row.here + i] if z[row.here + i] > 0.0 else 0.0


@compiled
def find_rates_of_logs(row, x, y, z, dx, dy, dz, t):
    """The same in log space, where dx and dy are rates of logarithms."""
    for i in range(row.spans):
        left, right, cuts = cuts_of(row, i)
        exponentiate(x, left, y, right, cuts, -z[row.here + i], t)
        dz[row.here + i] = mean_of(t, dx, left, dy, right, cuts)


@inlined
def put(size, k, width, spans, v, x, y):
    """Values of all spans of a width, by start and by end."""
    at_x, at_y = by_start(size, k, ZERO, width), by_end(size, k, width, ZERO)
    for i in range(spans):
        x[at_x], y[at_y] = v[i], v[i]
        at_x += size - i
        at_y += width + i + TWO


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


@compiled
def divide_rates(row, z, scaled, slope, p, dp, dz, dq, dr, v):
    """The rates of `divide`."""
    by = np.exp(-slope * row.gap)
    for i in range(row.spans):
        total = z[row.here + i]
        if scaled:
            v[i] = by * (dp[i] - p[i] * dz[row.here + i]) / total if total > 0.0 else 0.0
        else:
            v[i] = dp[i] / p[i] - dz[row.here + i] if p[i] > 0.0 else 0.0
    put(row.size, row.product, row.width, row.spans, v, dq, dr)


# One item, all spans of a width -------------------------------------------------------------------


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


@inlined
def find_inner(made, x, z, nothing, unit, into):
    """What the items are made of."""
    if made.of == PRODUCT:
        source = by_width(made.size, made.source, made.width, ZERO)
        for i in range(made.spans):
            into[i] = z[source + i]
    elif made.of == WRAPPED:
        for i in range(made.spans):
            into[i] = x[by_start(made.size, made.source, i + ONE, made.width - TWO)]
    else:
        for i in range(made.spans):
            into[i] = unit if made.of == UNIT else nothing


@compiled
def add_scores(made, places, scores, forbidden, v):
    if made.scored:
        for i in range(made.spans):
            v[i] += scores[places[i]] if places[i] >= 0 else forbidden


@compiled
def find_exponentials(plan, n, scores, e):
    """Exponentials of all scores, by item, width and start; False if some are too large."""
    fits = True
    for k in range(U(len(plan.unit))):
        if not plan.scored[k]:
            continue
        for w in range(ONE, n + ONE):
            here, places = by_width(plan.size, k, w, ZERO), plan.places[k, w - ONE]
            for i in range(n + ONE - w):
                score = scores[max(places[i], 0)]
                score = score if places[i] >= 0 else FORBIDDEN
                fits = fits & ((abs(score) < MOST) | (score <= INFEASIBLE))
                e[here + i] = score
        first, last = by_width(plan.size, k, ONE, ZERO), by_width(plan.size, k + ONE, ZERO, ZERO)
        for j in range(first, last):
            e[j] = exp_or_zero(e[j])
    return fits


@reordered
def times(made, by, e, v):
    """Weights times one number and the exponentials of scores; the least and the greatest."""
    least, most = GREATEST, 0.0
    if made.scored:
        for i in range(made.spans):
            v[i] *= e[made.here + i]
    for i in range(made.spans):
        v[i] *= by
        least = min(least, v[i] if v[i] > 0.0 else GREATEST)
        most = max(most, v[i])
    return least, most


@compiled
def at_new_slope(plan, n, width, change, x, y, z):
    """All weights up to a width over the exponential of the change; False if some do not fit."""
    size, fits = plan.size, True
    for w in range(ONE, width + ONE):
        by = np.exp(-change * w)
        for k in range(U(len(plan.unit))):
            for i in range(n + ONE - w):
                value = by * x[by_start(size, k, i, w)]
                x[by_start(size, k, i, w)], y[by_end(size, k, i + w, i)] = value, value
                fits = fits and (value == 0.0 or LEAST < value < GREATEST)
        for p in range(U(len(plan.left))):
            for i in range(n + ONE - w):
                z[by_width(size, p, w, i)] *= by
    return fits


@compiled
def read_items(made, places, got, found, into):
    """What the items got: for themselves, and for the product or the wrapped item."""
    if made.scored:
        for i in range(made.spans):
            if places[i] >= 0:
                found[places[i]] = got[made.here + i]
    if made.of == PRODUCT:
        for i in range(made.spans):
            into[i] += got[made.here + i]
    elif made.of == WRAPPED:
        for i in range(made.spans):
            inner = by_width(made.size, made.source, made.width - TWO, i + ONE)
            got[inner] += got[made.here + i]


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


# One side is a function that its callers contain: there the side is known, and no span asks for it.


@inlined
def gather_side(plan, k, p, on_left, v, n, a, b, x, got):
    size, use = plan.size, uses_of(plan, p, on_left, v, n)
    here, own = by_width(size, k, v, ZERO), by_start(size, k, use.start, v)
    others, wholes, _ = wider(use, size, p, on_left, use.start, v, n)
    for i in range(use.start, use.stop):
        got[here + i] += dot(a, others, b, wholes, how_many(use, on_left, i, v, n)) * x[own]
        own += size - i
        others, wholes = next_wider(use, size, on_left, i, v, others, wholes)


@reordered
def gather_weights(plan, k, v, n, x, y, q, r, got):
    """What an item of width v gets as a part of wider spans."""
    for p in range(U(len(plan.left))):
        if k == plan.left[p]:
            gather_side(plan, k, p, True, v, n, x, q, x, got)
        if k == plan.right[p]:
            gather_side(plan, k, p, False, v, n, y, r, x, got)


@inlined
def gather_side_of_logs(plan, k, p, on_left, v, n, a, b, x, got, t):
    here, use = by_width(plan.size, k, v, ZERO), uses_of(plan, p, on_left, v, n)
    for i in range(use.start, use.stop):
        others, wholes, count = wider(use, plan.size, p, on_left, i, v, n)
        exponentiate(a, others, b, wholes, count, x[by_start(plan.size, k, i, v)], t)
        got[here + i] += total_of(t, count)


@compiled
def gather_logs(plan, k, v, n, x, y, q, r, got, t):
    """The same in log space."""
    for p in range(U(len(plan.left))):
        if k == plan.left[p]:
            gather_side_of_logs(plan, k, p, True, v, n, x, q, x, got, t)
        if k == plan.right[p]:
            gather_side_of_logs(plan, k, p, False, v, n, y, r, x, got, t)


@inlined
def gather_side_rates(plan, k, p, on_left, v, n, a, da, b, db, x, dv, got, dgot):
    here, use = by_width(plan.size, k, v, ZERO), uses_of(plan, p, on_left, v, n)
    for i in range(use.start, use.stop):
        others, wholes, count = wider(use, plan.size, p, on_left, i, v, n)
        total = dot(a, others, b, wholes, count)
        rate = dot_of_sums(a, da, others, b, db, wholes, count)
        own = by_start(plan.size, k, i, v)
        got[here + i] += total * x[own]
        dgot[here + i] += (rate + dv[own] * total) * x[own]


@reordered
def gather_rates_of_weights(plan, k, v, n, x, y, q, r, dx, dy, dq, dr, dv, got, dgot):
    """As `gather_weights`, and the rates of it all; dv are those of the logarithms of items."""
    for p in range(U(len(plan.left))):
        if k == plan.left[p]:
            gather_side_rates(plan, k, p, True, v, n, x, dx, q, dq, x, dv, got, dgot)
        if k == plan.right[p]:
            gather_side_rates(plan, k, p, False, v, n, y, dy, r, dr, x, dv, got, dgot)


@inlined
def gather_side_rates_of_logs(plan, k, p, on_left, v, n, a, da, b, db, x, dx, got, dgot, t):
    here, use = by_width(plan.size, k, v, ZERO), uses_of(plan, p, on_left, v, n)
    for i in range(use.start, use.stop):
        others, wholes, count = wider(use, plan.size, p, on_left, i, v, n)
        own = by_start(plan.size, k, i, v)
        exponentiate(a, others, b, wholes, count, x[own], t)
        total, rate = total_of(t, count), mean_of(t, da, others, db, wholes, count)
        got[here + i] += total
        dgot[here + i] += rate + dx[own] * total


@compiled
def gather_rates_of_logs(plan, k, v, n, x, y, q, r, dx, dy, dq, dr, got, dgot, t):
    """The same in log space, where dx are the rates of logarithms."""
    for p in range(U(len(plan.left))):
        if k == plan.left[p]:
            gather_side_rates_of_logs(plan, k, p, True, v, n, x, dx, q, dq, x, dx, got, dgot, t)
        if k == plan.right[p]:
            gather_side_rates_of_logs(plan, k, p, False, v, n, y, dy, r, dr, x, dx, got, dgot, t)


# Whole sweeps -------------------------------------------------------------------------------------


@compiled
def inside(plan, span, lengths, scores, hard, all_x, all_z, slopes, values):
    """Values, and the tape of all other sweeps; slopes (B, 2), the second 1 for weights, else 0."""
    e, y = np.empty(all_x.shape[1]), np.empty(all_x.shape[1])
    t, v = np.empty(plan.size), np.empty(plan.size)
    for b in range(U(span[0]), U(span[1])):
        n, x, z, slope = lengths[b], all_x[b], all_z[b], slopes[b]
        slope[0], slope[1] = 0.0, 0.0
        if not hard and find_exponentials(plan, n, scores[b], e):
            slope[1] = 1.0 if weights_inside(plan, n, x, y, z, e, slope, v) else 0.0
        if slope[1] == 0.0:
            logs_inside(plan, n, scores[b], hard, x, y, z, t, v)
        value = x[by_start(plan.size, plan.goal, ZERO, n)]
        if slope[1] > 0.0:
            value = np.log(value) + slope[0] * n if value > 0.0 else FORBIDDEN
        values[b] = (value if value > INFEASIBLE else FORBIDDEN) if n > ZERO else 0.0


@compiled
def begin(plan, n, x, y, nothing, one):
    """Spans of width 0."""
    for k in range(U(len(plan.unit))):
        for i in range(n + ONE):
            value = one if plan.unit[k] == ZERO else nothing
            x[by_start(plan.size, k, i, ZERO)], y[by_end(plan.size, k, i, i)] = value, value


@compiled
def weights_inside(plan, n, x, y, z, e, slope, v):
    """False if weights are too far from any slope."""
    size = plan.size
    begin(plan, n, x, y, 0.0, 1.0)
    for w in range(ONE, n + ONE):
        for step in range(U(len(plan.number))):
            k = plan.number[step]
            if not plan.is_item[step]:
                if not weigh(row_of(plan, k, w, n), x, y, z, slope[0]):
                    return False
                continue
            made = made_of(plan, k, w, n)
            find_inner(made, x, z, 0.0, 1.0, v)
            widths = 1.0 if made.of == UNIT else 2.0 if made.of == WRAPPED else 0.0
            least, most = times(made, np.exp(-slope[0] * widths), e, v)
            put(size, k, w, made.spans, v, x, y)
            if most > 0.0 and not SMALL < most < GREAT:
                # Items of this width that come later are still to be made: they are not scaled.
                change = np.log(most) / w
                v[: made.spans] = 0.0
                for later in range(step + ONE, U(len(plan.number))):
                    if plan.is_item[later]:
                        put(size, plan.number[later], w, made.spans, v, x, y)
                if not at_new_slope(plan, n, w, change, x, y, z):
                    return False
                slope[0] += change
            elif most > 0.0 and least < LEAST:
                return False
    return True


@compiled
def logs_inside(plan, n, scores, hard, x, y, z, t, v):
    size = plan.size
    begin(plan, n, x, y, FORBIDDEN, 0.0)
    for w in range(ONE, n + ONE):
        for step in range(U(len(plan.number))):
            k = plan.number[step]
            if plan.is_item[step]:
                made = made_of(plan, k, w, n)
                find_inner(made, x, z, FORBIDDEN, 0.0, v)
                add_scores(made, plan.places[k, w - ONE], scores, FORBIDDEN, v)
                put(size, k, w, made.spans, v, x, y)
            else:
                find_logs(row_of(plan, k, w, n), x, y, z, hard, t)


@compiled
def find_ends(plan, n, x, y):
    """Items by end and start."""
    for k in range(U(len(plan.unit))):
        for i in range(n + ONE):
            here = by_start(plan.size, k, i, ZERO)
            for w in range(n + ONE - i):
                y[by_end(plan.size, k, i + w, i)] = x[here + w]


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
def curvature(plan, span, lengths, all_x, all_z, slopes, values, dscores, products):
    size, steps = plan.size, U(len(plan.number))
    y, dx, dy = np.empty(all_x.shape[1]), np.empty(all_x.shape[1]), np.empty(all_x.shape[1])
    got, dgot, dv = np.empty_like(y), np.empty_like(y), np.empty_like(y)
    q, r, dz = np.empty(all_z.shape[1]), np.empty(all_z.shape[1]), np.empty(all_z.shape[1])
    dq, dr, spare = np.empty_like(q), np.empty_like(r), np.empty(products.shape[1])
    into, dinto = np.empty((len(plan.left), size)), np.empty((len(plan.left), size))
    t, v = np.empty(size), np.empty(size)
    for b in range(U(span[0]), U(span[1])):
        n, x, z, slope, scaled = lengths[b], all_x[b], all_z[b], slopes[b, 0], slopes[b, 1] > 0.0
        if n == ZERO or values[b] <= INFEASIBLE:
            continue
        find_ends(plan, n, x, y)
        begin(plan, n, dv, dy, 0.0, 0.0)
        begin(plan, n, dx, dy, 0.0, 0.0)
        for w in range(ONE, n + ONE):
            for step in range(steps):
                k = plan.number[step]
                if plan.is_item[step]:
                    made = made_of(plan, k, w, n)
                    find_inner(made, dv, dz, 0.0, 0.0, v)
                    add_scores(made, plan.places[k, w - ONE], dscores[b], 0.0, v)
                    put(size, k, w, made.spans, v, dv, dy)
                    if scaled:
                        for i in range(made.spans):
                            v[i] *= x[by_start(size, k, i, w)]
                    put(size, k, w, made.spans, v, dx, dy)
                else:
                    row = row_of(plan, k, w, n)
                    if scaled:
                        find_rates_of_weights(row, x, y, z, slope, dx, dy, dz)
                    else:
                        find_rates_of_logs(row, x, y, z, dx, dy, dz, t)
        q[:], r[:] = (0.0, 0.0) if scaled else (FORBIDDEN, FORBIDDEN)
        got[:], dgot[:], dq[:], dr[:] = 0.0, 0.0, 0.0, 0.0
        got[by_width(size, plan.goal, n, ZERO)] = 1.0
        for down in range(n):
            w = n - down
            into[:], dinto[:] = 0.0, 0.0
            for back in range(ONE, steps + ONE):
                k = plan.number[steps - back]
                if plan.is_item[steps - back]:
                    made, places = made_of(plan, k, w, n), plan.places[k, w - ONE]
                    product = made.source if made.of == PRODUCT else ZERO
                    tables = plan, k, w, n, x, y, q, r, dx, dy, dq, dr
                    if scaled:
                        gather_rates_of_weights(*tables, dv, got, dgot)
                    else:
                        gather_rates_of_logs(*tables, got, dgot, t)
                    read_items(made, places, got, spare, into[product])
                    read_items(made, places, dgot, products[b], dinto[product])
                else:
                    row, p, dp = row_of(plan, k, w, n), into[k], dinto[k]
                    divide(row, z, scaled, slope, p, q, r, t)
                    divide_rates(row, z, scaled, slope, p, dp, dz, dq, dr, t)


@compiled
def trace(plan, span, lengths, all_x, slopes, values, noise, used):
    """One structure, from the whole to its parts; noise (P, B, N, 2 N) as in `outside.Choice`."""
    size, steps = plan.size, U(len(plan.number))
    y, needed = np.empty(all_x.shape[1]), np.empty(all_x.shape[1], np.bool_)
    into = np.empty((len(plan.left), size), np.bool_)
    for b in range(U(span[0]), U(span[1])):
        n, x, scaled = lengths[b], all_x[b], slopes[b, 1] > 0.0
        if n == ZERO or values[b] <= INFEASIBLE:
            continue
        find_ends(plan, n, x, y)
        needed[:] = False
        needed[by_width(size, plan.goal, n, ZERO)] = True
        for down in range(n):
            w = n - down
            into[:] = False
            for back in range(ONE, steps + ONE):
                k = plan.number[steps - back]
                if not plan.is_item[steps - back]:
                    row, draws = row_of(plan, k, w, n), noise[k, b, w - ONE]
                    for i in range(row.spans):
                        if into[k, i]:
                            u = row.first + choose(row, i, x, y, scaled, draws)
                            start = i + u + row.gap
                            needed[by_width(size, row.left, u, i)] = True
                            needed[by_width(size, row.right, i + w - start, start)] = True
                    continue
                made, places = made_of(plan, k, w, n), plan.places[k, w - ONE]
                for i in range(made.spans):
                    if needed[made.here + i]:
                        if made.scored and places[i] >= 0:
                            used[b, places[i]] = True
                        if made.of == PRODUCT:
                            into[made.source, i] = True
                        elif made.of == WRAPPED:
                            needed[by_width(size, made.source, w - TWO, i + ONE)] = True


@compiled
def choose(row, i, x, y, scaled, noise):
    """The best cut after noise."""
    left, right, cuts = cuts_of(row, i)
    best, chosen = 4.0 * FORBIDDEN, ZERO
    for c in range(cuts):
        a, b = x[left + c], y[right + c]
        if scaled:
            if a <= 0.0 or b <= 0.0:
                continue
            a, b = np.log(a), np.log(b)
        score = a + b + noise[i + row.gap + row.first + c]
        if score > best:
            best, chosen = score, c
    return chosen
