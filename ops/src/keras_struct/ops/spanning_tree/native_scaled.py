"""Elimination in mantissas and exponents, compiled by Numba (see `recurrence.md`).

It does what `native_plain.py` leaves: examples that are not in the mode `FAST`, and maxima.

Words are eliminated from the last to the first, each only if it has a head among those that are
left: the first such word changes places with it. So the words that are left are the first ones,
and step a, with a words left, eliminates the one at place k = a - 1.

Everything is in float64. Arrays of one example, flat (a view costs more than a few arcs):

    m, e (N, N + 1)        weights m 2**e by dependent and head: column 0 is the root, j + 1 place j
    out_m, out_e (N, N + 1)  row of the word that step a eliminates over its pivot, at row k
    share                  of step a, (k, a) after those of smaller steps: the part of every arc
                           that goes through k
    choice (N, N + 1)      derivative of the log-pivot, at row k
    swap (N,)              place that changed places with k

All integers inside are unsigned: Numba would test signed ones for Python's negative indices.
"""

from typing import Any

import numpy as np

from keras_struct.ops.compiled import FAST, compiled, exp_or_zero, inlined, reordered
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE
from keras_struct.ops.scaled import EMPTY, LN2, LOG2_E
from keras_struct.ops.spanning_tree.native_plain import (
    column,
    exchange,
    read_rates,
    total,
    write,
)

U: Any = np.uint64
ZERO, ONE, TWO, THREE = map(U, range(4))

_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_BIAS = 1.5 * 2.0**52 + 1023.0  # x + _BIAS has the bits of the exponent of 2**x at its end
_MANTISSA, _BITS_OF_ONE = 0x000FFFFFFFFFFFFF, 0x3FF0000000000000


@inlined
def power_of_two(x):
    """2**x of a whole number below 1000; 0 below -1022."""
    y = -1023.0 if x < -1023.0 else x
    return np.int64(np.float64(y + _BIAS).view(np.int64) << 52).view(np.float64)


@compiled
def steps_before(a):
    """Size of the shares of the steps below a."""
    return a * (a - ONE) * (a - TWO) // THREE if a > ONE else ZERO


# Elimination --------------------------------------------------------------------------------------


@compiled
def read(scores, n, m, e):
    """Weights of the scores (N, N)."""
    width = n + ONE
    for i in range(n):
        for j in range(n):
            x, at = scores[i, j], i * width + column(i, j)
            if x > INFEASIBLE:
                k = np.floor(x * LOG2_E + 0.5)
                m[at], e[at] = exp_or_zero((x - k * _LN2_HIGH) - k * _LN2_LOW), k
            else:
                m[at], e[at] = 0.0, EMPTY
        m[i * width + i + ONE], e[i * width + i + ONE] = 0.0, EMPTY


@reordered
def largest(x, start, end):
    peak = 2.0 * EMPTY
    for at in range(start, end):
        peak = max(peak, x[at])
    return peak


@compiled
def is_empty(m, first, last):
    return largest(m, first, last + ONE) <= 0.0


@compiled
def pivot_of(m, e, start, end, hard):
    """Sum or maximum of weights: mantissa and exponent."""
    peak, s = largest(e, start, end), 0.0
    for at in range(start, end):
        x = m[at] * power_of_two(e[at] - peak)
        s = max(s, x) if hard else s + x
    return s, peak


@compiled
def divide(m, e, start, count, s, peak, out_m, out_e):
    """A row over its pivot, with mantissas between 1 and 2."""
    for at in range(start, start + count):
        if m[at] > 0.0:
            bits = np.float64(m[at] / s).view(np.int64)
            out_m[at] = np.int64((bits & _MANTISSA) | _BITS_OF_ONE).view(np.float64)
            out_e[at] = e[at] - peak + ((bits >> 52) - 1023)
        else:
            out_m[at], out_e[at] = 0.0, EMPTY


@compiled
def add_paths(m, e, row, count, out_m, out_e, out, into_m, into_e, hard):
    """Every arc of a row, plus the path through k. Mantissas stay between 1/4 and 2."""
    for j in range(count):
        there = e[row + j]
        path = into_e + out_e[out + j]
        peak = max(there, path)
        x = m[row + j] * power_of_two(there - peak)
        y = into_m * out_m[out + j] * power_of_two(path - peak)
        s = max(x, y) if hard else x + y
        large = s > 2.0
        m[row + j] = 0.25 * s if large else s
        e[row + j] = peak + 2.0 if large else peak


@compiled
def add_shared_paths(m, e, row, count, out_m, out_e, out, into_m, into_e, hard, share, to):
    """The same, and the share of the path in every arc (above 1/2 where it is the larger)."""
    for j in range(count):
        there = e[row + j]
        path = into_e + out_e[out + j]
        peak = max(there, path)
        x = m[row + j] * power_of_two(there - peak)
        y = into_m * out_m[out + j] * power_of_two(path - peak)
        s = x + y
        share[to + j] = y / max(s, 1e-300)
        s = max(x, y) if hard else s
        large = s > 2.0
        m[row + j] = 0.25 * s if large else s
        e[row + j] = peak + 2.0 if large else peak


@compiled
def eliminate(single_root, n, hard, shared, m, e, out_m, out_e, share, swap):
    """Log-partition; `share` is written if `shared`."""
    width, value = n + ONE, 0.0
    for step in range(n):
        a = n - step
        k = a - ONE
        first = ONE if single_root and a > ONE else ZERO
        q = a  # one more than the place
        while q > ZERO and is_empty(m, (q - ONE) * width + first, (q - ONE) * width + a):
            q -= ONE
        if q == ZERO:
            return FORBIDDEN
        swap[k] = q - ONE
        if swap[k] != k:
            exchange(m, n, k, swap[k])
            exchange(e, n, k, swap[k])
        row = k * width
        s, peak = pivot_of(m, e, row + first, row + a, hard)
        value += np.log(s) + peak * LN2
        divide(m, e, row, a, s, peak, out_m, out_e)
        for i in range(k):
            to, source = i * width, i * width + a
            if shared:
                at = steps_before(a) + i * a
                add_shared_paths(
                    m, e, to, a, out_m, out_e, row, m[source], e[source], hard, share, at
                )
                share[at + i + ONE] = 0.0
            else:
                add_paths(m, e, to, a, out_m, out_e, row, m[source], e[source], hard)
            m[to + i + ONE], e[to + i + ONE] = 0.0, EMPTY
    return value


@compiled
def find_choices(single_root, n, out_m, out_e, choice):
    width = n + ONE
    for k in range(n):
        for at in range(k * width, k * width + k + ONE):
            choice[at] = out_m[at] * power_of_two(min(out_e[at], 1.0))
        if single_root and k > ZERO:
            choice[k * width] = 0.0


# One row of the backward passes -------------------------------------------------------------------


@reordered
def take_back(p, row, count, share, at, out):
    """What a row hands to the arcs from k (into `out`) and, the sum, to the one to k."""
    s = 0.0
    for j in range(count):
        through = p[row + j] * share[at + j]
        p[row + j] -= through
        out[j] += through
        s += through
    return s


@reordered
def take_back_rates(p, dp, row, count, share, change, at, dout):
    """The same for the rates of p, before `take_back` changes p."""
    s = 0.0
    for j in range(count):
        y = share[at + j]
        moved = p[row + j] * y * (1.0 - y) * change[at + j] + dp[row + j] * y
        dp[row + j] -= moved
        dout[j] += moved
        s += moved
    return s


@compiled
def move_rates(rate, row, count, rates, out, into, share, change, at):
    """Rates of the logarithms of a row, after the paths have been added."""
    for j in range(count):
        by = into + rates[out + j] - rate[row + j]
        change[at + j] = by
        rate[row + j] += share[at + j] * by


# Whole sweeps -------------------------------------------------------------------------------------


@compiled
def forward(plan, span, lengths, scores, modes, values):
    """`plan`: whether there is a single root, and whether sums are maxima."""
    single_root, hard = plan
    size = U(scores.shape[1])
    cells = size * (size + ONE)
    m, e, out_m, out_e = np.empty(cells), np.empty(cells), np.empty(cells), np.empty(cells)
    share, swap = np.empty(0), np.empty(size, np.uint64)
    for b in range(U(span[0]), U(span[1])):
        n = lengths[b]
        if modes[b] == FAST:
            continue
        read(scores[b], n, m, e)
        values[b] = eliminate(single_root, n, hard, False, m, e, out_m, out_e, share, swap)


@compiled
def backward(single_root, span, lengths, scores, modes, marginals):
    size = U(scores.shape[1])
    cells = size * (size + ONE)
    m, e, out_m, out_e = np.empty(cells), np.empty(cells), np.empty(cells), np.empty(cells)
    share, swap = np.empty(steps_before(size + ONE)), np.empty(size, np.uint64)
    choice, p, out = np.empty(cells), np.empty(cells), np.empty(size + ONE)
    for b in range(U(span[0]), U(span[1])):
        n = lengths[b]
        width = n + ONE
        if modes[b] == FAST:
            continue
        read(scores[b], n, m, e)
        value = eliminate(single_root, n, False, True, m, e, out_m, out_e, share, swap)
        if value <= INFEASIBLE:
            continue
        find_choices(single_root, n, out_m, out_e, choice)
        p[:] = 0.0
        for a in range(ONE, width):
            k = a - ONE
            row = k * width
            out[:] = 0.0
            for i in range(k):
                to = i * width
                p[to + a] = take_back(p, to, a, share, steps_before(a) + i * a, out)
            rest = 1.0 - total(out, ZERO, a)
            for j in range(a):
                p[row + j] = max(out[j] + choice[row + j] * rest, 0.0)
            if swap[k] != k:
                exchange(p, n, k, swap[k])
        write(p, n, marginals[b])


@compiled
def curvature(single_root, span, lengths, scores, modes, tangents, products):
    size = U(scores.shape[1])
    cells = size * (size + ONE)
    m, e, out_m, out_e = np.empty(cells), np.empty(cells), np.empty(cells), np.empty(cells)
    share, swap = np.empty(steps_before(size + ONE)), np.empty(size, np.uint64)
    change, rate, rates = np.empty_like(share), np.empty(cells), np.empty(cells)
    choice, p, dp = np.empty(cells), np.empty(cells), np.empty(cells)
    out, dout = np.empty(size + ONE), np.empty(size + ONE)
    for b in range(U(span[0]), U(span[1])):
        n = lengths[b]
        width = n + ONE
        if modes[b] == FAST:
            continue
        read_rates(tangents[b], n, rate)
        read(scores[b], n, m, e)
        value = eliminate(single_root, n, False, True, m, e, out_m, out_e, share, swap)
        if value <= INFEASIBLE:
            continue
        find_choices(single_root, n, out_m, out_e, choice)
        for step in range(n):
            a = n - step
            k = a - ONE
            row = k * width
            if swap[k] != k:
                exchange(rate, n, k, swap[k])
            of_pivot = 0.0
            for j in range(a):
                of_pivot += choice[row + j] * rate[row + j]
            for j in range(a):
                rates[row + j] = rate[row + j] - of_pivot
            for i in range(k):
                to, at = i * width, steps_before(a) + i * a
                move_rates(rate, to, a, rates, row, rate[to + a], share, change, at)
        p[:], dp[:] = 0.0, 0.0
        for a in range(ONE, width):
            k = a - ONE
            row = k * width
            out[:], dout[:] = 0.0, 0.0
            for i in range(k):
                to, at = i * width, steps_before(a) + i * a
                dp[to + a] = take_back_rates(p, dp, to, a, share, change, at, dout)
                p[to + a] = take_back(p, to, a, share, at, out)
            rest, drest = 1.0 - total(out, ZERO, a), total(dout, ZERO, a)
            for j in range(a):
                p[row + j] = out[j] + choice[row + j] * rest
                dp[row + j] = dout[j] + choice[row + j] * (rest * rates[row + j] - drest)
            if swap[k] != k:
                exchange(p, n, k, swap[k])
                exchange(dp, n, k, swap[k])
        write(dp, n, products[b])
