"""Paths of chains in Triton, from their ends back: a program has one sample of one example."""

import triton
import triton.language as tl

from keras_struct.ops.chain.triton_step import DEAD, enter, read
from keras_struct.ops.triton_math import gumbel, max_over, min_over, two_sum


@triton.jit
def walk(
    scores,
    links,
    lengths,
    tape,
    last,
    keys,
    states,
    spans,
    HARD: tl.constexpr,
    NOISY: tl.constexpr,
    PLAN: tl.constexpr,
):
    """States, and lengths of segments, (B, n, steps), -1 where there is none. `last` (B, n) are the
    last states, `keys` (B, n, 2) those of the noise."""
    b = tl.program_id(0).to(tl.int64)
    path = b * tl.num_programs(1) + tl.program_id(1)
    n = tl.load(lengths + b)
    scores = scores + b * PLAN.steps * PLAN.score_size
    links = links + b * PLAN.links_size
    tape = tape + b * 2 * PLAN.plane
    states = states + path * PLAN.steps
    spans = spans + path * PLAN.steps
    k0, k1 = tl.load(keys + 2 * path), tl.load(keys + 2 * path + 1)
    state = tl.load(last + path)
    wait = state * 0
    for step in range(0, n):
        t = n - 1 - step
        if PLAN.moves:
            tl.store(states + t, state)
            state = state - way_into(scores, tape, t, state, k0, k1, NOISY, PLAN)
        else:
            begins = (wait + 0 * t) == 0
            if step > 0:
                label = linked(scores, links, tape, t, state, k0, k1, HARD, NOISY, PLAN)
                state = tl.where(begins, label, state)
            tl.store(states + t, tl.where(begins, state, -1))
            if PLAN.ways > 1:
                way = way_into(scores, tape, t, state, k0, k1, NOISY, PLAN)
                wait = tl.where(begins, way, wait - 1)
                tl.store(spans + t, tl.where(begins, wait + 1, -1))


@triton.jit
def linked(
    scores,
    links,
    tape,
    t,
    state,
    k0,
    k1,
    HARD: tl.constexpr,
    NOISY: tl.constexpr,
    PLAN: tl.constexpr,
):
    """The state of a step, given the one that the links lead to."""
    high, low = read(tape, t, PLAN)
    high, low, _ = enter(scores, tape, high, low, t, HARD, PLAN)
    i = tl.arange(0, PLAN.rows)
    known = i < PLAN.states
    at = i * PLAN.states + state
    if PLAN.links == "over_time":
        at = at + t * PLAN.states * PLAN.states
    column = tl.load(links + at, mask=known, other=0.0)
    high, error = two_sum(high, column)
    logits = (high - max_over(high, 0)) + (error + low)
    return best(logits, k0, k1, 0, t * PLAN.states + i, known, NOISY, PLAN)


@triton.jit
def way_into(scores, tape, t, state, k0, k1, NOISY: tl.constexpr, PLAN: tl.constexpr):
    """Which way led to a state: a move, or the length of a segment less one."""
    way = tl.arange(0, PLAN.ways)
    known = way < PLAN.terms
    if PLAN.moves:
        exists = state - way >= 0
        place = t * PLAN.rows + tl.maximum(state - way, 0)
    else:
        exists = t - way >= 0
        place = tl.maximum(t - way, 0) * PLAN.rows + state
    high = tl.load(tape + place, mask=exists, other=DEAD)
    low = tl.load(tape + PLAN.plane + place, mask=exists, other=0.0)
    at = t * PLAN.score_size + PLAN.way_stride * way + PLAN.state_stride * state
    score = tl.load(scores + at, mask=known, other=DEAD)
    high, error = two_sum(high, score)
    logits = (high - max_over(high, 0)) + (error + low)
    return best(logits, k0, k1, 1, t * PLAN.terms + way, known, NOISY, PLAN)


@triton.jit
def best(
    logits, k0, k1, STREAM: tl.constexpr, places, known, NOISY: tl.constexpr, PLAN: tl.constexpr
):
    """Number of the largest logit after noise, the first of several."""
    if NOISY:
        logits = logits + gumbel(k0 + 0 * places, k1 + 0 * places, STREAM, places, PLAN.wide)
    logits = tl.where(known, logits, 4.0 * DEAD)
    number = tl.arange(0, logits.shape[0])
    top = max_over(logits, 0)
    return min_over(tl.where(logits == top, number, logits.shape[0]), 0)
