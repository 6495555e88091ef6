"""The sweeps of every structure on the lattice, one wavefront at a time (see recurrence.md).

Inside, an array over time holds one row (B, P) per wavefront and state; `V[t]` is the forward
message F minus its shift `C[t]`, a whole number, so that sums of shifts are exact and messages stay
near zero whatever the size of the scores. Potentials are read with the shift of their move,
`theta + C[t - lag] - C[t]`.

The tape, batch first: `V` (B, window + steps, P) for every state, with `window - 1` forbidden rows
before time 0; `c` (B, steps), the increments of C; `base` and `value` (B,) with log-partition
`base + value`, `base` whole; `ends`, relative to `base`: the log-weight of every state in the
corner (B, states) where all paths end there, else of ending at each time, and of the empty
structure (B, 1 + steps + 1).

Canonical potentials: see `Spec.kinds`. Context: both lengths (B,).
"""

import dataclasses
import functools
from typing import NamedTuple

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.alignment import events, paths
from keras_struct.ops.alignment.layout import Layout
from keras_struct.ops.alignment.spec import START, Spec
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE
from keras_struct.ops.sweeps import Sweeps


class Tape(NamedTuple):
    v: tuple
    c: object
    base: object
    value: object
    ends: object

    def flat(self):
        return (*self.v, self.c, self.base, self.value, self.ends)

    @classmethod
    def of(cls, flat):
        return cls(tuple(flat[:-4]), *flat[-4:])


@dataclasses.dataclass(frozen=True)
class WavefrontSweeps(Sweeps):
    spec: Spec

    def run(self, potentials, context):
        return _Run(self.spec, potentials, context)

    def forward(self, potentials, context, op):
        run = self.run(potentials, context)
        carry = run.start()
        like = (*[run.zeros] * self.spec.states, run.zeros[:, :1])
        _, (*rows, c) = array.scan(run.forward_step(op), carry, (run.times, *run.xs), like=like)
        v = run.tables(_flat(run.unpack(carry)[0]), rows)
        return run.finish(v, _swap(c)[:, :, 0], op)

    def backward(self, potentials, context, tape):
        run = self.run(potentials, context)
        tape = Tape.of(tape)
        step = run.backward_step(run.injection(tape))
        outputs, _, sums = run.reverse(
            step,
            [tape.v],
            run.times,
            run.offsets(tape.c),
            run.xs,
            run.no_pendings(1),
            run.no_sums(),
        )
        return run.collect(outputs, sums)

    def curvature(self, potentials, context, tape, tangents):
        run = self.run(potentials, context)
        tape = Tape.of(tape)
        rates = self.run(tangents, context)
        offsets = run.offsets(tape.c)
        df = run.tangents(rates, tape.v, run.no_tangents(), run.times, offsets, run.xs, rates.xs)
        first = self.spec.window - 1
        times = ops.arange(run.layout.steps + 1, dtype="int32")
        tables = [[x[:, first:] for x in table] for table in (tape.v, df)]
        dend = run.end_tangent(*tables, times, run.shifts(tape.c), tape)
        step = run.curvature_step(rates, run.injection(tape), dend)
        xs = [*run.xs, *rates.xs]
        outputs, _, sums = run.reverse(
            step, [tape.v, df], run.times, offsets, xs, run.no_pendings(2), run.no_sums()
        )
        return run.collect(outputs, sums)

    def trace(self, potentials, context, tape, noise):
        run = self.run(potentials, context)
        return events.encode(self.spec, run.layout, paths.walk(run, Tape.of(tape), noise))

    def topk(self, potentials, context, k):
        run = self.run(potentials, context)
        places, exists = paths.best(run, k)
        encoded = [events.encode(self.spec, run.layout, places[rank]) for rank in range(k)]
        encoded = ops.stack(encoded)
        keep = ops.reshape(exists, (*ops.shape(exists), *(1 for _ in encoded.shape[2:])))
        return array.where(keep, encoded, -1), exists


class _Step(NamedTuple):
    """One row of the reverse scans; `before[n]` is the n-th table at time t - window."""

    time: object
    before: list
    offsets: list
    thetas: list
    extra: list = []  # noqa: RUF012


class _Run:
    """Potentials in time order and the operations on one wavefront."""

    def __init__(self, spec, potentials, context):
        self.spec, self.moves = spec, spec.moves
        shape = ops.shape(potentials[0])
        self.layout = Layout(shape[1], shape[2], spec.by_rows)
        self.lengths = tuple(length[:, None] for length in context[:2])
        self.potentials = potentials
        zero = ops.cast(self.lengths[0] * 0, potentials[0].dtype)
        self.zeros = zero + ops.zeros((1, self.layout.positions), dtype=zero.dtype)
        self.position = ops.arange(self.layout.positions, dtype="int32")[None]
        self.times = 1 + ops.arange(self.layout.steps, dtype="int32")
        self.constant, self.reduced = zip(
            *(self._constant(*x) for x in zip(spec.kinds, potentials, strict=True)), strict=True
        )

    @functools.cached_property
    def xs(self):
        """The potentials that change over time, (steps, B, P)."""
        return [
            self.layout.cells_in_time(x) if kind == "cell" else self.layout.gaps_in_time(x)
            for kind, x in self.changing()
        ]

    def changing(self):
        columns = zip(self.spec.kinds, self.potentials, self.reduced, strict=True)
        return [(kind, x) for kind, x, reduced in columns if reduced == "none"]

    def _constant(self, kind, x):
        """The row of a potential if it is the same at all times, and over which axes its marginal
        is summed in a step."""
        if kind == "cell":
            return None, "none"
        if x.shape[1] == 1 and x.shape[2] == 1:
            return x[:, 0], "all"
        if x.shape[2] == 1:
            rows = x[:, :, 0]
            return ops.concatenate([rows[:, :1], rows], axis=1), "time"
        return None, "none"

    def timed(self, xs):
        """One row per canonical potential."""
        xs = iter(xs)
        return [next(xs) if fixed is None else fixed for fixed in self.constant]

    # Carries -------------------------------------------------------------------------------------

    def pack(self, history, past, peaks, total):
        return (*_flat(history), *past, *peaks, total)

    def unpack(self, carry):
        states, window = self.spec.states, self.spec.window
        history = [list(carry[n * states : (n + 1) * states]) for n in range(window)]
        rest = list(carry[states * window : -1])
        return history, rest[: window - 1], rest[window - 1 :], carry[-1]

    def join(self, windows, pendings, sums):
        parts = [*(_flat(w) for w in windows), *(_flat(p) for p in pendings), sums]
        return tuple(x for part in parts for x in part)

    def split(self, carry, windows, pendings):
        states, window = self.spec.states, self.spec.window
        rows = [list(carry[n : n + states]) for n in range(0, len(carry), states)]
        tables = [rows[n * window : (n + 1) * window] for n in range(windows + pendings)]
        return (
            tables[:windows],
            tables[windows:],
            list(carry[(windows + pendings) * window * states :]),
        )

    def halves(self, carry):
        (window, dwindow), _, _ = self.split(carry, 2, 0)
        return window, dwindow

    def read(self, x, tables):
        x = list(x)
        states, window = self.spec.states, self.spec.window
        time = x.pop(0)
        before = [[x.pop(0) for _ in range(states)] for _ in range(tables)]
        offsets = [x.pop(0) for _ in range(window + 1)]
        thetas = self.timed([x.pop(0) for _ in self.changing()])
        return _Step(time, before, offsets, thetas, x)

    def offsets(self, c):
        """`C[t - lag] - C[t]` for lag 0, 1, ..., each (steps, B, 1), and C[t] in place of lag 0."""
        c = _swap(c)[..., None]
        rows, total = [], 0.0
        for lag in range(self.spec.window):
            total = total - (ops.pad(c, [(lag, 0), (0, 0), (0, 0)])[:-lag] if lag else c)
            rows.append(total)
        return [_cumulative(c, 0), *rows]

    def shifts(self, c):
        """C at times 0, 1, ..., (B, 1 + steps)."""
        return ops.pad(_cumulative(c, 1), [(0, 0), (1, 0)])

    def last_window(self, v):
        """Rows of the last times, the last first."""
        return [[x[:, -1 - lag] for x in v] for lag in range(self.spec.window)]

    def slide(self, window, before):
        return [*window[1:], before]

    def no_pendings(self, count):
        return [[[self.zeros] * self.spec.states] * self.spec.window] * count

    def no_tangents(self):
        return [self.zeros] * (self.spec.states * self.spec.window)

    def no_sums(self):
        return [self.zeros for reduced in self.reduced if reduced == "time"]

    def outputs_like(self):
        like = {"all": self.zeros[:, :1], "none": self.zeros}
        return tuple(like[reduced] for reduced in self.reduced if reduced != "time")

    # The loops -----------------------------------------------------------------------------------

    def start(self):
        """Carry of the forward loop before time 1."""
        spec, small = self.spec, self.zeros[:, :1]
        dead = self.zeros + FORBIDDEN
        history = [[dead] * spec.states for _ in range(spec.window)]
        if spec.start != "anywhere":
            history[0][0] = array.where(self.starts(0), self.zeros, dead)
        peaks = [_maximum(history[0])] + [small + FORBIDDEN] * (spec.window > 1)
        return self.pack(history, [small] * (spec.window - 1), peaks, small)

    def forward_step(self, op):
        spec, small = self.spec, self.zeros[:, :1]
        reduce = _peak if op == "max" else _logsumexp

        def step(carry, x):
            history, past, peaks, total = self.unpack(carry)
            time, thetas = x[0], self.timed(x[1:])
            c = peaks[0] if len(peaks) == 1 else array.maximum(peaks[0], peaks[1] - past[0])
            if spec.start == "anywhere":
                c = array.maximum(c, -total)
            else:
                c = array.where(c > INFEASIBLE, c, small)
            c = array.round(c)
            total = total + c
            row = self.row(history, time, thetas, [total, *_offsets(c, past)], reduce)
            peaks = [_maximum(row), *peaks[:1]][: len(peaks)]
            history, past = [row, *history[:-1]], [c, *past][: len(past)]
            return self.pack(history, past, peaks, total), (*row, c)

        return step

    def backward_step(self, inject):
        def step(carry, x):
            ((window,), (pending,), sums), x = self.split(carry, 1, 1), self.read(x, 1)
            weights = self.weights([*window, *x.before], x)
            p = [a + b for a, b in zip(pending[0], inject(x, window[0]), strict=True)]
            p = self.interior(p, x.time)
            used = [w * p[move.target] for w, move in zip(weights, self.moves, strict=True)]
            sums, outputs = self.gather(used, p, sums)
            pending = self.push(pending, used)
            return self.join([self.slide(window, x.before[0])], [pending], sums), outputs

        return step

    def tangent_step(self, rates):
        """Forward, with the rows of V at hand: the tangents of F."""
        spec = self.spec

        def step(carry, x):
            (window, dwindow), rest = self.halves(carry), list(x)
            time = rest.pop(0)
            current = [rest.pop(0) for _ in range(spec.states)]
            offsets = [rest.pop(0) for _ in range(spec.window + 1)]
            count = len(self.changing())
            thetas, dthetas = self.timed(rest[:count]), rates.timed(rest[count:])
            weights = self.weights([current, *window], _Step(time, [], offsets, thetas))
            shifted = self.sources([None, *dwindow])
            drow = [self.zeros] * spec.states
            for k, move in enumerate(self.moves):
                rate = shifted[k]
                if move.channel is not None and spec.emission(move.target) is None:
                    rate = rate + dthetas[move.channel]
                drow[move.target] = drow[move.target] + weights[k] * rate
            for state in range(spec.states):
                if spec.emission(state) is not None:
                    drow[state] = drow[state] + dthetas[spec.emission(state)]
            drow = self.interior(drow, time)
            window = [current, *window[:-1]]
            dwindow = [drow, *dwindow[:-1]]
            return (*_flat(window), *_flat(dwindow)), tuple(drow)

        return step

    def tangents(self, rates, v, heads, times, offsets, xs, dxs):
        """Tangents of F, laid out as `v` (B, window + T, P); `heads` are the rows before."""
        window, states = self.spec.window, self.spec.states
        v = [_swap(x) for x in v]
        carry = [x[window - 1 - lag] for lag in range(window) for x in v]
        xs = (times, *(x[window:] for x in v), *offsets, *xs, *dxs)
        like = tuple([self.zeros] * states)
        _, rows = array.scan(self.tangent_step(rates), (*carry, *heads), xs, like=like)
        return self.tables(heads, rows)

    def tables(self, heads, rows):
        """(B, window + T, P) for every state, from the rows before (last first) and (T, B, P)."""
        states = self.spec.states
        before = [ops.stack(heads[s::states][::-1]) for s in range(states)]
        return [_swap(ops.concatenate(x, axis=0)) for x in zip(before, rows, strict=True)]

    def curvature_step(self, rates, inject, dend):
        def step(carry, x):
            (windows, pendings, sums), x = self.split(carry, 2, 2), self.read(x, 2)
            window, dwindow = windows
            dthetas = rates.timed(x.extra)
            weights = self.weights([*window, x.before[0]], x)
            p, dp = inject(x, window[0], dwindow[0], dend)
            p = self.interior([a + b for a, b in zip(pendings[0][0], p, strict=True)], x.time)
            dp = self.interior([a + b for a, b in zip(pendings[1][0], dp, strict=True)], x.time)
            used, dused = [], []
            shifted = self.sources([*dwindow, x.before[1]])
            for k, move in enumerate(self.moves):
                w = weights[k] * p[move.target]
                rate = shifted[k] - dwindow[0][move.target]
                if move.channel is not None:
                    rate = rate + dthetas[move.channel]
                used.append(w)
                dused.append(weights[k] * dp[move.target] + w * rate)
            sums, outputs = self.gather(dused, dp, sums)
            windows = [self.slide(a, b) for a, b in zip(windows, x.before, strict=True)]
            pendings = [self.push(pendings[0], used), self.push(pendings[1], dused)]
            return self.join(windows, pendings, sums), outputs

        return step

    def reverse(self, step, tables, times, offsets, xs, pendings, sums):
        """The reverse loop over these times: outputs, and what is pending and summed after it."""
        carry = self.join([self.last_window(table) for table in tables], pendings, sums)
        xs = self.reverse_xs(tables, times, offsets, xs)
        carry, outputs = array.scan(step, carry, xs, like=self.outputs_like(), reverse=True)
        return outputs, *self.split(carry, len(tables), len(tables))[1:]

    def reverse_xs(self, tables, times, offsets, xs):
        before = [_swap(v)[: -self.spec.window] for table in tables for v in table]
        return (times, *before, *offsets, *xs)

    # One wavefront -------------------------------------------------------------------------------

    def sources(self, window, start=None):
        """For every move, the row of its source where it arrives: (B, P)."""
        shifted, rows = {}, []
        for move in self.moves:
            if move.source == START:
                rows.append(0.0 if start is None else start)
                continue
            lag, offset = self.spec.lag(move), self.spec.offset(move)
            key = lag, offset, move.source
            if key not in shifted:
                fill = FORBIDDEN if start is not None else 0.0
                shifted[key] = self.shift(window[lag][move.source], offset, fill)
            rows.append(shifted[key])
        return rows

    def shift(self, x, offset, fill):
        """`x[p - offset]`."""
        if offset == 0:
            return x
        return array.concatenate([self.zeros[:, :offset] + fill, x[:, :-offset]], 1)

    def unshift(self, x, offset):
        """`x[p + offset]`."""
        if offset == 0:
            return x
        return array.concatenate([x[:, offset:], self.zeros[:, :offset]], 1)

    def scores(self, thetas, offsets):
        """For every move, its potential with the shift between its two times."""
        made, rows = {}, []
        for move in self.moves:
            lag = self.spec.lag(move)
            key = move.channel, lag
            if key not in made:
                offset = offsets[lag - 1]
                made[key] = offset if move.channel is None else thetas[move.channel] + offset
            rows.append(made[key])
        return rows

    def row(self, history, time, thetas, offsets, reduce, extra=()):
        """Messages of the next wavefront; `offsets` as in `_Step`."""
        spec = self.spec
        total, *offsets = offsets
        scores = self.scores(thetas, offsets)
        start = -(total + offsets[1]) if spec.start == "anywhere" else 0.0
        sources = self.sources([None, *history], start)
        row = []
        for state in range(spec.states):
            into = spec.into(state)
            lags = {spec.lag(self.moves[k]) for k in into}
            if spec.emission(state) is not None and len(lags) == 1:
                row.append(reduce([sources[k] for k in into]) + scores[into[0]])
            else:
                row.append(reduce([*(sources[k] + scores[k] for k in into), *extra]))
        return self.restart(row, time, -total) if spec.start == "border" else row

    def weights(self, window, x):
        """Posterior probability of every move into the current wavefront, `window[0]`."""
        total, *offsets = x.offsets
        start = -(total + offsets[1]) if self.spec.start == "anywhere" else 0.0
        sources = self.sources(window, start)
        scores = self.scores(x.thetas, offsets)
        alive = [array.where(v > INFEASIBLE, v, self.zeros) for v in window[0]]
        if self.spec.start == "border":
            border = self.border(x.time)
            alive = [array.where(border, self.zeros - FORBIDDEN, v) for v in alive]
        return [
            array.exp(source + (score - alive[move.target]))
            for source, score, move in zip(sources, scores, self.moves, strict=True)
        ]

    def push(self, pending, used):
        """Marginals of the wavefronts before, with what the moves took from them."""
        spec = self.spec
        pending = [list(rows) for rows in pending[1:]] + [[self.zeros] * spec.states]
        groups: dict = {}
        for move, x in zip(self.moves, used, strict=True):
            if move.source != START:
                key = spec.lag(move), spec.offset(move), move.source
                groups[key] = groups[key] + x if key in groups else x
        for (lag, offset, state), x in groups.items():
            pending[lag - 1][state] = pending[lag - 1][state] + self.unshift(x, offset)
        return pending

    def gather(self, used, p, sums):
        """Marginals of the potentials: sums over time so far, and this wavefront's outputs."""
        sums, outputs, seen = iter(sums), [], []
        for channel, reduced in enumerate(self.reduced):
            rows = []
            for state in range(self.spec.states):
                if self.spec.emission(state) == channel:
                    rows.append(p[state])
                else:
                    rows += [
                        used[k] for k in self.spec.into(state) if self.moves[k].channel == channel
                    ]
            if not rows:
                continue  # a jump (see jumps.py)
            x = sum(rows[1:], rows[0])
            if reduced == "time":
                seen.append(next(sums) + x)
            else:
                outputs.append(array.sum(x, 1, keepdims=True) if reduced == "all" else x)
        return seen, tuple(outputs)

    def collect(self, outputs, sums):
        """Marginals in the shapes of the canonical potentials, per example."""
        outputs, sums, marginals = iter(outputs), iter(sums), []
        for kind, reduced, like in zip(self.spec.kinds, self.reduced, self.potentials, strict=True):
            if reduced == "time":
                marginals.append(self.rows_of_sum(next(sums)))
            elif reduced == "all":
                marginals.append(ops.sum(next(outputs), axis=0)[..., None])
            elif kind == "cell":
                marginals.append(self.layout.cells_of_time(next(outputs)))
            else:
                x = self.layout.gaps_of_time(next(outputs))
                marginals.append(ops.sum(x, axis=1, keepdims=True) if like.shape[1] == 1 else x)
        return tuple(marginals)

    def rows_of_sum(self, x):
        """(B, P) to (B, L1, 1): the border reads the first row."""
        return ops.concatenate([x[:, :1] + x[:, 1:2], x[:, 2:]], axis=1)[..., None]

    # Start and end -------------------------------------------------------------------------------

    def starts(self, time):
        """Nodes of this time at which a path may start in state 0."""
        i, j = self.layout.node(time, self.position)
        if self.spec.start == "corner":
            return ops.logical_and(i == 0, j == 0)
        first, second = self.lengths
        top = ops.logical_and(i == 0, ops.logical_and(j >= 0, j < second))
        left = ops.logical_and(j == 0, i < first)
        return ops.logical_and(ops.logical_or(top, left), ops.logical_and(first > 0, second > 0))

    def restart(self, row, time, score):
        border = self.border(time)
        fresh = array.where(self.starts(time), self.zeros + score, self.zeros + FORBIDDEN)
        return [
            array.where(border, fresh if state == 0 else self.zeros + FORBIDDEN, x)
            for state, x in enumerate(row)
        ]

    def interior(self, p, time):
        """Nothing arrives where paths only start."""
        if self.spec.start != "border":
            return p
        border = self.border(time)
        return [array.where(border, self.zeros, x) for x in p]

    def border(self, time):
        i, j = self.layout.node(time, self.position)
        return ops.logical_or(i == 0, j == 0)

    def final(self):
        """Time and position of the corner, (B, 1)."""
        return self.layout.place(*self.lengths)

    def end_mask(self, time):
        i, j = self.layout.node(time, self.position)
        first, second = self.lengths
        if self.spec.end == "anywhere":
            return ops.logical_and(
                ops.logical_and(i > 0, i <= first), ops.logical_and(j > 0, j <= second)
            )
        last = ops.logical_or(
            ops.logical_and(i == first, j <= second), ops.logical_and(j == second, i <= first)
        )
        return ops.logical_and(last, ops.logical_and(i > 0, j > 0))

    def end_states(self):
        return range(1) if self.spec.end == "anywhere" else range(self.spec.states)

    def at(self, table, time, position):
        """Entries (B, n) of a table (B, T, P); places before its first read the first."""
        size = ops.shape(table)
        flat = ops.reshape(table, (size[0], size[1] * size[2]))
        index = ops.cast(time * size[2] + position, "int32")
        return array.take_along_axis(flat, array.where(index > 0, index, 0 * index), 1)

    def finish(self, v, c, op):
        """Log-partition and tape, from the tables of all states."""
        times = ops.arange(self.layout.steps + 1, dtype="int32")
        ends = self.ends([x[:, self.spec.window - 1 :] for x in v], times, op)
        return self.close(v, c, ends, op)

    def ends(self, tables, times, op):
        """Log-weight of ending at each time, from rows (B, T, P) of every state: (B, T, states) in
        the position of the corner, or (B, T, 1) of all positions and states."""
        if self.spec.end == "corner":
            index = self.corner_index(times)
            return ops.concatenate([array.take_along_axis(x, index, 2) for x in tables], axis=2)
        rows = [self.ending(tables[s], times) for s in self.end_states()]
        rows = ops.concatenate(rows, axis=2)
        batch, steps, width = ops.shape(rows)
        rows = ops.reshape(rows, (batch * steps, width))
        return ops.reshape(_reduce_last(rows, op), (batch, steps, 1))

    def corner_index(self, times):
        """Position of the corner at all times, (B, T, 1)."""
        return self.final()[1][:, None] + 0 * times[None, :, None]

    def ending(self, table, times):
        """Rows (B, T, P) where paths may end, else forbidden."""
        mask = ops.swapaxes(self.end_mask(times[:, None, None]), 0, 1)
        return array.where(mask, table, ops.full_like(table, FORBIDDEN))

    def close(self, v, c, ends, op):
        """Log-partition and tape, from the log-weights of the ends at times 0, 1, ..."""
        shifts = self.shifts(c)
        if self.spec.end == "corner":
            time = self.final()[0]
            base = array.take_along_axis(shifts, time, 1)[:, 0]
            index = ops.broadcast_to(time[:, None], (*ops.shape(time), self.spec.states))
            ends = array.take_along_axis(ends, index, 1)[:, 0]
        else:
            ends = ends[:, :, 0]
            peak = ops.max(ends + shifts, axis=1)
            if self.spec.empty:
                peak = array.maximum(peak, ops.zeros_like(peak))
            base = array.round(array.where(peak > INFEASIBLE, peak, ops.zeros_like(peak)))
            ends = ends + (shifts - base[:, None])
            nothing = -base[:, None] if self.spec.empty else ops.full_like(shifts[:, :1], FORBIDDEN)
            ends = ops.concatenate([ends, nothing], axis=1)
        value = _reduce_last(ends, op)
        return base + value, Tape(tuple(v), c, base, value, ends).flat()

    def injection(self, tape):
        """Function of a reverse step: for every state, the probability that a path ends here.

        With tangents `drow` of the current row and `dend` of the log-partition: also its tangent.
        """
        spec = self.spec
        exists = ops.cast(tape.base + tape.value > INFEASIBLE, self.zeros.dtype)[:, None]
        value = tape.value[:, None]
        if spec.end == "corner":
            end, position = self.final()
            here = ops.cast(self.position == position, self.zeros.dtype) * exists
            last = [here * p for p in self.corner(tape)]

            def ends(x, row):
                now = array.where(end == x.time, exists, exists * 0.0)
                return [now * p for p in last]

        else:

            def ends(x, row):
                mask = self.end_mask(x.time)
                probabilities = [self.zeros] * spec.states
                for state in self.end_states():
                    logit = array.where(mask, row[state], self.zeros + FORBIDDEN)
                    logit = logit + ((x.offsets[0] - tape.base[:, None]) - value)
                    probabilities[state] = array.exp(logit) * exists
                return probabilities

        def inject(x, row, drow=None, dend=None):
            p = ends(x, row)
            if drow is None:
                return p
            return p, [a * (b - dend) for a, b in zip(p, drow, strict=True)]

        return inject

    def corner(self, tape):
        """Posterior of every state in the corner, each (B, 1)."""
        weights = array.exp(tape.ends - tape.value[:, None])
        return [weights[:, s : s + 1] for s in range(self.spec.states)]

    def end_tangent(self, v, df, times, shifts, tape):
        """What the ends at these times add to the tangent of the log-partition, (B, 1).

        Args:
            v: Rows (B, T, P) of every state.
            df: Their tangents.
            times: (T,).
            shifts: C at these times, (B, T).
            tape: `Tape`.
        """
        total = 0.0
        if self.spec.end == "corner":
            index = self.corner_index(times)
            now = ops.cast(ops.equal(times[None], self.final()[0]), self.zeros.dtype)
            for p, rates in zip(self.corner(tape), df, strict=True):
                rate = array.take_along_axis(rates, index, 2)[:, :, 0]
                total = total + p * array.sum(now * rate, 1, keepdims=True)
            return total
        shifts = shifts - (tape.base + tape.value)[:, None]
        for state in self.end_states():
            weight = array.exp(self.ending(v[state], times) + shifts[..., None])
            total = total + ops.sum(weight * df[state], axis=(1, 2))
        return total[:, None]


def _offsets(c, past):
    """`C[t - lag] - C[t]` for lag 1, 2, ..."""
    offsets = [-c]
    for earlier in past:
        offsets.append(offsets[-1] - earlier)
    return offsets


def _maximum(rows):
    peak = rows[0]
    for row in rows[1:]:
        peak = array.maximum(peak, row)
    return array.max(peak, 1, keepdims=True)


def _peak(terms):
    peak = terms[0]
    for term in terms[1:]:
        peak = array.maximum(peak, term)
    return peak


def _logsumexp(terms):
    if len(terms) == 1:
        return terms[0]
    peak = _peak(terms)
    total = array.exp(terms[0] - peak)
    for term in terms[1:]:
        total = total + array.exp(term - peak)
    return peak + array.log(total)


def _reduce_last(x, op):
    return ops.max(x, axis=1) if op == "max" else array.logsumexp(x, 1)


def _cumulative(x, axis):
    """Sums of whole numbers."""
    return ops.cast(ops.cumsum(x, axis=axis), x.dtype)


def _flat(rows):
    return [x for row in rows for x in row]


def _swap(x):
    return ops.swapaxes(x, 0, 1)
