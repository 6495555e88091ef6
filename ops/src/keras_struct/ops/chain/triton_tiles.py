"""Links of more tags than registers hold, in Triton: tiles of some states' links to all.

The formulas are those of `triton_step.log_sum`. A sum has two passes over the links: the first
finds the largest term, a pair, the second adds up what all weigh beside it. Sweeps after the
forward sweep have the sum on the tape, which is a better term of reference than the largest one;
its own rounding is taken out by the sum of the weights, so that none adds up over time.

All threads read f in parts from memory, after a barrier:

    work     (5, rows)   f, high and low, its tangents, what goes out (p), and the tangents of that
"""

import triton
import triton.language as tl

from keras_struct.ops.chain.triton_step import DEAD, places_of_links, read
from keras_struct.ops.triton_math import exp, join, log, max_over, sum_over, two_sum


@triton.jit
def terms(links, f, t, first, PLAN: tl.constexpr):
    """Messages plus links, (tile, rows), as a rounded sum and what is left."""
    at, known = places_of_links(t, first, PLAN.tile, PLAN)
    i = first + tl.arange(0, PLAN.tile)
    high, low = tl.load(f + i), tl.load(f + PLAN.rows + i)
    high, error = two_sum(high[:, None], tl.load(links + at, mask=known, other=0.0))
    return high, error + low[:, None]


@triton.jit
def sum_by_tiles(links, f, t, HARD: tl.constexpr, PLAN: tl.constexpr):
    """Messages before the next step, of f (2, rows)."""
    zeros = tl.full((PLAN.tile, PLAN.rows), 0.0, f.dtype.element_ty)
    best, more = zeros + 4.0 * DEAD, zeros
    for first in range(0, PLAN.rows, PLAN.tile):
        high, rest = terms(links, f, t, first, PLAN)
        better = (high - best) + (rest - more) > 0
        best, more = tl.where(better, high, best), tl.where(better, rest, more)
    peak = max_over(best, 0)
    top = max_over((best - peak[None, :]) + more, 0)
    left = top
    if not HARD:
        total = zeros
        for first in range(0, PLAN.rows, PLAN.tile):
            high, rest = terms(links, f, t, first, PLAN)
            logits = ((high - peak[None, :]) + rest) - top[None, :]
            total += exp(logits, PLAN.approximate)
        left = top + log(sum_over(total, 0), PLAN.approximate)
    return join(peak, left)


@triton.jit
def weights(links, work, high, low, t, first, PLAN: tl.constexpr):
    """Of links beside their sum, a pair (rows,); anything where that is nothing."""
    term, rest = terms(links, work, t, first, PLAN)
    logits = (term - high[None, :]) + (rest - low[None, :])
    return exp(tl.minimum(logits, 1.0), PLAN.approximate)


@triton.jit
def gains_of(tlinks, work, t, first, PLAN: tl.constexpr):
    """Tangents of the terms."""
    at, known = places_of_links(t, first, PLAN.tile, PLAN)
    df = tl.load(work + 2 * PLAN.rows + first + tl.arange(0, PLAN.tile))
    return df[:, None] + tl.load(tlinks + at, mask=known, other=0.0)


@triton.jit
def keep(work, PART: tl.constexpr, values, PLAN: tl.constexpr):
    tl.store(work + PART * PLAN.rows + tl.arange(0, PLAN.rows), values)


@triton.jit
def sums_of(links, tlinks, work, high, low, t, RATE: tl.constexpr, PLAN: tl.constexpr):
    """Of the weights, and with RATE the mean of what terms gain."""
    total = tl.full((PLAN.tile, PLAN.rows), 0.0, work.dtype.element_ty)
    mean = total
    for first in range(0, PLAN.rows, PLAN.tile):
        weight = weights(links, work, high, low, t, first, PLAN)
        total += weight
        if RATE:
            mean += weight * gains_of(tlinks, work, t, first, PLAN)
    total = tl.maximum(sum_over(total, 0), 0.5)  # 1 but for rounding, where anything exists
    return total, sum_over(mean, 0) / total


@triton.jit
def rates_by_tiles(links, tlinks, tape, work, f_high, f_low, df, t, PLAN: tl.constexpr):
    """Tangents of messages before the next step."""
    keep(work, 0, f_high, PLAN)
    keep(work, 1, f_low, PLAN)
    keep(work, 2, df, PLAN)
    tl.debug_barrier()
    high, low = read(tape, t + 1, PLAN)
    _, mean = sums_of(links, tlinks, work, high, low, t, True, PLAN)
    tl.debug_barrier()
    return mean


@triton.jit
def back_by_tiles(
    links,
    tlinks,
    tape,
    dlinks,
    work,
    f_high,
    f_low,
    df,
    q,
    dq,
    t,
    RATE: tl.constexpr,
    PLAN: tl.constexpr,
):
    """What states get from the next step, and with RATE its tangents; links get theirs."""
    keep(work, 0, f_high, PLAN)
    keep(work, 1, f_low, PLAN)
    if RATE:
        keep(work, 2, df, PLAN)
    tl.debug_barrier()
    high, low = read(tape, t + 1, PLAN)
    total, mean = sums_of(links, tlinks, work, high, low, t, RATE, PLAN)
    of_total = (q / total)[None, :]
    for first in range(0, PLAN.rows, PLAN.tile):
        weight = weights(links, work, high, low, t, first, PLAN)
        pair = weight * of_total
        i = first + tl.arange(0, PLAN.tile)
        tl.store(work + 3 * PLAN.rows + i, sum_over(pair, 1))
        if RATE:
            gains = gains_of(tlinks, work, t, first, PLAN)
            pair = weight * (dq / total)[None, :] + pair * (gains - mean[None, :])
            tl.store(work + 4 * PLAN.rows + i, sum_over(pair, 1))
        at, known = places_of_links(t, first, PLAN.tile, PLAN)
        if PLAN.links == "shared":
            pair += tl.load(dlinks + at, mask=known, other=0.0)
        tl.store(dlinks + at, pair, mask=known)
    tl.debug_barrier()
    at = work + tl.arange(0, PLAN.rows)
    p = tl.load(at + 3 * PLAN.rows)
    dp = p
    if RATE:
        dp = tl.load(at + 4 * PLAN.rows)
    return p, dp
