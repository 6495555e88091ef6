"""Where paths end and how they came there, in Triton: they read messages from the tape."""

import triton
import triton.language as tl

from keras_struct.ops.alignment.triton_strip import DEAD, POSSIBLE, potentials
from keras_struct.ops.triton_math import exp, gumbel, join, log, max_over, min_over, sum_over

IMPOSSIBLE: tl.constexpr = tl.constexpr(-4e30)
CELL: tl.constexpr = tl.constexpr(1)  # streams of the noise, see `paths.py`
MOVE: tl.constexpr = tl.constexpr(2)


@triton.jit
def message(tape, b, i, j, s, legal, columns, strips, PLAN: tl.constexpr):
    """High and low of nodes in states, forbidden where they are not legal."""
    k = i // PLAN.height
    lane = (i - k * PLAN.height) // PLAN.rows
    row = i - (k * PLAN.lanes + lane) * PLAN.rows
    times = columns + PLAN.lanes
    at = ((b * strips + k) * times + (j + lane)) * PLAN.step(2)
    here = tape + at + (row * PLAN.states + s) * 2 * PLAN.lanes + lane
    high = tl.load(here, mask=legal, other=DEAD)
    low = tl.load(here + PLAN.lanes, mask=legal, other=0.0)
    return high, low


@triton.jit
def at_time(t, n1, n2, number, BLOCK: tl.constexpr, PLAN: tl.constexpr):
    """Nodes of a time where paths may end, BLOCK of them: rows, columns, and which there are."""
    lane = tl.arange(0, BLOCK)
    if PLAN.spec.end == "border":  # in the last row, and in the last column
        i = tl.where(lane == 0, tl.minimum(n1, t), t - n2)
        legal = ((lane == 0) & (n1 + lane <= t)) | ((lane == 1) & (i >= 0) & (i < n1))
    else:
        i = number * BLOCK + lane + tl.maximum(t - n2, 1)
        legal = i <= n1
    j = t - i
    return i, j, legal & (i > 0) & (i <= n1) & (j > 0) & (j <= n2)


@triton.jit
def blocks_of(t, n1, n2, BLOCK: tl.constexpr, PLAN: tl.constexpr):
    """How many blocks of nodes a time has."""
    if PLAN.spec.end == "border":
        return 1
    count = tl.minimum(n1, t - 1) - tl.maximum(t - n2, 1) + 1
    return (tl.maximum(count, 0) + BLOCK - 1) // BLOCK


@triton.jit
def ends(
    tape,
    lengths,
    found,
    rows,
    columns,
    strips,
    HARD: tl.constexpr,
    BLOCK: tl.constexpr,
    PLAN: tl.constexpr,
):
    """High and low (B, 2, times) of the log-weight of all paths that end at a time."""
    b = tl.program_id(0).to(tl.int64)
    t = tl.program_id(1)
    n1, n2 = tl.load(lengths + 2 * b), tl.load(lengths + 2 * b + 1)
    STATES: tl.constexpr = 1 if PLAN.spec.end == "anywhere" else PLAN.states
    blocks = blocks_of(t, n1, n2, BLOCK, PLAN)
    most = tl.full((BLOCK,), DEAD, tape.dtype.element_ty)
    for number in range(0, blocks):
        i, j, legal = at_time(t, n1, n2, number, BLOCK, PLAN)
        for s in tl.static_range(STATES):
            high, _ = message(tape, b, i, j, s, legal, columns, strips, PLAN)
            most = tl.maximum(most, high)
    peak = max_over(most, 0)
    top = tl.full((BLOCK,), DEAD, tape.dtype.element_ty)
    total = top * 0.0
    for number in range(0, blocks):
        i, j, legal = at_time(t, n1, n2, number, BLOCK, PLAN)
        for s in tl.static_range(STATES):
            high, low = message(tape, b, i, j, s, legal, columns, strips, PLAN)
            logit = (high - peak) + low
            higher = tl.maximum(top, logit)
            if not HARD:
                total = total * exp(top - higher, PLAN.approximate)
                total = total + exp(logit - higher, PLAN.approximate)
            top = higher
    rest = max_over(top, 0)
    if not HARD:
        every = sum_over(total * exp(top - rest, PLAN.approximate), 0)
        rest = rest + log(tl.where(every > 0.0, every, 1.0), PLAN.approximate)
    possible = peak > POSSIBLE
    high, low = join(peak, rest)
    here = found + b * 2 * (rows + columns + 1) + t
    tl.store(here, tl.where(possible, high, DEAD))
    tl.store(here + (rows + columns + 1), tl.where(possible, low, 0.0))


@triton.jit
def last_nodes(
    tape,
    lengths,
    times,
    pairs,
    keys,
    nodes,
    rows,
    columns,
    strips,
    NOISY: tl.constexpr,
    BLOCK: tl.constexpr,
    PLAN: tl.constexpr,
):
    """Of the times (B, n) of the ends of paths the nodes: i, j and state (B, n, 3), -1 where there
    is none. `pairs` (B, n, 2) are high and low of the log-weight of all paths that end then."""
    b = tl.program_id(0).to(tl.int64)
    path = b * tl.num_programs(1) + tl.program_id(1)
    n1, n2 = tl.load(lengths + 2 * b), tl.load(lengths + 2 * b + 1)
    t = tl.load(times + path)
    high_of_all, low_of_all = tl.load(pairs + 2 * path), tl.load(pairs + 2 * path + 1)
    lane = tl.arange(0, BLOCK)
    k0 = tl.load(keys + 2 * path + 0 * lane)
    k1 = tl.load(keys + 2 * path + 1 + 0 * lane)
    STATES: tl.constexpr = 1 if PLAN.spec.end == "anywhere" else PLAN.states
    blocks = blocks_of(t, n1, n2, BLOCK, PLAN)
    best = tl.full((BLOCK,), 2.0 * IMPOSSIBLE, tape.dtype.element_ty)
    best_i, best_s = lane * 0 - 1, lane * 0
    for s in tl.static_range(STATES):
        for number in range(0, blocks):
            i, j, legal = at_time(t, n1, n2, number, BLOCK, PLAN)
            high, low = message(tape, b, i, j, s, legal, columns, strips, PLAN)
            logit = (high - high_of_all) + (low - low_of_all)
            if NOISY:
                logit = logit + gumbel(k0, k1, CELL, s * (rows + 1) + i, PLAN.wide)
            better = legal & (high > POSSIBLE) & (logit > best)
            best = tl.where(better, logit, best)
            best_i = tl.where(better, i, best_i)
            best_s = tl.where(better, s, best_s)
    top = max_over(best, 0)
    first = tl.where((best == top) & (best_i >= 0), best_s * (rows + 1) + best_i, 1 << 30)
    place = min_over(first, 0)
    exists = place < (1 << 30)
    s = place // (rows + 1)
    i = place - s * (rows + 1)
    tl.store(nodes + 3 * path, tl.where(exists, i, -1))
    tl.store(nodes + 3 * path + 1, tl.where(exists, t - i, -1))
    tl.store(nodes + 3 * path + 2, tl.where(exists, s, 0))


@triton.jit
def score_at(theta, c, i, j, rows, columns, legal, PLAN: tl.constexpr):
    """A potential of each pair at nodes; no cell is above or left of the first."""
    FORM: tl.constexpr = PLAN.forms[c]
    at = tl.cast(i * 0, tl.int64)
    if FORM.rows:
        at = tl.cast(tl.maximum(i - 1, 0), tl.int64)
    if FORM.columns:
        at = at * columns + tl.maximum(j - 1, 0)
    if FORM.cell:
        legal = legal & (i > 0) & (j > 0)
        return tl.load(theta[c] + at, mask=legal, other=DEAD)
    return tl.load(theta[c] + at, mask=legal, other=0.0)


@triton.jit
def walk(
    thetas,
    tape,
    nodes,
    keys,
    places,
    batch,
    count,
    rows,
    columns,
    strips,
    NOISY: tl.constexpr,
    BLOCK: tl.constexpr,
    PLAN: tl.constexpr,
):
    """Paths back from their last nodes (B, n, 3), one a lane: positions (times, n, B)."""
    path = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = path < batch * count
    b = tl.cast(path // count, tl.int64)
    number = path - path // count * count
    i = tl.load(nodes + 3 * path, mask=known, other=-1)
    j = tl.load(nodes + 3 * path + 1, mask=known, other=-1)
    state = tl.load(nodes + 3 * path + 2, mask=known, other=0)
    k0 = tl.load(keys + 2 * path, mask=known, other=0)
    k1 = tl.load(keys + 2 * path + 1, mask=known, other=0)
    theta = potentials(thetas, b, rows, columns, False, PLAN)
    for _ in range(0, max_over(tl.where(i >= 0, i + j, -1), 0) + 1):
        here = i >= 0
        time = i if PLAN.spec.by_rows else i + j
        at = tl.cast(time, tl.int64) * count + number
        tl.store(places + at * batch + b, j if PLAN.spec.by_rows else i, mask=here)
        highs, lows, scores = (), (), ()
        peak = tl.full((BLOCK,), 2.0 * IMPOSSIBLE, tape.dtype.element_ty)
        for m in tl.static_range(PLAN.count()):
            score = peak * 0.0
            if PLAN.spec.moves[m].channel is not None:
                score = score_at(theta, PLAN.spec.moves[m].channel, i, j, rows, columns, here, PLAN)
            high, low = peak * 0.0, peak * 0.0
            if PLAN.spec.moves[m].source >= 0:
                before_i, before_j = i - PLAN.spec.moves[m].di, j - PLAN.spec.moves[m].dj
                legal = here & (before_i >= 0) & (before_j >= 0)
                source = i * 0 + PLAN.spec.moves[m].source
                high, low = message(
                    tape, b, before_i, before_j, source, legal, columns, strips, PLAN
                )
            fits = state == PLAN.spec.moves[m].target
            peak = tl.maximum(peak, tl.where(fits, high + score, 2.0 * IMPOSSIBLE))
            highs, lows, scores = highs + (high,), lows + (low,), scores + (score,)
        best = tl.full((BLOCK,), 4.0 * IMPOSSIBLE, tape.dtype.element_ty)
        di, dj, source = i * 0, i * 0, i * 0
        for m in tl.static_range(PLAN.count()):
            logit = ((highs[m] - peak) + scores[m]) + lows[m]
            logit = tl.where(state == PLAN.spec.moves[m].target, logit, 2.0 * IMPOSSIBLE)
            if NOISY:
                number_of_move = (time - 1) * PLAN.count() + m
                logit = logit + gumbel(k0, k1, MOVE, number_of_move, PLAN.wide)
            better = logit > best
            best = tl.where(better, logit, best)
            di = tl.where(better, PLAN.spec.moves[m].di, di)
            dj = tl.where(better, PLAN.spec.moves[m].dj, dj)
            source = tl.where(better, PLAN.spec.moves[m].source, source)
        done = (i + j) == 0
        if PLAN.spec.start == "anywhere":
            done = state < 0
        if PLAN.spec.start == "border":
            done = (i == 0) | (j == 0)
        gone = done | (i < di) | (j < dj)
        i, j = tl.where(gone, -1, i - di), tl.where(gone, -1, j - dj)
        state = source
