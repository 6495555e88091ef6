"""Paths of chains on a GPU, from their ends back: a program has one sample of one example.

Beside the references of `gpu_step.py`: `last` (n,) and `keys` (2, n) of every sample; `states` and
`spans` (n, steps), what goes out, -1 where there is none.
"""

from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl

from keras_struct.ops.chain.gpu_step import Step, int32, iota
from keras_struct.ops.exact_sum import two_sum
from keras_struct.ops.noise import Draws
from keras_struct.ops.numerics import FORBIDDEN

_IMPOSSIBLE = 4 * FORBIDDEN


def walk(plan, barrier, op, noisy, x):
    """A path back from its last state: state, and length of a segment, of every step."""
    n = pl.program_id(1)
    draws = Draws((x.keys[0, n], x.keys[1, n])) if noisy else None
    step = Walk(plan, barrier, x, op, draws)

    def chain(t, state):
        state = lax.cond(step.ends(t), lambda: state, lambda: step.linked(t, state))
        x.states[n, t] = state
        return state

    def moves(t, state):
        x.states[n, t] = state
        return state - step.way_into(t, state)

    def segments(t, carry):
        state, wait = carry
        here = step.ends(t) | (wait == 0)

        def begin():
            label = lax.cond(step.ends(t), lambda: state, lambda: step.linked(t, state))
            return label, step.way_into(t, label)

        state, wait = lax.cond(here, begin, lambda: (state, wait - 1))
        x.states[n, t] = jnp.where(here, state, -1)
        x.spans[n, t] = jnp.where(here, wait + 1, -1)
        return state, wait

    if plan.moves:
        step.over(moves, x.last[n], back=True)
    elif step.one_way:
        step.over(chain, x.last[n], back=True)
    else:
        step.over(segments, (x.last[n], int32(-1)), back=True)


class Walk(Step):
    """A step back of a sample; `draws` is its noise, None for the best path."""

    def __init__(self, plan, barrier, x, op, draws):
        super().__init__(plan, barrier, x, op)
        self.draws = draws

    def ends(self, t):
        return t == self.length - 1

    def linked(self, t, state):
        """The state of a step, given the one that the links lead to."""
        x, plan = self.x, self.plan
        high, low = self.enter(t, self.read(x.g, t))[0]
        column = x.links[:, state] if plan.links == "shared" else x.links[t, :, state]
        high, error = two_sum(high, column)
        logits = (high - jnp.max(high)) + (error + low)
        return self._best(logits, 0, t * plan.states, self.states, plan.states)

    def way_into(self, t, state):
        """Which way led to a state: a move, or the length of a segment less one."""
        x, plan = self.x, self.plan
        ways = iota((plan.ways,), 0)
        high, low = self.before(t, state=state, way=ways)
        score = x.scores[t, :] if plan.alike else x.scores[t, :, state]
        high, error = two_sum(high, score)
        logits = (high - jnp.max(high)) + (error + low)
        return self._best(logits, 1, t * plan.terms, ways, plan.terms)

    def _best(self, logits, stream, place, numbers, count):
        if self.draws is not None:
            logits = logits + self.draws.gumbel(stream, place + numbers, logits.dtype.name)
        nothing = jnp.asarray(_IMPOSSIBLE, logits.dtype)
        return lax.argmax(jnp.where(numbers < count, logits, nothing), 0, int32)
