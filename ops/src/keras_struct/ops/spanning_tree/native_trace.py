"""Best trees and samples, compiled by Numba (see `native_scaled.py`)."""

import numpy as np

from keras_struct.ops.compiled import compiled, gumbel, key_of_sample
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE
from keras_struct.ops.scaled import LN2
from keras_struct.ops.spanning_tree.native_scaled import ONE, ZERO, U, eliminate, read, steps_before
from keras_struct.ops.spanning_tree.noise_places import DIRECT, HEAD, THROUGH, place_of_arc

PLACE = compiled(place_of_arc)
I = np.int64


@compiled
def trace(plan, span, lengths, scores, keys, double, heads):
    """Trees of every example, (B, n, N), -1 where they have nothing.

    Args:
        plan: Whether there is a single root, and whether the trees are samples, of sums; else they
            are the best one, of maxima.
        keys: (B, 2) words of every example.
        double: Whether the noise is that of float64.
    """
    single_root, noisy = plan
    size = U(scores.shape[1])
    cells = size * (size + ONE)
    m, e, out_m, out_e = np.empty(cells), np.empty(cells), np.empty(cells), np.empty(cells)
    share, swap = np.empty(steps_before(size + ONE)), np.empty(size, np.uint64)
    # By place: the column of the head, and three buffers of `come_back`; and the word.
    state = np.empty(size, np.uint64), np.empty(size, np.bool_), np.empty(size, np.bool_)
    last, word = np.empty(size, np.uint64), np.empty(size, np.uint64)
    for b in range(U(span[0]), U(span[1])):
        n = lengths[b]
        heads[b] = -1
        read(scores[b], n, m, e)
        value = eliminate(single_root, n, not noisy, True, m, e, out_m, out_e, share, swap)
        if value <= INFEASIBLE:
            continue
        find_words(n, swap, last)
        for sample in range(U(heads.shape[1])):
            first, second = key_of_sample(keys[b, 0], keys[b, 1], sample)
            draws = (noisy, double, first, second)
            word[:] = last
            for a in range(ONE, n + ONE):
                come_back(single_root, n, a, out_m, out_e, share, word, draws, state)
                undo(a, swap[a - ONE], state[0], word)
            for i in range(n):
                above = state[0][i]
                heads[b, sample, i] = i if above == ZERO else above - ONE


@compiled
def find_words(n, swap, word):
    """Of every place, after all words have changed places."""
    for i in range(n):
        word[i] = i
    for step in range(n):
        k = n - step - ONE
        word[k], word[swap[k]] = word[swap[k]], word[k]


@compiled
def come_back(single_root, n, a, out_m, out_e, share, word, draws, state):
    """Word k comes back: some arcs turn out to go through it, then it gets a head."""
    k = a - ONE
    head, moves, free = state
    for i in range(k):
        y = share[steps_before(a) + i * a + head[i]]
        place = PLACE(I(word[k]), I(word[i]))
        direct = np.log(max(1.0 - y, 1e-300)) + drawn(draws, DIRECT, place)
        moves[i] = np.log(max(y, 1e-300)) + drawn(draws, THROUGH, place) > direct
    rooted = False
    for i in range(k):  # not below an arc that goes through k
        up = i + ONE
        while up > ZERO and not moves[up - ONE]:
            up = head[up - ONE]
        free[i] = up == ZERO
        rooted |= free[i]
    best, chosen = 4.0 * FORBIDDEN, ZERO
    for j in range(a):
        allowed = free[j - ONE] if j > ZERO else not (single_root and rooted)
        at = k * (n + ONE) + j
        if allowed and out_m[at] > 0.0:
            above = word[j - ONE] if j > ZERO else word[k]
            x = np.log(out_m[at]) + out_e[at] * LN2
            x += drawn(draws, HEAD, PLACE(I(word[k]), I(above)))
            if x > best:
                best, chosen = x, j
    for i in range(k):
        if moves[i]:
            head[i] = a
    head[k] = chosen


@compiled
def drawn(draws, stream, place):
    """Noise at a place, 0 where there is none."""
    noisy, double, first, second = draws
    return gumbel(first, second, stream, place, double) if noisy else 0.0


@compiled
def undo(a, q, head, word):
    """Words at places a - 1 and q change places."""
    k = a - ONE
    if q == k:
        return
    head[k], head[q] = head[q], head[k]
    word[k], word[q] = word[q], word[k]
    for i in range(a):
        if head[i] == a:
            head[i] = q + ONE
        elif head[i] == q + ONE:
            head[i] = a
