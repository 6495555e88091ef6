"""Links of more tags than registers hold, in Pallas: tiles of some states' links to all.

The passes are those of `triton_tiles.py`: a sum finds its largest term, a pair, then adds up what
all weigh beside it; later sweeps have the sum on the tape. All threads read f in parts from memory,
after a barrier:

    work     (5, rows)   f, high and low, its tangents, what goes out (p), and the tangents of that
"""

from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl

from keras_struct.ops.chain.gpu_step import int32
from keras_struct.ops.exact_sum import two_sum
from keras_struct.ops.messages import join
from keras_struct.ops.numerics import FORBIDDEN


class Tiles:
    """The links after a time.

    Args:
        step: `Step`.
        f: Reference to messages of the step, (2, rows) or more.
        t: Time.
    """

    def __init__(self, step, f, t):
        self.step, self.plan, self.x, self.f, self.t = step, step.plan, step.x, f, t

    def over(self, body, carry):
        """`carry = body(states, carry)` for each tile, of a slice of states."""
        size = self.plan.tile

        def tile(n, carry):
            return body(pl.ds(n * size, size), carry)

        return lax.fori_loop(int32(0), int32(self.plan.rows // size), tile, carry)

    def zeros(self):
        return jnp.zeros((self.plan.tile, self.plan.rows), self.x.scores.dtype)

    def at(self, states):
        """Where links of some states are."""
        return (self.t, states) if self.plan.links == "over_time" else (states,)

    def terms(self, states):
        """Messages plus links, (tile, rows), as a rounded sum and what is left."""
        high, low = self.f[0, states], self.f[1, states]
        high, error = two_sum(high[:, None], self.x.links[(*self.at(states), slice(None))])
        return high, error + low[:, None]

    def sum(self):
        """Messages before the next step."""

        def largest(states, carry):
            best, more = carry
            high, rest = self.terms(states)
            better = (high - best) + (rest - more) > 0
            return jnp.where(better, high, best), jnp.where(better, rest, more)

        zeros = self.zeros()
        best, more = self.over(largest, (zeros + 4 * FORBIDDEN, zeros))
        peak = jnp.max(best, 0)
        top = jnp.max((best - peak[None]) + more, 0)
        if self.step.op == "max":
            return join(peak, top)

        def add(states, total):
            high, rest = self.terms(states)
            return total + jnp.exp(((high - peak[None]) + rest) - top[None])

        return join(peak, top + jnp.log(jnp.sum(self.over(add, zeros), 0)))

    def weights(self, states, end):
        """Of links beside their sum, a pair (rows,); anything where that is nothing."""
        high, rest = self.terms(states)
        logits = (high - end[0][None]) + (rest - end[1][None])
        return jnp.exp(jnp.minimum(logits, 1.0))

    def gains(self, states):
        """Tangents of the terms."""
        return self.f[2, states][:, None] + self.x.tlinks[(*self.at(states), slice(None))]

    def ends(self):
        """The messages before the next step, which the tape has."""
        return self.x.g[0, self.t + 1, :], self.x.g[1, self.t + 1, :]

    def sums(self, end, rate):
        """Of the weights, and with `rate` the mean of what terms gain."""

        def add(states, carry):
            weights = self.weights(states, end)
            found = [carry[0] + weights]
            if rate:
                found.append(carry[1] + weights * self.gains(states))
            return tuple(found)

        found = self.over(add, (self.zeros(),) * (2 if rate else 1))
        total = jnp.maximum(jnp.sum(found[0], 0), 0.5)  # 1 but for rounding, where anything exists
        return total, jnp.sum(found[1], 0) / total if rate else None

    def back(self, q, dq=None):
        """What states get from the next step, and with `dq` its tangents; links get theirs."""
        rate, end = dq is not None, self.ends()
        total, mean = self.sums(end, rate)
        of_total = (q / total)[None]

        def give(states, carry):
            weights = self.weights(states, end)
            pair = weights * of_total
            self.f[3, states] = jnp.sum(pair, 1)
            if rate:
                gains = self.gains(states) - mean[None]
                pair = weights * (dq / total)[None] + pair * gains
                self.f[4, states] = jnp.sum(pair, 1)
            at = (*self.at(states), slice(None))
            if self.plan.links == "shared":
                pair = pair + self.x.dlinks[at]
            self.x.dlinks[at] = pair
            return carry

        self.over(give, int32(0))
        self.step.barrier()
        return (self.f[3, :], self.f[4, :]) if rate else self.f[3, :]


def sum_by_tiles(step, t, f):
    """Messages before the next step."""
    return _kept(step, step.x.ends, t, f).sum()


def rates_by_tiles(step, t, f, df):
    """Their tangents."""
    tiles = _kept(step, step.x.work, t, (*f, df))
    _, mean = tiles.sums(tiles.ends(), True)
    step.barrier()
    return mean


def back_by_tiles(step, t, f, q, rates=None):
    """What states get from the next step; with `rates`, tangents of f and of q, its tangents,
    too."""
    kept = f if rates is None else (*f, rates[0])
    tiles = _kept(step, step.x.work, t, kept)
    return tiles.back(q, *rates[1:]) if rates else tiles.back(q)


def _kept(step, ref, t, values):
    for n, x in enumerate(values):
        ref[n, :] = x
    step.barrier()
    return Tiles(step, ref, t)


def no_links(step):
    """Clear what is added up in memory."""
    if step.plan.links == "shared":
        tiles = Tiles(step, None, int32(0))

        def clear(states, carry):
            step.x.dlinks[states, :] = tiles.zeros()
            return carry

        tiles.over(clear, int32(0))
        step.barrier()
