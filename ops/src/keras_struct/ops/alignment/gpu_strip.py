"""One strip of a lattice on a GPU under JAX: how its columns are read, and what is done with one
node (see `gpu_plan.py`).

A column is a flat tuple of vectors, one number a lane: rows from -halo to the last of the lane, for
each all states, for each the parts of a message (high and low, or one). Positions inside of tuples
come from `Plan`. References are flat and have one pair; they are attributes of `x`:

    lengths  (2,)
    theta0, theta1, ...    scores of every channel; dtheta0, ... their tangents
    tape     (strips * times * step,)   messages; dtape their tangents
    ends     of the states in the corner their shares, else high and low of the log-partition
"""

from jax import lax
from jax import numpy as jnp

from keras_struct.ops.exact_sum import two_sum
from keras_struct.ops.messages import join
from keras_struct.ops.numerics import FORBIDDEN

# Not of `jnp`, whose index types follow the flag for 64 bits.
int32 = jnp.int32


def iota(size):
    return lax.broadcasted_iota(int32, (size,), 0)


def named(x, name, count):
    """References of so many channels."""
    return [getattr(x, f"{name}{c}") for c in range(count)]


class Strip:
    """Strip k of a pair.

    Args:
        gpu: The `PallasGPU` that calls the kernel.
        cut: The `Cut`.
        x: References.
        k: Number of the strip.
    """

    def __init__(self, gpu, cut, x, k):
        self.gpu, self.cut, self.plan, self.x, self.k = gpu, cut, cut.plan, x, k
        self.n1, self.n2 = x.lengths[0], x.lengths[1]
        self.lane = iota(self.plan.lanes)
        self.i = (k * self.plan.lanes + self.lane) * self.plan.rows  # the first row of each lane
        self.dtype = x.theta0.dtype

    def zeros(self):
        return jnp.zeros((self.plan.lanes,), self.dtype)

    def full(self, value):
        return jnp.full((self.plan.lanes,), value, self.dtype)

    def above(self, v):
        """What the lane above has; lane 0 keeps its own."""
        return self.gpu.take(v, jnp.maximum(self.lane - 1, 0))

    def below(self, v):
        """What the lane below has; the last one keeps its own."""
        return self.gpu.take(v, jnp.minimum(self.lane + 1, self.plan.lanes - 1))

    # The tape -------------------------------------------------------------------------------------

    def place(self, t, parts, k=None):
        """Where a tape has a time of a strip."""
        k = self.k if k is None else k
        return (k * self.cut.times + t) * self.plan.step(parts)

    def number(self, row, state, part, parts):
        """Where in a time of the tape the numbers of a row are."""
        return ((row * self.plan.states + state) * parts + part) * self.plan.lanes

    def all_numbers(self, first, stop, parts):
        """Row, state and part of the numbers of rows, as they stand in a column; and what they are
        where there is no node."""
        for row in range(first, stop):
            for state in range(self.plan.states):
                for part in range(parts):
                    yield row, state, part, FORBIDDEN if parts == 2 and part == 0 else 0.0

    def column(self, tape, t, parts):
        """The column t - lane of messages (high and low), or with one part of their tangents."""
        plan, lane = self.plan, self.lane
        j = t - lane
        first = lane == 0
        own = self.place(t, parts) + lane
        before = self.place(t - 1, parts) + lane - 1
        last = self.place(t + plan.lanes - 1, parts, self.k - 1) + plan.lanes - 1
        halo = jnp.where(first, last, before)
        known = jnp.where(first, (self.k > 0) & (j >= 0) & (j <= self.n2), t >= 1)
        inside = jnp.broadcast_to(t >= 0, lane.shape)
        found = []
        for row, state, part, nothing in self.all_numbers(-plan.halo, plan.rows, parts):
            if row < 0:
                at = halo + self.number(row + plan.rows, state, part, parts)
                found.append(self.gpu.load(tape, at, known, nothing))
            else:
                at = own + self.number(row, state, part, parts)
                found.append(self.gpu.load(tape, at, inside, nothing))
        return tuple(found)

    def columns_before(self, tape, t, parts):
        """Columns t - lane - 1, ..., as many as moves reach back, the last one first."""
        columns = (self.column(tape, t - 1 - c, parts) for c in range(self.plan.reach))
        return sum(columns, ())

    def halo_of(self, old, tape, t, parts):
        """The rows above of the next column, from the last column of the lane above; before lane 0,
        from the strip above."""
        plan, lane = self.plan, self.lane
        first = (lane == 0) & (self.k > 0) & (t <= self.n2)
        last = self.place(t + plan.lanes - 1, parts, self.k - 1) + plan.lanes - 1
        found = []
        for row, state, part, nothing in self.all_numbers(plan.rows - plan.halo, plan.rows, parts):
            at = last + self.number(row, state, part, parts) + 0 * lane
            strip_above = self.gpu.load(tape, at, first, nothing)
            lane_above = self.above(old[plan.at(row, state, part, parts)])
            found.append(jnp.where(lane == 0, strip_above, lane_above))
        return tuple(found)

    # Scores ---------------------------------------------------------------------------------------

    def scores(self, thetas, t, fill):
        """Scores of a column, row by row, for each all channels; `fill` where there is no cell."""
        plan, cut = self.plan, self.cut
        j = t - self.lane
        in_columns, found = (j >= 0) & (j <= cut.columns), []
        for row in range(plan.rows):
            i = self.i + row
            for c, (form, theta) in enumerate(zip(plan.forms, thetas, strict=True)):
                if form.cell:
                    legal = (j >= 1) & (j <= cut.columns) & (i >= 1) & (i <= cut.rows)
                    at = (i - 1) * cut.columns - 1 + j
                    found.append(self.gpu.load(theta, at, legal, fill))
                elif form.rows:
                    at, legal = jnp.maximum(i - 1, 0), i <= cut.rows
                    if form.columns:
                        at, legal = at * cut.columns + jnp.maximum(j - 1, 0), legal & in_columns
                    found.append(self.gpu.load(theta, at, legal, 0.0))
                elif row > 0:
                    found.append(found[c])
                elif form.columns:
                    found.append(self.gpu.load(theta, jnp.maximum(j - 1, 0), in_columns, 0.0))
                else:
                    found.append(jnp.broadcast_to(theta[0], self.lane.shape))
        return found

    # Nodes ----------------------------------------------------------------------------------------

    def sources(self, state, row, new, old, parts):
        """Of every move into a state, what it comes from: its parts, or None for a start."""
        plan = self.plan
        found: list = []
        for m in range(plan.fan_in(state)):
            column = new if plan.straight(state, m) else old
            if plan.source(state, m) < 0:
                found.append(None)
            else:
                places = (plan.source_at(state, m, row, part, parts) for part in range(parts))
                found.append([column[place] for place in places])
        return found

    def channel(self, thetas, row, channel):
        """A score of a row, None where a move has no channel."""
        return None if channel < 0 else thetas[row * self.plan.channels + channel]

    def node(self, state, row, new, old, thetas, op):
        """Message of a node, high and low, and the weights of the moves into it.

        Args:
            state, row: Of the node.
            new: The column, as far as it is known.
            old: The columns before, the last one first.
            thetas: Scores of the column.
            op: "logsumexp", or "max", which has no weights.
        """
        gpu, plan, zeros = self.gpu, self.plan, self.zeros()
        shared = self.channel(thetas, row, plan.shared(state))
        highs, lows = [], []
        for m, source in enumerate(self.sources(state, row, new, old, 2)):
            high, low = source or (zeros, zeros)
            score = self.channel(thetas, row, plan.channel(state, m))
            if shared is None and score is not None:
                high, error = two_sum(high, score)
                low = low + error
            highs.append(high)
            lows.append(low)
        (high, low), weights = (highs[0], lows[0]), [self.full(1.0)]
        if len(highs) > 1:
            peak = largest(highs)
            logits = [(high - peak) + low for high, low in zip(highs, lows, strict=True)]
            rest = top = largest(logits)
            if op == "logsumexp":
                weights = [gpu.exp(logit - top) for logit in logits]
                total = sum(weights[1:], weights[0])
                rest = top + gpu.log(total)
                inverse = gpu.reciprocal(total)
                weights = [weight * inverse for weight in weights]
            high, low = join(peak, rest)
        if shared is not None:
            high, error = two_sum(high, shared)
            high, low = join(high, error + low)
        return high, low, weights

    def rates(self, state, row, dnew, dold, dthetas):
        """Tangents of what each move into a state brings."""
        found = []
        for m, source in enumerate(self.sources(state, row, dnew, dold, 1)):
            score = self.channel(dthetas, row, self.plan.channel(state, m))
            terms = [*(source or ()), *([] if score is None else [score])]
            found.append(sum(terms[1:], terms[0]) if terms else self.zeros())
        return found

    # Where paths start or end ---------------------------------------------------------------------

    def starts(self, row, t):
        """Where no move enters, None if nowhere, and where of these a path starts in state 0."""
        start, i, j = self.plan.spec.start, self.i + row, t - self.lane
        if start == "border":
            border = (i == 0) | (j == 0)
            legal = ((i == 0) & (j < self.n2)) | ((j == 0) & (i < self.n1))
            return border, legal & (self.n1 > 0) & (self.n2 > 0) & (j >= 0)
        if start == "corner" and row == 0:
            border = (i == 0) & (j == 0)
            return border, border
        return None, None

    def begun(self, high, low, state, row, t):
        """A message, or that of a path that starts there."""
        border, legal = self.starts(row, t)
        if border is None:
            return high, low
        fresh = self.full(FORBIDDEN)
        if state == 0:
            fresh = jnp.where(legal, self.zeros(), fresh)
        return jnp.where(border, fresh, high), jnp.where(border, self.zeros(), low)

    def inner(self, p, row, t):
        """A probability, or nothing where paths only start."""
        border, _ = self.starts(row, t)
        return p if border is None else jnp.where(border, self.zeros(), p)

    def end_weight(self, high, low, state, row, t):
        """The probability that a path ends in a node."""
        end, i, j = self.plan.spec.end, self.i + row, t - self.lane
        if end == "corner":
            share = jnp.broadcast_to(self.x.ends[state], self.lane.shape)
            return jnp.where((i == self.n1) & (j == self.n2), share, self.zeros())
        if end == "anywhere" and state > 0:
            return self.zeros()
        inside = (i > 0) & (j > 0) & (i <= self.n1) & (j <= self.n2)
        if end == "border":
            inside = inside & ((i == self.n1) | (j == self.n2))
        logit = (high - self.x.ends[0]) + (low - self.x.ends[1])
        return jnp.where(inside, self.gpu.exp(logit), self.zeros())


def largest(terms):
    peak = terms[0]
    for term in terms[1:]:
        peak = jnp.maximum(peak, term)
    return peak
