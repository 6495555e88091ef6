"""The sweeps of every structure on the lattice, one wavefront at a time (see recurrence.md).

Canonical potentials: see `Spec.kinds`. Context: both lengths (B,).

Noise: the state in the corner where a path ends is at place s of stream 0; else the time t of its
end at place t of stream 0 (one past the last time for the empty structure) and state s and position
p at place s P + p of stream 1; the move m into its node at time t at place (t - 1) M + m of stream
2, where a jump is the last move.
"""

from typing import NamedTuple

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.alignment import events, paths
from keras_struct.ops.alignment.run import Run, flat, split, swap
from keras_struct.ops.implementation import Implementation
from keras_struct.ops.messages import log_sum


class Tape(NamedTuple):
    """All messages of the forward sweep.

    Attributes:
        rows: For every state, high and low of its rows at times 1 - window, 2 - window, ..., each
            (B, steps, P). Times go on past the lattice for `window` steps, so that the rows before
            each time are one array and never copied.
        last: The last rows, the last first, (B, P): for every lag and state, high and low.
        ends: High and low (B, E) of the log-weight of every way to end, see `Run.all_ends`.
    """

    rows: tuple
    last: tuple
    ends: tuple


class Wavefront(Implementation):
    def rejects(self, call):
        return "it has no jumps" if call.spec.jumps else None

    def forward(self, problem, op):
        run = Run(problem)
        width = 2 * run.spec.states

        def step(carry, x):
            pairs, ends = split(carry, run.pair_count)
            window = run.pairs_by_lag([*run.no_pairs()[:width], *pairs])
            row, _ = run.row(window, run.read((*x, None)), op)
            output = pairs[-width:]
            if run.corner:
                here = ops.equal(run.final()[0], x[0])
                found = run.in_corner(row)
                ends = [array.where(here, a, b) for a, b in zip(found, ends, strict=True)]
            else:
                high, low = run.ending(row, x[0])
                peak, rest, _, _ = log_sum(high, low, 0.0, 1, op)
                high = peak + rest
                output = [*output, high, (peak - high) + rest]
            return (*flat(row), *pairs[:-width], *ends), tuple(output)

        small = () if run.corner else (run.zeros[:, :1],) * 2
        like = (*run.no_pairs()[:width], *small)
        start = (*run.heads(), *run.no_ends())
        carry, outputs = array.scan(step, start, (run.times, *run.xs()), like=like)
        last, ends = split(carry, run.pair_count)
        ends = run.all_ends(ends, outputs[width:])
        peak, rest, _, _ = log_sum(ends[0], ends[1], 0.0, 1, op)
        rows = tuple(swap(x) for x in outputs[:width])
        return (peak[:, 0], rest[:, 0]), Tape(rows, tuple(last), ends)

    def backward(self, problem, tape):
        run = Run(problem)
        shares = run.shares(tape.ends)
        step = backward_step(run, run.injection(shares))
        xs = (run.times, *run.xs(), *run.share_xs(shares), *map(swap, tape.rows))
        carry = (*tape.last, *run.no_rows(), *run.no_sums())
        carry, outputs = array.scan(step, carry, xs, like=run.outputs_like(), reverse=True)
        return run.collect(outputs, split(carry, run.pair_count, run.row_count)[-1])

    def curvature(self, problem, tape, tangents):
        run, rates = Run(problem), Run(problem, tangents)
        shares = run.shares(tape.ends)
        inject = run.injection(shares)
        xs = (run.times, *run.xs(), *run.share_xs(shares), *rates.xs())
        carry = (*run.heads(), *run.no_rows(), run.zeros[:, :1])
        like = tuple(run.no_rows()[: run.spec.states])
        carry, df = array.scan(tangent_step(run, rates, inject), carry, xs, like=like)
        last, dlast, (dend,) = split(carry, run.pair_count, run.row_count)
        step = curvature_step(run, rates, inject, dend)
        carry = (*last, *dlast, *run.no_rows(), *run.no_rows(), *run.no_sums())
        xs = (*xs, *map(swap, tape.rows), *df)
        carry, outputs = array.scan(step, carry, xs, like=run.outputs_like(), reverse=True)
        counts = run.pair_count, run.row_count, run.row_count, run.row_count
        return run.collect(outputs, split(carry, *counts)[-1])

    def trace(self, problem, tape, draws=None):
        run = Run(problem)
        places = paths.walk(run, tape, draws)
        return events.encode(run.spec, run.layout, places)

    def topk(self, problem, k):
        run = Run(problem)
        places, exists = paths.best(run, k)
        return events.encode_all(run.spec, run.layout, places, exists)


# Steps of the loops, shared with `checkpointed` ---------------------------------------------------


def backward_step(run, inject):
    """Carry: pairs from time t on back, probabilities that wait for earlier times, sums over time.
    Reads the pairs `window` times before. To the marginals of the potentials at time t."""
    width = 2 * run.spec.states

    def step(carry, x):
        pairs, pending, sums = split(carry, run.pair_count, run.row_count)
        x = run.read(x)
        pairs = [*pairs, *x.rest]
        window = run.pairs_by_lag(pairs)
        _, weights = run.row(window, x, "logsumexp")
        ends = inject(x, window[0])
        p = [a + b for a, b in zip(pending, ends, strict=False)]
        p = run.interior(p, x.time)
        used = [w * p[move.target] for w, move in zip(weights, run.moves, strict=True)]
        sums, outputs = run.gather(used, p, sums)
        return (*pairs[width:], *run.push(pending, used), *sums), outputs

    return step


def tangent_step(run, rates, inject, pairs_too=False):
    """Forward again, with the tangents of the messages and of the log-partition: to (with
    `pairs_too`, the pairs and) the tangents at time t - window."""
    states, width = run.spec.states, 2 * run.spec.states

    def step(carry, x):
        pairs, dwindow, (dend,) = split(carry, run.pair_count, run.row_count)
        x = run.read(x)
        dthetas = rates.timed(x.rest)
        window = run.pairs_by_lag([*run.no_pairs()[:width], *pairs])
        row, weights = run.row(window, x, "logsumexp")
        drow = run.rates([None, *run.rows_by_lag(dwindow)], weights, dthetas)
        drow = run.interior(drow, x.time)
        for p, rate in zip(inject(x, row), drow, strict=True):
            dend = dend + array.sum(p * rate, 1, keepdims=True)
        before = pairs[-width:] if pairs_too else []
        after = (*flat(row), *pairs[:-width], *drow, *dwindow[:-states], dend)
        return after, (*before, *dwindow[-states:])

    return step


def curvature_step(run, rates, inject, dend):
    """As `backward_step`, with the tangents of all of it."""
    states, width = run.spec.states, 2 * run.spec.states
    counts = run.pair_count, run.row_count, run.row_count, run.row_count

    def step(carry, x):
        pairs, dwindow, pending, dpending, sums = split(carry, *counts)
        x = run.read(x)
        dthetas, before = split(x.rest, len(rates.changing()))
        dthetas = rates.timed(dthetas)
        pairs, dwindow = [*pairs, *before[:width]], [*dwindow, *before[width:]]
        window = run.pairs_by_lag(pairs)
        _, weights = run.row(window, x, "logsumexp")
        ends = inject(x, window[0])
        dends = [a * (b - dend) for a, b in zip(ends, dwindow, strict=False)]
        p = run.interior([a + b for a, b in zip(pending, ends, strict=False)], x.time)
        dp = run.interior([a + b for a, b in zip(dpending, dends, strict=False)], x.time)
        used, dused = [], []
        shifted = run.sources(run.rows_by_lag(dwindow))
        for k, move in enumerate(run.moves):
            w = weights[k] * p[move.target]
            rate = (
                -dwindow[move.target] if shifted[k] is None else shifted[k] - dwindow[move.target]
            )
            if move.channel is not None:
                rate = rate + dthetas[move.channel]
            used.append(w)
            dused.append(weights[k] * dp[move.target] + w * rate)
        sums, outputs = run.gather(dused, dp, sums)
        pendings = *run.push(pending, used), *run.push(dpending, dused)
        return (*pairs[width:], *dwindow[states:], *pendings, *sums), outputs

    return step
