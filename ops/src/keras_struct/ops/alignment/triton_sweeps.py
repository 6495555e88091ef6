"""The sweeps of alignments in Triton, by strips (see `gpu_plan.py` and recurrence.md).

A program does one pair, strip by strip; or, with `PLAN.tiled`, one tile of a strip, `size` times
long, of those that a launch (`wave`) may do at once: tile c of strip k where 2 k + c is the wave.
"""

import triton
import triton.language as tl

from keras_struct.ops.alignment.triton_strip import (
    DEAD,
    begun,
    below,
    column,
    end_weight,
    halo_of,
    inner,
    node,
    place,
    potentials,
    scores,
)
from keras_struct.ops.triton_math import static, sum_over


@triton.jit
def extent(lengths, b, columns, strips, lowest, wave, size, PLAN: tl.constexpr):
    """Lengths of a pair; its strips and the first and last times of this program."""
    n1, n2 = tl.load(lengths + 2 * b), tl.load(lengths + 2 * b + 1)
    first, stop = 0, n1 // PLAN.height + 1
    begin, end = 0, n2 + PLAN.lanes
    if PLAN.tiled:
        first = lowest + tl.program_id(1)
        stop = tl.minimum(stop, first + 1)
        begin = (wave - 2 * first) * size
        end = tl.minimum(end, begin + size)
    return n1, n2, first, stop, begin, end


@triton.jit
def zeros(COUNT: tl.constexpr, like):
    found = ()
    for _ in tl.static_range(COUNT):
        found = found + (like,)
    return found


@triton.jit
def columns_before(tape, times, k, t, lane, n2, PARTS: tl.constexpr, PLAN: tl.constexpr):
    """Columns t - lane - 1, ..., as many as moves reach back, the last one first."""
    found = ()
    for c in tl.static_range(static(PLAN.reach)):
        found = found + column(tape, times, k, t - 1 - c, lane, n2, PARTS, PLAN)
    return found


@triton.jit
def rate_of(S: tl.constexpr, ROW: tl.constexpr, dnew, dold, dtheta, weights, PLAN: tl.constexpr):
    """Tangent of the message of a node; `weights` begin with the message."""
    total = weights[0] * 0.0
    for m in tl.static_range(PLAN.fan_in(S)):
        rate = move_rate(S, m, ROW, dnew, dold, dtheta, PLAN)
        total = total + weights[2 + m] * rate
    return total


@triton.jit
def move_rate(
    S: tl.constexpr, M: tl.constexpr, ROW: tl.constexpr, dnew, dold, dtheta, PLAN: tl.constexpr
):
    """Tangent of what a move brings."""
    rate = dtheta[0] * 0.0
    if PLAN.source(S, M) >= 0:
        if PLAN.straight(S, M):
            rate = dnew[PLAN.source_at(S, M, ROW, 0, 1)]
        else:
            rate = dold[PLAN.source_at(S, M, ROW, 0, 1)]
    if PLAN.channel(S, M) >= 0:
        rate = rate + dtheta[ROW * PLAN.channels + PLAN.channel(S, M)]
    return rate


@triton.jit
def forward(
    thetas,
    dthetas,
    lengths,
    whole,
    tape,
    dtape,
    ends,
    dend,
    rows,
    columns,
    strips,
    lowest,
    wave,
    size,
    HARD: tl.constexpr,
    RATE: tl.constexpr,
    SPLIT: tl.constexpr,
    ONES: tl.constexpr,
    PLAN: tl.constexpr,
):
    """All messages, on the tape; with RATE their tangents on `dtape`, and that of the log-partition
    by strips, `dend` (B, strips). With SPLIT only of pairs in range (`whole`, (B,)) if ONES is not
    0, and else only of the others."""
    b = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, PLAN.lanes)
    n1, n2, first, stop, begin, end = extent(lengths, b, columns, strips, lowest, wave, size, PLAN)
    if SPLIT:
        stop = tl.where((tl.load(whole + b) != 0) == (ONES > 0.0), stop, first)
    times = columns + PLAN.lanes
    tape = tape + b * strips * times * PLAN.step(2)
    if RATE:
        dtape = dtape + b * strips * times * PLAN.step(1)
        ends = ends + b * PLAN.end_numbers
    theta = potentials(thetas, b, rows, columns, False, PLAN)
    dtheta = potentials(dthetas, b, rows, columns, RATE, PLAN)
    for k in range(first, stop):
        i = (k * PLAN.lanes + lane) * PLAN.rows
        old = columns_before(tape, times, k, begin, lane, n2, 2, PLAN)
        dold = columns_before(dtape, times, k, begin, lane, n2, 1, PLAN) if RATE else ()
        moved = old[0] * 0.0
        for t in range(begin, end):
            new = halo_of(old, tape, times, k, t, lane, n2, 2, PLAN)
            x = scores(theta, i, t, lane, rows, columns, DEAD, PLAN)
            at = place(times, k, t, 2, PLAN) + lane
            if RATE:
                dnew = halo_of(dold, dtape, times, k, t, lane, n2, 1, PLAN)
                dx = scores(dtheta, i, t, lane, rows, columns, 0.0, PLAN)
                dat = place(times, k, t, 1, PLAN) + lane
            for r in tl.static_range(static(PLAN.rows)):
                for s in tl.static_range(static(PLAN.states)):
                    found = node(s, r, new, old, x, HARD, ONES, PLAN)
                    high, low = begun(found[0], found[1], i, t, lane, n1, n2, r, s, PLAN)
                    if RATE:
                        rate = rate_of(s, r, dnew, dold, dx, found, PLAN)
                        rate = inner(rate, i, t, lane, n1, n2, r, PLAN)
                        p = end_weight(high, low, ends, i + r, t, lane, n1, n2, s, PLAN)
                        moved = moved + p * rate
                        dnew = dnew + (rate,)
                        tl.store(dtape + dat + (r * PLAN.states + s) * PLAN.lanes, rate)
                    else:
                        here = tape + at + (r * PLAN.states + s) * 2 * PLAN.lanes
                        tl.store(here, high)
                        tl.store(here + PLAN.lanes, low)
                    new = new + (high, low)
            old = new + old[: (PLAN.reach - 1) * PLAN.column(2)]
            if RATE:
                dold = dnew + dold[: (PLAN.reach - 1) * PLAN.column(1)]
        if RATE:
            last = dend + b * strips + k
            tl.store(last, tl.load(last) + sum_over(moved, 0))
        tl.debug_barrier()


@triton.jit
def increased(x, AT: tl.constexpr, value):
    """Blocks with a value added to one of them."""
    return x[:AT] + (x[AT] + value,) + x[AT + 1 :]


@triton.jit
def replaced(x, AT: tl.constexpr, value):
    """Blocks with another one in a place."""
    return x[:AT] + (value,) + x[AT + 1 :]


@triton.jit
def arrived(
    pending,
    leaving,
    edges,
    columns,
    k,
    stop,
    t,
    lane,
    n2,
    PARTS: tl.constexpr,
    PLAN: tl.constexpr,
):
    """Probabilities of a column, with what the lane below had taken from its last rows; below the
    last lane, the strip below had, in `edges` (strips, halo, S, parts, L2 + 1)."""
    j = t - lane
    last = lane == PLAN.lanes - 1
    known = last & (k + 1 + 0 * lane < stop) & (j >= 0) & (j <= n2)
    edge = tl.cast(k + 1, tl.int64) * (PLAN.halo * PLAN.states * PARTS) * (columns + 1)
    for h in tl.static_range(static(PLAN.halo)):
        for s in tl.static_range(static(PLAN.states)):
            for n in tl.static_range(PARTS):
                here = edges + edge + PLAN.halo_at(h, s, n, PARTS) * (columns + 1) + j
                x = tl.load(here, mask=known, other=0.0)
                came = below(leaving[PLAN.halo_at(h, s, n, PARTS)], lane, PLAN)
                came = tl.where(last, x, came)
                pending = increased(pending, PLAN.at(PLAN.rows - PLAN.halo + h, s, n, PARTS), came)
    return pending


@triton.jit
def departed(pending, edges, columns, k, t, lane, n2, PARTS: tl.constexpr, PLAN: tl.constexpr):
    """What a column took from the rows above, for the lane above; of lane 0 into `edges`."""
    j = t - lane
    edge = tl.cast(k, tl.int64) * (PLAN.halo * PLAN.states * PARTS) * (columns + 1)
    known = (lane == 0) & (k + lane > 0) & (j >= 0) & (j <= n2)
    found = ()
    for h in tl.static_range(static(PLAN.halo)):
        for s in tl.static_range(static(PLAN.states)):
            for n in tl.static_range(PARTS):
                x = pending[PLAN.at(h - PLAN.halo, s, n, PARTS)]
                here = edges + edge + PLAN.halo_at(h, s, n, PARTS) * (columns + 1) + j
                tl.store(here, x, mask=known)
                found = found + (x,)
    return found


@triton.jit
def load_all(where, lane, COUNT: tl.constexpr, PLAN: tl.constexpr):
    found = ()
    for n in tl.static_range(COUNT):
        found = found + (tl.load(where + n * PLAN.lanes + lane),)
    return found


@triton.jit
def store_all(where, lane, blocks, COUNT: tl.constexpr, PLAN: tl.constexpr):
    for n in tl.static_range(COUNT):
        tl.store(where + n * PLAN.lanes + lane, blocks[n])


@triton.jit
def flush(sums, grads, b, i, k, n1, rows, strips, PLAN: tl.constexpr):
    """The sums of rows, and those of all places of a strip."""
    for c in tl.static_range(static(PLAN.channels)):
        if PLAN.kind(c) == "row":
            for r in tl.static_range(static(PLAN.rows)):
                here = grads[c] + b * (rows + 1) + i + r
                tl.store(here, sums[PLAN.sum_at(c) + r], mask=i + r <= n1)
        elif PLAN.kind(c) == "scalar":
            tl.store(grads[c] + b * strips + k, sum_over(sums[PLAN.sum_at(c)], 0))


@triton.jit
def row_back(
    ROW: tl.constexpr,
    new,
    old,
    dnew,
    dold,
    x,
    dx,
    pending,
    ends,
    moved,
    i,
    t,
    lane,
    n1,
    n2,
    RATE: tl.constexpr,
    PLAN: tl.constexpr,
):
    """One row of a column back: what waits for rows and columns before, and, for every channel,
    the probability of its moves into this row (with RATE, the tangent of it)."""
    PARTS: tl.constexpr = 2 if RATE else 1
    given = zeros(PLAN.channels, new[0] * 0.0)
    for s in tl.static_range(static(PLAN.states)):
        found = node(s, ROW, new, old, x, False, 0.0, PLAN)
        high, low = new[PLAN.at(ROW, s, 0, 2)], new[PLAN.at(ROW, s, 1, 2)]
        end_p = end_weight(high, low, ends, i + ROW, t, lane, n1, n2, s, PLAN)
        p = pending[PLAN.at(ROW, s, 0, PARTS)] + end_p
        p = inner(p, i, t, lane, n1, n2, ROW, PLAN)
        if RATE:
            rate = dnew[PLAN.at(ROW, s, 0, 1)]
            dp = pending[PLAN.at(ROW, s, 1, PARTS)] + end_p * (rate - moved)
            dp = inner(dp, i, t, lane, n1, n2, ROW, PLAN)
        for m in tl.static_range(PLAN.fan_in(s)):
            used = found[2 + m] * p
            if PLAN.source(s, m) >= 0:
                pending = increased(pending, PLAN.pending_at(s, m, ROW, 0, PARTS), used)
            if RATE:
                faster = move_rate(s, m, ROW, dnew, dold, dx, PLAN) - rate
                used = found[2 + m] * dp + used * faster
                if PLAN.source(s, m) >= 0:
                    pending = increased(pending, PLAN.pending_at(s, m, ROW, 1, PARTS), used)
            if PLAN.channel(s, m) >= 0:
                given = increased(given, PLAN.channel(s, m), used)
    return pending, given


@triton.jit
def given_back(
    ROW: tl.constexpr,
    given,
    grads,
    sums,
    b,
    i,
    j,
    n1,
    n2,
    rows,
    columns,
    PLAN: tl.constexpr,
):
    """What the channels get in a row, into its places; sums of it over places are returned."""
    for c in tl.static_range(static(PLAN.channels)):
        if PLAN.kind(c) == "cell":
            legal = (j >= 1) & (j <= n2) & (i + ROW >= 1) & (i + ROW <= n1)
            at = (b * rows + (i + ROW - 1)) * columns + (j - 1)
            tl.store(grads[c] + at, given[c], mask=legal)
        elif PLAN.kind(c) == "node":
            legal = (j >= 0) & (j <= n2) & (i + ROW <= n1)
            at = (b * (rows + 1) + (i + ROW)) * (columns + 1) + j
            tl.store(grads[c] + at, given[c], mask=legal)
        elif PLAN.kind(c) == "row":
            sums = increased(sums, PLAN.sum_at(c) + ROW, given[c])
        else:
            sums = increased(sums, PLAN.sum_at(c), given[c])
    return sums


@triton.jit
def backward(
    thetas,
    dthetas,
    lengths,
    tape,
    dtape,
    ends,
    dends,
    edges,
    carries,
    grads,
    rows,
    columns,
    strips,
    lowest,
    wave,
    size,
    RATE: tl.constexpr,
    PLAN: tl.constexpr,
):
    """Marginals, added to `grads`; with RATE their tangents.

    `grads` of a channel are (B, L1, L2) by cells, (B, L1 + 1, L2 + 1) by nodes, (B, L1 + 1) by
    rows, (B, strips, L2 + 1) by columns, or (B, strips). Probabilities of nodes, and with RATE
    their tangents, wait in registers until their column has come.
    """
    PARTS: tl.constexpr = 2 if RATE else 1
    b = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, PLAN.lanes)
    n1, n2, first, stop, begin, end = extent(lengths, b, columns, strips, lowest, wave, size, PLAN)
    all_strips = n1 // PLAN.height + 1
    times = columns + PLAN.lanes
    tape = tape + b * strips * times * PLAN.step(2)
    ends = ends + b * PLAN.end_numbers
    edges = edges + b * strips * (PLAN.halo * PLAN.states * PARTS) * (columns + 1)
    theta = potentials(thetas, b, rows, columns, False, PLAN)
    dtheta = potentials(dthetas, b, rows, columns, RATE, PLAN)
    moved = 0.0
    if RATE:
        dtape = dtape + b * strips * times * PLAN.step(1)
        moved = tl.load(dends + b)
    for turn in range(0, stop - first):
        k = stop - 1 - turn
        i = (k * PLAN.lanes + lane) * PLAN.rows
        near = columns_before(tape, times, k, end, lane, n2, 2, PLAN)
        dnear = columns_before(dtape, times, k, end, lane, n2, 1, PLAN) if RATE else ()
        nothing = near[0] * 0.0
        pending = zeros(PLAN.pending(PARTS), nothing)
        leaving = zeros(PLAN.leaving(PARTS), nothing)
        sums = zeros(PLAN.sums, nothing)
        if PLAN.tiled:
            kept = carries + (b * strips + k) * PLAN.carry(PARTS) * PLAN.lanes
            out = kept + PLAN.pending(PARTS) * PLAN.lanes
            totals = out + PLAN.leaving(PARTS) * PLAN.lanes
            pending = load_all(kept, lane, PLAN.pending(PARTS), PLAN)
            leaving = load_all(out, lane, PLAN.leaving(PARTS), PLAN)
            sums = load_all(totals, lane, PLAN.sums, PLAN)
        for step in range(0, end - begin):
            t = end - 1 - step
            j = t - lane
            far = column(tape, times, k, t - PLAN.reach, lane, n2, 2, PLAN)
            new = near[: PLAN.column(2)]
            old = near[PLAN.column(2) :] + far
            x = scores(theta, i, t, lane, rows, columns, DEAD, PLAN)
            dnew, dold, dx = (), (), ()
            if RATE:
                dfar = column(dtape, times, k, t - PLAN.reach, lane, n2, 1, PLAN)
                dnew = dnear[: PLAN.column(1)]
                dold = dnear[PLAN.column(1) :] + dfar
                dx = scores(dtheta, i, t, lane, rows, columns, 0.0, PLAN)
            pending = arrived(
                pending, leaving, edges, columns, k, all_strips, t, lane, n2, PARTS, PLAN
            )
            pending = pending + zeros(PLAN.column(PARTS), nothing)
            for c in tl.static_range(static(PLAN.channels)):
                if PLAN.kind(c) == "column":  # moves up with its column
                    flow = below(sums[PLAN.sum_at(c)], lane, PLAN)
                    sums = replaced(
                        sums, PLAN.sum_at(c), tl.where(lane == PLAN.lanes - 1, 0.0, flow)
                    )
            for back in tl.static_range(static(PLAN.rows)):
                pending, given = row_back(
                    PLAN.rows - 1 - back,
                    new,
                    old,
                    dnew,
                    dold,
                    x,
                    dx,
                    pending,
                    ends,
                    moved,
                    i,
                    t,
                    lane,
                    n1,
                    n2,
                    RATE,
                    PLAN,
                )
                sums = given_back(
                    PLAN.rows - 1 - back,
                    given,
                    grads,
                    sums,
                    b,
                    i,
                    j,
                    n1,
                    n2,
                    rows,
                    columns,
                    PLAN,
                )
            for c in tl.static_range(static(PLAN.channels)):
                if PLAN.kind(c) == "column":
                    legal = (lane == 0) & (j >= 0) & (j <= n2)
                    at = (b * strips + k) * (columns + 1) + j
                    tl.store(grads[c] + at, sums[PLAN.sum_at(c)], mask=legal)
            leaving = departed(pending, edges, columns, k, t, lane, n2, PARTS, PLAN)
            pending = pending[PLAN.column(PARTS) :]
            near = old
            if RATE:
                dnear = dold
        if PLAN.tiled:
            store_all(kept, lane, pending, PLAN.pending(PARTS), PLAN)
            store_all(out, lane, leaving, PLAN.leaving(PARTS), PLAN)
            store_all(totals, lane, sums, PLAN.sums, PLAN)
            if begin == 0:
                flush(sums, grads, b, i, k, n1, rows, strips, PLAN)
        else:
            flush(sums, grads, b, i, k, n1, rows, strips, PLAN)
        tl.debug_barrier()
