"""The wavefront in blocks of times: between the sweeps only one row in about sqrt(L1 + L2) is kept.

A sweep recomputes each block from the rows before it, so it costs one more forward sweep, and reads
the potentials block by block where they lie, never skewed as a whole. The tape: the rows of every
lag and state before every block, (B, blocks, P); from `c` on as in `wavefront`; and 1 for every
example if its local operator was "max". The k best still read a whole table.
"""

import dataclasses
import math

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.alignment import events, paths
from keras_struct.ops.alignment.layout import Block
from keras_struct.ops.alignment.wavefront import (
    Tape,
    WavefrontSweeps,
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
        step, states = run.forward_step(op, every_end=True), self.spec.states
        corner, small = self.spec.end == "corner", run.zeros[:, :1]
        heads = run.no_rows()
        end = run.in_corner(run.heads()[0]) if corner else small[:, 0]
        like = (*[run.zeros] * states, small, end)

        def block(carry, x):
            xs = (run.times_from(x[0]), *run.xs_from(x[0]))
            after, (*_, c, ends) = array.scan(step, carry, xs, like=like)
            return after, (*carry[: len(heads)], c, ends)

        like_block = (*heads, run.rows_like(small), run.rows_like(end))
        _, (*heads, c, ends) = array.scan(block, run.start(), (run.firsts,), like=like_block)
        c, ends = run.joined(c)[:, :, 0], run.joined(ends)
        if corner:
            ends = ops.concatenate([end[:, None], ends], axis=1)
            index = ops.broadcast_to(run.final()[0][:, None], ops.shape(ends[:, :1]))
            ends = array.take_along_axis(ends, index, 1)[:, 0]
        log_partition, tape = run.close((), (), c, ends, op)
        hard = ops.full_like(log_partition, 1.0 if op == "max" else 0.0)
        return log_partition, (*(_swap(x) for x in heads), *tape, hard)

    def backward(self, potentials, context, tape):
        run = self.blocks(potentials, context)
        heads, tape, _ = _read_tape(tape)
        step = run.backward_step(run.injection(tape))

        def block(carry, x):
            pending, rest = run.split(carry, 1)
            sums, totals = run.sums_and_totals(rest)
            times, offsets, heads = run.read_block(x)
            xs = run.xs_from(x[0])
            last, before = run.replay(times, offsets, xs, heads, _logsumexp)
            inner = run.join(last, pending, sums)
            inner, outputs = run.reverse(step, inner, times, before, (*offsets, *xs))
            _, pending, sums = run.split(inner, 2)
            return (*pending, *sums, *run.add(totals, x[0], outputs)), ()

        carry = (*run.no_rows(), *run.no_sums(), *run.no_totals())
        xs = (*run.block_xs(tape), *heads)
        carry, _ = array.scan(block, carry, xs, like=(), reverse=True)
        return run.assemble(*run.sums_and_totals(run.split(carry, 1)[-1]))

    def curvature(self, potentials, context, tape, tangents):
        run, rates = self.blocks(potentials, context), self.blocks(tangents, context)
        heads, tape, _ = _read_tape(tape)
        inject, states = run.injection(tape), self.spec.states
        forward = run.tangent_step(rates, inject, rows=True)

        def replay(x, dheads, dend):
            """What the loops read in a block; its last rows and tangents, those of the
            log-partition so far; its rows and tangents `window` times before each time."""
            times, offsets, heads = run.read_block(x)
            xs = (times, *offsets, *run.xs_from(x[0]), *rates.xs_from(x[0]))
            carry = (*heads, *dheads, dend)
            carry, before = array.scan(forward, carry, xs, like=(run.zeros,) * (2 * states))
            last, dlast, (dend,) = run.split(carry, 2)
            return xs, last, dlast, dend, before

        def forward_block(carry, x):
            *dheads, dend = carry
            _, _, dlast, dend, _ = replay(x, dheads, dend)
            return (*dlast, dend), tuple(dheads)

        xs = (*run.block_xs(tape), *heads)
        carry = (*run.no_rows(), run.zeros[:, :1])
        carry, dheads = array.scan(forward_block, carry, xs, like=tuple(run.no_rows()))
        dend = carry[-1]
        step = run.curvature_step(rates, inject, dend)

        def block(carry, x):
            pending, dpending, rest = run.split(carry, 2)
            sums, totals = run.sums_and_totals(rest)
            x, dheads = x[: -len(pending)], x[-len(pending) :]
            (times, *xs), last, dlast, _, before = replay(x, dheads, dend)
            inner = run.join(last, dlast, pending, dpending, sums)
            inner, outputs = run.reverse(step, inner, times, before, xs)
            _, _, pending, dpending, sums = run.split(inner, 4)
            return (*pending, *dpending, *sums, *run.add(totals, x[0], outputs)), ()

        carry = (*run.no_rows(), *run.no_rows(), *run.no_sums(), *run.no_totals())
        carry, _ = array.scan(block, carry, (*xs, *dheads), like=(), reverse=True)
        return run.assemble(*run.sums_and_totals(run.split(carry, 2)[-1]))

    def trace(self, potentials, context, tape, noise):
        run = self.blocks(potentials, context)
        heads, tape, hard = _read_tape(tape)
        hard = hard[:, None] > 0

        def reduce(terms):
            return array.where(hard, _peak(terms), _logsumexp(terms))

        def replay(x):
            times, offsets, heads = run.read_block(x)
            xs = run.xs_from(x[0])
            last, before = run.replay(times, offsets, xs, heads, reduce)
            return (times, *offsets, *xs), last, before

        time, state = paths.end(run, tape, noise)
        xs = (*run.block_xs(tape), *heads)
        if state is None:
            node = paths.last_cell(run, time, self._rows_at(run, time, replay, xs), noise)
        else:
            node = time, run.final()[1], state
        draws = noise((run.count * run.size, *ops.shape(time)[:1], len(run.moves)))
        draws = ops.reshape(draws, (run.count, run.size, *ops.shape(draws)[1:]))
        step = paths.walk_step(run, tape)

        def block(node, x):
            xs, last, before = replay(x[:-1])
            xs = (*xs, x[-1], *before)
            carry, (places,) = array.scan(step, (*last, *node), xs, like=(time,), reverse=True)
            return tuple(carry[-3:]), (places,)

        like = (run.rows_like(time),)
        node, (places,) = array.scan(block, node, (*xs, draws), like=like, reverse=True)
        places = ops.reshape(places, (run.count * run.size, *ops.shape(time)))
        return events.encode(self.spec, run.layout, paths.with_origin(run, node, places))

    def _rows_at(self, run, time, replay, xs):
        """V at one time of each example, (B, P) for every state where paths may end."""
        states = run.end_states()
        positions = ops.broadcast_to(run.position, ops.shape(run.zeros))

        def block(rows, x):
            _, last, before = replay(x)
            here = ops.logical_and(time >= x[0], time < x[0] + run.size)
            found = []
            for s, row in zip(states, rows, strict=True):
                end = ops.stack(last[s :: self.spec.states][::-1])
                table = ops.concatenate([before[s], end], axis=0)
                now = run.at_time(table, time - x[0] + 1, positions)
                found.append(array.where(here, now, row))
            return tuple(found), ()

        rows = tuple(run.zeros for _ in states)
        return array.scan(block, rows, xs, like=())[0]


def _read_tape(tape):
    """Rows before every block; `Tape` without rows; 1 for every example of a "max" tape."""
    heads = tuple(_swap(x) for x in tape[:-5])
    return heads, Tape((), (), *tape[-5:-1]), tape[-1]


class _Blocks(_Run):
    """Potentials read block by block: `size` times in each, the last reaches past the end."""

    def __init__(self, spec, potentials, context):
        super().__init__(spec, potentials, context)
        steps = self.steps
        self.size = math.isqrt(steps - 1) + 1 if isinstance(steps, int) else DYNAMIC_SIZE
        self.count = -(-steps // self.size)
        self.firsts = 1 + self.size * ops.arange(self.count, dtype="int32")

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
        short = self.count * self.size - self.steps
        x = ops.pad(x, [(0, short)] + [(0, 0)] * (len(x.shape) - 1))
        return ops.reshape(x, (self.count, self.size, *ops.shape(x)[1:]))

    def joined(self, x):
        """(blocks, size, B, ...) to (B, steps, ...)."""
        x = ops.reshape(x, (self.count * self.size, *ops.shape(x)[2:]))
        return _swap(x[: self.steps])

    def block_xs(self, tape):
        """For every block: first time, offsets."""
        return (self.firsts, *(self.in_blocks(x) for x in self.offsets(tape.c)))

    def read_block(self, x):
        """Times, offsets and rows before."""
        count = 2 + self.spec.window
        return self.times_from(x[0]), list(x[1:count]), list(x[count:])

    def replay(self, times, offsets, xs, heads, reduce):
        """Last rows of a block, and its rows `window` times before each time, from the heads."""
        states = self.spec.states

        def step(carry, x):
            x = self.read(x)
            row = self.row(self.by_lag(carry), x, reduce)
            return (*row, *carry[:-states]), tuple(carry[-states:])

        like = tuple([self.zeros] * states)
        return array.scan(step, tuple(heads), (times, *offsets, *xs), like=like)

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
        written = [(kind, x) for kind, x, reduced in columns if reduced != "time"]
        added = []
        for (kind, x), total, y in zip(written, totals, outputs, strict=True):
            if total.shape[1] == 1:
                added.append(total + array.sum(y, 0))
            else:
                added.append(block.add(total, y, kind, ops.shape(x)[1:]))
        return added

    def sums_and_totals(self, rest):
        count = len(self.no_sums())
        return list(rest[:count]), list(rest[count:])

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
