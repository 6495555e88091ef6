"""Elimination in plain numbers, without exponents, for examples that are in range; by Numba.

Arrays of one example, flat:

    w, dw (N, N + 1)      weights by dependent and head over the largest of the row, and changes
    out, dout (N, N + 1)  row of the word that step a eliminates over its pivot, at row k = a - 1
    into, dinto (N, N)    weights of its arcs to the words that are left, at row k
    pivot, rate (N,)      its pivot, and the change of the logarithm of that
    g, dg (N, N + 1)      derivative of the log-partition by the weights
    swap (N,)             place that changed places with k

Weights only grow, by products of one number of `out` and one of `into`: where these are above
`exp(-RANGE)` or zero, nothing vanishes. The derivatives are those of the elimination, step by step
from the last to the first.
"""

from typing import Any

import numpy as np

from keras_struct.ops.compiled import FAST, LEAST_WEIGHT, RANGE, compiled, exp_or_zero, reordered
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE

U: Any = np.uint64
ZERO, ONE = U(0), U(1)


@compiled
def column(m, h):
    """Where the arc from h to m is; on the diagonal of the scores, from the root."""
    return ZERO if m == h else h + ONE


@compiled
def exchange(x, n, k, q):
    """Places k and q of a matrix (N, N + 1) change."""
    width = n + ONE
    for j in range(width):
        x[k * width + j], x[q * width + j] = x[q * width + j], x[k * width + j]
    for i in range(n):
        at, to = i * width + k + ONE, i * width + q + ONE
        x[at], x[to] = x[to], x[at]


@compiled
def read_rates(tangents, n, rate):
    """Tangents of the scores by dependent and head."""
    width = n + ONE
    for i in range(n):
        for j in range(n):
            rate[i * width + column(i, j)] = tangents[i, j]
        rate[i * width + i + ONE] = 0.0


@compiled
def write(p, n, found):
    width = n + ONE
    for i in range(n):
        for j in range(n):
            found[i, j] = p[i * width + column(i, j)]


@reordered
def total(x, start, end):
    s = 0.0
    for at in range(start, end):
        s += x[at]
    return s


@reordered
def product(x, start, y, count):
    """Sum of x[start + j] y[j] for j < count."""
    s = 0.0
    for j in range(count):
        s += x[start + j] * y[j]
    return s


# One step, all words i < k that are left ----------------------------------------------------------


@reordered
def add_paths(w, out, into, k, n):
    """To every arc that through k."""
    width, a = n + ONE, k + ONE
    for i in range(k):
        z = into[k * n + i]
        for j in range(a):
            w[i * width + j] += z * out[k * width + j]
        w[i * width + i + ONE], w[i * width + a] = 0.0, 0.0


@reordered
def add_rates(dw, out, dout, into, dinto, k, n):
    """The change of `add_paths`."""
    width, a = n + ONE, k + ONE
    for i in range(k):
        z, dz = into[k * n + i], dw[i * width + a]
        dinto[k * n + i] = dz
        for j in range(a):
            dw[i * width + j] += dz * out[k * width + j] + z * dout[k * width + j]
        dw[i * width + i + ONE], dw[i * width + a] = 0.0, 0.0


@reordered
def take_back(g, out, into, by_out, k, n):
    """From the derivative by the weights after step a that by `into` (column a of g) and `out`."""
    width, a = n + ONE, k + ONE
    for j in range(a):
        by_out[j] = 0.0
    for i in range(k):
        g[i * width + i + ONE] = 0.0
        z, s = into[k * n + i], 0.0
        for j in range(a):
            x = g[i * width + j]
            s += out[k * width + j] * x
            by_out[j] += z * x
        g[i * width + a] = s


@reordered
def take_back_rates(g, dg, out, dout, into, dinto, by_out, dby_out, k, n):
    """The same, and its change."""
    width, a = n + ONE, k + ONE
    for j in range(a):
        by_out[j], dby_out[j] = 0.0, 0.0
    for i in range(k):
        g[i * width + i + ONE], dg[i * width + i + ONE] = 0.0, 0.0
        z, dz, s, ds = into[k * n + i], dinto[k * n + i], 0.0, 0.0
        for j in range(a):
            x, dx = g[i * width + j], dg[i * width + j]
            y, dy = out[k * width + j], dout[k * width + j]
            s += y * x
            ds += y * dx + dy * x
            by_out[j] += z * x
            dby_out[j] += z * dx + dz * x
        g[i * width + a], dg[i * width + a] = s, ds


# All steps ----------------------------------------------------------------------------------------


@compiled
def read(scores, n, w):
    """The largest scores of all rows, together; `FORBIDDEN` if a word has no head."""
    width, peaks = n + ONE, 0.0
    for i in range(n):
        peak = FORBIDDEN
        for j in range(n):
            peak = max(peak, scores[i, j])
        if peak <= INFEASIBLE:
            return FORBIDDEN
        peaks += peak
        for j in range(n):
            x = scores[i, j]
            # Below the range: too small, not zero.
            least = max(x - peak, -2.0 * RANGE)
            w[i * width + column(i, j)] = exp_or_zero(least) if x > INFEASIBLE else 0.0
        w[i * width + i + ONE] = 0.0
    return peaks


@compiled
def eliminate(single_root, n, w, out, into, pivot, swap):
    """Log-partition (without the largest scores), and whether all was in range."""
    width, value = n + ONE, 0.0
    for step in range(n):
        a = n - step
        k = a - ONE
        first = ONE if single_root and a > ONE else ZERO
        q = a  # one more than the place
        while q > ZERO and total(w, (q - ONE) * width + first, (q - ONE) * width + a + ONE) <= 0.0:
            q -= ONE
        if q == ZERO:
            return FORBIDDEN, True
        swap[k] = q - ONE
        if swap[k] != k:
            exchange(w, n, k, swap[k])
        row = k * width
        s = total(w, row + first, row + a)
        pivot[k] = s
        value += np.log(s)
        least, most = 1.0, 1.0
        for j in range(a):
            x = w[row + j] / s
            out[row + j] = x
            least, most = min(least, x if x > 0.0 else 1.0), max(most, x)
        for i in range(k):
            x = w[i * width + a]
            into[k * n + i] = x
            least = min(least, x if x > 0.0 else 1.0)
        if least < LEAST_WEIGHT or most > 1.0 / LEAST_WEIGHT or s < LEAST_WEIGHT:
            return FORBIDDEN, False
        add_paths(w, out, into, k, n)
    return value, True


@compiled
def descend(single_root, n, out, into, pivot, swap, g, by_out):
    """g, zero before."""
    width = n + ONE
    for a in range(ONE, width):
        k = a - ONE
        first = ONE if single_root and a > ONE else ZERO
        row = k * width
        take_back(g, out, into, by_out, k, n)
        rest = 1.0 - product(out, row, by_out, a)
        for j in range(a):
            g[row + j] = max(by_out[j] + (rest if j >= first else 0.0), 0.0) / pivot[k]
        if swap[k] != k:
            exchange(g, n, k, swap[k])


@compiled
def rates(single_root, n, dw, out, dout, into, dinto, pivot, rate, swap):
    """The change of the elimination; dw are those of the weights before it."""
    width = n + ONE
    for step in range(n):
        a = n - step
        k = a - ONE
        first = ONE if single_root and a > ONE else ZERO
        row = k * width
        if swap[k] != k:
            exchange(dw, n, k, swap[k])
        rate[k] = total(dw, row + first, row + a) / pivot[k]
        for j in range(a):
            dout[row + j] = dw[row + j] / pivot[k] - out[row + j] * rate[k]
        add_rates(dw, out, dout, into, dinto, k, n)


@compiled
def descend_rates(
    single_root, n, out, dout, into, dinto, pivot, rate, swap, g, dg, by_out, dby_out
):
    """g and dg, zero before."""
    width = n + ONE
    for a in range(ONE, width):
        k = a - ONE
        first = ONE if single_root and a > ONE else ZERO
        row = k * width
        take_back_rates(g, dg, out, dout, into, dinto, by_out, dby_out, k, n)
        rest = 1.0 - product(out, row, by_out, a)
        drest = -product(out, row, dby_out, a) - product(dout, row, by_out, a)
        for j in range(a):
            here = j >= first
            g[row + j] = (by_out[j] + (rest if here else 0.0)) / pivot[k]
            change = (dby_out[j] + (drest if here else 0.0)) / pivot[k]
            dg[row + j] = change - g[row + j] * rate[k]
        if swap[k] != k:
            exchange(g, n, k, swap[k])
            exchange(dg, n, k, swap[k])


# Whole sweeps -------------------------------------------------------------------------------------


@compiled
def forward(single_root, span, lengths, scores, modes, values):
    """Values of the examples in range, whose mode becomes `FAST`."""
    size = U(scores.shape[1])
    w, out = np.empty(size * (size + ONE)), np.empty(size * (size + ONE))
    into, pivot, swap = np.empty(size * size), np.empty(size), np.empty(size, np.uint64)
    for b in range(U(span[0]), U(span[1])):
        n = lengths[b]
        peaks, value, safe = read(scores[b], n, w), FORBIDDEN, True
        if peaks > INFEASIBLE:
            value, safe = eliminate(single_root, n, w, out, into, pivot, swap)
        if safe:
            modes[b] = FAST
            values[b] = value + peaks if value > INFEASIBLE else FORBIDDEN


@compiled
def backward(single_root, span, lengths, scores, modes, marginals):
    size = U(scores.shape[1])
    cells = size * (size + ONE)
    w, left, out, g = np.empty(cells), np.empty(cells), np.empty(cells), np.empty(cells)
    into, pivot, swap = np.empty(size * size), np.empty(size), np.empty(size, np.uint64)
    by_out = np.empty(size + ONE)
    for b in range(U(span[0]), U(span[1])):
        n = lengths[b]
        if modes[b] != FAST or read(scores[b], n, w) <= INFEASIBLE:
            continue
        left[:] = w
        value, _ = eliminate(single_root, n, left, out, into, pivot, swap)
        if value <= INFEASIBLE:
            continue
        g[:] = 0.0
        descend(single_root, n, out, into, pivot, swap, g, by_out)
        for at in range(n * (n + ONE)):
            g[at] *= w[at]
        write(g, n, marginals[b])


@compiled
def curvature(single_root, span, lengths, scores, modes, tangents, products):
    size = U(scores.shape[1])
    cells = size * (size + ONE)
    w, left, out, g = np.empty(cells), np.empty(cells), np.empty(cells), np.empty(cells)
    dw, dleft, dout, dg = np.empty(cells), np.empty(cells), np.empty(cells), np.empty(cells)
    into, dinto, swap = np.empty(size * size), np.empty(size * size), np.empty(size, np.uint64)
    pivot, rate = np.empty(size), np.empty(size)
    by_out, dby_out = np.empty(size + ONE), np.empty(size + ONE)
    for b in range(U(span[0]), U(span[1])):
        n = lengths[b]
        if modes[b] != FAST or read(scores[b], n, w) <= INFEASIBLE:
            continue
        left[:] = w
        value, _ = eliminate(single_root, n, left, out, into, pivot, swap)
        if value <= INFEASIBLE:
            continue
        read_rates(tangents[b], n, dw)
        for at in range(n * (n + ONE)):
            dw[at] *= w[at]
            dleft[at] = dw[at]
        rates(single_root, n, dleft, out, dout, into, dinto, pivot, rate, swap)
        g[:], dg[:] = 0.0, 0.0
        descend_rates(
            single_root, n, out, dout, into, dinto, pivot, rate, swap, g, dg, by_out, dby_out
        )
        for at in range(n * (n + ONE)):
            dg[at] = dg[at] * w[at] + g[at] * dw[at]
        write(dg, n, products[b])
