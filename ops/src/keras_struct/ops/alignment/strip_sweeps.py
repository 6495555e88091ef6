"""The sweeps of every structure on the lattice over the strips of an example, compiled by Numba."""

import numpy as np

from keras_struct.ops.alignment.strips import (
    ANYWHERE,
    CORNER,
    LANES,
    ONE,
    ZERO,
    U,
    add_rows,
    clear,
    collect_ends,
    inject_ends,
    load_rows,
    may_end,
    propagate,
    propagate_tangent,
    retreat,
    retreat_tangent,
    save_halo,
    save_rows,
    set_halo,
    skew,
    strip_of,
    unskew,
)
from keras_struct.ops.compiled import compiled, gumbel, key_of_sample
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE

END, CELL, MOVE = U(0), U(1), U(2)  # streams of the noise, see `paths.py`

# Examples -----------------------------------------------------------------------------------------
#
# Arguments: the plan; `examples`, first and last + 1; lengths (B, 2); a tuple of `MOST_CHANNELS`
# potentials (1 | B, 1 | L1, 1 | L2), the last ones unused, and likewise tangents and marginals;
# the tape.

MOST_CHANNELS = 5


@compiled
def new_strip(plan, planes, fill):
    """A strip like f whose last plane is 0."""
    f = np.full(U(planes) * plan.plane, fill)
    f[len(f) - plan.plane :] = 0.0
    return f


@compiled
def new_times(plan, planes):
    """A strip like theta whose last plane is 0."""
    return np.zeros(U(planes) * plan.times * LANES)


@compiled
def plane_of(plan, theta, c):
    return theta[c * plan.times * LANES : (c + ONE) * plan.times * LANES]


@compiled
def of_example(x, b):
    return x[b if x.shape[0] > 1 else 0]


@compiled
def read_potentials(plan, strip, xs, b, outside, theta):
    for c in range(len(plan.gaps)):
        skew(of_example(xs[c], b), plan.gaps[c], strip, outside, plane_of(plan, theta, U(c)))


@compiled
def write_marginals(plan, strip, g, b, xs):
    for c in range(len(plan.gaps)):
        unskew(plane_of(plan, g, U(c)), plan.gaps[c], strip, xs[c][b])


@compiled
def sizes(plan):
    return len(plan.fan_in), len(plan.gaps), len(plan.source)


@compiled
def forward(plan, examples, lengths, xs, hard, heads, ends):
    """Fills `heads` (B, K - 1, S, H, L2 + 1) and `ends` (B, E)."""
    states, channels, _ = sizes(plan)
    theta, w = new_times(plan, channels + 1), np.empty(1)
    for b in range(examples[0], examples[1]):
        n1, n2 = lengths[b]
        f = new_strip(plan, states + 1, FORBIDDEN)
        for k in range(n1 // LANES + ONE):
            strip = strip_of(k, n1, n2)
            if k > ZERO:
                save_rows(plan, n2, f, heads[b, k - ONE])
            start_strip(plan, strip, k, heads[b], f, FORBIDDEN)
            read_potentials(plan, strip, xs, b, FORBIDDEN, theta)
            propagate(plan, strip, f, theta, w, hard, False)
            collect_ends(plan, strip, f, hard, ends[b])


@compiled
def start_strip(plan, strip, k, heads, f, outside):
    """The rows before strip k."""
    if k > ZERO:
        load_rows(plan, strip.n2, heads[k - ONE], f)
    else:
        set_halo(plan, f, outside)


@compiled
def backward(plan, examples, lengths, xs, heads, values, marginals):
    """Fills the marginals."""
    states, channels, moves = sizes(plan)
    theta, w = new_times(plan, channels + 1), new_times(plan, moves)
    g, p = new_times(plan, channels + 1), new_strip(plan, states + 1, 0.0)
    pending = np.empty(heads.shape[2:])
    for b in range(examples[0], examples[1]):
        n1, n2 = lengths[b]
        if values[b] <= INFEASIBLE:
            n1, n2 = ZERO, ZERO
        for c in range(channels):
            clear(marginals[c][b], plan.gaps[c], n1, n2)
        if values[b] <= INFEASIBLE:
            continue
        f = new_strip(plan, states + 1, FORBIDDEN)
        last = n1 // LANES
        for back in range(last + ONE):
            k = last - back
            strip = strip_of(k, n1, n2)
            start_strip(plan, strip, k, heads[b], f, FORBIDDEN)
            read_potentials(plan, strip, xs, b, FORBIDDEN, theta)
            propagate(plan, strip, f, theta, w, False, True)
            p[:] = 0.0
            g[:] = 0.0
            inject_ends(plan, strip, f, values[b], p)
            if k < last:
                add_rows(plan, n2, pending, p)
            retreat(plan, strip, w, p, g)
            save_halo(plan, n2, p, pending)
            write_marginals(plan, strip, g, b, marginals)


@compiled
def curvature(plan, examples, lengths, xs, dxs, heads, values, products):
    """Fills the products of the Hessian with the tangents `dxs`."""
    states, channels, moves = sizes(plan)
    theta, w = new_times(plan, channels + 1), new_times(plan, moves)
    dtheta, dg = new_times(plan, channels + 1), new_times(plan, channels + 1)
    p, dp = new_strip(plan, states + 1, 0.0), new_strip(plan, states + 1, 0.0)
    pending, dpending = np.empty(heads.shape[2:]), np.empty(heads.shape[2:])
    dheads = np.empty(heads.shape[1:])
    for b in range(examples[0], examples[1]):
        n1, n2 = lengths[b]
        if values[b] <= INFEASIBLE:
            n1, n2 = ZERO, ZERO
        for c in range(channels):
            clear(products[c][b], plan.gaps[c], n1, n2)
        if values[b] <= INFEASIBLE:
            continue
        f, df = new_strip(plan, states + 1, FORBIDDEN), new_strip(plan, states + 1, 0.0)
        last, dvalue = n1 // LANES, 0.0
        for k in range(last + ONE):
            strip = strip_of(k, n1, n2)
            if k > ZERO:
                save_rows(plan, n2, df, dheads[k - ONE])
            tangents = dxs, dheads, dtheta, df
            propagate_both(plan, strip, k, b, xs, heads[b], theta, f, w, *tangents)
            p[:] = 0.0
            inject_ends(plan, strip, f, values[b], p)
            for n in range(U(states) * plan.plane):
                dvalue += p[n] * df[n]
        for back in range(last + ONE):
            k = last - back
            strip = strip_of(k, n1, n2)
            tangents = dxs, dheads, dtheta, df
            propagate_both(plan, strip, k, b, xs, heads[b], theta, f, w, *tangents)
            p[:] = 0.0
            dg[:] = 0.0
            inject_ends(plan, strip, f, values[b], p)
            for n in range(U(states) * plan.plane):
                dp[n] = p[n] * (df[n] - dvalue)
            if k < last:
                add_rows(plan, n2, pending, p)
                add_rows(plan, n2, dpending, dp)
            retreat_tangent(plan, strip, w, p, dp, df, dtheta, dg)
            save_halo(plan, n2, p, pending)
            save_halo(plan, n2, dp, dpending)
            write_marginals(plan, strip, dg, b, products)


@compiled
def propagate_both(plan, strip, k, b, xs, heads, theta, f, w, dxs, dheads, dtheta, df):
    """Messages, weights and tangents of strip k."""
    start_strip(plan, strip, k, heads, f, FORBIDDEN)
    start_strip(plan, strip, k, dheads, df, 0.0)
    read_potentials(plan, strip, xs, b, FORBIDDEN, theta)
    read_potentials(plan, strip, dxs, b, 0.0, dtheta)
    propagate(plan, strip, f, theta, w, False, True)
    propagate_tangent(plan, strip, w, df, dtheta)


@compiled
def trace(plan, examples, lengths, xs, by_rows, heads, ends, hard, keys, wide, places):
    """Paths of every example, back from their ends: positions by time in `places` (B, n, times).

    Strip after strip from the last one, with all paths of the example at once.

    Args:
        hard: Whether to take the best path, without noise; else as `portable.py` numbers it.
        keys: Of every example, (B, 2).
        wide: See `compiled.gumbel`.
    """
    states, channels, _ = sizes(plan)
    theta, w = new_times(plan, channels + 1), np.empty(1)
    n = places.shape[1]
    key, node = np.zeros((n, 2), U), np.zeros((n, 3), U)
    time, peak = np.zeros(n, np.int64), np.empty(n)
    for b in range(examples[0], examples[1]):
        n1, n2 = lengths[b]
        for i in range(n):
            key[i, 0], key[i, 1] = key_of_sample(keys[b, 0], keys[b, 1], i)
            time[i] = best_end(ends[b], hard, key[i], wide)
            peak[i] = 8 * FORBIDDEN
            node[i, 0], node[i, 1], node[i, 2] = n1, n2, U(max(time[i], 0))
        f = new_strip(plan, states + 1, FORBIDDEN)
        if plan.end != CORNER:
            for k in range(n1 // LANES + ONE):
                strip = strip_of(k, n1, n2)
                run_strip(plan, strip, k, b, xs, heads[b], theta, f, w, hard)
                for i in range(n):
                    best_cell(plan, strip, f, time[i], hard, key[i], wide, peak, node, i)
            for i in range(n):
                if peak[i] <= INFEASIBLE:  # the empty path
                    time[i] = -1
        for back in range(n1 // LANES + ONE):
            k = n1 // LANES - back
            strip = strip_of(k, n1, n2)
            run_strip(plan, strip, k, b, xs, heads[b], theta, f, w, hard)
            for i in range(n):
                if time[i] >= 0 and node[i, 0] >= strip.first:
                    going = walk(
                        plan, strip, f, theta, by_rows, hard, key[i], wide, node[i], places[b, i]
                    )
                    time[i] = time[i] if going else -1


@compiled
def run_strip(plan, strip, k, b, xs, heads, theta, f, w, hard):
    """The messages of strip k."""
    start_strip(plan, strip, k, heads, f, FORBIDDEN)
    read_potentials(plan, strip, xs, b, FORBIDDEN, theta)
    propagate(plan, strip, f, theta, w, hard, False)


@compiled
def walk(plan, strip, f, theta, by_rows, hard, key, wide, node, places):
    """A path down from `node` (i, j, state) to the rows before the strip; whether it goes on."""
    i, j, s = node
    count = len(plan.source)
    while i >= strip.first:
        time = i if by_rows else i + j
        places[time] = j if by_rows else i
        if has_begun(plan, i, j, s):
            return False
        r = i - strip.first
        t, first = j + r, (time - ONE) * U(count)
        best, peak = plan.into[s, 0], 8 * FORBIDDEN
        for n in range(plan.fan_in[s]):
            m = plan.into[s, n]
            x = f[plan.before[m] + t * plan.width + r] + theta[plan.scores[m] + t * LANES + r]
            if not hard:
                x += gumbel(key[0], key[1], MOVE, first + m, wide)
            if x > peak:
                best, peak = m, x
        i, j = i - plan.rows[best], j - (plan.lag[best] - plan.rows[best])
        s = plan.source[best]
        node[0], node[1], node[2] = i, j, s
    return True


@compiled
def has_begun(plan, i, j, s):
    """Whether node (i, j) in state s is the first of a path."""
    if plan.start == ANYWHERE:
        return s == U(len(plan.fan_in))
    return i + j == ZERO if plan.start == CORNER else i == ZERO or j == ZERO


@compiled
def best_end(ends, hard, key, wide):
    """The state in the corner, or the time where a path ends; -1 if there is none, or the empty
    one, which is the last."""
    best, peak = -1, INFEASIBLE
    for e in range(len(ends)):
        if ends[e] <= INFEASIBLE:
            continue
        x = ends[e] if hard else ends[e] + gumbel(key[0], key[1], END, U(e), wide)
        if x > peak:
            best, peak = e, x
    return best


@compiled
def best_cell(plan, strip, f, time, hard, key, wide, peak, node, i):
    """Where the path i ends at its time, if that is the best cell so far."""
    if time < 0 or U(time) < strip.first or U(time) >= strip.first + strip.times:
        return
    t = U(time) - strip.first
    for s in range(ONE if plan.end == ANYWHERE else U(len(plan.fan_in))):
        for r in range(strip.lanes):
            if not may_end(plan, strip, t, r):
                continue
            x = f[plan.here[s] + t * plan.width + r]
            row = strip.first + r
            if not hard:
                x += gumbel(key[0], key[1], CELL, s * plan.positions + row, wide)
            if x > peak[i]:
                peak[i] = x
                node[i, 0], node[i, 1], node[i, 2] = row, U(time) - row, s
