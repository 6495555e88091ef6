"""Best trees and samples of a grammar, compiled by Numba (see `native_inside.py`)."""

import numpy as np

from keras_struct.ops.compiled import compiled, gumbel, key_of_sample
from keras_struct.ops.numerics import INFEASIBLE
from keras_struct.ops.pcfg.native_inside import log_pairs, of_example, sizes_of, whole_sentence
from keras_struct.ops.pcfg.native_plain import ONE, ZERO, U
from keras_struct.ops.pcfg.noise_places import CUT, PAIR, ROOT, place_of_cut, place_of_pair

OF_CUT, OF_PAIR = compiled(place_of_cut), compiled(place_of_pair)
I = np.int64


@compiled
def trace(noisy, span, lengths, log_rules, terms, roots, all_logs, keys, double, events):
    """Trees of every example, (B, n, N, N), -1 where they have nothing.

    Args:
        noisy: Whether they are samples, of sums; else the best one, of maxima.
        keys: (B, 2) words of every example.
        double: Whether the noise is that of float64.
    """
    size, k, s = sizes = sizes_of(terms, roots)
    tops, zero = np.empty(k), np.zeros(max(k, size))
    buffers = np.empty(s * s), np.empty(s * s), np.empty(size), zero
    stack = np.empty(size, U), np.empty(size, U)
    for b in range(U(span[0]), U(span[1])):
        n, logs, rules = lengths[b], all_logs[b], of_example(log_rules, b)
        events[b] = -1
        whole_sentence(logs, of_example(roots, b), n, sizes, tops)
        for sample in range(U(events.shape[1])):
            first, second = key_of_sample(keys[b, 0], keys[b, 1], sample)
            draws = (noisy, double, first, second)
            root = best_of(tops, zero, k, draws, ROOT, 0)
            if root < k:
                descend(rules, logs, n, root, sizes, draws, buffers, stack, events[b, sample])


@compiled
def descend(rules, logs, n, root, sizes, draws, buffers, stack, event):
    """One tree, from its root."""
    size, _, s = sizes
    cells = s * s
    pairs, sums, cuts, zero = buffers
    starts, ends = stack
    event[0, n - ONE] = root
    starts[0], ends[0], waiting = ZERO, n - ONE, ONE
    while waiting > ZERO:
        waiting -= ONE
        i, j = starts[waiting], ends[waiting]
        a = U(event[i, j])
        log_pairs(logs, not draws[0], sizes, i, j, pairs, sums)
        own = rules[a * cells : (a + ONE) * cells]
        pair = best_of(own, pairs, cells, draws, PAIR, OF_PAIR(I(i), I(j), 0, I(cells)))
        left, right = pair // s, pair % s
        for m in range(i, j):
            x, y = (i * size + m) * s + left, ((m + ONE) * size + j) * s + right
            cuts[m - i] = logs[x] + logs[y]
        m = i + best_of(cuts, zero, j - i, draws, CUT, OF_CUT(I(j - i), I(i)))
        event[i, m], event[m + ONE, j] = left, right
        if m > i:
            starts[waiting], ends[waiting] = i, m
            waiting += ONE
        if j > m + ONE:
            starts[waiting], ends[waiting] = m + ONE, j
            waiting += ONE


@compiled
def best_of(x, y, count, draws, stream, place):
    """Where x[i] + y[i] is largest, after noise if there is any; count where nothing exists."""
    noisy, double, first, second = draws
    best, peak = count, INFEASIBLE
    for at in range(count):
        z = x[at] + y[at]
        if z > INFEASIBLE:
            if noisy:
                z += gumbel(first, second, stream, place + I(at), double)
            if best == count or z > peak:
                best, peak = at, z
    return best
