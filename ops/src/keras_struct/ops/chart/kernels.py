"""The passes over a chart of `spec.py`, width by width, compiled by Numba.

Everything is in float64. The numbers of an example are weights, each over the greatest of its width,
whose logarithm is its level: a product is a sum over cuts of `factor * left * right`, where all spans
of a width share the factors of their cuts. So a cut costs two multiplications. Where weights of one
width differ by more than `LEAST`, and for the maximum, the example is in log space instead: a sum of
`exp(left + right)`.

For one width and one cut, both parts of all spans lie in memory in the order of their starts, and so
does their product: the inner loops run over starts.

Letters: K items, P products, N positions; i start, w width, u width of the left part of a cut. Arrays
of one example, flat (a view of an array costs more than a few cuts):

    x      (K, cells)         items by width and start: N + 1 of width 0, N of width 1, ...
    z      (P, cells)         products by width and start
    f      (P, cells)         factors of the cuts of a product at width w, by width of the left part,
                              after those of w - 1: 1 of width 0, 2 of width 1, ...
    q      (P, cells)         probabilities of products over their weights, by width and start
    level  (K (N + 1) + 1,)   logarithms of the units of items by width; last, whether there are any

A part of a product gets its share of the probability of the product: `x * sum(f * other part * q)`,
over all products and widths that it is a part of.

All integers inside are unsigned: Numba would test signed ones for Python's negative indices.
"""

from typing import Any, NamedTuple

import numba
import numpy as np

from keras_struct.ops.compiled import OPTIONS, compiled, exp_or_zero
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE

U: Any = np.uint64
ZERO, ONE, TWO = U(0), U(1), U(2)
NONE = U(1 << 62)
NOTHING, UNIT, PRODUCT, WRAPPED = U(0), U(1), U(2), U(3)
LEAST = 1e-200  # weight of a span beside the greatest of its width
# Sums and maxima may be taken in any order.
reordered = numba.njit(**OPTIONS, fastmath=True)


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


@compiled
def at(size, k, width, start):
    """Where a span of item or product k is."""
    return k * cells_of(size) + width * size - (width * (width - ONE)) // TWO + start


@compiled
def factor_at(size, p, width, left):
    """Where the factor of a cut is."""
    return p * cells_of(size) + (width * (width + ONE)) // TWO + left


@compiled
def cells_of(size):
    """How many spans there are: by width, size, size - 1, ..., 1."""
    return (size * (size + ONE)) // TWO


# One product, all spans of a width ----------------------------------------------------------------


class Row(NamedTuple):
    """A product at one width.

    Attributes:
        spans: How many spans of the width there are.
        cuts: How many cuts each has.
        closed: Whether the span at start 0 has the first cut only.
        left, right: Items of the parts.
        first, rest: Widths of the parts in the first cut; in the next they are one more and less.
        shift: How far on from the start of the left part that of the right one is, in the first cut.
        here: Where the product of the first span is in z.
        factor: Where the factor of the first cut is.
        size: N + 1.
    """

    spans: np.uint64
    cuts: np.uint64
    closed: bool
    left: np.uint64
    right: np.uint64
    first: np.uint64
    rest: np.uint64
    shift: np.uint64
    here: np.uint64
    factor: np.uint64
    size: np.uint64


@compiled
def least_width(plan, k):
    """Of an item as a part of a product."""
    return ZERO if plan.unit[k] == ZERO else ONE


@compiled
def row_of(plan, p, w, n):
    size, gap = plan.size, plan.gap[p]
    first, last = least_width(plan, plan.left[p]), w - gap - least_width(plan, plan.right[p])
    return Row(
        n + ONE - w,
        last + ONE - first,
        plan.closed[p],
        plan.left[p],
        plan.right[p],
        first,
        w - gap - first,
        gap + first,
        at(size, p, w, ZERO),
        factor_at(size, p, w, first),
        size,
    )


@compiled
def parts(row, c):
    """Where the parts of cut c of the first span are."""
    left = at(row.size, row.left, row.first + c, ZERO)
    return left, at(row.size, row.right, row.rest - c, row.shift + c)


@compiled
def start_of(row, c):
    """The first span that has cut c."""
    return ONE if row.closed and c > ZERO else ZERO


@compiled
def is_scaled(level):
    return level[len(level) - 1] > 0.0


@compiled
def find_factors(row, level, f):
    """What the terms of a cut have in common, over the greatest; returns its logarithm."""
    peak = 2.0 * FORBIDDEN
    left, right = row.left * row.size + row.first, row.right * row.size + row.rest
    for c in range(row.cuts):
        f[row.factor + c] = level[left + c] + level[right - c]
        peak = max(peak, f[row.factor + c])
    for c in range(row.cuts):
        x = f[row.factor + c] - peak
        f[row.factor + c] = exp_or_zero(x) if peak > INFEASIBLE else 0.0
    return peak if peak > INFEASIBLE else FORBIDDEN


@reordered
def weigh(row, x, z, f):
    """Weights of a product."""
    for i in range(row.spans):
        z[row.here + i] = 0.0
    for c in range(row.cuts):
        (left, right), start = parts(row, c), start_of(row, c)
        factor = f[row.factor + c]
        for i in range(start, row.spans):
            z[row.here + i] += factor * x[left + i] * x[right + i]


@compiled
def is_lost(row, x, z):
    """Whether a span has cuts, but next to no weight."""
    for i in range(row.spans):
        if z[row.here + i] < LEAST:
            for c in range(row.cuts):
                (left, right), start = parts(row, c), start_of(row, c)
                if i >= start and x[left + i] > 0.0 and x[right + i] > 0.0:
                    return True
    return False


@reordered
def find_peaks(row, x, z):
    """The greatest term of every span."""
    for i in range(row.spans):
        z[row.here + i] = 2.0 * FORBIDDEN
    for c in range(row.cuts):
        (left, right), start = parts(row, c), start_of(row, c)
        for i in range(start, row.spans):
            z[row.here + i] = max(z[row.here + i], x[left + i] + x[right + i])


@compiled
def find_logs(row, x, z, t, peaks):
    """Logarithms of the sums of the exponentials of the terms."""
    find_peaks(row, x, z)
    for i in range(row.spans):
        peaks[i] = z[row.here + i]
        z[row.here + i] = 0.0
    for c in range(row.cuts):
        (left, right), start = parts(row, c), start_of(row, c)
        for i in range(start, row.spans):
            t[i] = x[left + i] + x[right + i] - peaks[i]
        for i in range(start, row.spans):
            z[row.here + i] += exp_or_zero(t[i])
    for i in range(row.spans):
        z[row.here + i] = peaks[i] + (np.log(z[row.here + i]) if row.cuts > ZERO else 0.0)


@compiled
def find_rates(row, x, z, scaled, f, dx, dz):
    """Rates of the logarithms of a product: means over the cuts."""
    for i in range(row.spans):
        dz[row.here + i] = 0.0
    for c in range(row.cuts):
        (left, right), start = parts(row, c), start_of(row, c)
        if scaled:
            factor = f[row.factor + c]
            for i in range(start, row.spans):
                share = factor * x[left + i] * x[right + i]
                dz[row.here + i] += share * (dx[left + i] + dx[right + i])
        else:
            for i in range(start, row.spans):
                term = x[left + i] + x[right + i] - z[row.here + i]
                share = exp_or_zero(min(term, 0.0))  # more only by rounding of what is forbidden
                dz[row.here + i] += share * (dx[left + i] + dx[right + i])
    if scaled:
        for i in range(row.spans):
            total = z[row.here + i]
            dz[row.here + i] *= 1.0 / total if total > 0.0 else 0.0


@compiled
def divide(row, z, scaled, p, q):
    """q, what the cuts of a product that has probability p are times to be shares of p."""
    for i in range(row.spans):
        total = z[row.here + i] if scaled else 1.0
        q[row.here + i] = p[i] / total if total > 0.0 else 0.0


@compiled
def divide_rates(row, z, scaled, p, dp, dz, dq):
    for i in range(row.spans):
        total = z[row.here + i] if scaled else 1.0
        dq[row.here + i] = (dp[i] - p[i] * dz[row.here + i]) / total if total > 0.0 else 0.0


# One item, all spans of a width -------------------------------------------------------------------


class Made(NamedTuple):
    """What an item is made of at one width.

    Attributes:
        of: `UNIT`, `PRODUCT`, `WRAPPED` or `NOTHING`.
        spans: How many spans of the width there are.
        source: Where that of the first span is, in z or x.
        here: Where the first span is in x.
        scored: Whether it has a score.
    """

    of: np.uint64
    spans: np.uint64
    source: np.uint64
    here: np.uint64
    scored: bool


@compiled
def made_of(plan, k, w, n):
    size = plan.size
    of, source = NOTHING, ZERO
    if plan.unit[k] == ONE and w == ONE:
        of = UNIT
    elif plan.product[k] != NONE:
        of, source = PRODUCT, at(size, plan.product[k], w, ZERO)
    elif w >= TWO:
        of, source = WRAPPED, at(size, plan.wraps[k], w - TWO, ONE)
    return Made(of, n + ONE - w, source, at(size, k, w, ZERO), plan.scored[k])


@compiled
def find_inner(made, x, z, nothing, unit, into):
    """What the items are made of."""
    if made.of == PRODUCT:
        for i in range(made.spans):
            into[i] = z[made.source + i]
    elif made.of == WRAPPED:
        for i in range(made.spans):
            into[i] = x[made.source + i]
    else:
        into[: made.spans] = unit if made.of == UNIT else nothing


@compiled
def find_scores(made, places, scores, forbidden, into):
    if made.scored:
        for i in range(made.spans):
            into[i] = scores[places[i]] if places[i] >= 0 else forbidden
    else:
        into[: made.spans] = 0.0


@compiled
def write_items(made, places, scores, x, z, forbidden, v, s):
    """Items from what they are made of, plus their scores, in log space."""
    find_inner(made, x, z, forbidden, 0.0, v)
    find_scores(made, places, scores, forbidden, s)
    for i in range(made.spans):
        x[made.here + i] = v[i] + s[i]


@compiled
def find_exponentials(plan, n, scores, e, peaks):
    """Exponentials of the scores of all scored items, over the greatest of their width.

    Those that are almost 0 are kept above 0, to be seen.
    """
    for k in range(U(len(plan.unit))):
        if not plan.scored[k]:
            continue
        for w in range(ONE, n + ONE):
            peak, here = 2.0 * FORBIDDEN, at(plan.size, k, w, ZERO)
            for i in range(n + ONE - w):
                place = plan.places[k, w - ONE, i]
                value = scores[place] if place >= 0 else FORBIDDEN
                peak = max(peak, value)
                e[here + i] = value
            peaks[k * plan.size + w] = peak
            if peak > INFEASIBLE:
                for i in range(n + ONE - w):
                    e[here + i] -= peak
        first, last = at(plan.size, k, ONE, ZERO), at(plan.size, k + ONE, ZERO, ZERO)
        for j in range(first, last):
            e[j] = exp_or_zero(max(e[j], -700.0)) if e[j] > INFEASIBLE else 0.0


@reordered
def weigh_items(made, scored, x, z, e):
    """Items from what they are made of, times the exponentials of their scores.

    Returns what they are divided by; -1 if some are too small beside others.
    """
    here, least, greatest = made.here, 1.0, 0.0
    if made.of == PRODUCT:
        for i in range(made.spans):
            x[here + i] = z[made.source + i]
    elif made.of == WRAPPED:
        for i in range(made.spans):
            x[here + i] = x[made.source + i]
    else:
        for i in range(made.spans):
            x[here + i] = 1.0 if made.of == UNIT else 0.0
    if scored:
        for i in range(made.spans):
            value = x[here + i] * e[here + i]
            least = min(least, value if min(x[here + i], e[here + i]) > 0.0 else 1.0)
            greatest = max(greatest, value)
            x[here + i] = value
    else:
        for i in range(made.spans):
            least = min(least, x[here + i] if x[here + i] > 0.0 else 1.0)
            greatest = max(greatest, x[here + i])
    if least < LEAST * greatest or (least < 1.0 and greatest == 0.0):
        return -1.0
    by = 1.0 / greatest if greatest > 0.0 else 0.0
    for i in range(made.spans):
        x[here + i] *= by
    return greatest


class Use(NamedTuple):
    """An item as a part of a product of one width.

    Attributes:
        first, last: From which to before which span of the product.
        factor: Where the factor of the cut is.
        here: Where the product of the first span is.
        other: Where the other part of the first span is.
        mine: How far on the item of the first span is.
    """

    first: np.uint64
    last: np.uint64
    factor: np.uint64
    here: np.uint64
    other: np.uint64
    mine: np.uint64


@compiled
def use_of(plan, p, on_left, v, o, n):
    """The use in product p of an item of width v, where the other part has width o."""
    size, gap = plan.size, plan.gap[p]
    w, u = v + gap + o, v if on_left else o
    other = at(size, plan.right[p], o, u + gap) if on_left else at(size, plan.left[p], o, ZERO)
    first = ONE if plan.closed[p] and u > ZERO else ZERO
    mine, here = ZERO if on_left else u + gap, at(size, p, w, ZERO)
    return Use(first, n + ONE - w, factor_at(size, p, w, u), here, other, mine)


@compiled
def gather(plan, k, v, n, x, z, scaled, f, q, got, total):
    """What an item of width v gets as a part of wider spans."""
    here, spans = at(plan.size, k, v, ZERO), n + ONE - v
    for i in range(spans):
        total[i] = 0.0
    for side in range(TWO * U(len(plan.left))):
        p, on_left = side // TWO, side % TWO == ZERO
        if k != (plan.left[p] if on_left else plan.right[p]):
            continue
        least = least_width(plan, plan.right[p] if on_left else plan.left[p])
        for o in range(least, n + ONE - min(v + plan.gap[p], n + ONE)):
            use = use_of(plan, p, on_left, v, o, n)
            if scaled:
                factor = f[use.factor]
                for i in range(use.first, use.last):
                    total[use.mine + i] += factor * (q[use.here + i] * x[use.other + i])
            else:
                for i in range(use.first, use.last):
                    term = x[here + use.mine + i] + x[use.other + i] - z[use.here + i]
                    total[use.mine + i] += q[use.here + i] * exp_or_zero(min(term, 0.0))
    for i in range(spans):
        got[here + i] += total[i] * (x[here + i] if scaled else 1.0)


@compiled
def gather_rates(plan, k, v, n, x, z, scaled, f, q, dx, dq, got, dgot, total, rates):
    """As `gather`, and the rates of what is found."""
    here, spans = at(plan.size, k, v, ZERO), n + ONE - v
    for i in range(spans):
        total[i], rates[i] = 0.0, 0.0
    for side in range(TWO * U(len(plan.left))):
        p, on_left = side // TWO, side % TWO == ZERO
        if k != (plan.left[p] if on_left else plan.right[p]):
            continue
        least = least_width(plan, plan.right[p] if on_left else plan.left[p])
        for o in range(least, n + ONE - min(v + plan.gap[p], n + ONE)):
            use = use_of(plan, p, on_left, v, o, n)
            factor = f[use.factor]
            for i in range(use.first, use.last):
                if scaled:
                    term = factor * x[use.other + i]
                else:
                    term = x[here + use.mine + i] + x[use.other + i] - z[use.here + i]
                    term = exp_or_zero(min(term, 0.0))
                a = q[use.here + i]
                total[use.mine + i] += term * a
                rates[use.mine + i] += term * (dq[use.here + i] + a * dx[use.other + i])
    for i in range(spans):
        rate, own = rates[i] + dx[here + i] * total[i], x[here + i] if scaled else 1.0
        got[here + i] += total[i] * own
        dgot[here + i] += rate * own


@compiled
def read_items(made, places, got, found, into):
    """What the items got: for themselves, and for the product or the wrapped item."""
    if made.scored:
        for i in range(made.spans):
            if places[i] >= 0:
                found[places[i]] = got[made.here + i]
    for i in range(made.spans):
        if made.of == PRODUCT:
            into[i] += got[made.here + i]
        elif made.of == WRAPPED:
            got[made.source + i] += got[made.here + i]


# Whole sweeps -------------------------------------------------------------------------------------


@compiled
def inside(plan, span, lengths, scores, hard, all_x, all_z, all_f, levels, values):
    """Values, and the tape of all other sweeps."""
    e, peaks = np.empty(all_x.shape[1]), np.empty(levels.shape[1])
    t, s = np.empty(plan.size), np.empty(plan.size)
    for b in range(U(span[0]), U(span[1])):
        n, x, z, level = lengths[b], all_x[b], all_z[b], levels[b]
        if hard or not weights_inside(plan, n, scores[b], x, z, all_f[b], level, e, peaks):
            level[:] = 0.0
            logs_inside(plan, n, scores[b], hard, x, z, t, s)
        value, goal = x[at(plan.size, plan.goal, n, ZERO)], plan.goal * plan.size + n
        if is_scaled(level):
            value = np.log(value) + level[goal] if value > 0.0 else FORBIDDEN
        values[b] = (value if value > INFEASIBLE else FORBIDDEN) if n > ZERO else 0.0


@compiled
def begin(plan, n, x, nothing, one):
    """Spans of width 0."""
    for k in range(U(len(plan.unit))):
        for i in range(n + ONE):
            x[at(plan.size, k, ZERO, i)] = one if plan.unit[k] == ZERO else nothing


@compiled
def weights_inside(plan, n, scores, x, z, f, level, e, peaks):
    """False if weights of one width are too different."""
    of_products = np.empty(len(plan.left))
    begin(plan, n, x, 0.0, 1.0)
    level[:] = FORBIDDEN
    for k in range(U(len(plan.unit))):
        if plan.unit[k] == ZERO:
            level[k * plan.size] = 0.0
    level[len(level) - 1] = 1.0
    find_exponentials(plan, n, scores, e, peaks)
    for w in range(ONE, n + ONE):
        for step in range(U(len(plan.number))):
            k = plan.number[step]
            if not plan.is_item[step]:
                row = row_of(plan, k, w, n)
                of_products[k] = find_factors(row, level, f)
                weigh(row, x, z, f)
                if is_lost(row, x, z):
                    return False
                continue
            made, base = made_of(plan, k, w, n), 0.0
            if made.of == PRODUCT:
                base = of_products[plan.product[k]]
            elif made.of == WRAPPED:
                base = level[plan.wraps[k] * plan.size + w - TWO]
            by = weigh_items(made, plan.scored[k], x, z, e)
            if by < 0.0:
                return False
            if by > 0.0:
                peak = peaks[k * plan.size + w] if plan.scored[k] else 0.0
                level[k * plan.size + w] = base + peak + np.log(by)
    return True


@compiled
def logs_inside(plan, n, scores, hard, x, z, t, peaks):
    begin(plan, n, x, FORBIDDEN, 0.0)
    for w in range(ONE, n + ONE):
        for step in range(U(len(plan.number))):
            k = plan.number[step]
            if plan.is_item[step]:
                made = made_of(plan, k, w, n)
                write_items(made, plan.places[k, w - ONE], scores, x, z, FORBIDDEN, t, peaks)
                continue
            row = row_of(plan, k, w, n)
            if hard:
                find_peaks(row, x, z)
            else:
                find_logs(row, x, z, t, peaks)


@compiled
def outside(plan, span, lengths, all_x, all_z, all_f, levels, values, marginals):
    size, steps = plan.size, U(len(plan.number))
    got, total, into = np.empty(all_x.shape[1]), np.empty(size), np.empty((len(plan.left), size))
    q = np.empty(all_z.shape[1])
    for b in range(U(span[0]), U(span[1])):
        n, x, z, f, level = lengths[b], all_x[b], all_z[b], all_f[b], levels[b]
        if n == ZERO or values[b] <= INFEASIBLE:
            continue
        scaled = is_scaled(level)
        got[:], q[:] = 0.0, 0.0
        got[at(size, plan.goal, n, ZERO)] = 1.0
        for down in range(n):
            w = n - down
            into[:] = 0.0
            for back in range(ONE, steps + ONE):
                k = plan.number[steps - back]
                if plan.is_item[steps - back]:
                    made = made_of(plan, k, w, n)
                    handed = into[plan.product[k] if made.of == PRODUCT else ZERO]
                    gather(plan, k, w, n, x, z, scaled, f, q, got, total)
                    read_items(made, plan.places[k, w - ONE], got, marginals[b], handed)
                else:
                    divide(row_of(plan, k, w, n), z, scaled, into[k], q)


@compiled
def curvature(plan, span, lengths, all_x, all_z, all_f, levels, values, dscores, products):
    size, steps = plan.size, U(len(plan.number))
    q, dq = np.empty(all_z.shape[1]), np.empty(all_z.shape[1])
    dx, dz, spare = np.empty(all_x.shape[1]), np.empty_like(q), np.empty(products.shape[1])
    got, dgot, s, t = np.empty_like(dx), np.empty_like(dx), np.empty(size), np.empty(size)
    into, dinto = np.empty((len(plan.left), size)), np.empty((len(plan.left), size))
    for b in range(U(span[0]), U(span[1])):
        n, x, z, f, level = lengths[b], all_x[b], all_z[b], all_f[b], levels[b]
        if n == ZERO or values[b] <= INFEASIBLE:
            continue
        scaled = is_scaled(level)
        begin(plan, n, dx, 0.0, 0.0)
        for w in range(ONE, n + ONE):
            for step in range(steps):
                k = plan.number[step]
                if plan.is_item[step]:
                    made = made_of(plan, k, w, n)
                    write_items(made, plan.places[k, w - ONE], dscores[b], dx, dz, 0.0, s, t)
                else:
                    find_rates(row_of(plan, k, w, n), x, z, scaled, f, dx, dz)
        got[:], dgot[:], q[:], dq[:] = 0.0, 0.0, 0.0, 0.0
        got[at(size, plan.goal, n, ZERO)] = 1.0
        for down in range(n):
            w = n - down
            into[:], dinto[:] = 0.0, 0.0
            for back in range(ONE, steps + ONE):
                k = plan.number[steps - back]
                if plan.is_item[steps - back]:
                    made, places = made_of(plan, k, w, n), plan.places[k, w - ONE]
                    product = plan.product[k] if made.of == PRODUCT else ZERO
                    gather_rates(plan, k, w, n, x, z, scaled, f, q, dx, dq, got, dgot, s, t)
                    read_items(made, places, got, spare, into[product])
                    read_items(made, places, dgot, products[b], dinto[product])
                else:
                    row, p = row_of(plan, k, w, n), into[k]
                    divide(row, z, scaled, p, q)
                    divide_rates(row, z, scaled, p, dinto[k], dz, dq)


@compiled
def trace(plan, span, lengths, all_x, levels, values, noise, used):
    """One structure, from the whole to its parts; noise (P, B, N, 2 N) as in `outside.Choice`."""
    size, steps = plan.size, U(len(plan.number))
    needed = np.empty(all_x.shape[1], np.bool_)
    into = np.empty((len(plan.left), size), np.bool_)
    for b in range(U(span[0]), U(span[1])):
        n, x, level = lengths[b], all_x[b], levels[b]
        if n == ZERO or values[b] <= INFEASIBLE:
            continue
        needed[:] = False
        needed[at(size, plan.goal, n, ZERO)] = True
        for down in range(n):
            w = n - down
            into[:] = False
            for back in range(ONE, steps + ONE):
                k = plan.number[steps - back]
                if not plan.is_item[steps - back]:
                    row, draws = row_of(plan, k, w, n), noise[k, b, w - ONE]
                    for i in range(row.spans):
                        if into[k, i]:
                            c = choose(row, i, x, level, draws, i + plan.gap[k])
                            left, right = parts(row, c)
                            needed[left + i], needed[right + i] = True, True
                    continue
                made, places = made_of(plan, k, w, n), plan.places[k, w - ONE]
                for i in range(made.spans):
                    if needed[made.here + i]:
                        if made.scored and places[i] >= 0:
                            used[b, places[i]] = True
                        if made.of == PRODUCT:
                            into[plan.product[k], i] = True
                        elif made.of == WRAPPED:
                            needed[made.source + i] = True


@compiled
def choose(row, i, x, level, noise, place):
    """The best cut after noise."""
    best, chosen = 4.0 * FORBIDDEN, ZERO
    for c in range(row.cuts):
        left, right = parts(row, c)
        if i < start_of(row, c):
            break
        a, b = x[left + i], x[right + i]
        if is_scaled(level):
            if a <= 0.0 or b <= 0.0:
                continue
            a = np.log(a) + level[row.left * row.size + row.first + c]
            b = np.log(b) + level[row.right * row.size + row.rest - c]
        total = a + b + noise[place + row.first + c]
        if total > best:
            best, chosen = total, c
    return chosen
