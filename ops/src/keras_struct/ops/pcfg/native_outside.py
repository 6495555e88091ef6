"""Outside the chart of a grammar, and its changes, compiled by Numba (see `native_inside.py`).

p[i, j, A] is the probability of a symbol of a span, d its change.
"""

import numpy as np

from keras_struct.ops.compiled import FAST, compiled, exp_or_zero
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE
from keras_struct.ops.pcfg.native_inside import (
    find_factors,
    has_other_rules,
    log_pairs,
    of_example,
    sizes_of,
    weights,
    whole_sentence,
)
from keras_struct.ops.pcfg.native_plain import (
    ONE,
    ZERO,
    U,
    add_cuts,
    add_rules,
    count_pairs,
    share_cuts,
    share_rules,
)

# In plain numbers ---------------------------------------------------------------------------------


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


# In logarithms ------------------------------------------------------------------------------------


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


# The sweep ----------------------------------------------------------------------------------------


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
