"""A step of a chain on a GPU, in log space: what all kernels do at a time (see `form.py`).

A program has one example. Arrays of a step have the ways into a state on their first axis and
states on the last one, (ways, rows), links from i to j are (rows, rows); both sizes are powers of
two. Where there is one way, messages stay in registers, (rows,). References of a kernel are
attributes of `x`:

    lengths  (1,)
    scores   (steps, ways, rows), or (steps, ways) if all states share them
    links    (rows, rows), or (steps, rows, rows)
    g        (2, steps + 1, rows)   messages before every step, high and low: the tape

Messages are pairs (see `messages.py`), by the same formulas as in the portable implementations.
"""

from jax import lax
from jax import numpy as jnp
from jax.experimental.pallas import triton

from keras_struct.ops.exact_sum import two_sum
from keras_struct.ops.messages import join, log_sum
from keras_struct.ops.numerics import FORBIDDEN

# Not of `jnp`, whose index types follow the flag for 64 bits.
int32 = jnp.int32


def iota(shape, axis):
    return lax.broadcasted_iota(int32, shape, axis)


def load(ref, index, mask, other):
    """Elements at arrays of places; `other` where the mask is False, whatever the place."""
    return triton.load(ref.at[index], mask=mask, other=jnp.asarray(other, ref.dtype))


class Step:
    """What a kernel does at a time.

    Args:
        plan: The `Plan`.
        barrier: `PallasGPU.barrier` of who calls the kernel.
        x: References.
        op: "logsumexp" or "max".
    """

    def __init__(self, plan, barrier, x, op="logsumexp"):
        self.plan, self.barrier, self.x, self.op = plan, barrier, x, op
        self.length = x.lengths[0]
        self.states = iota((plan.rows,), 0)
        shape = plan.ways, plan.rows
        self.way, self.state = iota(shape, 0), iota(shape, 1)
        self.table = x.links[:, :] if plan.links == "shared" and not plan.tile else None

    @property
    def one_way(self):
        return self.plan.ways == 1

    def over(self, body, carry, back=False):
        """`carry = body(t, carry)` for the steps of the example."""
        last = self.length - 1

        def at(n, carry):
            return body(last - n if back else n, carry)

        return lax.fori_loop(int32(0), self.length, at, carry)

    def vector(self, value):
        return jnp.full((self.plan.rows,), value, self.x.scores.dtype)

    # Messages -------------------------------------------------------------------------------------

    def start(self):
        """What stands before the first step: state 0, or any label."""
        others = jnp.where(self.states == 0, 0.0, FORBIDDEN).astype(self.x.scores.dtype)
        return (others if self.plan.moves else self.vector(0.0)), self.vector(0.0)

    def read(self, ref, t):
        """A pair of messages of the tape, where there is one way; else nothing."""
        return (ref[0, t, :], ref[1, t, :]) if self.one_way else None

    def write(self, ref, t, pair):
        ref[0, t, :], ref[1, t, :] = pair

    def score(self, ref, t):
        """Scores of the ways at a time, to be broadcast to (ways, rows)."""
        if self.plan.alike:
            return ref[t, :][:, None]
        return ref[t, 0, :] if self.one_way else ref[t, :, :]

    def source(self, t, state=None, way=None):
        """Time and place of what the ways into states come from, and whether it exists."""
        way = self.way if way is None else way
        state = self.state if state is None else state
        if self.plan.moves:
            return jnp.broadcast_to(t, way.shape), jnp.maximum(state - way, 0), state >= way
        return jnp.maximum(t - way, 0), jnp.broadcast_to(state, way.shape), way <= t

    def before(self, t, **places):
        """Messages that the ways come from, (ways, rows)."""
        time, place, exists = self.source(t, **places)
        plane = jnp.zeros_like(time)
        high = load(self.x.g, (plane, time, place), exists, FORBIDDEN)
        return high, load(self.x.g, (plane + 1, time, place), exists, 0.0)

    def enter(self, t, g):
        """Messages f of a step, and the shares of the ways; `g` is before it, where there is one
        way, which has no share."""
        score = self.score(self.x.scores, t)
        if self.one_way:
            peak, rest = join(*_add(g, score))
            return (peak, rest), None
        high, low = self.before(t)
        peak, rest, weights, total = log_sum(high, low, score, 0, self.op)
        return join(jnp.squeeze(peak, 0), jnp.squeeze(rest, 0)), weights / total

    def links(self, ref, t):
        """Links at a time, of potentials or of tangents."""
        if self.plan.links == "over_time":
            return ref[t, :, :]
        return self.table if ref is self.x.links else ref[:, :]

    def link(self, t, f):
        """Messages before the next step."""
        if self.plan.moves:
            return f
        peak, rest, _, _ = self._linked(t, f)
        return join(jnp.squeeze(peak, 0), jnp.squeeze(rest, 0))

    def weights(self, t, f):
        """Weights of the links from i to j, (rows, rows), and their sums for every j, (1, rows)."""
        return self._linked(t, f)[2:]

    def _linked(self, t, f):
        high, low = f
        return log_sum(high[:, None], low[:, None], self.links(self.x.links, t), 0, self.op)

    def filtered(self, f):
        """The softmax of messages."""
        high, low = f
        _, _, weights, total = log_sum(high, low, 0.0, 0, "logsumexp")
        return weights / total

    # Probabilities --------------------------------------------------------------------------------

    def ended(self, t, values):
        """Values at the last step, else 0."""
        return jnp.where(t == self.length - 1, values, jnp.zeros_like(values))

    def into(self, t, used, plane=0):
        """Of the ways at a time, (ways, rows), what they come from: their sums at g[t].

        They are kept in the reference `ring` (planes, slots, ways, rows), for the steps before.
        """
        ring, plan = self.x.ring, self.plan
        slot = t & (plan.slots - 1)
        ring[plane, slot, :, :] = used
        self.barrier()
        if plan.moves:
            time, place = jnp.broadcast_to(t, self.way.shape), self.state + self.way
            exists = place < plan.rows
            place = jnp.minimum(place, plan.rows - 1)
        else:
            time, place = t + self.way, self.state
            exists = time < self.length
        index = jnp.full_like(time, plane), time & (plan.slots - 1), self.way, place
        return jnp.sum(load(ring, index, exists, 0.0), 0)

    def give(self, t, used):
        """Marginals of the scores at a time."""
        if self.plan.alike:
            self.x.dscores[t, :] = jnp.sum(used, 1)
        elif self.one_way:
            self.x.dscores[t, 0, :] = used
        else:
            self.x.dscores[t, :, :] = used


def _add(pair, score):
    """A pair plus a score, as a rounded sum and what is left."""
    high, error = two_sum(pair[0], score)
    return high, error + pair[1]
