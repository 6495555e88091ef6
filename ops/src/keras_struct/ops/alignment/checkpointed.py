"""The wavefront in blocks of times: between the sweeps only one row in about sqrt(L1 + L2) is kept.

A sweep recomputes each block from the rows before it, so it costs one more forward sweep, and reads
the potentials block by block where they lie, never skewed as a whole. Noise as in `portable.py`.
The k best are those of `portable`: they need a whole table.
"""

import math
from typing import Any, NamedTuple

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.alignment import events, paths
from keras_struct.ops.alignment.layout import Block
from keras_struct.ops.alignment.portable import backward_step, curvature_step, tangent_step
from keras_struct.ops.alignment.run import Run, flat, split, swap
from keras_struct.ops.implementation import Implementation
from keras_struct.ops.messages import log_sum

DYNAMIC_SIZE = 128  # times of a block where the number of times is unknown


class Tape(NamedTuple):
    """What the forward sweep leaves behind.

    Attributes:
        heads: For every lag and state, high and low of the rows before every block, (B, blocks, P).
        ends: As in `portable.Tape`.
    """

    heads: tuple
    ends: Any


class Checkpointed(Implementation):
    def rejects(self, call):
        if call.spec.jumps:
            return "a transposition may come from any earlier row, so every row has to be kept"
        return None

    def avoids(self, call):
        return "it takes one more forward sweep, to save memory"

    def forward(self, problem, op):
        run = _Blocks(problem)
        width = 2 * run.spec.states

        def step(carry, x):
            pairs, ends = split(carry, run.pair_count)
            window = run.pairs_by_lag([*run.no_pairs()[:width], *pairs])
            row, _ = run.row(window, run.read((*x, None)), op)
            output: tuple = ()
            if run.corner:
                here = ops.equal(run.final()[0], x[0])
                found = run.in_corner(row)
                ends = [array.where(here, a, b) for a, b in zip(found, ends, strict=True)]
            else:
                high, low = run.ending(row, x[0])
                peak, rest, _, _ = log_sum(high, low, 0.0, 1, op)
                high = peak + rest
                output = (high, (peak - high) + rest)
            return (*flat(row), *pairs[:-width], *ends), output

        small = () if run.corner else (run.zeros[:, :1],) * 2

        def block(carry, x):
            xs = (run.times_from(x[0]), *run.xs_from(x[0]))
            after, outputs = array.scan(step, carry, xs, like=small)
            return after, (*carry[: run.pair_count], *outputs)

        like = (*run.no_pairs(), *map(run.rows_like, small))
        start = (*run.heads(), *run.no_ends())
        carry, outputs = array.scan(block, start, (run.firsts,), like=like)
        heads, outputs = split(outputs, run.pair_count)
        ends = run.all_ends(carry[run.pair_count :], [run.joined(x) for x in outputs])
        peak, rest, _, _ = log_sum(ends[0], ends[1], 0.0, 1, op)
        return (peak[:, 0], rest[:, 0]), Tape(tuple(map(swap, heads)), ends)

    def backward(self, problem, tape):
        run = _Blocks(problem)
        shares = run.shares(tape.ends)
        step = backward_step(run, run.injection(shares))

        def block(carry, x):
            pending, sums, totals = split(carry, run.row_count, len(run.no_sums()))
            xs, heads = run.read_block(x)
            last, before = run.replay(xs, heads, "logsumexp")
            inner = (*last, *pending, *sums)
            inner, outputs = array.scan(
                step, inner, (*xs, *before), like=run.outputs_like(), reverse=True
            )
            _, pending, sums = split(inner, run.pair_count, run.row_count)
            return (*pending, *sums, *run.add(totals, x[0], outputs)), ()

        carry = (*run.no_rows(), *run.no_sums(), *run.no_totals())
        carry, _ = array.scan(block, carry, run.block_xs(tape, shares), like=(), reverse=True)
        _, sums, totals = split(carry, run.row_count, len(run.no_sums()))
        return run.assemble(sums, totals)

    def curvature(self, problem, tape, tangents):
        run, rates = _Blocks(problem), _Blocks(problem, tangents)
        shares = run.shares(tape.ends)
        inject = run.injection(shares)
        forward = tangent_step(run, rates, inject, pairs_too=True)
        width, states = 2 * run.spec.states, run.spec.states

        def replay(x, drows, dend):
            """What the loops read in a block; its last pairs and tangents, those of the
            log-partition so far; its pairs and tangents `window` times before each time."""
            xs, heads = run.read_block(x)
            xs = (*xs, *rates.xs_from(x[0]))
            like = (run.zeros,) * (width + states)
            carry, before = array.scan(forward, (*heads, *drows, dend), xs, like=like)
            last, dlast, (dend,) = split(carry, run.pair_count, run.row_count)
            return xs, last, dlast, dend, before

        def forward_block(carry, x):
            *drows, dend = carry
            _, _, dlast, dend, _ = replay(x, drows, dend)
            return (*dlast, dend), tuple(drows)

        xs = run.block_xs(tape, shares)
        carry = (*run.no_rows(), run.zeros[:, :1])
        carry, dheads = array.scan(forward_block, carry, xs, like=tuple(run.no_rows()))
        dend = carry[-1]
        step = curvature_step(run, rates, inject, dend)
        counts = run.row_count, run.row_count, len(run.no_sums())

        def block(carry, x):
            pending, dpending, sums, totals = split(carry, *counts)
            x, drows = x[: -run.row_count], x[-run.row_count :]
            xs, last, dlast, _, before = replay(x, drows, dend)
            inner = (*last, *dlast, *pending, *dpending, *sums)
            inner, outputs = array.scan(
                step, inner, (*xs, *before), like=run.outputs_like(), reverse=True
            )
            _, _, pending, dpending, sums = split(inner, run.pair_count, *[run.row_count] * 3)
            return (*pending, *dpending, *sums, *run.add(totals, x[0], outputs)), ()

        carry = (*run.no_rows(), *run.no_rows(), *run.no_sums(), *run.no_totals())
        carry, _ = array.scan(block, carry, (*xs, *dheads), like=(), reverse=True)
        _, _, sums, totals = split(carry, *counts)
        return run.assemble(sums, totals)

    def trace(self, problem, tape, draws=None):
        run, op = _Blocks(problem), "max" if draws is None else "logsumexp"
        shares = run.shares(tape.ends)
        node = time, _, state = paths.end(run, shares, draws)
        xs = run.block_xs(tape, shares)
        if state is None:
            node = paths.last_cell(run, time, self._rows_at(run, time, xs, op), draws)
        step = paths.walk_step(run, draws)

        def block(node, x):
            xs, heads = run.read_block(x)
            last, before = run.replay(xs, heads, op)
            carry, (places,) = array.scan(
                step, (*last, *node), (*xs, *before), like=(time,), reverse=True
            )
            return tuple(carry[-3:]), (places,)

        node, (places,) = array.scan(block, node, xs, like=(run.rows_like(time),), reverse=True)
        places = ops.reshape(places, (run.count * run.size, *ops.shape(time)))
        return events.encode(run.spec, run.layout, paths.with_origin(run, node, places))

    def _rows_at(self, run, time, xs, op):
        """Pairs at one time of each example, each (B, P), of every state where paths may end."""
        count = 2 * len(run.end_states())
        width = 2 * run.spec.states

        def block(rows, x):
            xs, heads = run.read_block(x)
            last, before = run.replay(xs, heads, op)
            # Rows at times first - window, ..., first + size - 1.
            here = ops.logical_and(time >= x[0], time < x[0] + run.size)
            found = []
            for n, row in enumerate(rows):
                table = ops.concatenate([before[n], ops.stack(last[n::width][::-1])], axis=0)
                now = paths.at_time(run, swap(table), time - x[0] + 1)
                found.append(array.where(here, now, row))
            return tuple(found), ()

        rows = tuple(run.zeros for _ in range(count))
        return array.scan(block, rows, xs, like=())[0]


class _Blocks(Run):
    """Potentials read block by block: `size` times in each, the last reaches past the end."""

    def __init__(self, problem, potentials=None):
        super().__init__(problem, potentials)
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
        """(blocks, size, B, 1) to (steps, B, 1)."""
        return ops.reshape(x, (self.count * self.size, *ops.shape(x)[2:]))[: self.steps]

    def block_xs(self, tape, shares):
        """For every block: first time, shares of paths that end in it, rows before it."""
        shares = map(self.in_blocks, self.share_xs(shares))
        return (self.firsts, *shares, *map(swap, tape.heads))

    def read_block(self, x):
        """What the loops read in a block, and the rows before it."""
        first, *rest = x
        shares, heads = split(rest, 0 if self.corner else 1)
        return (self.times_from(first), *self.xs_from(first), *shares), heads

    def replay(self, xs, heads, op):
        """Last pairs of a block, and its pairs `window` times before each time, from the heads."""
        width = 2 * self.spec.states

        def step(carry, x):
            window = self.pairs_by_lag([*self.no_pairs()[:width], *carry])
            row, _ = self.row(window, self.read(x), op)
            return (*flat(row), *carry[:-width]), tuple(carry[-width:])

        return array.scan(step, tuple(heads), xs, like=tuple(self.no_pairs()[:width]))

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
