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

from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl

from keras_struct.ops.alignment.tpu_sums import sum_of
from keras_struct.ops.alignment.tpu_tile import TOGETHER, fill, fill_pairs
from keras_struct.ops.messages import join
from keras_struct.ops.numerics import FORBIDDEN
from keras_struct.ops.pallas_tpu import LANES, SUBLANES


def forward(op, tile, scores, heads, carry, ends, messages, above, found):
    """To `above` and first times of every tile, and the log-weights of all ends."""
    tiling = tile.tiling
    halo, past = tiling.halo, tiling.past
    nothing = [FORBIDDEN if x % 2 == 0 else 0.0 for x in range(2 * tiling.spec.states)]

    @pl.when(tile.has_origin)
    def _():
        tile.clear(messages, op)
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

        def step(t, big):
            time = tile.begin + t
            tile.rows_above(messages, above, t, time + past)
            row, _ = tile.advance(messages, scores.at(t), t, op, big)
            for x, value in enumerate(x for pair in row for x in pair):
                for h in range(halo if value is not None else 0):
                    at = pl.ds(jnp.maximum(time - tiling.rows + past, 0), 1)
                    last = tiling.rows - halo + h
                    above[x * halo + h, at, :] = value[last : last + 1]

        tile.loop(step, lambda: tile.start(messages), TOGETHER)
        pl.when(tile.may_end)(functools.partial(collect_ends, tile, messages, op, ends, found))
        messages[:, :past] = messages[:, tiling.times :]


def collect_ends(tile, messages, op, ends, found):
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

    registers = len(tile.end_states) * tile.tiling.rows // SUBLANES
    # Times whose sums are in registers at once.
    group = next(n for n in (8, 4, 2, 1) if n * registers <= 16 or n == 1)

    def reduce(t, n, _):
        for m in range(group):
            for x, value in enumerate(tile.ended(messages, t + n * group + m, op)):
                found[x, pl.ds(n * group + m, 1), :] = value

    def add(n, _):
        t = pl.multiple_of(n * SUBLANES, SUBLANES)
        lax.fori_loop(0, SUBLANES // group, functools.partial(reduce, t), None)
        pair = join(found[0], found[1])
        at = pl.ds(pl.multiple_of(tile.first + tile.begin + t, SUBLANES), SUBLANES)
        pairs = [(ends[0, at, :], ends[1, at, :], 0.0), (*pair, 0.0)]
        (ends[0, at, :], ends[1, at, :]), _ = sum_of(pairs, op)

    lax.fori_loop(0, tile.tiling.times // SUBLANES, add, None)


def backward(tile, scores, marginals, heads, carry, ends, messages, weights, below):
    """To the marginals."""
    tiling = tile.tiling
    back = Back(tile, marginals)
    back.begin([(weights, below)])

    @pl.when(tile.active)
    def _():
        def use(t, row, shares, thetas):
            back.store(weights, t, shares)
            back.rows_below(weights, below, t)

        tile.repeat(messages, carry, heads, scores, "logsumexp", use)
        back.no_move_into_origin(weights)

        def step(n, _):
            t = tiling.times - 1 - n
            p = back.arriving(weights, t, tile.inject(messages, ends, t))
            used = back.take(weights, below, t, lambda n, k: back.here(weights, n, t) * p[k])
            back.gather(t, used, p)

        lax.fori_loop(0, tiling.times, step, None)
        back.end([weights])

    marginals.end()


def tangent(
    tile, scores, dscores, heads, carry, ends, dheads, dcarry, dends, messages, rates, above
):
    """Tangents of the messages: `above` and first times of every tile; of the log-partition, or of
    the states in the corner."""
    tiling = tile.tiling
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

        def use(t, row, shares, thetas):
            time = tile.begin + t
            tile.rows_above(rates, above, t, time + past)
            moved = tile.moved(rates, shares, dscores.at(t), t)
            for s, x in enumerate(moved):
                rates[s, *tile.here(t), :] = x
                for h in range(halo):
                    at = pl.ds(jnp.maximum(time - tiling.rows + past, 0), 1)
                    last = tiling.rows - halo + h
                    above[s * halo + h, at, :] = x[last : last + 1]

        tile.repeat(messages, carry, heads, scores, "logsumexp", use, rates)
        collect_rates(tile, messages, ends, rates, dends)
        rates[:, :past] = rates[:, tiling.times :]


def collect_rates(tile, messages, ends, rates, dends):
    def add(t, _):
        pairs = zip(tile.inject(messages, ends, t), tile.rates(rates, t), strict=False)
        parts = [jnp.sum(p * rate, 0, keepdims=True) for p, rate in pairs]
        dends[...] += functools.reduce(lambda a, b: a + b, parts)

    corner = tile.spec.end == "corner"
    lax.fori_loop(*(tile.times_of_corners() if corner else (0, tile.tiling.times)), add, None)


def curvature(tile, scores, dscores, marginals, *refs):
    """To the tangents of the marginals."""
    heads, carry, ends, dheads, dcarry, dend, *scratch = refs
    messages, weights, below, rates, dweights, dbelow = scratch
    tiling = tile.tiling
    back = Back(tile, marginals)
    back.begin([(weights, below), (dweights, dbelow)])

    @pl.when(tile.active)
    def _():
        rates[:, : tiling.past] = dcarry[...]

        def use(t, row, shares, thetas):
            tile.rows_above(rates, dheads, t, t)
            moves = dscores.at(t)
            for s, x in enumerate(tile.moved(rates, shares, moves, t)):
                rates[s, *tile.here(t), :] = x
            back.store(weights, t, shares)
            back.store(dweights, t, tile.faster(rates, shares, moves, t))
            back.rows_below(weights, below, t)
            back.rows_below(dweights, dbelow, t)

        tile.repeat(messages, carry, heads, scores, "logsumexp", use, rates)
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

    marginals.end()


class Back:
    """What goes back through a tile: probabilities of moves (or their tangents) in planes that held
    the weights, to marginals."""

    def __init__(self, tile, marginals):
        self.tile, self.tiling, self.spec = tile, tile.tiling, tile.spec
        self.marginals = marginals
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

        @pl.when(last_tile)
        def _():
            for weights, _ in planes:
                block = (weights.shape[0], tiling.past, *weights.shape[2:])
                weights[:, tiling.times :] = jnp.zeros(block, weights.dtype)

        @pl.when(jnp.logical_not(tile.active))
        def _():
            for _, below in planes:
                block = (below.shape[0], tiling.times, LANES)
                at = pl.ds(tile.begin + tiling.rows, tiling.times)
                below[:, at, :] = jnp.zeros(block, below.dtype)

        self.marginals.begin()

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
        for channel in range(len(self.spec.kinds)):
            found = []
            for state in range(self.spec.states):
                if self.spec.emission(state) == channel:
                    found.append(p[state])
                else:
                    into = self.spec.into(state)
                    found += [used[k] for k in into if self.spec.moves[k].channel == channel]
            self.marginals.add(channel, t, functools.reduce(lambda a, b: a + b, found))
