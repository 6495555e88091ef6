"""The wavefront with one more kind of move: a jump from a node that its target names (Damerau).

A jump may come from any earlier wavefront, so the loops carry the whole table so far and read it by
index; all other moves are those of `wavefront.py`. One state, paths from corner to corner. Context:
both lengths and `sources` (B, L1, L2, 2), the node from which the jump into cell (i, j) comes, -1
for none. The last canonical potential (B, L1, L2) scores the jumps.
"""

import dataclasses

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.alignment.paths import _per_example, _read
from keras_struct.ops.alignment.wavefront import (
    Tape,
    WavefrontSweeps,
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
        start = array.where(run.starts(0), run.zeros, run.zeros + FORBIDDEN)
        dead = run.zeros + FORBIDDEN
        small = run.zeros[:, :1]

        def step(carry, x):
            before, last, past, peak, peak2, total, table, shifts = carry
            time, time_of, node_of, *xs = x
            thetas = run.timed(xs)
            c = array.maximum(peak, peak2 - past)
            c = array.round(array.where(c > INFEASIBLE, c, small))
            total = total + c
            source = array.take_along_axis(run.flat(table), node_of, 1)
            shift = array.take_along_axis(shifts, time_of, 1) - total
            jump = source + (thetas[-1] + shift)
            offsets = [total, *_offsets(c, [past])]
            (row,) = run.row([[last], [before]], time, thetas, offsets, reduce, [jump])
            table = array.put_row(table, time, row)
            shifts = array.put_row(shifts, time, total[:, 0])
            return (last, row, c, _maximum([row]), peak, total, table, shifts), (row, c)

        table = array.put_row(run.empty_table(), 0, start)
        shifts = run.empty_table()[:, :, 0]
        peaks = _maximum([start]), small + FORBIDDEN
        carry = (dead, start, small, *peaks, small, table, shifts)
        xs = (run.times, run.time_of, run.node_of, *run.xs)
        _, (rows, c) = array.scan(step, carry, xs, like=(start, small))
        v = (_swap(ops.concatenate([dead[None], start[None], rows], axis=0)),)
        return run.finish(v, _swap(c)[:, :, 0], op)

    def backward(self, potentials, context, tape):
        run = self.run(potentials, context)
        tape = Tape.of(tape)
        inject = run.injection(tape)

        def step(carry, x):
            *carry, table = carry
            logit, node_of, *x = x
            ((window,), (pending,), sums), x = run.split(carry, 1, 1), run.read(x, 1)
            weights = run.weights([*window, *x.before], x)
            jump = run.jump_weight(logit, window[0][0])
            here = array.take_along_axis(table, run.here(x.time), 1)
            (p,) = inject(x, window[0])
            p = p + pending[0][0] + here
            used = [w * p for w in weights]
            table = array.add_at(table, node_of, jump * p)
            _, outputs = run.gather(used, [p], sums)
            carry = run.join([run.slide(window, x.before[0])], [run.push(pending, used)], [])
            return (*carry, table), (*outputs, jump * p)

        carry = (*run.join([run.last_window(tape.v)], run.no_pendings(1), []), run.flat_table())
        xs = (run.logits(tape), run.node_of, *run.reverse_xs([tape.v], *run.rest(tape)))
        _, outputs = array.scan(step, carry, xs, like=run.outputs_like(), reverse=True)
        return run.collect(outputs, [])

    def curvature(self, potentials, context, tape, tangents):
        run = self.run(potentials, context)
        tape = Tape.of(tape)
        inject = run.injection(tape)
        rates = self.run(tangents, context)
        logits = run.logits(tape)
        df = self._tangent_jumps(run, rates, tape, logits)
        times = ops.arange(run.layout.steps + 1, dtype="int32")
        rows = [[x[:, 1:] for x in table] for table in (tape.v, df)]
        dend = run.end_tangent(*rows, times, run.shifts(tape.c), tape)

        def step(carry, x):
            *carry, table, dtable = carry
            logit, jump_rate, node_of, *x = x
            (windows, pendings, sums), x = run.split(carry, 2, 2), run.read(x, 2)
            window, dwindow = windows
            dthetas = rates.timed(x.extra)
            weights = run.weights([*window, x.before[0]], x)
            jump = run.jump_weight(logit, window[0][0])
            (p,), (dp,) = inject(x, window[0], dwindow[0], dend)
            here = run.here(x.time)
            p = p + pendings[0][0][0] + array.take_along_axis(table, here, 1)
            dp = dp + pendings[1][0][0] + array.take_along_axis(dtable, here, 1)
            shifted = run.sources([*dwindow, x.before[1]])
            used, dused = [], []
            for k, move in enumerate(run.moves):
                rate = shifted[k] + dthetas[move.channel] - dwindow[0][0]
                used.append(weights[k] * p)
                dused.append(weights[k] * dp + used[-1] * rate)
            djump = jump * dp + jump * p * (jump_rate + dthetas[-1] - dwindow[0][0])
            table = array.add_at(table, node_of, jump * p)
            dtable = array.add_at(dtable, node_of, djump)
            _, outputs = run.gather(dused, [dp], sums)
            windows = [run.slide(a, b) for a, b in zip(windows, x.before, strict=True)]
            pendings = [run.push(pendings[0], used), run.push(pendings[1], dused)]
            return (*run.join(windows, pendings, []), table, dtable), (*outputs, djump)

        carry = run.join([run.last_window(tape.v), run.last_window(df)], run.no_pendings(2), [])
        carry = (*carry, run.flat_table(), run.flat_table())
        jump_rates = run.at_sources(df[0][:, 1:])
        xs = run.reverse_xs([tape.v, df], *run.rest(tape))
        xs = (logits, jump_rates, run.node_of, *xs, *rates.xs)
        _, outputs = array.scan(step, carry, xs, like=run.outputs_like(), reverse=True)
        return run.collect(outputs, [])

    def _tangent_jumps(self, run, rates, tape, logits):
        def step(carry, x):
            before, last, dbefore, dlast, table = carry
            logit, node_of, time, current, *rest = x
            offsets = [rest.pop(0) for _ in range(run.spec.window + 1)]
            thetas = run.timed([rest.pop(0) for _ in run.xs])
            dthetas = rates.timed(rest)
            x = _Step(time, [], offsets, thetas)
            weights = run.weights([[current], [last], [before]], x)
            shifted = run.sources([None, [dlast], [dbefore]])
            jump = run.jump_weight(logit, current)
            drow = jump * (array.take_along_axis(run.flat(table), node_of, 1) + dthetas[-1])
            for k, move in enumerate(run.moves):
                drow = drow + weights[k] * (shifted[k] + dthetas[move.channel])
            table = array.put_row(table, time, drow)
            return (last, current, dlast, drow, table), (drow,)

        rows = _swap(tape.v[0])
        carry = (rows[0], rows[1], run.zeros, run.zeros, run.empty_table())
        xs = (logits, run.node_of, run.times, rows[2:], *run.offsets(tape.c), *run.xs, *rates.xs)
        _, (drows,) = array.scan(step, carry, xs, like=(run.zeros,))
        return (_swap(ops.pad(drows, [(2, 0), (0, 0), (0, 0)])),)


class _JumpRun(_Run):
    def __init__(self, spec, potentials, context):
        super().__init__(spec, potentials, context)
        sources = context[2]
        known = sources[..., 0] >= 0
        i, j = (array.where(known, sources[..., axis], 0 * sources[..., axis]) for axis in range(2))
        self.sources_table = (i, j)
        self.time_of = self.layout.cells_in_time(i + j, fill=0)
        self.node_of = self.layout.cells_in_time((i + j) * self.layout.positions + i, fill=0)

    def rest(self, tape):
        """What the reverse loops read beside the tables."""
        return self.times, self.offsets(tape.c), self.xs

    def empty_table(self):
        """Zeros (B, 1 + steps, P)."""
        rows = ops.zeros((self.layout.steps + 1, 1), dtype=self.zeros.dtype)
        return self.zeros[:, None] + rows

    def flat_table(self):
        return self.flat(self.empty_table())

    def flat(self, table):
        batch, steps, width = ops.shape(table)
        return ops.reshape(table, (batch, steps * width))

    def here(self, time):
        return time * self.layout.positions + self.position + 0 * self.lengths[0]

    def at_sources(self, table):
        """A table (B, 1 + steps, P) at the source of every jump, (steps, B, P)."""
        steps, batch, width = ops.shape(self.node_of)
        index = ops.reshape(_swap(self.node_of), (batch, steps * width))
        found = array.take_along_axis(self.flat(table), index, 1)
        return _swap(ops.reshape(found, (batch, steps, width)))

    def logits(self, tape):
        """Score of a path to the source of a jump, and of the jump, relative to its target."""
        shifts = self.shifts(tape.c)
        steps, batch, width = ops.shape(self.time_of)
        index = ops.reshape(_swap(self.time_of), (batch, steps * width))
        shift = ops.reshape(array.take_along_axis(shifts, index, 1), (batch, steps, width))
        shift = _swap(shift - shifts[:, 1:, None])
        return self.at_sources(tape.v[0][:, 1:]) + (self.xs[-1] + shift)

    def jump_weight(self, logit, v):
        return array.exp(logit - array.where(v > INFEASIBLE, v, self.zeros))

    def sources_of(self, now, place):
        """Time and position of the sources of the jumps into nodes (B, n)."""
        i, j = self.layout.node(now, place)
        inner = ops.logical_and(i > 0, ops.logical_and(j > 0, j <= self.layout.columns))
        row, column = (array.where(inner, n - 1, 0 * n) for n in (i, j))
        first, second = (self.at(x, row, column) for x in self.sources_table)
        time = array.where(inner, first + second, 0 * first)
        return time, array.where(inner, first, 0 * first)

    def jump(self, tape, now, place):
        """Score, time and position of the source of the jump into nodes (B, 1)."""
        time, row = self.sources_of(now, place)
        shifts = self.shifts(tape.c)
        shift = array.take_along_axis(shifts, time, 1)
        shift = shift - array.take_along_axis(shifts, now + 0 * time, 1)
        theta = _per_example(self.potentials[-1], ops.shape(place)[0])
        score = self.at(tape.v[0], time + 1, row) + shift
        return score + _read(self, "cell", theta, now, place), time, row
