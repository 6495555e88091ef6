"""Best structures and samples, from the whole to its parts, compiled (see `native_plan.py`)."""

import numpy as np

from keras_struct.ops.chart.native_cuts import find_ends
from keras_struct.ops.chart.native_plan import (
    ONE,
    PRODUCT,
    TWO,
    WRAPPED,
    ZERO,
    U,
    by_width,
    cuts_of,
    made_of,
    row_of,
)
from keras_struct.ops.chart.spec import NOISE_STRIDE
from keras_struct.ops.compiled import compiled, gumbel, key_of_sample
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE

MARKS = ("spans", "heads", "pairs")  # what an event says about the scored parts
SPANS, HEADS = 0, 1
STRIDE = U(NOISE_STRIDE)


@compiled
def trace(plan, span, lengths, all_x, slopes, values, keys, noisy, double, marks, events):
    """Structures of every example, (B, n, cells of an event), -1 where they have nothing.

    Args:
        keys: (B, 2) words of every example.
        noisy: Whether they are samples; else the best one.
        double: Whether the noise is that of float64.
        marks: Index in `MARKS`.
    """
    y, needed = np.empty(all_x.shape[1]), np.empty(all_x.shape[1], np.bool_)
    into = np.empty((len(plan.left), plan.size), np.bool_)
    for b in range(U(span[0]), U(span[1])):
        n, x, scaled = lengths[b], all_x[b], slopes[b, 1] > 0.0
        events[b] = -1
        if n == ZERO or values[b] <= INFEASIBLE:
            continue
        find_ends(plan, n, x, y)
        for sample in range(U(events.shape[1])):
            key = key_of_sample(keys[b, 0], keys[b, 1], sample)
            draws = (noisy, double, key[0], key[1])
            descend(plan, n, x, y, scaled, draws, marks, needed, into, events[b, sample])


@compiled
def descend(plan, n, x, y, scaled, draws, marks, needed, into, event):
    """One structure."""
    size, steps, positions = plan.size, U(len(plan.number)), plan.size - ONE
    needed[:] = False
    needed[by_width(size, plan.goal, n, ZERO)] = True
    for down in range(n):
        w = n - down
        into[:] = False
        for back in range(ONE, steps + ONE):
            k = plan.number[steps - back]
            if not plan.is_item[steps - back]:
                row = row_of(plan, k, w, n)
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
                        mark(event, U(places[i]), positions, marks)
                    if made.of == PRODUCT:
                        into[made.source, i] = True
                    elif made.of == WRAPPED:
                        needed[by_width(size, made.source, w - TWO, i + ONE)] = True


@compiled
def mark(event, place, positions, marks):
    """Writes down a scored part."""
    first, second = place // positions, place % positions
    if marks == SPANS:
        event[place] = 0
    elif marks == HEADS:
        event[first] = second
    else:
        event[first], event[second] = second, first


@compiled
def choose(row, i, x, y, scaled, draws):
    """The best cut, after noise if there is any."""
    left, right, cuts = cuts_of(row, i)
    noisy, double, first_word, second_word = draws
    place = row.width * STRIDE + i + row.gap + row.first
    best, chosen = 4.0 * FORBIDDEN, ZERO
    for c in range(cuts):
        a, b = x[left + c], y[right + c]
        if scaled:
            if a <= 0.0 or b <= 0.0:
                continue
            a, b = np.log(a), np.log(b)
        score = a + b
        if noisy:
            score += gumbel(first_word, second_word, row.product, place + c, double)
        if score > best:
            best, chosen = score, c
    return chosen
