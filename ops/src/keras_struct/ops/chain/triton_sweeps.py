"""The Triton kernels of chains: a program goes over the steps of one example.

Beside the arrays of `triton_step.py`:

    ends             (2, rows) messages of the last step; tends (rows,) their tangents
    final, dfinal    (rows,) probabilities of the last state, and their tangents
    dscores, dlinks  what goes out, like scores and links
    tscores, tlinks  the tangents that come in
    ring             (planes, slots, ways, rows) probabilities of the ways at the last times
    dtape            (steps + 1, rows) tangents of g, less what all paths have gained by then
    gained           (2, steps + 1) that, as a pair
    work             (5, rows), see `triton_tiles.py`

The forward sweep leaves g, and all others make f and the weights of a step again from there. Where
a step has several ways, threads read what others have stored, after a barrier.
"""

import triton
import triton.language as tl

from keras_struct.ops.chain.triton_step import (
    before,
    enter,
    filtered,
    links_of,
    log_sum,
    places_of_links,
    read,
    score_of,
    started,
    write,
)
from keras_struct.ops.chain.triton_tiles import back_by_tiles, rates_by_tiles, sum_by_tiles
from keras_struct.ops.triton_math import join, sum_over, two_sum


@triton.jit
def forward(scores, links, lengths, tape, ends, HARD: tl.constexpr, PLAN: tl.constexpr):
    """To messages before every step, and those of the last one."""
    b = tl.program_id(0).to(tl.int64)
    scores = scores + b * PLAN.steps * PLAN.score_size
    links = links + b * PLAN.links_size
    tape = tape + b * 2 * PLAN.plane
    ends = ends + b * 2 * PLAN.rows
    at = ends + tl.arange(0, PLAN.rows)
    table = scores
    if PLAN.links == "shared" and PLAN.tile == 0:
        table = links_of(links, 0, 0.0, PLAN)
    high, low, f_high, f_low = started(scores, PLAN)
    write(tape, 0, high, low, PLAN)
    tl.debug_barrier()
    for t in range(0, tl.load(lengths + b)):
        f_high, f_low, _ = enter(scores, tape, high, low, t, HARD, PLAN)
        high, low = f_high, f_low
        if PLAN.tile > 0:
            tl.store(at, f_high)
            tl.store(at + PLAN.rows, f_low)
            tl.debug_barrier()
            high, low = sum_by_tiles(links, ends, t, HARD, PLAN)
        elif PLAN.links is not None:
            weight = table if PLAN.links == "shared" else links_of(links, t, 0.0, PLAN)
            peak, rest, _, _ = log_sum(f_high[:, None], f_low[:, None], weight, 0, HARD, PLAN)
            high, low = join(peak, rest)
        write(tape, t + 1, high, low, PLAN)
        if PLAN.ways > 1 or PLAN.tile > 0:
            tl.debug_barrier()
    tl.store(at, f_high)
    tl.store(at + PLAN.rows, f_low)


@triton.jit
def give(dscores, t, used, PLAN: tl.constexpr):
    """Marginals of the scores at a time."""
    if PLAN.ways == 1:
        state = tl.arange(0, PLAN.rows)
        tl.store(dscores + t * PLAN.score_size + state, used, mask=state < PLAN.states)
    elif PLAN.alike:
        way = tl.arange(0, PLAN.ways)
        at = dscores + t * PLAN.score_size + way
        tl.store(at, sum_over(used, 1), mask=way < PLAN.terms)
    else:
        way = tl.arange(0, PLAN.ways)[:, None]
        state = tl.arange(0, PLAN.rows)[None, :]
        at = t * PLAN.score_size + PLAN.way_stride * way + PLAN.state_stride * state
        known = (way < PLAN.terms) & (state < PLAN.states)
        tl.store(dscores + at, used, mask=known)


@triton.jit
def give_links(dlinks, t, pair, PLAN: tl.constexpr):
    """Marginals of the links, or those of a time."""
    at, known = places_of_links(t, 0, PLAN.rows, PLAN)
    tl.store(dlinks + at, pair, mask=known)


@triton.jit
def into(ring, t, n, used, PLANE: tl.constexpr, PLAN: tl.constexpr):
    """Of the ways at a time, (ways, rows), what they come from: their sums at g[t]."""
    way = tl.arange(0, PLAN.ways)[:, None]
    state = tl.arange(0, PLAN.rows)[None, :]
    size: tl.constexpr = PLAN.ways * PLAN.rows
    ring = ring + PLANE * PLAN.slots * size
    tl.store(ring + t % PLAN.slots * size + way * PLAN.rows + state, used)
    tl.debug_barrier()
    if PLAN.moves:
        time = way * 0 + state * 0 + t
        place = state + way
        exists = place < PLAN.rows
        place = tl.minimum(place, PLAN.rows - 1)
    else:
        time = t + way + state * 0
        place = state + way * 0
        exists = time < n
    at = time % PLAN.slots * size + way * PLAN.rows + place
    return sum_over(tl.load(ring + at, mask=exists, other=0.0), 0)


@triton.jit
def every_path(used, PLAN: tl.constexpr):
    """With moves, every path moves once at every step: no rounding adds up over time."""
    if PLAN.moves:
        total = sum_over(sum_over(used, 0), 0)
        used = used / tl.maximum(total, 0.5)
    return used


@triton.jit
def final_at(final, t, n, PLAN: tl.constexpr):
    """Probabilities of the last state at the last step, else 0."""
    return tl.load(final + tl.arange(0, PLAN.rows) + 0 * t) * (t == n - 1)


@triton.jit
def rates_of(tscores, dtape, dhigh, gained, t, gain_high, gain_low, PLAN: tl.constexpr):
    """Tangents of the ways of a step, (rows,) or (ways, rows); `dhigh` is before it, where there is
    one way; else the gains are what all paths had gained."""
    rates = score_of(tscores, t, 0.0, PLAN)
    if PLAN.ways == 1:
        rates = dhigh + rates
    else:
        time, place, exists = before(dtape, t, PLAN)
        rates = rates + tl.load(dtape + place, mask=exists, other=0.0)
        if not PLAN.moves:
            high = tl.load(gained + time, mask=exists, other=0.0)
            low = tl.load(gained + PLAN.steps + 1 + time, mask=exists, other=0.0)
            rates = rates + ((high - gain_high) + (low - gain_low))
    return rates


@triton.jit
def tangent(
    scores, links, lengths, tape, tscores, tlinks, dtape, gained, work, tends, PLAN: tl.constexpr
):
    """Tangents of the messages before every step, and of those of the last one."""
    b = tl.program_id(0).to(tl.int64)
    n = tl.load(lengths + b)
    state = tl.arange(0, PLAN.rows)
    scores = scores + b * PLAN.steps * PLAN.score_size
    links = links + b * PLAN.links_size
    tape = tape + b * 2 * PLAN.plane
    tscores = tscores + b * PLAN.steps * PLAN.score_size
    tlinks = tlinks + b * PLAN.tangent_links_size
    dtape = dtape + b * PLAN.plane
    gained = gained + b * 2 * (PLAN.steps + 1)
    work = work + b * 5 * PLAN.rows
    dg, df = started(scores, PLAN)[1], started(scores, PLAN)[1]
    gain_high, gain_low = sum_over(dg, 0), sum_over(dg, 0)
    tl.store(dtape + state, dg)
    if PLAN.ways > 1:
        tl.store(gained, gain_high)
        tl.store(gained + PLAN.steps + 1, gain_low)
        tl.debug_barrier()
    for t in range(0, n):
        high, low = read(tape, t, PLAN)
        high, low, shares = enter(scores, tape, high, low, t, False, PLAN)
        rates = rates_of(tscores, dtape, dg, gained, t, gain_high, gain_low, PLAN)
        df = rates if PLAN.ways == 1 else sum_over(shares * rates, 0)
        dg = df
        if PLAN.tile > 0:
            dg = rates_by_tiles(links, tlinks, tape, work, high, low, df, t, PLAN)
        elif PLAN.links is not None:
            weight = links_of(links, t, 0.0, PLAN)
            _, _, weights, total = log_sum(high[:, None], low[:, None], weight, 0, False, PLAN)
            gains = df[:, None] + links_of(tlinks, t, 0.0, PLAN)
            dg = sum_over(weights * gains, 0) / total
        # What all prefixes gain alike changes no weight, but would grow with time.
        gain = sum_over(filtered(high, low, PLAN) * df, 0)
        dg = dg - gain
        tl.store(dtape + (t + 1) * PLAN.rows + state, dg)
        if PLAN.ways > 1:
            gain_high, error = two_sum(gain_high, gain)
            gain_low = gain_low + error
            tl.store(gained + t + 1, gain_high)
            tl.store(gained + PLAN.steps + 2 + t, gain_low)
            tl.debug_barrier()
    tl.store(tends + b * PLAN.rows + state, df)


@triton.jit
def backward(
    scores,
    links,
    lengths,
    tape,
    final,
    tscores,
    tlinks,
    dtape,
    gained,
    work,
    dfinal,
    ring,
    dscores,
    dlinks,
    RATE: tl.constexpr,
    PLAN: tl.constexpr,
):
    """Marginals of scores and links; with RATE their tangents, after `tangent`."""
    b = tl.program_id(0).to(tl.int64)
    n = tl.load(lengths + b)
    scores = scores + b * PLAN.steps * PLAN.score_size
    links = links + b * PLAN.links_size
    tape = tape + b * 2 * PLAN.plane
    final = final + b * PLAN.rows
    dscores = dscores + b * PLAN.steps * PLAN.score_size
    dlinks = dlinks + b * PLAN.tangent_links_size
    ring = ring + b * (2 if RATE else 1) * PLAN.slots * PLAN.ways * PLAN.rows
    work = work + b * 5 * PLAN.rows
    if RATE:
        tscores = tscores + b * PLAN.steps * PLAN.score_size
        tlinks = tlinks + b * PLAN.tangent_links_size
        dtape = dtape + b * PLAN.plane
        gained = gained + b * 2 * (PLAN.steps + 1)
        dfinal = dfinal + b * PLAN.rows
    zero = started(scores, PLAN)[1]
    q, dq = zero, zero
    if PLAN.moves:
        q = tl.load(final + tl.arange(0, PLAN.rows))
        if RATE:
            dq = tl.load(dfinal + tl.arange(0, PLAN.rows))
    pairs = zero
    if PLAN.links == "shared" and PLAN.tile == 0:
        pairs = zero[:, None] + zero[None, :]
    for step in range(0, n):
        t = n - 1 - step
        high, low = read(tape, t, PLAN)
        high, low, shares = enter(scores, tape, high, low, t, False, PLAN)
        if RATE:
            dg = tl.load(dtape + t * PLAN.rows + tl.arange(0, PLAN.rows))
            gain_high, gain_low = tl.load(gained + t), tl.load(gained + PLAN.steps + 1 + t)
            rates = rates_of(tscores, dtape, dg, gained, t, gain_high, gain_low, PLAN)
            df = rates if PLAN.ways == 1 else sum_over(shares * rates, 0)
        p, dp = q, dq
        if PLAN.tile > 0:
            p, dp = back_by_tiles(
                links,
                tlinks,
                tape,
                dlinks,
                work,
                high,
                low,
                df if RATE else high,
                q,
                dq,
                t,
                RATE,
                PLAN,
            )
            p = p + final_at(final, t, n, PLAN)
            if RATE:
                dp = dp + final_at(dfinal, t, n, PLAN)
        elif PLAN.links is not None:
            weight = links_of(links, t, 0.0, PLAN)
            _, _, weights, total = log_sum(high[:, None], low[:, None], weight, 0, False, PLAN)
            pair = weights * (q / total)[None, :]
            p = sum_over(pair, 1) + final_at(final, t, n, PLAN)
            if RATE:
                gains = df[:, None] + links_of(tlinks, t, 0.0, PLAN)
                mean = sum_over(weights * gains, 0) / total
                pair = weights * (dq / total)[None, :] + pair * (gains - mean[None, :])
                dp = sum_over(pair, 1) + final_at(dfinal, t, n, PLAN)
            if PLAN.links == "shared":
                pairs = pairs + pair
            else:
                give_links(dlinks, t, pair, PLAN)
        if PLAN.ways == 1:
            give(dscores, t, dp if RATE else p, PLAN)
            q, dq = p, dp
        else:
            used = every_path(shares * p[None, :], PLAN)
            q = into(ring, t, n, used, 0, PLAN)
            if RATE:
                used = shares * dp[None, :] + used * (rates - df[None, :])
                dq = into(ring, t, n, used, 1, PLAN)
            give(dscores, t, used, PLAN)
    if PLAN.links == "shared" and PLAN.tile == 0:
        give_links(dlinks, 0, pairs, PLAN)
