"""The wavefront in blocks of times: between the sweeps only one row in about sqrt(L1 + L2) is kept.

A sweep recomputes each block from the rows before it, so it costs one more forward sweep, and reads
the potentials block by block where they lie, never skewed as a whole. The tape is that of
`wavefront` with, in place of `V`, the rows before every block: (B, blocks, P) for every lag and
state. A trace and the k best still read a whole table.
"""

import dataclasses
import math

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.alignment.layout import Block
from keras_struct.ops.alignment.wavefront import (
    Tape,
    WavefrontSweeps,
    _flat,
    _logsumexp,
    _peak,
    _Run,
    _swap,
)

DYNAMIC_SIZE = 128  # times of a block where the number of times is unknown


def rejects(call):
    if call.option("spec").jumps:
        return "a transposition may come from any earlier row, so every row has to be kept"
    return None


def sweeps(call):
    return CheckpointedSweeps(call.option("spec"))


@dataclasses.dataclass(frozen=True)
class CheckpointedSweeps(WavefrontSweeps):
    def blocks(self, potentials, context):
        return _Blocks(self.spec, potentials, context)

    def forward(self, potentials, context, op):
        run = self.blocks(potentials, context)
        step, states = run.forward_step(op), self.spec.states
        kept = states * self.spec.window
        like = (*[run.zeros] * states, run.zeros[:, :1])

        def block(carry, x):
            times = run.times_from(x[0])
            xs = (times, *run.xs_from(x[0]))
            after, (*rows, c) = array.scan(step, carry, xs, like=like)
            ends = _swap(run.ends([_swap(row) for row in rows], times, op))
            return after, (*carry[:kept], c, ends)

        carry = run.start()
        start = run.ends([x[:, None] for x in carry[:states]], run.firsts[:1] * 0, op)
        like_block = (*[run.zeros] * kept, run.rows_like(carry[-1]), run.rows_like(start[:, 0]))
        _, (*heads, c, ends) = array.scan(block, carry, (run.firsts,), like=like_block)
        c, ends = run.joined(c)[:, :, 0], ops.concatenate([start, run.joined(ends)], axis=1)
        log_partition, tape = run.close([_swap(x) for x in heads], c, ends, op)
        hard = ops.full_like(log_partition, 1.0 if op == "max" else 0.0)
        return log_partition, (*tape, hard)

    def backward(self, potentials, context, tape):
        run = self.blocks(potentials, context)
        tape, _ = _read_tape(tape)
        step = run.backward_step(run.injection(tape))

        def block(carry, x):
            pendings, sums, totals = run.unpack_reverse(carry, 1)
            times, offsets, heads = run.read_block(x)
            xs = run.xs_from(x[0])
            v = run.replay(times, offsets, xs, heads, _logsumexp)
            outputs, pendings, sums = run.reverse(step, [v], times, offsets, xs, pendings, sums)
            return (*_flat(pendings[0]), *sums, *run.add(totals, x[0], outputs)), ()

        carry = (*_flat(run.no_pendings(1)[0]), *run.no_sums(), *run.no_totals())
        carry, _ = array.scan(block, carry, run.block_xs(tape), like=(), reverse=True)
        return run.assemble(*run.unpack_reverse(carry, 1)[1:])

    def curvature(self, potentials, context, tape, tangents):
        run, rates = self.blocks(potentials, context), self.blocks(tangents, context)
        tape, _ = _read_tape(tape)
        dheads, dend = self._tangents_of_heads(run, rates, tape)
        step = run.curvature_step(rates, run.injection(tape), dend)

        def block(carry, x):
            pendings, sums, totals = run.unpack_reverse(carry, 2)
            x, dheads = x[: -run.kept], x[-run.kept :]
            times, offsets, heads = run.read_block(x)
            xs, dxs = run.xs_from(x[0]), rates.xs_from(x[0])
            v = run.replay(times, offsets, xs, heads, _logsumexp)
            df = run.tangents(rates, v, dheads, times, offsets, xs, dxs)
            outputs, pendings, sums = run.reverse(
                step, [v, df], times, offsets, [*xs, *dxs], pendings, sums
            )
            pendings = [x for rows in pendings for x in _flat(rows)]
            return (*pendings, *sums, *run.add(totals, x[0], outputs)), ()

        pendings = [x for rows in run.no_pendings(2) for x in _flat(rows)]
        carry = (*pendings, *run.no_sums(), *run.no_totals())
        xs = (*run.block_xs(tape), *dheads)
        carry, _ = array.scan(block, carry, xs, like=(), reverse=True)
        return run.assemble(*run.unpack_reverse(carry, 2)[1:])

    def _tangents_of_heads(self, run, rates, tape):
        """Tangents of the rows before every block, and of the log-partition, (B, 1)."""
        window = self.spec.window

        def block(carry, x):
            *dheads, end = carry
            shifts, x = _swap(x[-1]), x[:-1]
            times, offsets, heads = run.read_block(x)
            xs, dxs = run.xs_from(x[0]), rates.xs_from(x[0])
            v = run.replay(times, offsets, xs, heads, _logsumexp)
            df = run.tangents(rates, v, dheads, times, offsets, xs, dxs)
            rows = [[x[:, window:] for x in table] for table in (v, df)]
            end = end + run.end_tangent(*rows, times, shifts, tape)
            return (*_flat(run.last_window(df)), end), tuple(dheads)

        heads = run.no_tangents()
        xs = (*run.block_xs(tape), run.in_blocks(_swap(run.shifts(tape.c)[:, 1:])))
        carry = (*heads, run.zeros[:, :1])
        carry, dheads = array.scan(block, carry, xs, like=tuple(heads))
        return dheads, carry[-1]

    def trace(self, potentials, context, tape, noise):
        run = self.blocks(potentials, context)
        checkpoints, hard = _read_tape(tape)
        hard = hard[:, None] > 0

        def reduce(terms):
            return array.where(hard, _peak(terms), _logsumexp(terms))

        def block(carry, x):
            times, offsets, heads = run.read_block(x)
            v = run.replay(times, offsets, run.xs_from(x[0]), heads, reduce)
            return carry, tuple(_swap(rows[:, self.spec.window :]) for rows in v)

        like = tuple([run.rows_like(run.zeros)] * self.spec.states)
        xs = run.block_xs(checkpoints)
        _, rows = array.scan(block, (run.zeros,), xs, like=like)
        heads = [x[:, 0] for x in checkpoints.v]
        v = run.tables(heads, [_swap(run.joined(x)) for x in rows])
        return super().trace(potentials, context, checkpoints._replace(v=tuple(v)).flat(), noise)


def _read_tape(tape):
    """`Tape`, and 1 for every example of a "max" tape."""
    return Tape.of(tape[:-1]), tape[-1]


class _Blocks(_Run):
    """Potentials read block by block: `size` times in each, the last reaches past the end."""

    def __init__(self, spec, potentials, context):
        super().__init__(spec, potentials, context)
        steps = self.layout.steps
        self.size = math.isqrt(steps - 1) + 1 if isinstance(steps, int) else DYNAMIC_SIZE
        self.count = -(-steps // self.size)
        self.firsts = 1 + self.size * ops.arange(self.count, dtype="int32")
        self.kept = spec.states * spec.window

    def times_from(self, first):
        return first + ops.arange(self.size, dtype="int32")

    def xs_from(self, first):
        """As `xs`, for the block from this time on: (size, B, P)."""
        block = Block(self.layout, first, self.size)
        return [block.read(x, kind) for kind, x in self.changing()]

    def rows_like(self, x):
        """Zeros (size, ...) for x (...)."""
        return ops.broadcast_to(0 * x[None], (self.size, *ops.shape(x)))

    def in_blocks(self, x):
        """(steps, ...) to (blocks, size, ...)."""
        short = self.count * self.size - self.layout.steps
        x = ops.pad(x, [(0, short)] + [(0, 0)] * (len(x.shape) - 1))
        return ops.reshape(x, (self.count, self.size, *ops.shape(x)[1:]))

    def joined(self, x):
        """(blocks, size, B, ...) to (B, steps, ...)."""
        x = ops.reshape(x, (self.count * self.size, *ops.shape(x)[2:]))
        return _swap(x[: self.layout.steps])

    def block_xs(self, tape):
        """For every block: first time, offsets, rows before."""
        offsets = [self.in_blocks(x) for x in self.offsets(tape.c)]
        return (self.firsts, *offsets, *(_swap(x) for x in tape.v))

    def read_block(self, x):
        """Times, offsets and rows before, the last first."""
        count = 1 + self.spec.window
        return self.times_from(x[0]), list(x[1 : 1 + count]), list(x[1 + count :])

    def replay(self, times, offsets, xs, heads, reduce):
        """The rows of a block and those before, (B, window + size, P) for every state."""
        states, count = self.spec.states, 1 + self.spec.window

        def step(carry, x):
            history = [list(carry[n : n + states]) for n in range(0, len(carry), states)]
            thetas = self.timed(x[1 + count :])
            row = self.row(history, x[0], thetas, list(x[1 : 1 + count]), reduce)
            return (*row, *carry[:-states]), tuple(row)

        like = tuple([self.zeros] * states)
        _, rows = array.scan(step, tuple(heads), (times, *offsets, *xs), like=like)
        return self.tables(heads, rows)

    # Marginals of the potentials that change over time, added up where they lie ------------------

    def no_totals(self):
        """One per step output: (B, 1 + L1 * L2) with a place for nothing, or (B, 1)."""
        totals = []
        for x, reduced in zip(self.potentials, self.reduced, strict=True):
            if reduced == "none":
                cells = ops.zeros((1, 1 + x.shape[1] * x.shape[2]), dtype=x.dtype)
                totals.append(self.zeros[:, :1] + cells)
            elif reduced == "all":
                totals.append(self.zeros[:, :1])
        return totals

    def add(self, totals, first, outputs):
        block = Block(self.layout, first, self.size)
        columns = zip(self.spec.kinds, self.potentials, self.reduced, strict=True)
        columns = [(kind, x) for kind, x, reduced in columns if reduced != "time"]
        added = []
        for (kind, x), total, y in zip(columns, totals, outputs, strict=True):
            if total.shape[1] == 1:
                added.append(total + array.sum(y, 0))
            else:
                added.append(block.add(total, y, kind, ops.shape(x)[1:]))
        return added

    def unpack_reverse(self, carry, tables):
        """Pending tables, sums over time, totals."""
        sums = self.kept * tables
        totals = sums + len(self.no_sums())
        rows = [list(carry[n : n + self.spec.states]) for n in range(0, sums, self.spec.states)]
        window = self.spec.window
        pendings = [rows[n : n + window] for n in range(0, len(rows), window)]
        return pendings, list(carry[sums:totals]), list(carry[totals:])

    def assemble(self, sums, totals):
        """Marginals in the shapes of the canonical potentials, per example."""
        sums, totals, marginals = iter(sums), iter(totals), []
        for x, reduced in zip(self.potentials, self.reduced, strict=True):
            if reduced == "time":
                marginals.append(self.rows_of_sum(next(sums)))
            elif reduced == "all":
                marginals.append(next(totals)[..., None])
            else:
                cells = next(totals)[:, 1:]
                marginals.append(ops.reshape(cells, (-1, *ops.shape(x)[1:])))
        return tuple(marginals)
