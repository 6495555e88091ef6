"""The pass from narrow to wide spans, compiled by Numba (see `native_plan.py`).

A product is a plain sum over cuts of `left * right`, and both parts lie in memory in the order of
the cuts. Where the slope would let weights grow or shrink too far, all are scaled anew; where
weights are farther than `LEAST` from it at any slope, and for the maximum, the example is in log
space instead: a sum of `exp(left + right)`.
"""

import numpy as np

from keras_struct.ops.chart.native_cuts import (
    add_scores,
    begin,
    dot,
    exponentiate,
    find_inner,
    put,
    total_of,
)
from keras_struct.ops.chart.native_plan import (
    ONE,
    TWO,
    UNIT,
    WRAPPED,
    ZERO,
    U,
    by_end,
    by_start,
    by_width,
    cuts_of,
    made_of,
    row_of,
)
from keras_struct.ops.compiled import compiled, exp_or_zero, reordered
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE

LEAST, GREATEST = 1e-100, 1e100  # weights: the product of two is still a number
SMALL, GREAT = 1e-60, 1e60  # of all spans of a width; beyond, the slope is another one
MOST = 200.0  # magnitude of a score


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
def find_logs(row, x, y, z, hard, t):
    """Logarithms of a product, or maxima."""
    for i in range(row.spans):
        left, right, cuts = cuts_of(row, i)
        peak = greatest(x, left, y, right, cuts)
        if not hard and cuts > ZERO:
            exponentiate(x, left, y, right, cuts, -peak, t)
            peak += np.log(total_of(t, cuts))
        z[row.here + i] = peak


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
