"""Paths through the tiles of a chain on a TPU, from their ends back: the best, or samples.

Beside the references of `tpu_tile.py`: `last` and `keys`, of every sample; `states` and `spans`,
what goes out; `node`, state and remaining steps of the segment of every sample; `ways`, logits of
the ways into all states of a step.
"""

from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl

from keras_struct.ops.chain import tpu_scaled
from keras_struct.ops.chain.tpu_sweeps import prepare, run
from keras_struct.ops.chain.tpu_tile import Tile, fill, over
from keras_struct.ops.exact_sum import two_sum
from keras_struct.ops.noise import Draws
from keras_struct.ops.numerics import FORBIDDEN
from keras_struct.ops.pallas_tpu import LANES

_IMPOSSIBLE = 4 * FORBIDDEN


def walk(plan, op, noisy, x):
    """Paths back from their last states: state, and length of a segment, of every step of every
    sample; -1 where there is none."""
    tile = Tile(plan, x, op, back=True)
    prepare(tile)
    samples = x.keys.shape[1]

    @pl.when(tile.first_call)
    def _():
        x.node[0] = x.last[...]
        x.node[1] = jnp.full(x.node.shape[1:], -1, jnp.int32)

    found = [x.states] + ([x.spans] if plan.terms > 1 and not plan.moves else [])

    @pl.when(jnp.logical_not(tile.active))
    def _():
        for ref in found:
            fill(ref, -1)

    @pl.when(tile.active)
    def _():
        tile.resume()

        def steps():
            step = Step(tile, noisy)

            def at(t):
                step.prepare(t)

                def sample(n, _):
                    step.walk(t, pl.ds(n, 1))

                lax.fori_loop(0, samples, sample, None)

            tile.loop(at, back=True)

        def scaled():
            tile.loop(lambda t: tpu_scaled.unpack(tile, t))
            steps()

        run(tile, scaled, steps)


class Step:
    """A step back of a sample."""

    def __init__(self, tile, noisy):
        self.tile, self.plan, self.x, self.noisy = tile, tile.plan, tile.x, noisy

    def prepare(self, t):
        """Logits of the ways into all states."""
        tile, plan, x = self.tile, self.plan, self.x
        if plan.terms == 1:
            return

        def chunk(start, size, _):
            def put(n, _):
                high, low = (tile.source(x.g.at[m], t, n, start, size) for m in range(2))
                high, error = two_sum(high, tile.score(x.scores, t, n, start, size))
                to_high, to_low = _rows(tile, t, start, size)
                x.ways[n, pl.ds(start, size), :] = (high - to_high) + (error + (low - to_low))

            over(plan.terms, put)

        tile.chunks(chunk)

    def walk(self, t, row):
        tile, plan, x = self.tile, self.plan, self.x
        state, wait = x.node[0, row, :], x.node[1, row, :]
        time = tile.begin + t
        here = inside = time < tile.lengths
        if not plan.moves:
            due = inside & jnp.logical_not(tile.last(t))
            if plan.terms > 1:
                due = due & (wait == 0)
            state = jnp.where(due, self._before(t, state, row), state)
            here = due | tile.last(t)
        if plan.terms == 1:
            x.states[t, row, :] = jnp.where(inside, state, -1)
        else:
            way = self._way(t, state, row)
            x.states[t, row, :] = jnp.where(here, state, -1)
            if plan.moves:
                state = jnp.where(here, state - way, state)
            else:
                x.spans[t, row, :] = jnp.where(here, way + 1, -1)
                x.node[1, row, :] = jnp.where(here, way, wait - 1)
        x.node[0, row, :] = state

    def _draws(self, row):
        return Draws((self.x.keys[0, row, :], self.x.keys[1, row, :]))

    def _before(self, t, state, row):
        """The state of a step, given the one that the links lead to."""
        tile, plan = self.tile, self.plan

        def pick(j, column):
            return jnp.where(state == j, tile.column("links", j, t), column)

        column = over(plan.states, pick, tile.column("links", 0, t))
        high, low = tile.f(t)
        high, error = two_sum(high, column)
        logits = (high - jnp.max(high, 0, keepdims=True)) + (error + low)
        states = lax.broadcasted_iota(jnp.int32, logits.shape, 0)
        if self.noisy:
            places = (tile.begin + t) * plan.states + states
            logits = logits + self._draws(row).gumbel(0, places, logits.dtype.name)
        logits = jnp.where(states < plan.states, logits, _IMPOSSIBLE)
        best = logits == jnp.max(logits, 0, keepdims=True)
        return jnp.min(jnp.where(best, states, plan.rows), 0, keepdims=True)

    def _way(self, t, state, row):
        """Which way led to a state: a move, or the length of a segment less one."""
        tile, plan, x = self.tile, self.plan, self.x

        def logit(n):
            def chunk(start, size, found):
                here = start + lax.broadcasted_iota(jnp.int32, (size, LANES), 0) == state
                ways = x.ways[n, pl.ds(start, size), :]
                x.picked[...] += jnp.sum(jnp.where(here, ways, 0.0), 0, keepdims=True)

            x.picked[...] = jnp.zeros(x.picked.shape, x.picked.dtype)
            tile.chunks(chunk)
            found = x.picked[...]
            if self.noisy:
                place = (tile.begin + t) * plan.terms + n + jnp.zeros_like(state)
                found = found + self._draws(row).gumbel(1, place, found.dtype.name)
            return found

        def better(n, best):
            peak, way = best
            found = logit(n + 1)
            return jnp.maximum(peak, found), jnp.where(found > peak, n + 1, way)

        return over(plan.terms - 1, better, (logit(0), jnp.zeros_like(state)))[1]


def _rows(tile, t, start, size):
    """High and low of some rows of the messages of a step."""
    plan, x = tile.plan, tile.x
    if plan.moves:
        at = plan.past + t, pl.ds(plan.front + start, size)
        return x.g[0, *at, :], x.g[1, *at, :]
    at = t, pl.ds(start, size)
    return x.f[0, *at, :], x.f[1, *at, :]
