"""The wavefront with one more kind of move: a jump from a node that its target names (Damerau).

A jump may come from any earlier wavefront, so the loops carry the whole table so far and read it by
index; all other moves are those of `wavefront.py`. One state, paths from corner to corner. Context:
both lengths and `sources` (B, L1, L2, 2), the node from which the jump into cell (i, j) comes, -1
for none. The last canonical potential (B, L1, L2) scores the jumps.
"""

import dataclasses

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.alignment.wavefront import (
    Tape,
    WavefrontSweeps,
    _cumulative,
    _flat,
    _logsumexp,
    _maximum,
    _offsets,
    _peak,
    _Run,
    _Step,
    _swap,
)
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE


@dataclasses.dataclass(frozen=True)
class JumpSweeps(WavefrontSweeps):
    def run(self, potentials, context):
        return _JumpRun(self.spec, potentials, context)

    def forward(self, potentials, context, op):
        run = self.run(potentials, context)
        reduce = _peak if op == "max" else _logsumexp
        small = run.zeros[:, :1]

        def step(carry, x):
            last, before, past, peak, peak2, total, table, shifts = carry
            time, time_of, node_of, *xs = x
            thetas = run.timed(xs)
            c = array.maximum(peak, peak2 - past)
            c = array.round(array.where(c > INFEASIBLE, c, small))
            total = total + c
            source = array.take_along_axis(run.flat(table), node_of, 1)
            shift = array.take_along_axis(shifts, time_of, 1) - total
            jump = source + (thetas[-1] + shift)
            x = _Step(time, [total, *_offsets(c, [past])], thetas, [])
            (row,) = run.row([[last], [before]], x, reduce, [jump])
            table = array.put_row(table, time, row)
            shifts = array.put_row(shifts, time, total[:, 0])
            return (row, last, c, _maximum([row]), peak, total, table, shifts), (before, c)

        start, dead = _flat(run.heads())
        table = array.put_row(run.empty_table(), 0, start)
        peaks = _maximum([start]), small + FORBIDDEN
        carry = (start, dead, small, *peaks, small, table, run.empty_table()[:, :, 0])
        xs = (run.times, run.time_of, run.node_of, *run.xs)
        (*last, _, _, _, _, _, _), (rows, c) = array.scan(step, carry, xs, like=(start, small))
        return run.close([rows], last, _swap(c)[:, :, 0], run.corner_of([rows]), op)

    def backward(self, potentials, context, tape):
        run = self.run(potentials, context)
        tape = Tape.of(self.spec, tape)
        inject = run.injection(tape)

        def step(carry, x):
            *carry, table = carry
            logit, node_of, *x = x
            window, pending, _ = run.split(carry, 2)
            x = run.read(x)
            window = [*window, *x.rest]
            weights = run.weights(run.by_lag(window), x)
            jump = run.jump_weight(logit, window[0])
            here = array.take_along_axis(table, run.here(x.time), 1)
            p = inject(x, window)[0] + pending[0] + here
            used = [w * p for w in weights]
            table = array.add_at(table, node_of, jump * p)
            _, outputs = run.gather(used, [p], [])
            return (*window[1:], *run.push(pending, used), table), (*outputs, jump * p)

        carry = (*tape.last, *run.no_rows(), run.flat_table())
        xs = (run.logits(tape), run.node_of, run.times, *run.offsets(tape.c), *run.xs, *tape.v)
        _, outputs = array.scan(step, carry, xs, like=run.outputs_like(), reverse=True)
        return run.collect(outputs, [])

    def curvature(self, potentials, context, tape, tangents):
        run = self.run(potentials, context)
        tape = Tape.of(self.spec, tape)
        inject = run.injection(tape)
        rates = self.run(tangents, context)
        logits = run.logits(tape)
        df, dlast, jump_rates, dend = self._tangents(run, rates, tape, inject, logits)

        def step(carry, x):
            *carry, table, dtable = carry
            logit, jump_rate, node_of, *x = x
            window, dwindow, pending, dpending, _ = run.split(carry, 4)
            x = run.read(x)
            *dthetas, row, drow = x.rest
            dthetas, window, dwindow = rates.timed(dthetas), [*window, row], [*dwindow, drow]
            weights = run.weights(run.by_lag(window), x)
            jump = run.jump_weight(logit, window[0])
            here = run.here(x.time)
            ends = inject(x, window)[0]
            p = ends + pending[0] + array.take_along_axis(table, here, 1)
            dp = ends * (dwindow[0] - dend) + dpending[0]
            dp = dp + array.take_along_axis(dtable, here, 1)
            shifted = run.sources(run.by_lag(dwindow))
            used, dused = [], []
            for k, move in enumerate(run.moves):
                rate = shifted[k] + dthetas[move.channel] - dwindow[0]
                used.append(weights[k] * p)
                dused.append(weights[k] * dp + used[-1] * rate)
            djump = jump * dp + jump * p * (jump_rate + dthetas[-1] - dwindow[0])
            table = array.add_at(table, node_of, jump * p)
            dtable = array.add_at(dtable, node_of, djump)
            _, outputs = run.gather(dused, [dp], [])
            pendings = (*run.push(pending, used), *run.push(dpending, dused))
            return (*window[1:], *dwindow[1:], *pendings, table, dtable), (*outputs, djump)

        carry = (*tape.last, *dlast, *run.no_rows(), *run.no_rows())
        carry = (*carry, run.flat_table(), run.flat_table())
        xs = (run.times, *run.offsets(tape.c), *run.xs, *rates.xs, *tape.v, df)
        xs = (logits, jump_rates, run.node_of, *xs)
        _, outputs = array.scan(step, carry, xs, like=run.outputs_like(), reverse=True)
        return run.collect(outputs, [])

    def _tangents(self, run, rates, tape, inject, logits):
        """Tangents of F at times t - window, of its last rows, at the sources of the jumps, and of
        the log-partition."""

        def step(carry, x):
            window, dwindow, (dend, table) = run.split(carry, 2)
            current, logit, node_of, *x = x
            x = run.read(x)
            dthetas = rates.timed(x.rest)
            weights = run.weights(run.by_lag([current, *window]), x)
            source = array.take_along_axis(run.flat(table), node_of, 1)
            (drow,) = run.rates([None, *run.by_lag(dwindow)], weights, dthetas)
            drow = drow + run.jump_weight(logit, current) * (source + dthetas[-1])
            dend = dend + array.sum(inject(x, [current])[0] * drow, 1, keepdims=True)
            table = array.put_row(table, x.time, drow)
            carry = (current, window[0], drow, dwindow[0], dend, table)
            return carry, (dwindow[1], source)

        rows = run.rows(tape)
        carry = (rows[1], rows[0], *run.no_rows(), run.zeros[:, :1], run.empty_table())
        xs = (run.times, *run.offsets(tape.c), *run.xs, *rates.xs)
        xs = (rows[2:], logits, run.node_of, *xs)
        like = (run.zeros, run.zeros)
        carry, (df, sources) = array.scan(step, carry, xs, like=like)
        return df, carry[2:4], sources, carry[4]


class _JumpRun(_Run):
    def __init__(self, spec, potentials, context):
        super().__init__(spec, potentials, context)
        sources = context[2]
        known = sources[..., 0] >= 0
        i, j = (array.where(known, sources[..., axis], 0 * sources[..., axis]) for axis in range(2))
        self.sources_table = (i, j)
        past, width = spec.window, self.layout.positions
        self.time_of = self.layout.cells_in_time(i + j, past, fill=0)
        self.node_of = self.layout.cells_in_time((i + j) * width + i, past, fill=0)

    def rows(self, tape):
        """V at times -1, 0, ..., (1 + 1 + steps, B, P)."""
        return ops.concatenate([tape.v[0], ops.stack(tape.last[::-1])], axis=0)

    def empty_table(self):
        """Zeros (B, 1 + steps, P)."""
        rows = ops.zeros((self.steps + 1, 1), dtype=self.zeros.dtype)
        return self.zeros[:, None] + rows

    def flat_table(self):
        return self.flat(self.empty_table())

    def flat(self, table):
        batch, steps, width = ops.shape(table)
        return ops.reshape(table, (batch, steps * width))

    def here(self, time):
        return time * self.layout.positions + self.position + 0 * self.lengths[0]

    def logits(self, tape):
        """Score of a path to the source of a jump, and of the jump, relative to its target."""
        shifts = ops.pad(_cumulative(tape.c, 1), [(0, 0), (1, 0)])
        steps, batch, width = ops.shape(self.time_of)
        index = ops.reshape(_swap(self.time_of), (batch, steps * width))
        shift = ops.reshape(array.take_along_axis(shifts, index, 1), (batch, steps, width))
        shift = _swap(shift - shifts[:, 1:, None])
        index = ops.reshape(_swap(self.node_of), (batch, steps * width))
        found = array.take_along_axis(self.flat(_swap(self.rows(tape)[1:])), index, 1)
        return _swap(ops.reshape(found, (batch, steps, width))) + (self.xs[-1] + shift)

    def jump_weight(self, logit, v):
        return array.exp_or_zero(logit - array.maximum(v, self.infeasible))

    def sources_of(self, now, place):
        """Time and position of the sources of the jumps into nodes (B, n)."""
        i, j = self.layout.node(now, place)
        inner = ops.logical_and(i > 0, ops.logical_and(j > 0, j <= self.layout.columns))
        row, column = (array.where(inner, n - 1, 0 * n) for n in (i, j))
        first, second = (self.at(x, row, column) for x in self.sources_table)
        time = array.where(inner, first + second, 0 * first)
        return time, array.where(inner, first, 0 * first)

    def jump(self, tape, theta, now, place):
        """Score, time and position of the source of the jump into nodes (B, 1)."""
        time, row = self.sources_of(now, place)
        shifts = ops.pad(_cumulative(tape.c, 1), [(0, 0), (1, 0)])
        shift = array.take_along_axis(shifts, time, 1)
        shift = shift - array.take_along_axis(shifts, now + 0 * time, 1)
        score = self.at_time(tape.v[0], time, row) + shift
        return score + array.take_along_axis(theta, place, 1), time, row
