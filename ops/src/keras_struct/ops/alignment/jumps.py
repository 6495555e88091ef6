"""The wavefront with one more kind of move: a jump from a node that its target names (Damerau).

A jump may come from any earlier wavefront, so the forward loops carry the whole table so far and
read it by index; all other moves are those of `portable.py`. One state, paths from corner to
corner. Context: both lengths and `sources` (B, L1, L2, 2), the node from which the jump into cell
(i, j) comes, -1 for none. The last canonical potential (B, L1, L2) scores the jumps.
"""

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.alignment import events, paths
from keras_struct.ops.alignment.portable import Tape
from keras_struct.ops.alignment.run import Run, split, swap
from keras_struct.ops.implementation import Implementation
from keras_struct.ops.messages import log_sum


class Jumps(Implementation):
    """The pairs of the only state are high and low rows; a window is those at times t, t - 1,
    t - 2."""

    def rejects(self, call):
        return None if call.spec.jumps else "it is for structures with jumps"

    def forward(self, problem, op):
        run = _JumpRun(problem)

        def step(carry, x):
            pairs, (high_table, low_table, *ends) = split(carry, run.pair_count)
            node_of, *x = x
            x = run.read((*x, None))
            source = [
                array.take_along_axis(run.flat(y), node_of, 1) for y in (high_table, low_table)
            ]
            window = run.pairs_by_lag([run.zeros, run.zeros, *pairs])
            (row,), _ = run.row(window, x, op, [(*source, x.thetas[-1])])
            here = ops.equal(run.final()[0], x.time)
            found = run.in_corner([row])
            ends = [array.where(here, a, b) for a, b in zip(found, ends, strict=True)]
            high_table = array.put_row(high_table, x.time, row[0])
            low_table = array.put_row(low_table, x.time, row[1])
            return (*row, *pairs[:-2], high_table, low_table, *ends), tuple(pairs[-2:])

        heads = run.heads()
        tables = [array.put_row(run.empty_table(), 0, row) for row in heads[:2]]
        xs = (run.node_of, run.times, *run.xs())
        carry = (*heads, *tables, *run.no_ends())
        carry, rows = array.scan(step, carry, xs, like=(run.zeros, run.zeros))
        last, (_, _, *ends) = split(carry, run.pair_count)
        peak, rest, _, _ = log_sum(ends[0], ends[1], 0.0, 1, op)
        tape = Tape(tuple(swap(x) for x in rows), tuple(last), tuple(ends))
        return (peak[:, 0], rest[:, 0]), tape

    def backward(self, problem, tape):
        run = _JumpRun(problem)
        inject = run.injection(run.shares(tape.ends))

        def step(carry, x):
            pairs, pending, (table,) = split(carry, run.pair_count, run.row_count)
            source, node_of, x = x[:2], x[2], run.read(x[3:])
            window = run.pairs_by_lag([*pairs, *x.rest])
            _, weights = run.row(window, x, "logsumexp", [(*source, x.thetas[-1])])
            here = array.take_along_axis(table, run.here(x.time), 1)
            p = inject(x, window[0])[0] + pending[0] + here
            used = [w * p for w in weights]
            table = array.add_at(table, node_of, used[-1])
            _, outputs = run.gather(used[:-1], [p], [])
            pending = run.push(pending, used[:-1])
            return (*pairs[2:], *x.rest, *pending, table), (*outputs, used[-1])

        carry = (*tape.last, *run.no_rows(), run.flat_table())
        xs = (*run.jump_sources(tape), run.node_of, run.times, *run.xs(), *map(swap, tape.rows))
        _, outputs = array.scan(step, carry, xs, like=run.outputs_like(), reverse=True)
        return run.collect(outputs, [])

    def curvature(self, problem, tape, tangents):
        run, rates = _JumpRun(problem), Run(problem, tangents)
        inject = run.injection(run.shares(tape.ends))
        jumps = run.jump_sources(tape)
        df, dlast, djumps, dend = self._tangents(run, rates, inject, jumps)
        counts = run.pair_count, run.row_count, run.row_count, run.row_count

        def step(carry, x):
            pairs, dwindow, pending, dpending, (table, dtable) = split(carry, *counts)
            source, djump, node_of, x = x[:2], x[2], x[3], run.read(x[4:])
            dthetas, before = split(x.rest, len(rates.changing()))
            dthetas = rates.timed(dthetas)
            pairs, dwindow = [*pairs, *before[:2]], [*dwindow, before[2]]
            window = run.pairs_by_lag(pairs)
            _, weights = run.row(window, x, "logsumexp", [(*source, x.thetas[-1])])
            here = run.here(x.time)
            ends = inject(x, window[0])[0]
            p = ends + pending[0] + array.take_along_axis(table, here, 1)
            dp = ends * (dwindow[0] - dend) + dpending[0]
            dp = dp + array.take_along_axis(dtable, here, 1)
            moves = [
                *(
                    rate + dthetas[move.channel] - dwindow[0]
                    for rate, move in zip(
                        run.sources(run.rows_by_lag(dwindow)), run.moves, strict=True
                    )
                ),
                djump + dthetas[-1] - dwindow[0],
            ]
            used = [w * p for w in weights]
            dused = [w * dp + u * rate for w, u, rate in zip(weights, used, moves, strict=True)]
            table = array.add_at(table, node_of, used[-1])
            dtable = array.add_at(dtable, node_of, dused[-1])
            _, outputs = run.gather(dused[:-1], [dp], [])
            pendings = (*run.push(pending, used[:-1]), *run.push(dpending, dused[:-1]))
            return (*pairs[2:], *dwindow[1:], *pendings, table, dtable), (*outputs, dused[-1])

        carry = (*tape.last, *dlast, *run.no_rows(), *run.no_rows())
        carry = (*carry, run.flat_table(), run.flat_table())
        xs = (run.times, *run.xs(), *rates.xs(), *map(swap, tape.rows), df)
        xs = (*jumps, djumps, run.node_of, *xs)
        _, outputs = array.scan(step, carry, xs, like=run.outputs_like(), reverse=True)
        return run.collect(outputs, [])

    def _tangents(self, run, rates, inject, jumps):
        """Tangents of the messages at times t - window, of the last rows, at the sources of the
        jumps, and of the log-partition."""

        def step(carry, x):
            pairs, dwindow, (dend, table) = split(carry, run.pair_count, run.row_count)
            source, node_of, x = x[:2], x[2], run.read(x[3:])
            dthetas = rates.timed(x.rest)
            window = run.pairs_by_lag([run.zeros, run.zeros, *pairs])
            row, weights = run.row(window, x, "logsumexp", [(*source, x.thetas[-1])])
            djump = array.take_along_axis(run.flat(table), node_of, 1)
            (drow,) = run.rates([None, *run.rows_by_lag(dwindow)], weights, dthetas)
            drow = drow + weights[-1] * (djump + dthetas[-1])
            dend = dend + array.sum(inject(x, row)[0] * drow, 1, keepdims=True)
            table = array.put_row(table, x.time, drow)
            carry = (*row[0], *pairs[:-2], drow, *dwindow[:-1], dend, table)
            return carry, (dwindow[-1], djump)

        carry = (*run.heads(), *run.no_rows(), run.zeros[:, :1], run.empty_table())
        xs = (*jumps, run.node_of, run.times, *run.xs(), *rates.xs())
        carry, (df, djumps) = array.scan(step, carry, xs, like=(run.zeros, run.zeros))
        _, dlast, (dend, _) = split(carry, run.pair_count, run.row_count)
        return df, dlast, djumps, dend

    def trace(self, problem, tape, draws=None):
        run = _JumpRun(problem, tape)
        return events.encode(run.spec, run.layout, paths.walk(run, tape, draws))

    def topk(self, problem, k):
        run = _JumpRun(problem)
        places, exists = paths.best(run, k)
        return events.encode_all(run.spec, run.layout, places, exists)


class _JumpRun(Run):
    def __init__(self, problem, tape=None):
        super().__init__(problem)
        sources = problem.context[2]
        known = sources[..., 0] >= 0
        i, j = (array.where(known, sources[..., axis], 0 * sources[..., axis]) for axis in range(2))
        self.sources_table = (i, j)
        past, width = self.spec.window, self.layout.positions
        self.node_of = self.layout.cells_in_time((i + j) * width + i, past, fill=0)
        self.tables = () if tape is None else self.rows(tape)

    def rows(self, tape):
        """High and low at times 0, 1, ..., (B, 1 + steps, P)."""
        ends = zip(tape.rows, (tape.last[0::2], tape.last[1::2]), strict=True)
        return [
            ops.concatenate([x[:, 1:], ops.stack(last[::-1], axis=1)], axis=1) for x, last in ends
        ]

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

    def jump_sources(self, tape):
        """Messages at the sources of the jumps, high and low, (steps, B, P)."""
        steps, batch, width = ops.shape(self.node_of)
        index = ops.reshape(swap(self.node_of), (batch, steps * width))
        found = [array.take_along_axis(self.flat(x), index, 1) for x in self.rows(tape)]
        return tuple(swap(ops.reshape(x, (batch, steps, width))) for x in found)

    def sources_of(self, now, place):
        """Time and position of the sources of the jumps into nodes (B, n)."""
        i, j = self.layout.node(now, place)
        inner = ops.logical_and(i > 0, ops.logical_and(j > 0, j <= self.layout.columns))
        row, column = (array.where(inner, n - 1, 0 * n) for n in (i, j))
        first, second = (self._at(x, row, column) for x in self.sources_table)
        time = array.where(inner, first + second, 0 * first)
        return time, array.where(inner, first, 0 * first)

    def jump(self, x, place):
        """Of the jumps into nodes (B, 1): high and low at the source, score, time and position."""
        time, row = self.sources_of(x.time, place)
        index = time * self.layout.positions + row
        pair = [array.take_along_axis(self.flat(y), index, 1) for y in self.tables]
        return *pair, array.take_along_axis(x.thetas[-1], place, 1), time, row

    def _at(self, table, row, column):
        """Entries (B, n) of a table (B, R, C)."""
        flat = self.flat(table)
        return array.take_along_axis(flat, ops.cast(row * ops.shape(table)[2] + column, "int32"), 1)
