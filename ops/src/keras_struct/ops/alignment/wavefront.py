"""The sweeps of every structure on the lattice, one wavefront at a time (see recurrence.md).

Inside, an array over time holds one row (B, P) per wavefront and state; `V[t]` is the forward
message F minus its shift `C[t]`, a whole number, so that sums of shifts are exact and messages stay
near zero whatever the size of the scores. Potentials are read with the shift of their move,
`theta + C[t - lag] - C[t]`.

The tape: for every state, the rows of `V` at times 1 - window, 2 - window, ..., (steps, B, P), flat
with the batch first; its last rows, the last first, (B, P) for every lag and state; `c` (B, steps),
the increments of C; `base` and `value` (B,) with log-partition `base + value`, `base` whole;
`ends`, relative to `base`: the log-weight of every state in the corner (B, states) where all paths
end there, else of ending at each time, and of the empty structure, (B, 1 + steps + 1). Times go on
past the lattice for `window` steps, so that the rows before each time are one array and never
copied.

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
    last: tuple
    c: object
    base: object
    value: object
    ends: object

    def flat(self):
        """With the batch first; the swap is free or undone by the compiler."""
        v = (_swap(x) for x in self.v)
        return (*v, *self.last, self.c, self.base, self.value, self.ends)

    @classmethod
    def of(cls, spec, flat):
        v, rest = flat[: spec.states], flat[spec.states :]
        return cls(tuple(_swap(x) for x in v), tuple(rest[:-4]), *rest[-4:])


@dataclasses.dataclass(frozen=True)
class WavefrontSweeps(Sweeps):
    spec: Spec

    def run(self, potentials, context):
        return _Run(self.spec, potentials, context)

    def forward(self, potentials, context, op):
        run = self.run(potentials, context)
        states = self.spec.states
        like = (*[run.zeros] * states, run.zeros[:, :1])
        like = like if self.spec.end == "corner" else (*like, run.zeros[:, 0])
        xs = (run.times, *run.xs)
        carry, outputs = array.scan(run.forward_step(op), run.start(), xs, like=like)
        last, (v, c) = carry[: states * self.spec.window], (outputs[:states], outputs[states])
        ends = run.corner_of(v) if self.spec.end == "corner" else _swap(outputs[-1])
        return run.close(v, last, _swap(c)[:, :, 0], ends, op)

    def backward(self, potentials, context, tape):
        run = self.run(potentials, context)
        tape = Tape.of(self.spec, tape)
        step = run.backward_step(run.injection(tape))
        xs = (*run.offsets(tape.c), *run.xs)
        carry = run.join(tape.last, run.no_rows(), run.no_sums())
        carry, outputs = run.reverse(step, carry, run.times, tape.v, xs)
        return run.collect(outputs, run.split(carry, 2)[-1])

    def curvature(self, potentials, context, tape, tangents):
        run = self.run(potentials, context)
        tape = Tape.of(self.spec, tape)
        rates = self.run(tangents, context)
        xs = (*run.offsets(tape.c), *run.xs, *rates.xs)
        carry = (*_flat(run.heads()), *run.no_rows(), run.zeros[:, :1])
        inject, like = run.injection(tape), tuple(run.zeros for _ in tape.v)
        step = run.tangent_step(rates, inject)
        carry, df = array.scan(step, carry, (run.times, *xs), like=like)
        last, dlast, (dend,) = run.split(carry, 2)
        step = run.curvature_step(rates, inject, dend)
        carry = run.join(last, dlast, *[run.no_rows()] * 2, run.no_sums())
        carry, outputs = run.reverse(step, carry, run.times, (*tape.v, *df), xs)
        return run.collect(outputs, run.split(carry, 4)[-1])

    def trace(self, potentials, context, tape, noise):
        run = self.run(potentials, context)
        places = paths.walk(run, Tape.of(self.spec, tape), noise)
        return events.encode(self.spec, run.layout, places)

    def topk(self, potentials, context, k):
        run = self.run(potentials, context)
        places, exists = paths.best(run, k)
        encoded = [events.encode(self.spec, run.layout, places[rank]) for rank in range(k)]
        encoded = ops.stack(encoded)
        keep = ops.reshape(exists, (*ops.shape(exists), *(1 for _ in encoded.shape[2:])))
        return array.where(keep, encoded, -1), exists


class _Step(NamedTuple):
    """What the loops read at one time: C and shifts (see `_Run.offsets`), potentials, the rest."""

    time: object
    offsets: list
    thetas: list
    rest: list


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
        self.infeasible = self.zeros[:, :1] + INFEASIBLE
        self.position = ops.arange(self.layout.positions, dtype="int32")[None]
        self.steps = self.layout.steps + spec.window
        self.times = 1 + ops.arange(self.steps, dtype="int32")
        self.constant, self.reduced = zip(
            *(self._constant(*x) for x in zip(spec.kinds, potentials, strict=True)), strict=True
        )

    @functools.cached_property
    def xs(self):
        """The potentials that change over time, (steps, B, P)."""
        layout, past = self.layout, self.spec.window
        return [
            layout.cells_in_time(x, past) if kind == "cell" else layout.gaps_in_time(x, past)
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

    # Carries: groups of rows, lag by lag, the last time first, state by state ---------------------

    def heads(self):
        """Rows at times 0, -1, ..."""
        dead = self.zeros + FORBIDDEN
        rows = [[dead] * self.spec.states for _ in range(self.spec.window)]
        if self.spec.start != "anywhere":
            rows[0][0] = array.where(self.starts(0), self.zeros, dead)
        return rows

    def no_rows(self):
        return [self.zeros] * (self.spec.states * self.spec.window)

    def no_sums(self):
        return [self.zeros for reduced in self.reduced if reduced == "time"]

    def outputs_like(self):
        like = {"all": self.zeros[:, :1], "none": self.zeros}
        return tuple(like[reduced] for reduced in self.reduced if reduced != "time")

    def join(self, *groups):
        return tuple(x for group in groups for x in group)

    def split(self, carry, groups):
        """Groups of rows, each flat, and the rest."""
        size = self.spec.states * self.spec.window
        rows = [list(carry[n * size : (n + 1) * size]) for n in range(groups)]
        return *rows, list(carry[groups * size :])

    def by_lag(self, rows):
        return [rows[n : n + self.spec.states] for n in range(0, len(rows), self.spec.states)]

    def offsets(self, c):
        """C[t] and `C[t - lag] - C[t]` for lag 1, 2, ..., each (steps, B, 1)."""
        c = _swap(c)[..., None]
        rows, total = [], 0.0
        for lag in range(self.spec.window):
            total = total - (ops.pad(c, [(lag, 0), (0, 0), (0, 0)])[:-lag] if lag else c)
            rows.append(total)
        return [_cumulative(c, 0), *rows]

    def read(self, x):
        count, x = 2 + self.spec.window, list(x)
        changing = len(self.changing())
        thetas = self.timed(x[count : count + changing])
        return _Step(x[0], x[1:count], thetas, x[count + changing :])

    # The loops -----------------------------------------------------------------------------------

    def start(self):
        """Carry of the forward loop before time 1: rows, past increments of C, peaks, C."""
        small, heads = self.zeros[:, :1], self.heads()
        more = self.spec.window - 1
        peaks = [_maximum(heads[0])] + [small + FORBIDDEN] * min(more, 1)
        return (*_flat(heads), *[small] * more, *peaks, small)

    def forward_step(self, op, every_end=False):
        """Step to (*rows at time t - window, c), and (B,) the log-weight of the paths that end at
        time t; where paths end in a corner, with `every_end` (B, states) the rows there."""
        spec, small, more = self.spec, self.zeros[:, :1], self.spec.window - 1
        reduce = _peak if op == "max" else _logsumexp

        def step(carry, x):
            rows, rest = self.split(carry, 1)
            past, peaks, total = rest[:more], rest[more:-1], rest[-1]
            time, thetas, history = x[0], self.timed(x[1:]), self.by_lag(rows)
            c = array.maximum(peaks[0], peaks[1] - past[0]) if more else peaks[0]
            if spec.start == "anywhere":
                c = array.maximum(c, -total)
            else:
                c = array.where(c > INFEASIBLE, c, small)
            c = array.round(c)
            total = total + c
            x = _Step(time, [total, *_offsets(c, past)], thetas, [])
            row = self.row(history, x, reduce)
            outputs = (*history[-1], c)
            if spec.end != "corner":
                ends = [self.ending(row[state], time) for state in self.end_states()]
                ends = ends[0] if len(ends) == 1 else array.concatenate(ends, 1)
                outputs = (*outputs, _reduce_last(ends, op))
            elif every_end:
                outputs = (*outputs, self.in_corner(row))
            peaks, past = [_maximum(row), *peaks[: min(more, 1)]], [c, *past][:more]
            return (*row, *rows[: -spec.states], *past, *peaks, total), outputs

        return step

    def backward_step(self, inject):
        def step(carry, x):
            window, pending, sums = self.split(carry, 2)
            x = self.read(x)
            window = [*window, *x.rest]
            weights = self.weights(self.by_lag(window), x)
            ends = inject(x, window)
            p = [a + b for a, b in zip(pending, ends, strict=False)]
            p = self.interior(p, x.time)
            used = [w * p[move.target] for w, move in zip(weights, self.moves, strict=True)]
            sums, outputs = self.gather(used, p, sums)
            return self.join(window[len(p) :], self.push(pending, used), sums), outputs

        return step

    def tangent_step(self, rates, inject, rows=False):
        """Forward again, with the tangents of F and of the log-partition: to (with `rows`, *rows
        and) *tangents at time t - window."""
        states = self.spec.states

        def step(carry, x):
            window, dwindow, (dend,) = self.split(carry, 2)
            x = self.read(x)
            dthetas = rates.timed(x.rest)
            row, weights = self.row_and_weights(self.by_lag(window), x)
            drow = self.rates([None, *self.by_lag(dwindow)], weights, dthetas)
            drow = self.interior(drow, x.time)
            for p, rate in zip(inject(x, row), drow, strict=True):
                dend = dend + array.sum(p * rate, 1, keepdims=True)
            carry = (*row, *window[:-states], *drow, *dwindow[:-states], dend)
            before = window[-states:] if rows else []
            return carry, (*before, *dwindow[-states:])

        return step

    def curvature_step(self, rates, inject, dend):
        def step(carry, x):
            window, dwindow, pending, dpending, sums = self.split(carry, 4)
            x = self.read(x)
            count, states = len(rates.changing()), self.spec.states
            dthetas = rates.timed(x.rest[:count])
            rows = x.rest[count:]
            window, dwindow = [*window, *rows[:states]], [*dwindow, *rows[states:]]
            weights = self.weights(self.by_lag(window), x)
            ends = inject(x, window)
            dends = [a * (b - dend) for a, b in zip(ends, dwindow, strict=False)]
            p = self.interior([a + b for a, b in zip(pending, ends, strict=False)], x.time)
            dp = self.interior([a + b for a, b in zip(dpending, dends, strict=False)], x.time)
            used, dused = [], []
            shifted = self.sources(self.by_lag(dwindow))
            for k, move in enumerate(self.moves):
                w = weights[k] * p[move.target]
                rate = shifted[k] - dwindow[move.target]
                if move.channel is not None:
                    rate = rate + dthetas[move.channel]
                used.append(w)
                dused.append(weights[k] * dp[move.target] + w * rate)
            sums, outputs = self.gather(dused, dp, sums)
            pendings = self.push(pending, used), self.push(dpending, dused)
            return self.join(window[states:], dwindow[states:], *pendings, sums), outputs

        return step

    def reverse(self, step, carry, times, tables, xs):
        """A loop back over these times; `tables` are the rows `window` times before."""
        xs = (times, *xs, *tables)
        return array.scan(step, carry, xs, like=self.outputs_like(), reverse=True)

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

    def row(self, history, x, reduce, extra=()):
        """Messages of the next wavefront."""
        spec, row = self.spec, []
        sources, scores = self.terms([None, *history], x)
        for state in range(spec.states):
            into = spec.into(state)
            lags = {spec.lag(self.moves[k]) for k in into}
            if spec.emission(state) is not None and len(lags) == 1:
                row.append(reduce([sources[k] for k in into]) + scores[into[0]])
            else:
                row.append(reduce([*(sources[k] + scores[k] for k in into), *extra]))
        return self.restart(row, x)

    def weights(self, window, x):
        """Posterior probability of every move into the current wavefront, `window[0]`."""
        sources, scores = self.terms(window, x)
        alive = [array.maximum(v, self.infeasible) for v in window[0]]
        if self.spec.start == "border":
            border = self.border(x.time)
            alive = [array.where(border, self.zeros - FORBIDDEN, v) for v in alive]
        return [
            array.exp_or_zero(source + (score - alive[move.target]))
            for source, score, move in zip(sources, scores, self.moves, strict=True)
        ]

    def terms(self, window, x):
        """For every move, the message of its source and its score."""
        total, *offsets = x.offsets
        start = -(total + offsets[1]) if self.spec.start == "anywhere" else 0.0
        return self.sources(window, start), self.scores(x.thetas, offsets)

    def row_and_weights(self, history, x):
        """Messages of the next wavefront, and the posterior probability of every move into it."""
        sources, scores = self.terms([None, *history], x)
        row, weights = [], [None] * len(self.moves)
        for state in range(self.spec.states):
            terms = [sources[k] + scores[k] for k in self.spec.into(state)]
            peak = _peak(terms)
            shares = [array.exp_or_zero(term - peak) for term in terms]
            total = sum(shares[1:], shares[0])
            row.append(peak + array.log(total))
            for k, share in zip(self.spec.into(state), shares, strict=True):
                weights[k] = share / total
        return self.restart(row, x), weights

    def rates(self, dwindow, weights, dthetas):
        """Tangents of the messages of a wavefront."""
        spec, shifted = self.spec, self.sources(dwindow)
        drow = [self.zeros] * spec.states
        for k, move in enumerate(self.moves):
            rate = shifted[k]
            if move.channel is not None and spec.emission(move.target) is None:
                rate = rate + dthetas[move.channel]
            drow[move.target] = drow[move.target] + weights[k] * rate
        for state in range(spec.states):
            if spec.emission(state) is not None:
                drow[state] = drow[state] + dthetas[spec.emission(state)]
        return drow

    def push(self, pending, used):
        """Marginals of the wavefronts before, with what the moves took from them."""
        spec = self.spec
        pending = [*pending[spec.states :], *[self.zeros] * spec.states]
        groups: dict = {}
        for move, x in zip(self.moves, used, strict=True):
            if move.source != START:
                key = (spec.lag(move) - 1) * spec.states + move.source, spec.offset(move)
                groups[key] = groups[key] + x if key in groups else x
        for (index, offset), x in groups.items():
            pending[index] = pending[index] + self.unshift(x, offset)
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
                marginals.append(self.layout.cells_of_time(next(outputs)[: self.layout.steps]))
            else:
                x = self.layout.gaps_of_time(next(outputs)[: self.layout.steps])
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

    def restart(self, row, x):
        """Where paths only start, what starts there."""
        if self.spec.start != "border":
            return row
        border = self.border(x.time)
        fresh = array.where(self.starts(x.time), self.zeros - x.offsets[0], self.zeros + FORBIDDEN)
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

    def at(self, table, row, column):
        """Entries (B, n) of a table (B, R, C); places before its first read the first."""
        size = ops.shape(table)
        flat = ops.reshape(table, (size[0], size[1] * size[2]))
        index = ops.cast(row * size[2] + column, "int32")
        return array.take_along_axis(flat, array.where(index > 0, index, 0 * index), 1)

    def at_time(self, table, time, position):
        """Entries (B, n) of rows `V` as on the tape."""
        steps, batch, width = ops.shape(table)
        row = ops.clip(ops.cast(time + self.spec.window - 1, "int32"), 0, steps - 1)
        index = (row * batch + ops.arange(batch, dtype="int32")[:, None]) * width + position
        flat = ops.reshape(table, (steps * batch * width,))
        return ops.reshape(
            array.take_along_axis(flat, ops.reshape(index, (-1,)), 0), ops.shape(index)
        )

    def in_corner(self, row):
        """Rows at the position of the corner, (B, states)."""
        position = self.final()[1]
        return array.concatenate([array.take_along_axis(x, position, 1) for x in row], 1)

    def ending(self, row, time):
        """A row where paths may end, else forbidden."""
        return array.where(self.end_mask(time), row, self.zeros + FORBIDDEN)

    def corner_of(self, v):
        """All rows `V` as on the tape, in the corner, (B, states)."""
        return ops.concatenate([self.at_time(x, *self.final()) for x in v], axis=1)

    def close(self, v, last, c, ends, op):
        """Log-partition and tape, from the log-weights (B, states) in the corner or (B, steps)."""
        shifts = ops.pad(_cumulative(c, 1), [(0, 0), (1, 0)])  # (B, 1 + steps)
        if self.spec.end == "corner":
            base = array.take_along_axis(shifts, self.final()[0], 1)[:, 0]
        else:
            ends = ops.pad(ends, [(0, 0), (1, 0)], constant_values=FORBIDDEN)
            peak = ops.max(ends + shifts, axis=1)
            if self.spec.empty:
                peak = array.maximum(peak, ops.zeros_like(peak))
            base = array.round(array.where(peak > INFEASIBLE, peak, ops.zeros_like(peak)))
            ends = ends + (shifts - base[:, None])
            nothing = -base[:, None] if self.spec.empty else ops.full_like(shifts[:, :1], FORBIDDEN)
            ends = ops.concatenate([ends, nothing], axis=1)
        value = _reduce_last(ends, op)
        return base + value, Tape(tuple(v), tuple(last), c, base, value, ends).flat()

    def injection(self, tape):
        """Function of a time and its rows: for every state, the probability that a path ends
        there."""
        spec = self.spec
        exists = ops.cast(tape.base + tape.value > INFEASIBLE, self.zeros.dtype)[:, None]
        value = tape.value[:, None]
        if spec.end == "corner":
            end, position = self.final()
            here = ops.cast(ops.equal(self.position, position), self.zeros.dtype) * exists
            weights = array.exp_or_zero(tape.ends - value)
            last = [here * weights[:, s : s + 1] for s in range(spec.states)]

            def inject(x, row):
                now = array.where(ops.equal(end, x.time), exists, exists * 0.0)
                return [now * p for p in last]

        else:

            def inject(x, row):
                probabilities = [self.zeros] * spec.states
                for state in self.end_states():
                    logit = self.ending(row[state], x.time)
                    logit = logit + ((x.offsets[0] - tape.base[:, None]) - value)
                    probabilities[state] = array.exp_or_zero(logit) * exists
                return probabilities

        return inject


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
    total = array.exp_or_zero(terms[0] - peak)
    for term in terms[1:]:
        total = total + array.exp_or_zero(term - peak)
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
