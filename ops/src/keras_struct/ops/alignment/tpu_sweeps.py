"""The Pallas kernels of alignments: what is done with one tile (see `tpu_tiles.py`).

Messages, weights and probabilities of a tile lie in VMEM, by time; a row above or below is read at
an unaligned sublane, which costs nothing. Letters: S states, M moves that come from a node, H rows
above a strip, C times of a tile, R rows.

    messages  (2 S, past + C, FRONT + R, LANES)   high and low of every state; rows above in front
    weights   (M, C + past, R + FRONT, LANES)     of the moves; going back, the probabilities of
                                                  the moves take their place, rows below behind
    above     (2 S H, TE, LANES)                  messages of the last rows of the strip above,
                                                  `past` times before the first time in front
    below     (M' H, TU, LANES)                   probabilities of the moves into the strip below

Between grid steps only the first or last `past` times of a tile and `above` or `below` stay. The
forward sweep writes both to the tape, and every other sweep runs a tile forward again from there.

Every function of messages works in plain log space on pairs (see `messages.py`), by the same
formulas as the other implementations.
"""

import functools
from typing import NamedTuple

from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl

from keras_struct.ops.alignment.paths import CELL, MOVE
from keras_struct.ops.alignment.run import largest
from keras_struct.ops.alignment.spec import START
from keras_struct.ops.alignment.tpu_tiles import FRONT, Tiling
from keras_struct.ops.messages import join, log_sum
from keras_struct.ops.noise import Draws
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE
from keras_struct.ops.pallas import LANES, SUBLANES

_IMPOSSIBLE = 4 * FORBIDDEN
# Columns of the limits of a block of examples: over its lengths, the largest of the first and of
# the second, the least and the largest sum.
MOST_ROWS, MOST_COLUMNS, FIRST_END, LAST_END = range(4)


class Scores(NamedTuple):
    """References to the potentials of a tile, and how each varies."""

    refs: tuple
    kinds: tuple[str, ...]


class Tile:
    """The tile of a grid step."""

    def __init__(self, tiling: Tiling, k, c, lengths, limits, dtype):
        self.tiling, self.spec, self.dtype = tiling, tiling.spec, dtype
        self.k, self.c = k, c
        self.first, self.begin = k * tiling.rows, c * tiling.times
        self.limits = limits
        self.shape = tiling.rows, LANES
        self.lengths_ref = lengths

    @property
    def active(self):
        """Whether some example has nodes here that its paths may pass."""
        limits = self.limits
        return (
            (self.first + self.begin <= limits(LAST_END))
            & (self.first <= limits(MOST_ROWS))
            & (self.begin - (self.tiling.rows - 1) <= limits(MOST_COLUMNS))
        )

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

    def scores(self, scores, t):
        """Every potential at a time, to be broadcast to (R, LANES)."""
        found = []
        for ref, kind in zip(scores.refs, scores.kinds, strict=True):
            if kind == "full":
                found.append(ref[t])
            elif kind == "column":
                start = self.tiling.all_times - 1 - (self.begin + t)
                found.append(ref[pl.ds(start, self.tiling.rows), :])
            else:
                found.append(ref[...])
        return found

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
            (jnp.where(border, FORBIDDEN if s else fresh, high), jnp.where(border, 0.0, low))
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
        """For every move `(high, low, score)` of the paths that it ends."""
        found: dict = {}
        terms = []
        for move in self.spec.moves:
            score = self.zeros() if move.channel is None else thetas[move.channel]
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
        terms = self.terms(messages, thetas, t)
        found = []
        for move, (high, low, score) in zip(self.spec.moves, terms, strict=True):
            into = [terms[k] for k in self.spec.into(move.target)]
            peak = largest([high + score for high, _, score in into])
            found.append(((high - peak) + score) + low)
        return found

    def advance(self, messages, thetas, t, op):
        """The pairs of all states at a time, written into the messages, and the weights of the
        moves."""
        terms = self.terms(messages, thetas, t)
        row, weights = [], [None] * len(terms)
        for state in range(self.spec.states):
            into = self.spec.into(state)
            pair, shares = sum_of([terms[m] for m in into], op)
            row.append(pair)
            for m, share in zip(into, shares, strict=True):
                weights[m] = share
        row = self.restart(row, t)
        for state, pair in enumerate(row):
            for n, x in enumerate(pair):
                messages[2 * state + n, *self.here(t), :] = x
        return row, weights

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

    def loop(self, step):
        """`step(t)` for all times of the tile; the one of the node (0, 0) is done first."""
        lax.fori_loop(
            jnp.where(self.has_origin, 1, 0),
            jnp.int32(self.tiling.times),
            lambda t, _: step(t),
            None,
        )

    def repeat(self, messages, carry, heads, scores, op, use, rates=None):
        """A tile once more from the tape: `use(t, row, weights, thetas)` at every time."""
        messages[:, : self.tiling.past] = carry[...]

        def step(t):
            self.rows_above(messages, heads, t, t)
            thetas = self.scores(scores, t)
            use(t, *self.advance(messages, thetas, t, op), thetas)

        @pl.when(self.has_origin)
        def _():
            step(0)
            self.start(messages)
            if rates is not None and self.spec.start == "corner":
                zero = jnp.zeros((1, LANES), self.dtype)
                for s in range(self.spec.states):
                    rates[s, self.tiling.past, pl.ds(FRONT, 1), :] = zero

        self.loop(step)

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

    def ended(self, messages, t):
        """High and low of all ways to end at 8 times from t on, (8, E R, LANES)."""
        block = SUBLANES, *self.shape
        ends = self.ends(t + lax.broadcasted_iota(jnp.int32, block, 0))
        at = pl.ds(self.tiling.past + t, SUBLANES), pl.ds(FRONT, self.tiling.rows)
        found = []
        for n, nothing in enumerate((FORBIDDEN, 0.0)):
            planes = [messages[2 * s + n, *at, :] for s in self.end_states]
            found.append(jnp.concatenate([jnp.where(ends, x, nothing) for x in planes], 1))
        return found


def sum_of(terms, op):
    """`run.sum_of` with fewer operations: one division, and a score that all terms share is added
    once."""
    score = terms[0][2]
    shared = all(x is score for _, _, x in terms)
    if shared:
        peak = largest([high for high, _, _ in terms])
        logits = [(high - peak) + low for high, low, _ in terms]
    else:
        peak = largest([high + x for high, _, x in terms])
        logits = [((high - peak) + x) + low for high, low, x in terms]
    rest = top = largest(logits)
    weights = [None] * len(terms)
    if op == "logsumexp":
        weights = [jnp.exp(logit - top) for logit in logits]
        total = functools.reduce(lambda a, b: a + b, weights)
        rest, inverse = top + jnp.log(total), pl.reciprocal(total, full_range=False)
        weights = [weight * inverse for weight in weights]
    if shared:
        high = peak + score
        return (high, ((peak - high) + score) + rest), weights
    return join(peak, rest), weights


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


def tile_of(tiling, limits, lengths, dtype, back=False):
    """The tile of this grid step; `back` where the last one comes first."""
    n, k, c = (pl.program_id(axis) for axis in range(3))
    if back:
        k, c = tiling.strips - 1 - k, tiling.tiles - 1 - c
    return Tile(tiling, k, c, lengths, lambda column: limits[n, column], dtype)


# The sweeps ---------------------------------------------------------------------------------------


def forward(tiling, kinds, op, limits, lengths, *refs):
    """To `above` and first times of every tile, and the log-weights of all ends."""
    *thetas, heads, carry, ends, messages, above = refs
    tile = tile_of(tiling, limits, lengths, messages.dtype)
    scores, halo, past = Scores(tuple(thetas), kinds), tiling.halo, tiling.past
    nothing = [FORBIDDEN if x % 2 == 0 else 0.0 for x in range(2 * tiling.spec.states)]

    @pl.when(tile.has_origin)
    def _():
        fill_pairs(above, [x for x in nothing for _ in range(halo)])
        if tiling.spec.end == "corner":
            for x, value in enumerate(nothing):
                ends[pl.ds(x, 1), :] = jnp.full((1, LANES), value, ends.dtype)
        else:
            fill_pairs(ends, (FORBIDDEN, 0.0))

    @pl.when(tile.c == 0)
    def _():
        for x, value in enumerate(nothing):
            block = (past, *messages.shape[2:])
            messages[x, :past] = jnp.full(block, value, messages.dtype)
        for t in range(past):
            tile.rows_above(messages, above, t - past, t)

    @pl.when(tile.active)
    def _():
        carry[...] = messages[:, :past]
        heads[...] = above[:, pl.ds(tile.begin + past, tiling.times), :]

        def step(t):
            time = tile.begin + t
            tile.rows_above(messages, above, t, time + past)
            row, _ = tile.advance(messages, tile.scores(scores, t), t, op)
            for x, value in enumerate(x for pair in row for x in pair):
                for h in range(halo):
                    at = pl.ds(jnp.maximum(time - tiling.rows + past, 0), 1)
                    last = tiling.rows - halo + h
                    above[x * halo + h, at, :] = value[last : last + 1]

        @pl.when(tile.has_origin)
        def _():
            step(0)
            tile.start(messages)

        tile.loop(step)
        collect_ends(tile, messages, op, ends)
        messages[:, :past] = messages[:, tiling.times :]


def collect_ends(tile, messages, op, ends):
    if tile.spec.end == "corner":

        def find(t, _):
            corner = tile.ends(t)
            hit = jnp.max(jnp.where(corner, 1, 0), 0, keepdims=True) > 0
            for x in range(2 * tile.spec.states):
                here = jnp.where(corner, messages[x, *tile.here(t), :], 0.0)
                found = jnp.sum(here, 0, keepdims=True)
                ends[pl.ds(x, 1), :] = jnp.where(hit, found, ends[pl.ds(x, 1), :])

        lax.fori_loop(*tile.times_of_corners(), find, None)
        return

    def add(n, _):
        t = pl.multiple_of(n * SUBLANES, SUBLANES)
        high, low = tile.ended(messages, t)
        peak, rest, _, _ = log_sum(high, low, 0.0, 1, op)
        pair = join(peak[:, 0], rest[:, 0])
        at = pl.ds(pl.multiple_of(tile.first + tile.begin + t, SUBLANES), SUBLANES)
        pairs = [(ends[0, at, :], ends[1, at, :], 0.0), (*pair, 0.0)]
        (ends[0, at, :], ends[1, at, :]), _ = sum_of(pairs, op)

    lax.fori_loop(0, tile.tiling.times // SUBLANES, add, None)


def backward(tiling, kinds, limits, lengths, *refs):
    """To the marginals."""
    count = len(kinds)
    thetas, (heads, carry, ends), refs = refs[:count], refs[count : count + 3], refs[count + 3 :]
    outputs, (messages, weights, below) = refs[:count], refs[count:]
    tile = tile_of(tiling, limits, lengths, messages.dtype, back=True)
    back = Back(tile, kinds, outputs)
    back.begin([(weights, below)])

    @pl.when(tile.active)
    def _():
        def use(t, row, shares, thetas):
            back.store(weights, t, shares)
            back.rows_below(weights, below, t)

        tile.repeat(messages, carry, heads, Scores(thetas, kinds), "logsumexp", use)
        back.no_move_into_origin(weights)

        def step(n, _):
            t = tiling.times - 1 - n
            p = back.arriving(weights, t, tile.inject(messages, ends, t))
            used = back.take(weights, below, t, lambda n, k: back.here(weights, n, t) * p[k])
            back.gather(t, used, p)

        lax.fori_loop(0, tiling.times, step, None)
        back.end([weights])


def tangent(tiling, kinds, limits, lengths, *refs):
    """Tangents of the messages: `above` and first times of every tile; of the log-partition, or of
    the states in the corner."""
    count = len(kinds)
    thetas, (heads, carry, ends), refs = refs[:count], refs[count : count + 3], refs[count + 3 :]
    dthetas, (dheads, dcarry, dends, messages, rates, above) = refs[:count], refs[count:]
    tile = tile_of(tiling, limits, lengths, messages.dtype)
    past, halo = tiling.past, tiling.halo

    @pl.when(tile.has_origin)
    def _():
        fill(above, 0.0)
        dends[...] = jnp.zeros(dends.shape, dends.dtype)

    @pl.when(tile.c == 0)
    def _():
        rates[:, :past] = jnp.zeros((rates.shape[0], past, *rates.shape[2:]), rates.dtype)
        for t in range(past):
            tile.rows_above(rates, above, t - past, t)

    @pl.when(tile.active)
    def _():
        dcarry[...] = rates[:, :past]
        dheads[...] = above[:, pl.ds(tile.begin + past, tiling.times), :]
        dscores = Scores(dthetas, kinds)

        def use(t, row, shares, thetas):
            time = tile.begin + t
            tile.rows_above(rates, above, t, time + past)
            moved = tile.moved(rates, shares, tile.scores(dscores, t), t)
            for s, x in enumerate(moved):
                rates[s, *tile.here(t), :] = x
                for h in range(halo):
                    at = pl.ds(jnp.maximum(time - tiling.rows + past, 0), 1)
                    last = tiling.rows - halo + h
                    above[s * halo + h, at, :] = x[last : last + 1]

        tile.repeat(messages, carry, heads, Scores(thetas, kinds), "logsumexp", use, rates)
        collect_rates(tile, messages, ends, rates, dends)
        rates[:, :past] = rates[:, tiling.times :]


def collect_rates(tile, messages, ends, rates, dends):
    def add(t, _):
        pairs = zip(tile.inject(messages, ends, t), tile.rates(rates, t), strict=False)
        parts = [jnp.sum(p * rate, 0, keepdims=True) for p, rate in pairs]
        dends[...] += functools.reduce(lambda a, b: a + b, parts)

    corner = tile.spec.end == "corner"
    lax.fori_loop(*(tile.times_of_corners() if corner else (0, tile.tiling.times)), add, None)


def curvature(tiling, kinds, limits, lengths, *refs):
    """To the tangents of the marginals."""
    count = len(kinds)
    thetas, (heads, carry, ends), refs = refs[:count], refs[count : count + 3], refs[count + 3 :]
    dthetas, (dheads, dcarry, dend), refs = refs[:count], refs[count : count + 3], refs[count + 3 :]
    outputs, (messages, weights, below, rates, dweights, dbelow) = refs[:count], refs[count:]
    tile = tile_of(tiling, limits, lengths, messages.dtype, back=True)
    back = Back(tile, kinds, outputs)
    back.begin([(weights, below), (dweights, dbelow)])

    @pl.when(tile.active)
    def _():
        rates[:, : tiling.past] = dcarry[...]
        dscores = Scores(dthetas, kinds)

        def use(t, row, shares, thetas):
            tile.rows_above(rates, dheads, t, t)
            moves = tile.scores(dscores, t)
            for s, x in enumerate(tile.moved(rates, shares, moves, t)):
                rates[s, *tile.here(t), :] = x
            back.store(weights, t, shares)
            back.store(dweights, t, tile.faster(rates, shares, moves, t))
            back.rows_below(weights, below, t)
            back.rows_below(dweights, dbelow, t)

        tile.repeat(messages, carry, heads, Scores(thetas, kinds), "logsumexp", use, rates)
        back.no_move_into_origin(weights)
        back.no_move_into_origin(dweights)

        def step(n, _):
            t = tiling.times - 1 - n
            ends_here = tile.inject(messages, ends, t)
            moved = zip(ends_here, tile.rates(rates, t), strict=False)
            dends = [p * (rate - dend[...]) for p, rate in moved]
            p = back.arriving(weights, t, ends_here)
            dp = back.arriving(dweights, t, dends)
            dused = back.take(
                dweights,
                dbelow,
                t,
                lambda n, k: back.here(weights, n, t) * dp[k] + back.here(dweights, n, t) * p[k],
            )
            back.take(weights, below, t, lambda n, k: back.here(weights, n, t) * p[k])
            back.gather(t, dused, dp)

        lax.fori_loop(0, tiling.times, step, None)
        back.end([weights, dweights])


class Back:
    """What goes back through a tile: probabilities of moves (or their tangents) in planes that held
    the weights, to marginals."""

    def __init__(self, tile, kinds, outputs):
        self.tile, self.tiling, self.spec = tile, tile.tiling, tile.spec
        self.kinds, self.outputs = kinds, outputs
        self.rows = pl.ds(0, self.tiling.rows)

    def begin(self, planes):
        """Nothing comes from beyond the last tile or strip, nor from a tile that is not active."""
        tile, tiling = self.tile, self.tiling
        last_tile = tile.c == tiling.tiles - 1
        last = last_tile & (tile.k == tiling.strips - 1)

        @pl.when(last)
        def _():
            for _, below in planes:
                fill(below, 0.0)
            self._clear("scalar")

        @pl.when(last_tile)
        def _():
            for weights, _ in planes:
                block = (weights.shape[0], tiling.past, *weights.shape[2:])
                weights[:, tiling.times :] = jnp.zeros(block, weights.dtype)
            self._clear("row")

        @pl.when(jnp.logical_not(tile.active))
        def _():
            self._clear("full")
            self._clear("column")
            for _, below in planes:
                block = (below.shape[0], tiling.times, LANES)
                at = pl.ds(tile.begin + tiling.rows, tiling.times)
                below[:, at, :] = jnp.zeros(block, below.dtype)

    def _clear(self, wanted):
        for kind, output in zip(self.kinds, self.outputs, strict=True):
            if kind == wanted:
                output[...] = jnp.zeros(output.shape, output.dtype)

    def end(self, planes):
        """The first times of this tile are the last ones of the tile before."""
        for weights in planes:
            weights[:, self.tiling.times :] = weights[:, : self.tiling.past]

    def here(self, weights, n, t):
        return weights[n, t, self.rows, :]

    def store(self, weights, t, values):
        for n, k in enumerate(self.tiling.stored):
            weights[n, t, self.rows, :] = jnp.broadcast_to(values[k], self.tile.shape)

    def rows_below(self, weights, below, t):
        """Probabilities of the moves into the strip below."""
        halo, stored = self.tiling.halo, self.tiling.stored
        for m, k in enumerate(self.tiling.down):
            for h in range(halo):
                row = below[m * halo + h, pl.ds(self.tile.begin + t, 1), :]
                weights[stored.index(k), t, pl.ds(self.tiling.rows + h, 1), :] = row

    def no_move_into_origin(self, weights):
        if self.spec.start == "corner":

            @pl.when(self.tile.has_origin)
            def _():
                for n in range(weights.shape[0]):
                    weights[n, 0, pl.ds(0, 1), :] = jnp.zeros((1, LANES), weights.dtype)

    def arriving(self, weights, t, ends):
        """For every state, what its nodes take from their successors and from the ends."""
        p = [*ends, *[None] * (self.spec.states - len(ends))]
        for n, k in enumerate(self.tiling.stored):
            move = self.spec.moves[k]
            x = weights[n, t + self.tiling.lag(move), pl.ds(move.di, self.tiling.rows), :]
            p[move.source] = x if p[move.source] is None else p[move.source] + x
        p = [self.tile.zeros() if x is None else x for x in p]
        return self.tile.interior(p, t)

    def take(self, weights, below, t, value):
        """Puts `value(plane, target)` of every move in the place of its weight; for every move, or
        None."""
        halo, used = self.tiling.halo, [None] * len(self.spec.moves)
        for n, k in enumerate(self.tiling.stored):
            used[k] = value(n, self.spec.moves[k].target)
        for n, k in enumerate(self.tiling.stored):
            weights[n, t, self.rows, :] = used[k]
        time = self.tile.begin + t + self.tiling.rows
        for m, k in enumerate(self.tiling.down):
            for h in range(halo):
                below[m * halo + h, pl.ds(time, 1), :] = used[k][h : h + 1]
        return used

    def gather(self, t, used, p):
        """Adds to the marginals of the potentials."""
        for channel, (kind, output) in enumerate(zip(self.kinds, self.outputs, strict=True)):
            found = []
            for state in range(self.spec.states):
                if self.spec.emission(state) == channel:
                    found.append(p[state])
                else:
                    into = self.spec.into(state)
                    found += [used[k] for k in into if self.spec.moves[k].channel == channel]
            x = functools.reduce(lambda a, b: a + b, found)
            if kind in ("full", "column"):
                output[t] = x
            else:
                output[...] += x


# Paths --------------------------------------------------------------------------------------------


def last_nodes(tiling, kinds, op, noisy, limits, lengths, *refs):
    """The nodes where paths end, given their times: i, j and state of every sample.

    `times` are those, `pairs` high and low of the log-weight of all paths that end then; `wanted`
    says at which times some path of the block ends.
    """
    count = len(kinds)
    thetas, (heads, carry, wanted, times, pairs, keys), refs = (
        refs[:count],
        refs[count : count + 6],
        refs[count + 6 :],
    )
    nodes, messages, peaks = refs
    block = pl.program_id(0)
    tile = tile_of(tiling, limits, lengths, messages.dtype)
    samples = times.shape[0]

    @pl.when(tile.has_origin)
    def _():
        nodes[...] = jnp.full(nodes.shape, -1, jnp.int32)
        peaks[...] = jnp.full(peaks.shape, 2 * _IMPOSSIBLE, peaks.dtype)

    @pl.when(tile.active)
    def _():
        tile.repeat(messages, carry, heads, Scores(thetas, kinds), op, lambda *_: None)

        def at_time(t, _):
            time = tile.first + tile.begin + t

            def sample(n, _):
                row = pl.ds(n, 1)
                here = times[row, :] == time
                for s in tile.end_states:
                    logits = last_logits(tile, messages, pairs, t, s, row)
                    i, _ = tile.nodes(t)
                    if noisy:
                        draws = Draws((keys[0, row, :], keys[1, row, :]))
                        places = s * (tiling.height + 1) + i
                        logits = logits + draws.gumbel(CELL, places, tile.dtype.name)
                    peak = jnp.max(logits, 0, keepdims=True)
                    best = jnp.min(
                        jnp.where(logits == peak, i, tiling.height + 1), 0, keepdims=True
                    )
                    better = here & (peak > peaks[row, :])
                    peaks[row, :] = jnp.where(better, peak, peaks[row, :])
                    for m, x in enumerate((best, time - best, s)):
                        nodes[m, row, :] = jnp.where(better, x, nodes[m, row, :])

            @pl.when(wanted[block, time] > 0)
            def every_sample():
                lax.fori_loop(0, samples, sample, None)

        lax.fori_loop(0, tiling.times, at_time, None)


def last_logits(tile, messages, pairs, t, s, row):
    high, low = (messages[2 * s + n, *tile.here(t), :] for n in range(2))
    possible = tile.ends(t) & (high > INFEASIBLE)
    logits = (high - pairs[0, row, :]) + (low - pairs[1, row, :])
    return jnp.where(possible, logits, _IMPOSSIBLE)


def walk(tiling, kinds, op, noisy, group, limits, lengths, *refs):
    """Paths back from their last nodes, `group` samples at once: row i of the node at every time
    i + j, -1 where there is none."""
    count = len(kinds)
    thetas, (heads, carry, nodes, keys), refs = (
        refs[:count],
        refs[count : count + 4],
        refs[count + 4 :],
    )
    places, messages, logits, node = refs
    tile = tile_of(tiling, limits, lengths, messages.dtype, back=True)

    @pl.when((tile.c == tiling.tiles - 1) & (tile.k == tiling.strips - 1))
    def _():
        node[...] = nodes[...]

        def clear(n, _):
            places[n] = jnp.full(places.shape[1:], -1, jnp.int32)

        lax.fori_loop(0, places.shape[0], clear, None)

    @pl.when(tile.active)
    def _():
        def use(t, row, shares, thetas):
            for m, x in enumerate(tile.logits(messages, thetas, t)):
                logits[m, t] = x

        tile.repeat(messages, carry, heads, Scores(thetas, kinds), op, use)

        def samples(g, _):
            at = pl.ds(pl.multiple_of(g * group, group), group)
            draws = Draws((keys[0, at, :], keys[1, at, :])) if noisy else None

            def step(n, _):
                t = tiling.times - 1 - n
                walk_step(tile, logits, node, places, at, draws, t)

            lax.fori_loop(0, tiling.times, step, None)

        lax.fori_loop(0, places.shape[1] // group, samples, None)


def walk_step(tile, logits, node, places, at, draws, t):
    spec, moves = tile.spec, tile.spec.moves
    i, j, state = (node[m, at, :] for m in range(3))
    here = (i >= tile.first) & (i < tile.first + tile.tiling.rows)
    here = here & (i - tile.first + j == tile.begin + t)
    row = jnp.where(here, i - tile.first, -1)
    group, rows = i.shape[0], tile.rows()
    masks = [rows == row[g : g + 1] for g in range(group)]
    time = i if spec.by_rows else i + j
    best = [jnp.zeros_like(i)] * 3  # di, dj and source of the move
    peak = jnp.full(i.shape, 2 * _IMPOSSIBLE, tile.dtype)
    for m, move in enumerate(moves):
        found = [jnp.sum(jnp.where(mask, logits[m, t], 0.0), 0, keepdims=True) for mask in masks]
        x = jnp.where(state == move.target, jnp.concatenate(found, 0), _IMPOSSIBLE)
        if draws is not None:
            x = x + draws.gumbel(MOVE, (time - 1) * len(moves) + m, tile.dtype.name)
        better = x > peak
        peak = jnp.where(better, x, peak)
        step = move.di, move.dj, move.source
        best = [jnp.where(better, new, old) for new, old in zip(step, best, strict=True)]
    begun = state == START if spec.start == "anywhere" else i + j == 0
    if spec.start == "border":
        begun = (i == 0) | (j == 0)
    at_time = tile.first + tile.begin + t
    places[at_time, at, :] = jnp.where(here, i, places[at_time, at, :])
    after = jnp.where(begun, -1, i - best[0]), jnp.where(begun, 0, j - best[1]), best[2]
    for m, (new, old) in enumerate(zip(after, (i, j, state), strict=True)):
        node[m, at, :] = jnp.where(here, new, old)
