"""The sweeps of every structure on the lattice, strip by strip, compiled by Numba (recurrence.md).

A strip is `LANES` rows of nodes; its row r is at column t - r at time t, so that all its rows
advance together, as one vector. What lies inside a strip is float64 and stays in the cache. Between
the sweeps only messages of the last rows of every strip are kept (`heads`); the other sweeps start
from them and run each strip forward again.

Letters: S states, C channels, M moves, H rows before a strip that its moves come from (`halo`),
K strips, E ends. Strips are flat arrays with one plane for each state, channel or move:

    f, p    (S + 1, past + times, H + LANES)    messages, probabilities; the last plane is no state
    theta   (C + 1, times, LANES)               potentials; the last plane is no potential
    w       (M, times, LANES)                   weights of the moves into a node, which sum to 1

All integers inside are unsigned: Numba would test signed ones for Python's negative indices.
"""

from typing import Any, NamedTuple

import numpy as np

from keras_struct.ops.alignment.spec import START
from keras_struct.ops.compiled import compiled, exp_or_zero, inlined, log
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE

U: Any = np.uint64
LANES = U(32)
VECTOR = U(8)  # the last strip of an example has a multiple of this as lanes
BLOCK = U(16)  # times that are skewed at once
ZERO, ONE = U(0), U(1)
CORNER, BORDER, ANYWHERE = U(0), U(1), U(2)


class Plan(NamedTuple):
    """A `Spec` as numbers, for strips of one length.

    Attributes:
        into: The moves into every state, (S, most), of which the first `fan_in` (S,) are meant.
        source: State before every move, (M,); S for `START`.
        rows, lag: di and di + dj of every move, (M,).
        gaps: Whether a channel is of kind "gap", (C,).
        start, end: `CORNER`, `BORDER` or `ANYWHERE`.
        halo, past: Largest di and largest lag.
        positions: Rows of nodes, L1 + 1.
        width, plane: Size of a time and of a plane of f; a time of theta and w has `LANES`.
        times: Times in a plane of theta and w.
        here: Where f has every state at time 0, (S,).
        before: Where f has the source of every move at time 0, (M,).
        scores: Where theta has the potential of every move at time 0, (M,).
    """

    into: np.ndarray
    fan_in: np.ndarray
    source: np.ndarray
    rows: np.ndarray
    lag: np.ndarray
    gaps: np.ndarray
    start: np.uint64
    end: np.uint64
    halo: np.uint64
    past: np.uint64
    positions: np.uint64
    width: np.uint64
    plane: np.uint64
    times: np.uint64
    here: np.ndarray
    before: np.ndarray
    scores: np.ndarray


def plan(spec, rows_of_cells, columns):
    """The `Plan` of a spec for so many rows and columns of cells."""
    moves, states, channels = spec.moves, spec.states, len(spec.kinds)
    modes = {"corner": CORNER, "border": BORDER, "anywhere": ANYWHERE}
    into = [spec.into(state) for state in range(states)]
    most = max(map(len, into))
    source = np.array([states if move.source == START else move.source for move in moves])
    rows = np.array([move.di for move in moves])
    lag = np.array([move.di + move.dj for move in moves])
    channel = np.array([channels if move.channel is None else move.channel for move in moves])
    halo, past, times = max(rows), max(lag), columns + int(LANES)
    width = halo + int(LANES)
    plane = (past + times) * width
    here = np.arange(states) * plane + past * width + halo
    before = source * plane + (past - lag) * width + (halo - rows)
    return Plan(
        into=np.array([(*ks, *[0] * (most - len(ks))) for ks in into], U),
        fan_in=np.array([len(ks) for ks in into], U),
        source=source.astype(U),
        rows=rows.astype(U),
        lag=lag.astype(U),
        gaps=np.array([kind == "gap" for kind in spec.kinds]),
        start=modes[spec.start],
        end=modes[spec.end],
        halo=U(halo),
        past=U(past),
        positions=U(rows_of_cells + 1),
        width=U(width),
        plane=U(plane),
        times=U(times),
        here=here.astype(U),
        before=before.astype(U),
        scores=(channel * times * int(LANES)).astype(U),
    )


# One strip ----------------------------------------------------------------------------------------


class Strip(NamedTuple):
    """Rows `first`, ... of an example with lengths `n1`, `n2`."""

    first: np.uint64
    lanes: np.uint64
    times: np.uint64
    n1: np.uint64
    n2: np.uint64


@compiled
def strip_of(k, n1, n2):
    first = k * LANES
    rows = (n1 + ONE - first + VECTOR - ONE) // VECTOR * VECTOR
    lanes = min(rows, LANES)
    return Strip(first, lanes, n2 + lanes, n1, n2)


@compiled
def propagate(plan, strip, f, theta, w, hard, weigh):
    """Messages (sums, or with `hard` maxima) and, with `weigh`, the weights of the moves."""
    lanes = strip.lanes
    terms = np.empty(plan.into.shape[1] * int(LANES))
    peak, total = np.empty(LANES), np.empty(LANES)
    for t in range(strip.times):
        for s in range(U(len(plan.fan_in))):
            here = plan.here[s] + t * plan.width
            find_terms(plan, t, s, lanes, f, theta, terms, peak)
            if hard:
                for r in range(lanes):
                    f[here + r] = peak[r]
                continue
            sum_terms(plan, s, lanes, terms, peak, total)
            for r in range(lanes):
                f[here + r] = peak[r] + log(total[r])
            if weigh:
                write_weights(plan, t, s, lanes, terms, total, w)
        if t < lanes or (strip.first == ZERO and plan.start == BORDER):
            begin(plan, strip, f, w, t, weigh)


@inlined
def find_terms(plan, t, s, lanes, f, theta, terms, peak):
    """Score of the best path by every move into state s, (fan_in, LANES), and the best of them."""
    for n in range(plan.fan_in[s]):
        before = plan.before[plan.into[s, n]] + t * plan.width
        score = plan.scores[plan.into[s, n]] + t * LANES
        term = n * LANES
        for r in range(lanes):
            terms[term + r] = f[before + r] + theta[score + r]
        if n == ZERO:
            for r in range(lanes):
                peak[r] = terms[r]
        else:
            for r in range(lanes):
                peak[r] = terms[term + r] if terms[term + r] > peak[r] else peak[r]


@inlined
def sum_terms(plan, s, lanes, terms, peak, total):
    """Weights of the moves over that of the best one, in place, and their sum."""
    for r in range(lanes):
        total[r] = 0.0
    for n in range(plan.fan_in[s]):
        term = n * LANES
        for r in range(lanes):
            x = exp_or_zero(terms[term + r] - peak[r])
            terms[term + r] = x
            total[r] += x


@inlined
def write_weights(plan, t, s, lanes, terms, total, w):
    for r in range(lanes):
        total[r] = 1.0 / total[r]
    for n in range(plan.fan_in[s]):
        weight = (plan.into[s, n] * plan.times + t) * LANES
        term = n * LANES
        for r in range(lanes):
            w[weight + r] = terms[term + r] * total[r]


@compiled
def begin(plan, strip, f, w, t, weigh):
    """The nodes where paths may start in state 0 and that no move enters."""
    some = strip.n1 > ZERO and strip.n2 > ZERO
    if plan.start == CORNER:
        if strip.first == ZERO and t == ZERO:
            set_start(plan, f, w, t, ZERO, True, weigh)
    elif plan.start == BORDER:
        if strip.first == ZERO:
            set_start(plan, f, w, t, ZERO, some and t < strip.n2, weigh)
        if t < strip.lanes and strip.first + t > ZERO:
            set_start(plan, f, w, t, t, some and strip.first + t < strip.n1, weigh)


@compiled
def set_start(plan, f, w, t, r, legal, weigh):
    for s in range(U(len(plan.fan_in))):
        f[plan.here[s] + t * plan.width + r] = 0.0 if legal and s == ZERO else FORBIDDEN
    if weigh:
        for m in range(U(len(plan.source))):
            w[(m * plan.times + t) * LANES + r] = 0.0


@compiled
def propagate_tangent(plan, strip, w, df, dtheta):
    """Tangents of the messages."""
    lanes, rate = strip.lanes, np.empty(LANES)
    for t in range(strip.times):
        for s in range(U(len(plan.fan_in))):
            here = plan.here[s] + t * plan.width
            rate[:] = 0.0
            for n in range(plan.fan_in[s]):
                m = plan.into[s, n]
                before = plan.before[m] + t * plan.width
                score, weight = plan.scores[m] + t * LANES, (m * plan.times + t) * LANES
                for r in range(lanes):
                    rate[r] += w[weight + r] * (df[before + r] + dtheta[score + r])
            for r in range(lanes):
                df[here + r] = rate[r]


@compiled
def retreat(plan, strip, w, p, g):
    """Probabilities of the nodes, back in time; those of the moves, summed by channel, in g."""
    lanes = strip.lanes
    for back in range(strip.times):
        t = strip.times - ONE - back
        for s in range(U(len(plan.fan_in))):
            here = plan.here[s] + t * plan.width
            for n in range(plan.fan_in[s]):
                m = plan.into[s, n]
                before = plan.before[m] + t * plan.width
                score, weight = plan.scores[m] + t * LANES, (m * plan.times + t) * LANES
                for r in range(lanes):
                    u = w[weight + r] * p[here + r]
                    p[before + r] += u
                    g[score + r] += u


@compiled
def retreat_tangent(plan, strip, w, p, dp, df, dtheta, dg):
    """`retreat`, with the tangents of the probabilities of nodes and, in dg, of moves."""
    lanes = strip.lanes
    for back in range(strip.times):
        t = strip.times - ONE - back
        for s in range(U(len(plan.fan_in))):
            here = plan.here[s] + t * plan.width
            for n in range(plan.fan_in[s]):
                m = plan.into[s, n]
                before = plan.before[m] + t * plan.width
                score, weight = plan.scores[m] + t * LANES, (m * plan.times + t) * LANES
                for r in range(lanes):
                    u = w[weight + r] * p[here + r]
                    rate = df[before + r] + dtheta[score + r] - df[here + r]
                    du = w[weight + r] * dp[here + r] + u * rate
                    p[before + r] += u
                    dp[before + r] += du
                    dg[score + r] += du


# Where paths end ----------------------------------------------------------------------------------


@compiled
def ends_of_row(plan, strip, i):
    """The columns of row i where paths may end, from and to, unless they may end anywhere."""
    if i > strip.n1 or strip.n2 < (ONE if plan.end == BORDER else ZERO):
        return ONE, ZERO
    if i == strip.n1 and plan.end == BORDER and i > ZERO:
        return ONE, strip.n2
    if (i == strip.n1 and plan.end == CORNER) or (i > ZERO and plan.end == BORDER):
        return strip.n2, strip.n2
    return ONE, ZERO


@compiled
def collect_ends(plan, strip, f, hard, ends):
    """Log-weight of the paths that end at each time or, where they end in a corner, in each state.

    In a strip all lanes are at one time, `first + t`.
    """
    if plan.end == CORNER:
        if strip.first <= strip.n1 and strip.n1 < strip.first + strip.lanes:
            r = strip.n1 - strip.first
            for s in range(U(len(plan.fan_in))):
                ends[s] = f[plan.here[s] + (strip.n2 + r) * plan.width + r]
        return
    found = np.empty(LANES)
    for t in range(strip.times):
        time, peak, total = strip.first + t, 2 * FORBIDDEN, 0.0
        if plan.end == ANYWHERE:  # state 0 is forbidden outside of the lengths: all lanes count
            here = plan.here[0] + t * plan.width
            for r in range(strip.lanes):
                peak = f[here + r] if f[here + r] > peak else peak
            if peak <= INFEASIBLE:
                continue
            for r in range(strip.lanes):
                found[r] = exp_or_zero(f[here + r] - peak)
            for r in range(strip.lanes):
                total += found[r]
            ends[time] = merged(ends[time], peak if hard else peak + log(total), hard)
            continue
        for r in border_lanes(strip, t):
            if r < strip.lanes and may_end(plan, strip, t, r):
                for s in range(U(len(plan.fan_in))):
                    x = f[plan.here[s] + t * plan.width + r]
                    if x > INFEASIBLE:
                        ends[time] = merged(ends[time], x, hard)


@inlined
def border_lanes(strip, t):
    """The lanes in the last column and in the last row, without repetition; LANES for none."""
    column = t - strip.n2 if t >= strip.n2 else LANES
    row = strip.n1 - strip.first if strip.n1 >= strip.first else LANES
    return column, LANES if row == column else row


@compiled
def merged(x, y, hard):
    """Log-sum or maximum of two numbers."""
    low, high = (x, y) if x < y else (y, x)
    return high if hard else high + log(1.0 + exp_or_zero(low - high))


@inlined
def may_end(plan, strip, t, r):
    """Whether paths may end in lane r at time t of the strip, unless they end in a corner."""
    i, j = strip.first + r, t - r
    inside = t > r and i > ZERO and i <= strip.n1 and j <= strip.n2
    return inside and (plan.end == ANYWHERE or i == strip.n1 or j == strip.n2)


@compiled
def inject_ends(plan, strip, f, value, p):
    """The probability that a path ends at a node."""
    if plan.end == ANYWHERE:
        for t in range(strip.times):
            here = plan.here[0] + t * plan.width
            for r in range(strip.lanes):
                p[here + r] = exp_or_zero(f[here + r] - value)
        return
    for r in range(strip.lanes):
        start, stop = ends_of_row(plan, strip, strip.first + r)
        for s in range(U(len(plan.fan_in))):
            for j in range(start, stop + ONE):
                node = plan.here[s] + (j + r) * plan.width + r
                p[node] = exp_or_zero(f[node] - value)


# In and out of a strip ----------------------------------------------------------------------------


@compiled
def in_halo(plan, s, h):
    """Where a strip has column 0 of the h-th row before it."""
    return s * plan.plane + (plan.past - plan.halo + h) * plan.width + h


@compiled
def at_the_end(plan, s, h):
    """Where a strip has column 0 of what is the h-th row before the next strip."""
    return in_halo(plan, s, h) + LANES * plan.width + LANES


@compiled
def save_rows(plan, columns, f, rows):
    """rows (S, H, L2 + 1), the last of a strip."""
    for s in range(U(rows.shape[0])):
        for h in range(plan.halo):
            for j in range(columns + ONE):
                rows[s, h, j] = f[at_the_end(plan, s, h) + j * plan.width]


@compiled
def load_rows(plan, columns, rows, f):
    """The rows before a strip."""
    for s in range(U(rows.shape[0])):
        for h in range(plan.halo):
            for j in range(columns + ONE):
                f[in_halo(plan, s, h) + j * plan.width] = rows[s, h, j]


@compiled
def save_halo(plan, columns, p, rows):
    """The transpose of `load_rows`."""
    for s in range(U(rows.shape[0])):
        for h in range(plan.halo):
            for j in range(columns + ONE):
                rows[s, h, j] = p[in_halo(plan, s, h) + j * plan.width]


@compiled
def add_rows(plan, columns, rows, p):
    """The transpose of `save_rows`."""
    for s in range(U(rows.shape[0])):
        for h in range(plan.halo):
            for j in range(columns + ONE):
                p[at_the_end(plan, s, h) + j * plan.width] += rows[s, h, j]


@compiled
def set_halo(plan, f, fill):
    """The rows before the strip."""
    for s in range(U(len(plan.fan_in))):
        for q in range(plan.past + plan.times):
            for h in range(plan.halo):
                f[s * plan.plane + q * plan.width + h] = fill


@compiled
def skew(x, gap, strip, outside, theta):
    """theta (times, LANES) of a channel (L1, L2), or of a gap (1 | L1, 1 | L2)."""
    for r in range(strip.lanes):
        i = strip.first + r
        legal = i <= strip.n1 and (gap or i > ZERO)
        row = row_of(x, i)
        edge = x[row, 0] if gap and legal else outside
        constant = not legal or (gap and x.shape[1] == 1)
        for t in range(strip.times if constant else r + ONE):
            theta[t * LANES + r] = edge
        if not constant:
            for t in range(r + strip.n2 + ONE, strip.times):
                theta[t * LANES + r] = outside
    if gap and x.shape[1] == 1:
        return
    for block in range(ZERO, strip.times, BLOCK):
        for r in range(strip.lanes):
            i = strip.first + r
            if i > strip.n1 or (i == ZERO and not gap):
                continue
            row = row_of(x, i)
            for t in range(max(block, r + ONE), min(block + BLOCK, r + strip.n2 + ONE)):
                theta[t * LANES + r] = x[row, t - r - ONE]


@compiled
def unskew(g, gap, strip, x):
    """The transpose of `skew`: written to a channel, added to a gap."""
    rows = min(strip.lanes, strip.n1 + ONE - strip.first)
    if gap and x.shape[1] == 1:
        unskew_rows(g, strip, rows, x)
    elif gap and x.shape[0] == 1:
        unskew_columns(g, strip, rows, x)
    else:
        for block in range(ZERO, strip.times, BLOCK):
            for r in range(ZERO if gap or strip.first > ZERO else ONE, rows):
                row = row_of(x, strip.first + r)
                for t in range(max(block, r + ONE), min(block + BLOCK, r + strip.n2 + ONE)):
                    if gap:
                        x[row, t - r - ONE] += g[t * LANES + r]
                    else:
                        x[row, t - r - ONE] = g[t * LANES + r]
        for r in range(rows if gap else ZERO):
            x[row_of(x, strip.first + r), 0] += g[r * LANES + r]


@compiled
def unskew_rows(g, strip, rows, x):
    """Of a gap that is the same in a whole row."""
    sums = np.zeros(LANES)
    for t in range(strip.times):
        for r in range(strip.lanes):
            sums[r] += g[t * LANES + r]
    for r in range(rows):
        x[row_of(x, strip.first + r), 0] += sums[r]


@compiled
def unskew_columns(g, strip, rows, x):
    """Of a gap that is the same in a whole column."""
    for j in range(strip.n2 + ONE):
        total = 0.0
        for r in range(rows):
            total += g[(j + r) * LANES + r]
        x[0, max(j, ONE) - ONE] += total


@compiled
def row_of(x, i):
    """The row of a potential that node row i reads."""
    return min(max(i, ONE), U(x.shape[0])) - ONE


@compiled
def clear(x, gap, n1, n2):
    """Zeros where `unskew` does not write."""
    if gap:
        x[:] = 0.0
    else:
        x[n1:] = 0.0
        x[:n1, n2:] = 0.0
