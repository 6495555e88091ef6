"""One tile of a lattice on a TPU: what a row of a strip is at one time (see `tpu_sweeps.py`)."""

import functools

from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl

from keras_struct.ops.alignment.run import largest
from keras_struct.ops.alignment.spec import START
from keras_struct.ops.alignment.tpu_sums import ones, parts, sum_of, sum_of_wholes
from keras_struct.ops.alignment.tpu_tiles import FRONT, Tiling
from keras_struct.ops.exact_sum import two_sum
from keras_struct.ops.numerics import FORBIDDEN
from keras_struct.ops.pallas_tpu import LANES, SUBLANES

# Columns of the limits of a block of examples: over its lengths, the largest of the first and of
# the second, the least and the largest sum, the least of the first and of the second; and whether
# its scores are in range, see `tpu_sums.py`.
MOST_ROWS, MOST_COLUMNS, FIRST_END, LAST_END, LEAST_ROWS, LEAST_COLUMNS, IN_RANGE = range(7)
# Registers of nodes with one state, of several times, in the body of a loop; and where more is
# done with each. Those of several states are linked to each other.
TOGETHER, REPEATED = 72, 24


class Tile:
    """The tile of a grid step.

    Attributes:
        kinds: How each potential varies.
        back: Whether the last tile comes first; before it comes a step that has none, `c` beyond.
        block: The block of columns, of which a tile is a part.
        offset: Where this tile begins in it.
    """

    def __init__(self, tiling: Tiling, kinds, k, c, lengths, limits, dtype, back=False):
        self.tiling, self.spec, self.dtype = tiling, tiling.spec, dtype
        self.kinds, self.back = kinds, back
        self.k, self.c = k, c
        self.first, self.begin = k * tiling.rows, c * tiling.times
        self.block = tiling.block(c)
        self.offset = self.begin - self.block * tiling.span
        self.limits = limits
        self.shape = tiling.rows, LANES
        self.lengths_ref = lengths

    def _alive(self, begin):
        limits = self.limits
        return (
            (self.first + begin <= limits(LAST_END))
            & (self.first <= limits(MOST_ROWS))
            & (begin - (self.tiling.rows - 1) <= limits(MOST_COLUMNS))
        )

    @property
    def active(self):
        """Whether some example has nodes here that its paths may pass."""
        return self._alive(self.begin)

    def reaches(self, block):
        """Whether a tile of this strip in a block of columns is active."""
        return self._alive(block * self.tiling.span)

    @property
    def enters(self):
        """Whether this tile is the first one, in its order, in its block of columns."""
        place = self.c & (self.tiling.in_span - 1)
        if not self.back:
            return place == 0
        return (self.c >= self.tiling.tiles - 1) | (place == self.tiling.in_span - 1)

    @property
    def leaves(self):
        """Whether it is the last one; going back."""
        return self.c & (self.tiling.in_span - 1) == 0

    @property
    def may_end(self):
        """Whether paths of some example may end here."""
        if self.spec.end != "border":
            return self.active
        limits, tiling = self.limits, self.tiling
        below, behind = self.first + tiling.rows, self.begin + tiling.times
        in_row = (limits(LEAST_ROWS) < below) & (limits(MOST_ROWS) >= self.first)
        column = self.begin - (tiling.rows - 1)
        in_column = (limits(LEAST_COLUMNS) < behind) & (limits(MOST_COLUMNS) >= column)
        return in_row | in_column

    @property
    def has_origin(self):
        return (self.k == 0) & (self.c == 0)

    @property
    def lengths(self):
        return self.lengths_ref[0:1, :], self.lengths_ref[1:2, :]

    def rows(self):
        return lax.broadcasted_iota(jnp.int32, self.shape, 0)

    def nodes(self, t):
        """i and j of the nodes at a time of this tile, (R, LANES)."""
        rows = self.rows()
        return self.first + rows, self.begin + t - rows

    def zeros(self):
        return jnp.zeros(self.shape, self.dtype)

    # Nodes where paths start or end ---------------------------------------------------------------

    def border(self, t):
        i, j = self.nodes(t)
        return (i == 0) | (j == 0)

    def restart(self, row, t):
        """Where paths only start, what starts there."""
        if self.spec.start != "border":
            return row
        (i, j), (n1, n2) = self.nodes(t), self.lengths
        legal = ((i == 0) & (j >= 0) & (j < n2)) | ((j == 0) & (i < n1))
        fresh = jnp.where(legal & (n1 > 0) & (n2 > 0), 0.0, FORBIDDEN)
        border = (i == 0) | (j == 0)
        return [
            (
                jnp.where(border, FORBIDDEN if s else fresh, high),
                None if low is None else jnp.where(border, 0.0, low),
            )
            for s, (high, low) in enumerate(row)
        ]

    def interior(self, p, t):
        """Nothing arrives where paths only start."""
        if self.spec.start != "border":
            return p
        border = self.border(t)
        return [jnp.where(border, 0.0, x) for x in p]

    @property
    def end_states(self):
        return range(1) if self.spec.end == "anywhere" else range(self.spec.states)

    def ends(self, t):
        """Where paths may end."""
        (i, j), (n1, n2) = self.nodes(t), self.lengths
        if self.spec.end == "corner":
            return (i == n1) & (j == n2)
        inside = (i > 0) & (j > 0) & (i <= n1) & (j <= n2)
        return inside if self.spec.end == "anywhere" else inside & ((i == n1) | (j == n2))

    def times_of_corners(self):
        """The times of this tile at which examples of the block end, from and to."""
        start = self.first + self.begin
        low = jnp.clip(self.limits(FIRST_END) - start, 0, self.tiling.times)
        return low, jnp.clip(self.limits(LAST_END) + 1 - start, 0, self.tiling.times)

    # Forward --------------------------------------------------------------------------------------

    def here(self, t):
        """Index of a plane of messages at a time."""
        return self.tiling.past + t, pl.ds(FRONT, self.tiling.rows)

    def before(self, plane, move, t):
        """Of a plane of messages, where a move comes from."""
        source = pl.ds(FRONT - move.di, self.tiling.rows)
        return plane[self.tiling.past + t - self.tiling.lag(move), source, :]

    def terms(self, messages, thetas, t):
        """For every move `(high, low, score)` of the paths that it ends; the last of `thetas` is
        that of moves without a score."""
        found: dict = {}
        terms = []
        for move in self.spec.moves:
            score = thetas[-1 if move.channel is None else move.channel]
            if move.source == START:
                terms.append((self.zeros(), self.zeros(), score))
                continue
            key = move.source, move.di, move.dj
            if key not in found:
                high, low = (messages.at[2 * move.source + n] for n in range(2))
                found[key] = self.before(high, move, t), self.before(low, move, t)
            terms.append((*found[key], score))
        return terms

    def logits(self, messages, thetas, t):
        """For every move, its log-weight beside the best one into the same state."""
        terms = self.terms(messages, [*thetas, self.zeros()], t)
        found = []
        for move, (high, low, score) in zip(self.spec.moves, terms, strict=True):
            into = [terms[k] for k in self.spec.into(move.target)]
            peak = largest([high + score for high, _, score in into])
            high, error = two_sum(high, score)
            found.append((high - peak) + (error + low))
        return found

    def advance(self, messages, thetas, t, op, big):
        """The pairs of all states at a time, written into the messages, and the weights of the
        moves. `big` are `ones` where scores are in range, else None."""
        thetas, sum_into = [*thetas, self.zeros()], sum_of
        if big is not None:
            sum_into = functools.partial(sum_of_wholes, big)
            if op == "logsumexp":
                thetas = [parts(theta, big) for theta in thetas]
        terms = self.terms(messages, thetas, t)
        row, weights = [], [None] * len(terms)
        for state in range(self.spec.states):
            into = self.spec.into(state)
            pair, shares = sum_into([terms[m] for m in into], op)
            row.append(pair)
            for m, share in zip(into, shares, strict=True):
                weights[m] = share
        row = self.restart(row, t)
        for state, pair in enumerate(row):
            for n, x in enumerate(pair):
                if x is not None:
                    messages[2 * state + n, *self.here(t), :] = x
        return row, weights

    def clear(self, messages, op):
        """Before the first tile of all: low parts are 0 where nobody writes them."""
        if op == "max":
            for state in range(self.spec.states):
                low = messages.at[2 * state + 1]

                def one(t, _, low=low):
                    low[t] = jnp.zeros(low.shape[1:], low.dtype)

                lax.fori_loop(0, low.shape[0], one, None)

    def start(self, messages):
        """The node (0, 0), once time 0 of the tile that has it is done."""
        if self.spec.start == "corner":
            for n in range(2):
                messages[n, self.tiling.past, pl.ds(FRONT, 1), :] = jnp.zeros(
                    (1, LANES), self.dtype
                )

    def rows_above(self, planes, heads, t, offset):
        """Rows of the strip above: `heads[x H + h]` at a place in time to every plane x."""
        halo = self.tiling.halo
        for x in range(planes.shape[0]):
            for h in range(halo):
                row = heads[x * halo + h, pl.ds(offset, 1), :]
                planes[x, self.tiling.past + t, pl.ds(FRONT - halo + h, 1), :] = row

    def loop(self, step, begin, registers):
        """`step(t, big)` for all times of the tile, and `begin()` after that of node (0, 0).

        Several times stand in the body of the loop, so that the rows of one begin while others of
        the time before are on their way: as many as `registers` allow.
        """
        per_time = self.spec.states**2 * self.tiling.rows // SUBLANES

        def steps(big):
            most = max(1, registers // (per_time if big is not None else 4 * per_time))
            together = min(1 << (most.bit_length() - 1), self.tiling.together)

            def one(t, _):
                step(t, big)
                pl.when(t == 0)(begin)

            def some(n, _):
                for m in range(together):
                    step(n * together + m, big)

            @pl.when(self.has_origin)
            def _():
                lax.fori_loop(0, together, one, None)

            first = jnp.where(self.has_origin, 1, 0)
            lax.fori_loop(first, jnp.int32(self.tiling.times // together), some, None)

        in_range = self.limits(IN_RANGE) > 0
        pl.when(in_range)(lambda: steps(ones(self.dtype, in_range)))
        pl.when(jnp.logical_not(in_range))(lambda: steps(None))

    def repeat(self, messages, carry, heads, scores, op, use, rates=None):
        """A tile once more from the tape: `use(t, row, weights, thetas)` at every time."""
        messages[:, : self.tiling.past] = carry[...]

        def step(t, big):
            self.rows_above(messages, heads, t, t)
            thetas = scores.at(t)
            use(t, *self.advance(messages, thetas, t, op, big), thetas)

        def begin():
            self.start(messages)
            if rates is not None and self.spec.start == "corner":
                zero = jnp.zeros((1, LANES), self.dtype)
                for s in range(self.spec.states):
                    rates[s, self.tiling.past, pl.ds(FRONT, 1), :] = zero

        self.loop(step, begin, REPEATED)

    def inject(self, messages, ends, t):
        """For every state, the probability that a path ends in each node.

        `ends` are the shares of the states in the corner, or high and low of the log-partition.
        """
        here = self.ends(t)
        if self.spec.end == "corner":
            return [jnp.where(here, ends[s : s + 1, :], 0.0) for s in range(self.spec.states)]
        found = []
        for s in self.end_states:
            high, low = (messages[2 * s + n, *self.here(t), :] for n in range(2))
            found.append(jnp.exp((high - ends[0:1, :]) + (low - ends[1:2, :])))
        return [jnp.where(here, x, 0.0) for x in found]

    # Tangents -------------------------------------------------------------------------------------

    def rates(self, rates, t):
        return [rates[s, *self.here(t), :] for s in range(self.spec.states)]

    def sources(self, rates, t):
        """For every move, the tangents where it comes from, or None."""
        found: dict = {}
        for move in self.spec.moves:
            key = move.source, move.di, move.dj
            if move.source != START and key not in found:
                found[key] = self.before(rates.at[move.source], move, t)
        return [found.get((move.source, move.di, move.dj)) for move in self.spec.moves]

    def moved(self, rates, weights, dthetas, t):
        """Tangents of the messages of all states at a time."""
        sources, moved = self.sources(rates, t), []
        for state in range(self.spec.states):
            emission = self.spec.emission(state)
            total = self.zeros() if emission is None else self.zeros() + dthetas[emission]
            for k in self.spec.into(state):
                channel, rate = self.spec.moves[k].channel, sources[k]
                if emission is None and channel is not None:
                    rate = dthetas[channel] if rate is None else rate + dthetas[channel]
                total = total if rate is None else total + weights[k] * rate
            moved.append(total)
        return self.interior(moved, t)

    def faster(self, rates, weights, dthetas, t):
        """The tangents of the weights."""
        sources, here, found = self.sources(rates, t), self.rates(rates, t), []
        for move, rate, weight in zip(self.spec.moves, sources, weights, strict=True):
            rate = -here[move.target] if rate is None else rate - here[move.target]
            if move.channel is not None:
                rate = rate + dthetas[move.channel]
            found.append(weight * rate)
        return found

    def ended(self, messages, t, op):
        """Peak and rest of the log-weight of all ways to end at a time, (1, LANES)."""
        ends, planes = self.ends(t), []
        for s in self.end_states:
            high, low = (messages[2 * s + n, *self.here(t), :] for n in range(2))
            planes.append((jnp.where(ends, high, FORBIDDEN), jnp.where(ends, low, 0.0)))
        peak = jnp.max(largest([high for high, _ in planes]), 0, keepdims=True)
        logits = [(high - peak) + low for high, low in planes]
        top = jnp.max(largest(logits), 0, keepdims=True)
        if op == "max":
            return peak, top
        total = functools.reduce(lambda a, b: a + b, [jnp.exp(x - top) for x in logits])
        return peak, top + jnp.log(jnp.sum(total, 0, keepdims=True))


def fill(ref, value):
    """Every plane of (planes, times, LANES) with a value."""

    def write(n, _):
        block = (ref.shape[0], SUBLANES, LANES)
        ref[:, pl.ds(pl.multiple_of(n * SUBLANES, SUBLANES), SUBLANES), :] = jnp.full(
            block, value, ref.dtype
        )

    lax.fori_loop(0, ref.shape[1] // SUBLANES, write, None)


def fill_pairs(ref, high):
    """Planes that are high and low in turn, or with H rows each."""

    def write(n, _):
        at = pl.ds(pl.multiple_of(n * SUBLANES, SUBLANES), SUBLANES)
        half = (SUBLANES, LANES)
        for x, value in enumerate(high):
            ref[x, at, :] = jnp.full(half, value, ref.dtype)

    lax.fori_loop(0, ref.shape[1] // SUBLANES, write, None)


def tile_of(tiling, kinds, limits, lengths, dtype, back):
    """The tile of this grid step."""
    k, c = pl.program_id(1), pl.program_id(2)
    if back:
        k, c = tiling.strips - 1 - k, tiling.tiles - c
    return Tile(tiling, kinds, k, c, lengths, lambda column: limits[0, column], dtype, back)
