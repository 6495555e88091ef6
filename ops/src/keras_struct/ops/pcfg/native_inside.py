"""Inside the chart of a grammar (see `recurrence.md`), compiled by Numba.

Everything is in float64. Arrays of one example, flat:

    logs (N, N, S)     logarithms of the values by first and last word and symbol
    w (N, N, S)        the same over the largest of their span, as plain numbers
    scale (N, N)       logarithm of that largest; `FORBIDDEN` where nothing exists
    pairs (S, S)       of one span: sums over its cuts
    rules (K, S, S)    weights over the largest of all

`sizes` is (N, K, S). Products of plain numbers neither vanish nor overflow as long as each factor
is above `exp(-RANGE)` where it is not zero: the mode `FAST`. An example with other factors is done
in logarithms (`EXACT`), which are also what maxima (`hard`) and traces need.

All integers inside are unsigned: Numba would test signed ones for Python's negative indices.
"""

import numpy as np

from keras_struct.ops.compiled import EXACT, FAST, RANGE, compiled, exp_or_zero
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE
from keras_struct.ops.pcfg.native_plain import ONE, ZERO, U, add_cuts, add_rules


@compiled
def sizes_of(terms, roots):
    k = U(roots.shape[1])
    return U(terms.shape[1]), k, k + U(terms.shape[2])


@compiled
def of_example(x, b):
    """x[b], or x[0] where all examples share it."""
    return x[b if x.shape[0] > 1 else ZERO]


@compiled
def has_other_rules(log_rules, b, first):
    """Than the example before; of those from `first` on."""
    return b == first or log_rules.shape[0] > 1


@compiled
def whole_sentence(logs, roots, n, sizes, tops):
    """Logarithms of the values of all roots; `FORBIDDEN` where there is no tree."""
    _, k, s = sizes
    for a in range(k):
        tops[a] = FORBIDDEN
        if n > ONE:
            tops[a] = max(logs[(n - ONE) * s + a] + roots[a], FORBIDDEN)


# Weights ------------------------------------------------------------------------------------------


@compiled
def weights(logs, start, end, out):
    """Plain numbers over the largest, its logarithm, and whether all are in range."""
    peak, safe = FORBIDDEN, True
    for at in range(start, end):
        peak = max(peak, logs[at])
    for at in range(start, end):
        exists = logs[at] > INFEASIBLE
        out[at] = exp_or_zero(logs[at] - peak) if exists else 0.0
        safe = safe and (not exists or logs[at] - peak > -RANGE)
    return peak, safe


@compiled
def find_factors(scale, size, i, j, factor):
    """Of every cut, over the largest; the logarithm of that, and whether all are in range."""
    peak, safe = FORBIDDEN, True
    for m in range(i, j):
        x, y = scale[i * size + m], scale[(m + ONE) * size + j]
        factor[m] = x + y if x > INFEASIBLE and y > INFEASIBLE else FORBIDDEN
        peak = max(peak, factor[m])
    for m in range(i, j):
        exists = factor[m] > INFEASIBLE
        safe = safe and (not exists or factor[m] - peak > -RANGE)
        factor[m] = exp_or_zero(factor[m] - peak) if exists else 0.0
    return peak, safe


# Inside -------------------------------------------------------------------------------------------


@compiled
def read_words(terms, n, sizes, logs):
    size, k, s = sizes
    for i in range(n):
        at = (i * size + i) * s
        for a in range(k):
            logs[at + a] = FORBIDDEN
        for a in range(k, s):
            logs[at + a] = max(terms[i, a - k], FORBIDDEN)


@compiled
def inside_fast(rules, top, n, sizes, logs, w, scale, factor, pairs):
    """Whether all numbers were in range; else `logs` mean nothing."""
    size, k, s = sizes
    cells = s * s
    for i in range(n):
        at = (i * size + i) * s
        scale[i * size + i], safe = weights(logs, at, at + s, w)
        if not safe:
            return False
    value = np.empty(k)
    for width in range(ONE, n):
        for i in range(n - width):
            j = i + width
            at = (i * size + j) * s
            peak, safe = find_factors(scale, size, i, j, factor)
            if not safe:
                return False
            value[:] = 0.0
            if peak > INFEASIBLE:
                pairs[:] = 0.0
                add_cuts(w, w, factor, sizes, i, j, pairs)
                add_rules(rules, pairs, k, cells, value)
            for a in range(k):
                exists = value[a] > 0.0
                logs[at + a] = np.log(value[a]) + (peak + top) if exists else FORBIDDEN
            for a in range(k, s):
                logs[at + a] = FORBIDDEN
            scale[i * size + j], safe = weights(logs, at, at + s, w)
            if not safe:
                return False
    return True


@compiled
def log_pairs(logs, hard, sizes, i, j, out, sums):
    """Logarithms of the sums over the cuts, or the largest; `FORBIDDEN` where there is none."""
    size, _, s = sizes
    out[:] = FORBIDDEN
    for m in range(i, j):
        left, right = (i * size + m) * s, ((m + ONE) * size + j) * s
        for b in range(s):
            for c in range(s):
                out[b * s + c] = max(out[b * s + c], logs[left + b] + logs[right + c])
    if hard:
        return
    sums[:] = 0.0
    for m in range(i, j):
        left, right = (i * size + m) * s, ((m + ONE) * size + j) * s
        for b in range(s):
            for c in range(s):
                sums[b * s + c] += exp_or_zero(logs[left + b] + logs[right + c] - out[b * s + c])
    for at in range(s * s):
        out[at] = out[at] + np.log(sums[at]) if out[at] > INFEASIBLE else FORBIDDEN


@compiled
def log_total(x, y, start, count, hard):
    """Logarithm of the sum, or the largest, of count numbers x[start + i] + y[i]."""
    peak, total = FORBIDDEN, 0.0
    for at in range(count):
        peak = max(peak, x[start + at] + y[at])
    if hard or peak <= INFEASIBLE:
        return peak if peak > INFEASIBLE else FORBIDDEN
    for at in range(count):
        total += exp_or_zero(x[start + at] + y[at] - peak)
    return peak + np.log(total)


@compiled
def inside_exact(rules, hard, n, sizes, logs, pairs, sums):
    size, k, s = sizes
    cells = s * s
    for width in range(ONE, n):
        for i in range(n - width):
            at = (i * size + i + width) * s
            log_pairs(logs, hard, sizes, i, i + width, pairs, sums)
            for a in range(k):
                logs[at + a] = log_total(rules, pairs, a * cells, cells, hard)
            for a in range(k, s):
                logs[at + a] = FORBIDDEN


# The sweep ---------------------------------------------------------------------------------------


@compiled
def inside(hard, span, lengths, log_rules, terms, roots, all_logs, modes, values):
    """`log_rules` (B or 1, K S S), `terms` (B, N, P), `roots` (B or 1, K)."""
    size, k, s = sizes = sizes_of(terms, roots)
    w, scale, factor = np.empty(size * size * s), np.empty(size * size), np.empty(size)
    pairs, sums, zero = np.empty(s * s), np.empty(s * s), np.zeros(k)
    parts, first = U(log_rules.shape[1]), U(span[0])
    rules, tops, top, safe = np.empty(parts), np.empty(k), 0.0, True
    for b in range(first, U(span[1])):
        n, logs = lengths[b], all_logs[b]
        read_words(terms[b], n, sizes, logs)
        own_rules = of_example(log_rules, b)
        if has_other_rules(log_rules, b, first):
            top, safe = weights(own_rules, ZERO, parts, rules)
        fast = safe and not hard
        if fast and inside_fast(rules, top, n, sizes, logs, w, scale, factor, pairs):
            modes[b] = FAST
        else:
            modes[b] = EXACT
            inside_exact(own_rules, hard, n, sizes, logs, pairs, sums)
        whole_sentence(logs, of_example(roots, b), n, sizes, tops)
        values[b] = log_total(tops, zero, ZERO, k, hard)
