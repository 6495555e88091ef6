"""The potentials of a call in time order, and what one wavefront is and does.

Inside, an array over time holds one row (B, P) per wavefront. A message of the forward sweep is a
pair of rows, `(high, low)`, which stands for the exact sum of the two (see `messages.py`): a score
of a path may be so large that its last digit in float32 is more than the differences that count.
Only such differences are ever rounded. The weights of the moves into a node are divided by their
own sum, so no rounding adds up along a path.
"""

from typing import Any, NamedTuple

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.alignment.layout import Layout
from keras_struct.ops.alignment.spec import START
from keras_struct.ops.exact_sum import two_sum
from keras_struct.ops.messages import join, log_sum
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE


class Step(NamedTuple):
    """What the loops read at one time: potentials, the share of paths that end then, the rest."""

    time: Any
    thetas: list
    share: Any
    rest: list


class Run:
    """Potentials in time order and the operations on one wavefront.

    Carries of the loops are groups of rows, lag by lag, the last time first, state by state:
    `pairs` of two rows each, high and low, and plain `rows`.
    """

    def __init__(self, problem, potentials=None):
        spec = problem.spec
        potentials = problem.potentials if potentials is None else potentials
        self.spec, self.moves = spec, spec.moves
        shape = ops.shape(potentials[0])
        self.layout = Layout(shape[1], shape[2], spec.by_rows)
        self.lengths = tuple(length[:, None] for length in problem.context[:2])
        self.potentials = potentials
        zero = ops.cast(self.lengths[0] * 0, potentials[0].dtype)
        self.zeros = zero + ops.zeros((1, self.layout.positions), dtype=zero.dtype)
        self.position = ops.arange(self.layout.positions, dtype="int32")[None]
        self.steps = self.layout.steps + spec.window
        self.times = 1 + ops.arange(self.steps, dtype="int32")
        self.constant, self.reduced = zip(
            *(self._constant(*x) for x in zip(spec.kinds, potentials, strict=True)), strict=True
        )
        self.corner = spec.end == "corner"
        self.row_count = spec.states * spec.window
        self.pair_count = 2 * self.row_count

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

    # Carries -------------------------------------------------------------------------------------

    def heads(self):
        """Pairs at times 0, -1, ..., flat."""
        dead = self.zeros + FORBIDDEN
        rows = [[dead] * self.spec.states for _ in range(self.spec.window)]
        if self.spec.start != "anywhere":
            rows[0][0] = array.where(self.starts(0), self.zeros, dead)
        return [x for row in rows for high in row for x in (high, self.zeros)]

    def no_pairs(self):
        return [self.zeros] * self.pair_count

    def no_rows(self):
        return [self.zeros] * self.row_count

    def no_sums(self):
        return [self.zeros for reduced in self.reduced if reduced == "time"]

    def outputs_like(self):
        like = {"all": self.zeros[:, :1], "none": self.zeros}
        return tuple(like[reduced] for reduced in self.reduced if reduced != "time")

    def pairs_by_lag(self, flat):
        """For every lag, for every state, a pair."""
        size = 2 * self.spec.states
        rows = [flat[n : n + size] for n in range(0, len(flat), size)]
        return [list(zip(row[0::2], row[1::2], strict=True)) for row in rows]

    def rows_by_lag(self, flat):
        size = self.spec.states
        return [flat[n : n + size] for n in range(0, len(flat), size)]

    def read(self, x):
        """`Step` of what a loop reads: time, potentials, share where paths do not end in a corner,
        the rest."""
        changing = len(self.changing())
        time, thetas, rest = x[0], self.timed(x[1 : 1 + changing]), list(x[1 + changing :])
        share = None if self.corner else rest.pop(0)
        return Step(time, thetas, share, rest)

    # One wavefront -------------------------------------------------------------------------------

    def sources(self, window, fill=0.0):
        """For every move, the row of its source where it arrives, (B, P); `window` lists rows by
        lag, for every state. None for the start of a local path."""
        shifted: dict = {}
        rows: list = []
        for move in self.moves:
            if move.source == START:
                rows.append(None)
                continue
            lag, offset = self.spec.lag(move), self.spec.offset(move)
            key = lag, offset, move.source
            if key not in shifted:
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

    def terms(self, window, thetas):
        """For every move, `(high, low, score)` of the paths that it ends; `window` lists pairs by
        lag, from lag 0, which is not read."""
        before = [None, *window[1:]]
        highs = [None if row is None else [high for high, _ in row] for row in before]
        lows = [None if row is None else [low for _, low in row] for row in before]
        terms = []
        for move, high, low in zip(
            self.moves, self.sources(highs, FORBIDDEN), self.sources(lows), strict=True
        ):
            score = self.zeros if move.channel is None else thetas[move.channel]
            start = move.source == START
            terms.append((self.zeros, self.zeros, score) if start else (high, low, score))
        return terms

    def row(self, window, x, op, extra=()):
        """Messages of the next wavefront, and the weight of every move into it."""
        row, weights = [], [None] * (len(self.moves) + len(extra))
        terms = [*self.terms(window, x.thetas), *extra]
        for state in range(self.spec.states):
            into = [*self.spec.into(state), *range(len(self.moves), len(terms))]
            pair, shares = sum_of([terms[k] for k in into], op)
            row.append(pair)
            for k, share in zip(into, shares, strict=True):
                weights[k] = share
        return self.restart(row, x.time), weights

    def rates(self, dwindow, weights, dthetas):
        """Tangents of the messages of a wavefront; `dwindow` lists rows by lag, from lag 0."""
        spec = self.spec
        drow: list = [None] * spec.states
        for k, (move, rate) in enumerate(zip(self.moves, self.sources(dwindow), strict=True)):
            if move.channel is not None and spec.emission(move.target) is None:
                rate = dthetas[move.channel] if rate is None else rate + dthetas[move.channel]
            if rate is not None:
                rate = weights[k] * rate
                old = drow[move.target]
                drow[move.target] = rate if old is None else old + rate
        for state in range(spec.states):
            if spec.emission(state) is not None:
                drow[state] = drow[state] + dthetas[spec.emission(state)]
        return [self.zeros if x is None else x for x in drow]

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

    def restart(self, row, time):
        """Where paths only start, what starts there."""
        if self.spec.start != "border":
            return row
        border, dead = self.border(time), self.zeros + FORBIDDEN
        fresh = array.where(self.starts(time), self.zeros, dead)
        return [
            (
                array.where(border, dead if state else fresh, high),
                array.where(border, self.zeros, low),
            )
            for state, (high, low) in enumerate(row)
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

    def no_ends(self):
        """What the forward loop carries: nothing but for paths that end in a corner, the pairs of
        the states there, each (B, S)."""
        if not self.corner:
            return ()
        here = ops.equal(self.final()[0], 0)
        high, low = self.in_corner(self.pairs_by_lag(self.heads())[0])
        return array.where(here, high, FORBIDDEN), array.where(here, low, ops.zeros_like(low))

    def in_corner(self, row):
        """The pairs of all states at the position of the corner, each (B, S)."""
        position = self.final()[1]
        return tuple(
            array.concatenate([array.take_along_axis(pair[n], position, 1) for pair in row], 1)
            for n in range(2)
        )

    def ending(self, row, time):
        """The pairs of all states where paths may end, each (B, S P); elsewhere forbidden."""
        mask = self.end_mask(time)
        states = self.end_states()
        highs = [array.where(mask, row[s][0], self.zeros + FORBIDDEN) for s in states]
        lows = [array.where(mask, row[s][1], self.zeros) for s in states]
        return array.concatenate(highs, 1), array.concatenate(lows, 1)

    def all_ends(self, carry, outputs):
        """The pairs of every way to end, each (B, E): of the states in the corner, else of each
        time from 0 on and of the empty structure."""
        if self.corner:
            return tuple(carry)
        high, low = (ops.transpose(x[..., 0]) for x in outputs)
        nothing = ops.zeros_like(high[:, :1])
        empty = nothing if self.spec.empty else nothing + FORBIDDEN
        high = ops.concatenate([nothing + FORBIDDEN, high, empty], axis=1)
        return high, ops.concatenate([nothing, low, nothing], axis=1)

    def shares(self, ends):
        """Probability of every way to end, (B, E); zeros where no path exists."""
        high, low = ends
        peak, _, weights, total = log_sum(high, low, 0.0, 1, "logsumexp")
        return weights / total * ops.cast(peak > INFEASIBLE, high.dtype)

    def share_xs(self, shares):
        """What the loops read of them: nothing, or (steps, B, 1)."""
        if self.corner:
            return ()
        return (ops.transpose(shares[:, 1 : 1 + self.steps])[..., None],)

    def injection(self, shares):
        """Function of a step and its pairs: for every state, the probability that a path ends in
        each node."""
        states = self.spec.states
        if self.corner:
            end, position = self.final()
            here = ops.cast(ops.equal(self.position, position), self.zeros.dtype)
            last = [here * shares[:, s : s + 1] for s in range(states)]

            def inject(x, row):
                now = ops.cast(ops.equal(end, x.time), self.zeros.dtype)
                return [now * p for p in last]

        else:

            def inject(x, row):
                high, low = self.ending(row, x.time)
                _, _, weights, total = log_sum(high, low, 0.0, 1, "logsumexp")
                p = weights * (x.share / total)
                width = self.zeros.shape[1] or ops.shape(self.zeros)[1]
                found = [p[:, s * width : (s + 1) * width] for s in range(len(self.end_states()))]
                return [*found, *[self.zeros] * (states - len(found))]

        return inject


def sum_of(terms, op):
    """Log-sum (or maximum) of terms `(high, low, score)`, as a pair, and their weights."""
    if len(terms) == 1:
        ((high, low, score),) = terms
        high, error = two_sum(high, score)
        return (high, error + low), [1.0]
    sums = [two_sum(high, score) for high, _, score in terms]
    peak = largest([high for high, _ in sums])
    logits = [
        (high - peak) + (error + low)
        for (high, error), (_, low, _) in zip(sums, terms, strict=True)
    ]
    top = largest(logits)
    if op == "max":
        return join(peak, top), [None] * len(terms)
    weights = [array.exp_or_zero(logit - top) for logit in logits]
    total = sum(weights[1:], weights[0])
    return join(peak, top + array.log(total)), [weight / total for weight in weights]


def largest(terms):
    peak = terms[0]
    for term in terms[1:]:
        peak = array.maximum(peak, term)
    return peak


def split(items, *counts):
    """A flat carry in groups of so many items, and the rest."""
    groups, start = [], 0
    for count in counts:
        groups.append(list(items[start : start + count]))
        start += count
    return *groups, list(items[start:])


def flat(pairs):
    return [x for pair in pairs for x in pair]


def swap(x):
    return ops.swapaxes(x, 0, 1)
