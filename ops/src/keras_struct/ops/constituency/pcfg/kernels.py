"""The passes over the chart of a grammar (see `recurrence.md`), compiled by Numba.

Everything is in float64. Arrays of one example, flat:

    logs (N, N, S)     logarithms of the values by first and last word and symbol
    w (N, N, S)        the same over the largest of their span, as plain numbers
    scale (N, N)       logarithm of that largest; `FORBIDDEN` where nothing exists
    pairs (S, S)       of one span: sums over its cuts
    rules (K, S, S)    weights over the largest of all

`sizes` is (N, K, S). Products of plain numbers neither vanish nor overflow as long as each factor
is above `exp(-RANGE)` where it is not zero: the mode `FAST`. An example with other factors is done
in logarithms (`EXACT`), which are also what maxima (`HARD`) and traces need.

All integers inside are unsigned: Numba would test signed ones for Python's negative indices.
"""

from typing import Any

import numpy as np

from keras_struct.ops.compiled import (
    EXACT,
    FAST,
    HARD,
    RANGE,
    compiled,
    exp_or_zero,
    reordered,
)
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE

U: Any = np.uint64
ZERO, ONE = U(0), U(1)


@compiled
def symbols_of(width, k, s):
    """First symbol of a span, and the one after its last: preterminals are over words only."""
    return (k, s) if width == ONE else (ZERO, k)


# Sums of plain numbers ----------------------------------------------------------------------------


@reordered
def add_cuts(x, y, factor, sizes, i, j, out):
    """out[B, C] += sum over cuts m of factor[m] x[i, m, B] y[m + 1, j, C]."""
    size, k, s = sizes
    for m in range(i, j):
        left, right = (i * size + m) * s, ((m + ONE) * size + j) * s
        first, last = symbols_of(m - i + ONE, k, s)
        start, end = symbols_of(j - m, k, s)
        for b in range(first, last):
            z = factor[m] * x[left + b]
            for c in range(start, end):
                out[b * s + c] += z * y[right + c]


@reordered
def share_cuts(part, x, y, factor, sizes, i, j, column, out):
    """Hands part[B, C] x[i, m, B] y[m + 1, j, C] to the spans of both, for every cut."""
    size, k, s = sizes
    for m in range(i, j):
        left, right = (i * size + m) * s, ((m + ONE) * size + j) * s
        first, last = symbols_of(m - i + ONE, k, s)
        start, end = symbols_of(j - m, k, s)
        for c in range(start, end):
            column[c] = 0.0
        for b in range(first, last):
            z, total = factor[m] * x[left + b], 0.0
            for c in range(start, end):
                total += part[b * s + c] * y[right + c]
                column[c] += z * part[b * s + c]
            out[left + b] += z * total
        for c in range(start, end):
            out[right + c] += y[right + c] * column[c]


@reordered
def add_rules(rules, pairs, k, cells, out):
    """out[A] += sum over pairs of rules[A, B, C] pairs[B, C]."""
    for a in range(k):
        total = 0.0
        for at in range(cells):
            total += rules[a * cells + at] * pairs[at]
        out[a] += total


@reordered
def share_rules(rules, x, k, cells, out):
    """out[B, C] += sum over parents of rules[A, B, C] x[A]."""
    for a in range(k):
        for at in range(cells):
            out[at] += rules[a * cells + at] * x[a]


@reordered
def count_pairs(x, pairs, k, cells, out):
    """out[A, B, C] += x[A] pairs[B, C]."""
    for a in range(k):
        for at in range(cells):
            out[a * cells + at] += x[a] * pairs[at]


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


# Outside: p[i, j, A] is the probability of a symbol of a span, d its change -----------------------


@compiled
def read_weights(logs, n, sizes, w, scale):
    size, _, s = sizes
    for i in range(n):
        for j in range(i, n):
            at = (i * size + j) * s
            scale[i * size + j], _ = weights(logs, at, at + s, w)


@compiled
def rates_fast(rules, changes, top, n, sizes, w, scale, dw, factor, pairs, dpairs):
    """dw: changes of the values, over the largest of their span as w is."""
    size, k, s = sizes
    cells = s * s
    value = np.empty(k)
    for width in range(ONE, n):
        for i in range(n - width):
            j = i + width
            at = (i * size + j) * s
            dw[at : at + s] = 0.0
            peak, _ = find_factors(scale, size, i, j, factor)
            if scale[i * size + j] <= INFEASIBLE:
                continue
            pairs[:], dpairs[:], value[:] = 0.0, 0.0, 0.0
            add_cuts(w, w, factor, sizes, i, j, pairs)
            add_cuts(dw, w, factor, sizes, i, j, dpairs)
            add_cuts(w, dw, factor, sizes, i, j, dpairs)
            add_rules(changes, pairs, k, cells, value)
            add_rules(rules, dpairs, k, cells, value)
            over = np.exp(peak + top - scale[i * size + j])
            for a in range(k):
                dw[at + a] = value[a] * over


@compiled
def outside_fast(rates, rules, changes, top, n, sizes, w, scale, dw, results, buffers):
    """From the whole sentence down. `counts` are those of the rules over their weights."""
    size, k, s = sizes
    cells = s * s
    factor, pairs, dpairs, part, dpart, column = buffers
    p, d, counts, dcounts = results
    x, dx = np.empty(k), np.empty(k)
    for step in range(ONE, n):
        width = n - step
        for i in range(step):
            j = i + width
            at, span = (i * size + j) * s, i * size + j
            if scale[span] <= INFEASIBLE:
                continue
            peak, _ = find_factors(scale, size, i, j, factor)
            over = np.exp(peak + top - scale[span])
            for a in range(k):
                exists = w[at + a] > 0.0
                x[a] = p[at + a] / w[at + a] * over if exists else 0.0
                if rates:
                    change = d[at + a] * over - x[a] * dw[at + a]
                    dx[a] = change / w[at + a] if exists else 0.0
            pairs[:], part[:] = 0.0, 0.0
            add_cuts(w, w, factor, sizes, i, j, pairs)
            share_rules(rules, x, k, cells, part)
            count_pairs(x, pairs, k, cells, counts)
            share_cuts(part, w, w, factor, sizes, i, j, column, p)
            if rates:
                dpairs[:], dpart[:] = 0.0, 0.0
                add_cuts(dw, w, factor, sizes, i, j, dpairs)
                add_cuts(w, dw, factor, sizes, i, j, dpairs)
                share_rules(changes, x, k, cells, dpart)
                share_rules(rules, dx, k, cells, dpart)
                count_pairs(x, dpairs, k, cells, dcounts)
                count_pairs(dx, pairs, k, cells, dcounts)
                share_cuts(dpart, w, w, factor, sizes, i, j, column, d)
                share_cuts(part, dw, w, factor, sizes, i, j, column, d)
                share_cuts(part, w, dw, factor, sizes, i, j, column, d)


@compiled
def change_of_pair(logs, dlogs, sizes, i, j, b, c, whole):
    """Change of the logarithm of the sum over the cuts."""
    size, _, s = sizes
    total = 0.0
    for m in range(i, j):
        left, right = (i * size + m) * s + b, ((m + ONE) * size + j) * s + c
        total += exp_or_zero(logs[left] + logs[right] - whole) * (dlogs[left] + dlogs[right])
    return total


@compiled
def rates_exact(rules, drules, n, sizes, logs, dlogs, pairs, sums):
    """dlogs: changes of `logs`."""
    size, k, s = sizes
    cells = s * s
    for width in range(ONE, n):
        for i in range(n - width):
            j = i + width
            at = (i * size + j) * s
            dlogs[at : at + s] = 0.0
            log_pairs(logs, False, sizes, i, j, pairs, sums)
            for pair in range(cells):
                if pairs[pair] <= INFEASIBLE:
                    continue
                change = change_of_pair(logs, dlogs, sizes, i, j, pair // s, pair % s, pairs[pair])
                for a in range(k):
                    if logs[at + a] > INFEASIBLE:
                        rule = rules[a * cells + pair]
                        share = exp_or_zero(rule + pairs[pair] - logs[at + a])
                        dlogs[at + a] += share * (drules[a * cells + pair] + change)


@compiled
def outside_exact(rates, rules, drules, n, sizes, logs, dlogs, results, pairs, sums):
    """From the whole sentence down. Without `rates`, `drules`, `dlogs` and `d` are zero."""
    size, k, s = sizes
    p, d, counts, dcounts = results
    cells = s * s
    for step in range(ONE, n):
        width = n - step
        for i in range(step):
            j = i + width
            at = (i * size + j) * s
            log_pairs(logs, False, sizes, i, j, pairs, sums)
            for pair in range(cells):
                whole = pairs[pair]
                if whole <= INFEASIBLE:
                    continue
                b, c = pair // s, pair % s
                change = change_of_pair(logs, dlogs, sizes, i, j, b, c, whole) if rates else 0.0
                all_q, all_dq = 0.0, 0.0
                for a in range(k):
                    if logs[at + a] <= INFEASIBLE:
                        continue
                    use = a * cells + pair
                    share = exp_or_zero(rules[use] + whole - logs[at + a])
                    q = p[at + a] * share
                    dq = d[at + a] * share + q * (drules[use] + change - dlogs[at + a])
                    counts[use] += q
                    dcounts[use] += dq
                    all_q += q
                    all_dq += dq
                for m in range(i, j):
                    left, right = (i * size + m) * s + b, ((m + ONE) * size + j) * s + c
                    share = exp_or_zero(logs[left] + logs[right] - whole)
                    q = all_q * share
                    dq = all_dq * share + q * (dlogs[left] + dlogs[right] - change)
                    p[left] += q
                    p[right] += q
                    d[left] += dq
                    d[right] += dq


# Whole sweeps -------------------------------------------------------------------------------------


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
            modes[b] = HARD if hard else EXACT
            inside_exact(own_rules, hard, n, sizes, logs, pairs, sums)
        whole_sentence(logs, of_example(roots, b), n, sizes, tops)
        values[b] = log_total(tops, zero, ZERO, k, hard)


@compiled
def share_roots(tops, drates, k, p, d):
    """Probabilities of the roots and their changes; False where there is no tree."""
    peak, total, mean = FORBIDDEN, 0.0, 0.0
    for a in range(k):
        peak = max(peak, tops[a])
    if peak <= INFEASIBLE:
        return False
    for a in range(k):
        p[a] = exp_or_zero(tops[a] - peak)
        total += p[a]
    for a in range(k):
        p[a] /= total
        mean += p[a] * drates[a]
    for a in range(k):
        d[a] = p[a] * (drates[a] - mean)
    return True


@compiled
def outside(
    rates,
    span,
    lengths,
    log_rules,
    terms,
    roots,
    all_logs,
    modes,
    all_drules,
    all_dterms,
    all_droots,
    found_rules,
    found_terms,
    found_roots,
):
    """Marginals, or with `rates` the change of all of them; results are zero before."""
    size, k, s = sizes = sizes_of(terms, roots)
    cells, parts, first = size * size * s, U(log_rules.shape[1]), U(span[0])
    w, scale, p = np.empty(cells), np.empty(size * size), np.empty(cells)
    # Without rates nothing of these is read but the zeros.
    dw, d = np.zeros(cells), np.zeros(cells)
    pairs, dpairs = np.empty(s * s), np.empty(s * s)
    buffers = np.empty(size), pairs, dpairs, np.empty(s * s), np.empty(s * s), np.empty(s)
    rules, changes = np.empty(parts), np.zeros(parts)
    counts, dcounts = np.empty(parts), np.empty(parts)
    results, top = (p, d, counts, dcounts), 0.0
    tops, drates, top_p, top_d = np.empty(k), np.zeros(k), np.empty(k), np.empty(k)
    for b in range(first, U(span[1])):
        n, logs = lengths[b], all_logs[b]
        own_rules = of_example(log_rules, b)
        fast = modes[b] == FAST
        whole_sentence(logs, of_example(roots, b), n, sizes, tops)
        if has_other_rules(log_rules, b, first):
            top, _ = weights(own_rules, ZERO, parts, rules)
        if fast:
            read_weights(logs, n, sizes, w, scale)
        if rates:
            for i in range(n):
                at = (i * size + i) * s
                dw[at : at + k] = 0.0
                for a in range(k, s):
                    dw[at + a] = all_dterms[b, i, a - k] * (w[at + a] if fast else 1.0)
            if fast:
                for at in range(parts):
                    changes[at] = rules[at] * all_drules[b, at]
                rates_fast(rules, changes, top, n, sizes, w, scale, dw, buffers[0], pairs, dpairs)
            else:
                changes[:] = all_drules[b]
                rates_exact(own_rules, changes, n, sizes, logs, dw, pairs, dpairs)
            for a in range(k):
                at = (n - ONE) * s + a
                drates[a] = 0.0
                if tops[a] > INFEASIBLE:
                    drates[a] = all_droots[b, a] + (dw[at] / w[at] if fast else dw[at])
        if not share_roots(tops, drates, k, top_p, top_d):
            continue
        p[:], d[:], counts[:], dcounts[:] = 0.0, 0.0, 0.0, 0.0
        at = (n - ONE) * s
        p[at : at + k], d[at : at + k] = top_p, top_d
        if fast:
            outside_fast(rates, rules, changes, top, n, sizes, w, scale, dw, results, buffers)
            if rates:
                for at in range(parts):
                    found_rules[b, at] = dcounts[at] * rules[at] + counts[at] * changes[at]
            else:
                for at in range(parts):
                    found_rules[b, at] = counts[at] * rules[at]
        else:
            outside_exact(rates, own_rules, changes, n, sizes, logs, dw, results, pairs, dpairs)
            found_rules[b] = dcounts if rates else counts
        words = d if rates else p
        for i in range(n):
            for a in range(k, s):
                found_terms[b, i, a - k] = words[(i * size + i) * s + a]
        found_roots[b] = top_d if rates else top_p


@compiled
def best_of(x, y, noise, count):
    """Where x[i] + y[i] + noise[i] is largest, or count where nothing exists."""
    best, peak = count, INFEASIBLE
    for at in range(count):
        z = x[at] + y[at]
        if z > INFEASIBLE and (best == count or z + noise[at] > peak):
            best, peak = at, z + noise[at]
    return best


@compiled
def trace(
    _,
    span,
    lengths,
    log_rules,
    terms,
    roots,
    all_logs,
    modes,
    noise_roots,
    noise_pairs,
    noise_cuts,
    events,
):
    """The symbols of the spans of one tree; events (B, N, N) are -1 before."""
    size, k, s = sizes = sizes_of(terms, roots)
    cells = s * s
    pairs, sums, cuts = np.empty(cells), np.empty(cells), np.empty(size)
    tops, zero, zeros = np.empty(k), np.zeros(k), np.zeros(size)
    starts, ends = np.empty(size, U), np.empty(size, U)
    for b in range(U(span[0]), U(span[1])):
        n, logs, event = lengths[b], all_logs[b], events[b]
        rules = of_example(log_rules, b)
        whole_sentence(logs, of_example(roots, b), n, sizes, tops)
        root = best_of(tops, zero, noise_roots[b], k)
        if root == k:
            continue
        event[0, n - ONE] = root
        starts[0], ends[0], waiting, done = ZERO, n - ONE, ONE, ZERO
        while waiting > ZERO:
            waiting -= ONE
            i, j = starts[waiting], ends[waiting]
            a = U(event[i, j])
            log_pairs(logs, modes[b] == HARD, sizes, i, j, pairs, sums)
            own = rules[a * cells : (a + ONE) * cells]
            pair = best_of(own, pairs, noise_pairs[b, done], cells)
            left, right = pair // s, pair % s
            for m in range(i, j):
                x, y = (i * size + m) * s + left, ((m + ONE) * size + j) * s + right
                cuts[m - i] = logs[x] + logs[y]
            m = i + best_of(cuts, zeros, noise_cuts[b, done], j - i)
            done += ONE
            event[i, m], event[m + ONE, j] = left, right
            if m > i:
                starts[waiting], ends[waiting] = i, m
                waiting += ONE
            if j > m + ONE:
                starts[waiting], ends[waiting] = m + ONE, j
                waiting += ONE
