"""Paths through the tiles of a lattice on a TPU, from their ends back: the best, or samples."""

from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl

from keras_struct.ops.alignment.paths import CELL, MOVE
from keras_struct.ops.alignment.spec import START
from keras_struct.ops.noise import Draws
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE

_IMPOSSIBLE = 4 * FORBIDDEN


def last_nodes(op, noisy, tile, scores, *refs):
    """The nodes where paths end, given their times: i, j and state of every sample.

    `times` are those, `pairs` high and low of the log-weight of all paths that end then; `wanted`
    says at which times some path of the block ends.
    """
    heads, carry, wanted, times, pairs, keys, nodes, messages, peaks = refs
    tiling, samples = tile.tiling, times.shape[0]

    @pl.when(tile.has_origin)
    def _():
        nodes[...] = jnp.full(nodes.shape, -1, jnp.int32)
        tile.clear(messages, op)
        peaks[...] = jnp.full(peaks.shape, 2 * _IMPOSSIBLE, peaks.dtype)

    @pl.when(tile.active)
    def _():
        tile.repeat(messages, carry, heads, scores, op, lambda *_: None)

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

            @pl.when(wanted[0, time] > 0)
            def every_sample():
                lax.fori_loop(0, samples, sample, None)

        lax.fori_loop(0, tiling.times, at_time, None)


def last_logits(tile, messages, pairs, t, s, row):
    high, low = (messages[2 * s + n, *tile.here(t), :] for n in range(2))
    possible = tile.ends(t) & (high > INFEASIBLE)
    logits = (high - pairs[0, row, :]) + (low - pairs[1, row, :])
    return jnp.where(possible, logits, _IMPOSSIBLE)


def walk(op, noisy, group, tile, scores, heads, carry, nodes, keys, places, messages, logits, node):
    """Paths back from their last nodes, `group` samples at once: row i of the node at every time
    i + j, -1 where there is none."""
    tiling = tile.tiling

    @pl.when((tile.c == tiling.tiles - 1) & (tile.k == tiling.strips - 1))
    def _():
        tile.clear(messages, op)
        node[...] = nodes[...]

        def clear(n, _):
            places[n] = jnp.full(places.shape[1:], -1, jnp.int32)

        lax.fori_loop(0, places.shape[0], clear, None)

    @pl.when(tile.active)
    def _():
        def use(t, row, shares, thetas):
            for m, x in enumerate(tile.logits(messages, thetas, t)):
                logits[m, t] = x

        tile.repeat(messages, carry, heads, scores, op, use)

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
