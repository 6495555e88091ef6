"""One strip of a lattice in Triton: how its columns are read, and what is done with one node.

A column is a flat tuple of blocks, one number a lane: rows from -halo to the last of the lane, for
each all states, for each the parts of a message (high and low, or one). Letters: S states, C
channels. Positions inside of tuples come from `Plan`.
"""

import triton
import triton.language as tl

from keras_struct.ops.triton_math import exp, join, log, reciprocal, static, two_sum

DEAD: tl.constexpr = tl.constexpr(-1e30)
POSSIBLE: tl.constexpr = tl.constexpr(-5e29)


@triton.jit
def above(x, lane):
    """What the lane above has; lane 0 keeps its own."""
    return tl.gather(x, tl.maximum(lane - 1, 0), 0)


@triton.jit
def below(x, lane, PLAN: tl.constexpr):
    """What the lane below has; the last one keeps its own."""
    return tl.gather(x, tl.minimum(lane + 1, PLAN.lanes - 1), 0)


@triton.jit
def place(times, k, t, PARTS: tl.constexpr, PLAN: tl.constexpr):
    """Where the tape of a pair has a time of a strip."""
    return (tl.cast(k, tl.int64) * times + t) * PLAN.step(PARTS)


@triton.jit
def column(tape, times, k, t, lane, n2, PARTS: tl.constexpr, PLAN: tl.constexpr):
    """The column t - lane of messages (high and low), or with one part of their tangents."""
    j = t - lane
    first = lane == 0
    inside = j + lane >= 0
    before = place(times, k, t - 1, PARTS, PLAN) + (lane - 1)
    last = place(times, k - 1, t + PLAN.lanes - 1, PARTS, PLAN) + (PLAN.lanes - 1)
    halo = tl.where(first, last, before)
    known = tl.where(first, (k + 0 * lane > 0) & (j >= 0) & (j <= n2), j + lane >= 1)
    own = place(times, k, t, PARTS, PLAN) + lane
    found = ()
    for row in tl.static_range(static(-PLAN.halo), static(PLAN.rows)):
        for s in tl.static_range(static(PLAN.states)):
            for n in tl.static_range(PARTS):
                if row < 0:
                    at = halo + (((row + PLAN.rows) * PLAN.states + s) * PARTS + n) * PLAN.lanes
                    legal = known
                else:
                    at = own + ((row * PLAN.states + s) * PARTS + n) * PLAN.lanes
                    legal = inside
                nothing = DEAD if (PARTS == 2 and n == 0) else 0.0
                found = found + (tl.load(tape + at, mask=legal, other=nothing),)
    return found


@triton.jit
def halo_of(old, tape, times, k, t, lane, n2, PARTS: tl.constexpr, PLAN: tl.constexpr):
    """The rows above of the next column, from the last column of the lane above; before lane 0,
    from the strip above."""
    first = (lane == 0) & (k + lane > 0) & (t + lane <= n2)
    last = place(times, k - 1, t + PLAN.lanes - 1, PARTS, PLAN) + (PLAN.lanes - 1)
    found = ()
    for row in tl.static_range(static(PLAN.rows - PLAN.halo), static(PLAN.rows)):
        for s in tl.static_range(static(PLAN.states)):
            for n in tl.static_range(PARTS):
                at = last + ((row * PLAN.states + s) * PARTS + n) * PLAN.lanes
                nothing = DEAD if (PARTS == 2 and n == 0) else 0.0
                x = tl.load(tape + at + 0 * lane, mask=first, other=nothing)
                up = above(old[PLAN.at(row, s, n, PARTS)], lane)
                found = found + (tl.where(lane == 0, x, up),)
    return found


@triton.jit
def potentials(thetas, b, rows, columns, OWN: tl.constexpr, PLAN: tl.constexpr):
    """The potentials of a pair, where they begin; OWN if no pair shares them."""
    found = ()
    for c in tl.static_range(static(PLAN.channels)):
        size = tl.cast(1, tl.int64)
        if PLAN.forms[c].rows:
            size = size * rows
        if PLAN.forms[c].columns:
            size = size * columns
        if PLAN.forms[c].shared and not OWN:
            found = found + (thetas[c],)
        else:
            found = found + (thetas[c] + b * size,)
    return found


@triton.jit
def scores(theta, i, t, lane, rows, columns, FILL: tl.constexpr, PLAN: tl.constexpr):
    """Scores of a column, row by row, for each all channels; `i` is the first row of a lane."""
    j = t - lane
    found = ()
    for r in tl.static_range(static(PLAN.rows)):
        for c in tl.static_range(static(PLAN.channels)):
            if PLAN.forms[c].cell:
                legal = (j >= 1) & (j <= columns) & (i + r >= 1) & (i + r <= rows)
                at = (tl.cast(i + r - 1, tl.int64) * columns - 1) + j
                found = found + (tl.load(theta[c] + at, mask=legal, other=FILL),)
            elif PLAN.forms[c].rows:
                at = tl.cast(tl.maximum(i + r - 1, 0), tl.int64)
                legal = i + r <= rows
                if PLAN.forms[c].columns:
                    at = at * columns + tl.maximum(j - 1, 0)
                    legal = legal & (j >= 0) & (j <= columns)
                found = found + (tl.load(theta[c] + at, mask=legal, other=0.0),)
            elif r > 0:
                found = found + (found[c],)
            elif PLAN.forms[c].columns:
                legal = (j >= 0) & (j <= columns)
                at = tl.maximum(j - 1, 0)
                found = found + (tl.load(theta[c] + at, mask=legal, other=0.0),)
            else:
                found = found + (tl.load(theta[c] + 0 * lane),)
    return found


@triton.jit
def added(high, score, ONES: tl.constexpr):
    """The sum of the first number of a message and a score, and what it has lost."""
    if ONES > 0.0:
        whole = (score + ONES) - ONES
        return high + whole, score - whole
    else:
        return two_sum(high, score)


@triton.jit
def joined(peak, rest, ONES: tl.constexpr):
    """The message that stands for peak + rest."""
    if ONES > 0.0:
        whole = (rest + ONES) - ONES
        return peak + whole, rest - whole
    else:
        return join(peak, rest)


@triton.jit
def node(
    S: tl.constexpr,
    ROW: tl.constexpr,
    new,
    old,
    theta,
    HARD: tl.constexpr,
    ONES: tl.constexpr,
    PLAN: tl.constexpr,
):
    """Message of a node, and the weights of the moves into it: (high, low, weights ...).

    Args:
        new: The column, as far as it is known.
        old: The columns before, the last one first.
        theta: Scores of the column.
        HARD: Whether maxima and not sums, without weights.
        ONES: 0, or the number that makes whole what is added to it: then the first numbers of
            messages are whole, and no sum of them is rounded (see `tpu_sums.py`).
    """
    COUNT: tl.constexpr = PLAN.fan_in(S)
    highs, lows = (), ()
    for m in tl.static_range(COUNT):
        if PLAN.source(S, m) < 0:
            high, low = theta[0] * 0.0, theta[0] * 0.0
        else:
            if PLAN.straight(S, m):
                high = new[PLAN.source_at(S, m, ROW, 0, 2)]
                low = new[PLAN.source_at(S, m, ROW, 1, 2)]
            else:
                high = old[PLAN.source_at(S, m, ROW, 0, 2)]
                low = old[PLAN.source_at(S, m, ROW, 1, 2)]
        if PLAN.shared(S) < 0 and PLAN.channel(S, m) >= 0:
            high, error = added(high, theta[ROW * PLAN.channels + PLAN.channel(S, m)], ONES)
            low = low + error
        highs, lows = highs + (high,), lows + (low,)
    weights = ()
    if COUNT == 1:
        high, low = highs[0], lows[0]
        weights = (high * 0.0 + 1.0,)
    else:
        peak = highs[0]
        for m in tl.static_range(1, COUNT):
            peak = tl.maximum(peak, highs[m])
        logits = ()
        for m in tl.static_range(COUNT):
            logits = logits + ((highs[m] - peak) + lows[m],)
        top = logits[0]
        if ONES > 0.0:
            top = 0.0  # no low part is large
        else:
            for m in tl.static_range(1, COUNT):
                top = tl.maximum(top, logits[m])
        rest = top
        if not HARD:
            total = top * 0.0
            for m in tl.static_range(COUNT):
                weight = exp(logits[m] - top, PLAN.approximate)
                total = weight if m == 0 else total + weight
                weights = weights + (weight,)
            rest = top + log(total, PLAN.approximate)
            inverse = reciprocal(total, PLAN.approximate)
            scaled = ()
            for m in tl.static_range(COUNT):
                scaled = scaled + (weights[m] * inverse,)
            weights = scaled
        high, low = joined(peak, rest, ONES)
    if PLAN.shared(S) >= 0:
        high, error = added(high, theta[ROW * PLAN.channels + PLAN.shared(S)], ONES)
        high, low = joined(high, error + low, ONES)
    return (high, low) + weights


@triton.jit
def starts(i, j, n1, n2, PLAN: tl.constexpr):
    """Where no move enters, and where of these a path starts in state 0."""
    if PLAN.spec.start == "border":
        border = (i == 0) | (j == 0)
        legal = ((i == 0) & (j < n2) | (j == 0) & (i < n1)) & (n1 > 0) & (n2 > 0) & (j >= 0)
        return border, legal
    border = (i == 0) & (j == 0)
    return border, border


@triton.jit
def begun(high, low, i, t, lane, n1, n2, ROW: tl.constexpr, S: tl.constexpr, PLAN: tl.constexpr):
    """A message, or that of a path that starts there."""
    if PLAN.spec.start == "border" or (PLAN.spec.start == "corner" and ROW == 0):
        border, legal = starts(i + ROW, t - lane, n1, n2, PLAN)
        fresh = tl.where(legal & (S == 0), 0.0, DEAD).to(high.dtype)
        high, low = tl.where(border, fresh, high), tl.where(border, 0.0, low)
    return high, low


@triton.jit
def inner(p, i, t, lane, n1, n2, ROW: tl.constexpr, PLAN: tl.constexpr):
    """A probability, or nothing where paths only start."""
    if PLAN.spec.start == "border" or (PLAN.spec.start == "corner" and ROW == 0):
        border, _ = starts(i + ROW, t - lane, n1, n2, PLAN)
        p = tl.where(border, 0.0, p)
    return p


@triton.jit
def end_weight(high, low, ends, i, t, lane, n1, n2, S: tl.constexpr, PLAN: tl.constexpr):
    """The probability that a path ends in a node."""
    j = t - lane
    if PLAN.spec.end == "corner":
        return tl.where((i == n1) & (j == n2), tl.load(ends + S), 0.0)
    inside = (i > 0) & (j > 0) & (i <= n1) & (j <= n2)
    if PLAN.spec.end == "border":
        inside = inside & ((i == n1) | (j == n2))
    if PLAN.spec.end == "anywhere" and S > 0:
        return high * 0.0
    logit = (high - tl.load(ends)) + (low - tl.load(ends + 1))
    return tl.where(inside, exp(logit, PLAN.approximate), 0.0)
