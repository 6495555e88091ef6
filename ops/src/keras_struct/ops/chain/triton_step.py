"""A step of a chain in Triton, in log space: what all kernels do at a time (see `form.py`).

A program has one example. Blocks of a step have the ways into a state on their first axis and
states on the last one, (ways, rows), links from i to j are (rows, rows); both sizes are powers of
two. Where there is one way, blocks of a step are (rows,). Arrays in memory, of an example:

    scores   (steps, terms, states); for moves (steps, states, terms), (steps, terms) if all states
             share them
    links    (states, states), or (steps - 1, states, states)
    tape     (2, steps + 1, rows)   messages g before every step, high and low

Messages are pairs (see `messages.py`), by the same formulas as in the portable implementations.
"""

import triton
import triton.language as tl

from keras_struct.ops.triton_math import exp, join, log, max_over, sum_over, two_sum

DEAD: tl.constexpr = tl.constexpr(-1e30)


@triton.jit
def score_of(scores, t, FILL: tl.constexpr, PLAN: tl.constexpr):
    """Scores of the ways at a time, (rows,) or (ways, rows); FILL where there is no way."""
    if PLAN.ways == 1:
        state = tl.arange(0, PLAN.rows)
        known = state < PLAN.states
        found = tl.load(scores + t * PLAN.score_size + state, mask=known, other=FILL)
    else:
        way = tl.arange(0, PLAN.ways)[:, None]
        state = tl.arange(0, PLAN.rows)[None, :]
        known = (way < PLAN.terms) & (state < PLAN.states)
        at = t * PLAN.score_size + PLAN.way_stride * way + PLAN.state_stride * state
        found = tl.load(scores + at, mask=known, other=FILL)
    return found


@triton.jit
def places_of_links(t, first, COUNT: tl.constexpr, PLAN: tl.constexpr):
    """Where links after a time are, from some states on, (COUNT, rows), and which there are."""
    i = (first + tl.arange(0, COUNT))[:, None]
    j = tl.arange(0, PLAN.rows)[None, :]
    known = (i < PLAN.states) & (j < PLAN.states)
    at = i * PLAN.states + j
    if PLAN.links == "over_time":
        known = known & (at * 0 + t < PLAN.steps - 1)
        at = at + t * PLAN.states * PLAN.states
    return at, known


@triton.jit
def links_of(links, t, FILL: tl.constexpr, PLAN: tl.constexpr):
    """Links after a time, (rows, rows)."""
    at, known = places_of_links(t, 0, PLAN.rows, PLAN)
    return tl.load(links + at, mask=known, other=FILL)


@triton.jit
def started(like, PLAN: tl.constexpr):
    """What stands before the first step, state 0 or any label; and the ends of no steps at all."""
    state = tl.arange(0, PLAN.rows)
    zero = tl.full((PLAN.rows,), 0.0, like.dtype.element_ty)
    first = tl.where(state == 0, zero, zero + DEAD)
    start = first if PLAN.moves else zero
    return start, zero, first, zero


@triton.jit
def before(tape, t, PLAN: tl.constexpr):
    """Where the ways into states come from: place on the tape, time, and whether it exists."""
    way = tl.arange(0, PLAN.ways)[:, None]
    state = tl.arange(0, PLAN.rows)[None, :]
    if PLAN.moves:
        time = way * 0 + state * 0 + t
        place = tl.maximum(state - way, 0)
        exists = state >= way
    else:
        time = tl.maximum(t - way, 0) + state * 0
        place = state + way * 0
        exists = (t - way >= 0) & (state >= 0)
    return time, time * PLAN.rows + place, exists


@triton.jit
def log_sum(high, low, score, AXIS: tl.constexpr, HARD: tl.constexpr, PLAN: tl.constexpr):
    """`messages.log_sum`: (peak, rest, weights, total)."""
    if HARD:
        peak = max_over(high + score, AXIS)
        logits = ((high - tl.expand_dims(peak, AXIS)) + score) + low
    else:
        high, error = two_sum(high, score)
        peak = max_over(high, AXIS)
        logits = (high - tl.expand_dims(peak, AXIS)) + (error + low)
    top = max_over(logits, AXIS)
    weights = exp(logits - tl.expand_dims(top, AXIS), PLAN.approximate)
    total = sum_over(weights, AXIS)
    rest = top
    if not HARD:
        rest = top + log(total, PLAN.approximate)
    return peak, rest, weights, total


@triton.jit
def enter(scores, tape, high, low, t, HARD: tl.constexpr, PLAN: tl.constexpr):
    """Messages f of a step, and the shares of the ways; `high` and `low` are before it, where there
    is one way, which has no share."""
    score = score_of(scores, t, DEAD, PLAN)
    if PLAN.ways == 1:
        high, error = two_sum(high, score)
        high, low = join(high, error + low)
        shares = high
    else:
        _, place, exists = before(tape, t, PLAN)
        high = tl.load(tape + place, mask=exists, other=DEAD)
        low = tl.load(tape + PLAN.plane + place, mask=exists, other=0.0)
        peak, rest, weights, total = log_sum(high, low, score, 0, HARD, PLAN)
        shares = weights / total[None, :]
        high, low = join(peak, rest)
    return high, low, shares


@triton.jit
def read(tape, t, PLAN: tl.constexpr):
    """A pair of messages of the tape."""
    at = tape + t * PLAN.rows + tl.arange(0, PLAN.rows)
    return tl.load(at), tl.load(at + PLAN.plane)


@triton.jit
def write(tape, t, high, low, PLAN: tl.constexpr):
    at = tape + t * PLAN.rows + tl.arange(0, PLAN.rows)
    tl.store(at, high)
    tl.store(at + PLAN.plane, low)


@triton.jit
def filtered(high, low, PLAN: tl.constexpr):
    """The softmax of messages."""
    _, _, weights, total = log_sum(high, low, high * 0.0, 0, False, PLAN)
    return weights / total
