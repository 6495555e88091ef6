"""What a chain is to a kernel: one step with two halves (see recurrence.md).

A step t makes messages f[t] from messages g[t], g[t - 1], ... before it, and g[t + 1] from f[t]:

    segments  f[t, k] = log sum_d exp(g[t - d, k] + scores[t, d, k])      g[t + 1] through links
    moves     f[t, s] = log sum_m exp(g[t, s - m] + scores[t, m, s])      g[t + 1] = f[t]
    links     g[t + 1, j] = log sum_i exp(f[t, i] + links[t or all, i, j])

A linear chain has segments of one position.
"""

import dataclasses

from keras import ops

from keras_struct.ops import array, dispatch
from keras_struct.ops.chain.semi_markov.portable import at_starts
from keras_struct.ops.messages import log_sum, log_weights
from keras_struct.ops.noise import perturbed
from keras_struct.ops.numerics import INFEASIBLE


@dataclasses.dataclass(frozen=True)
class Form:
    """Static facts of a call.

    Attributes:
        states: Number of tags, labels or positions.
        terms: How many ways lead into a state at a time: lengths of a segment, or moves.
        links: How transitions vary: "shared" over time, "over_time", or None for moves.
        alike: Whether all states share the scores of a time.
        steps: Number of steps.
    """

    states: int
    terms: int
    links: str | None
    alike: bool
    steps: int

    @staticmethod
    def facts(spec, shapes, states=None):
        """The attributes for canonical potentials of these shapes; `states` is their number where
        the shapes do not tell."""
        (_, steps, *inner) = shapes[0]
        if len(shapes) == 1:
            return {
                "states": states or inner[0],
                "terms": inner[1],
                "links": None,
                "alike": states is not None,
                "steps": steps,
            }
        return {
            "states": inner[-1],
            "terms": inner[0] if len(inner) == 2 else 1,
            "links": "over_time" if getattr(spec, "over_time", False) else "shared",
            "alike": False,
            "steps": steps,
        }

    @property
    def moves(self):
        return self.links is None


class Ends:
    """A problem, and what is done outside of the kernels: where paths end, and what they mean.

    Args:
        form: Function of canonical shapes and a number of states to the `Form`.
        problem: The problem.
    """

    def __init__(self, form, problem):
        potentials, context = problem.potentials, problem.context
        alike = len(potentials) == 1 and potentials[0].shape[2] == 1
        states = context[0].shape[1] if alike else None
        self.problem = problem
        self.plan = form(problem.spec, [x.shape for x in potentials], states)
        self.lengths = context[1] if self.plan.moves else context[0]
        self.batch = self.lengths.shape[0]
        self.dtype = potentials[0].dtype

    def array(self, *shape, dtype=None):
        import jax

        return jax.ShapeDtypeStruct(shape, dtype or self.dtype)

    def total(self, tape, op):
        """The log-partition, or the largest score, as a pair (B,)."""
        peak, rest, _, _ = self.sum_of_ends(tape, op)
        return peak[:, 0], rest[:, 0]

    def sum_of_ends(self, tape, op="logsumexp"):
        """`log_sum` of the ends of paths, `tape.ends` being messages (B, K) of the last step."""
        final = self.problem.context[0] if self.plan.moves else 0.0
        high, low = tape.ends
        return log_sum(high, low, final, 1, op)

    def shares(self, tape):
        """Probabilities (B, K) of the last states; zeros where nothing exists."""
        peak, _, weights, total = self.sum_of_ends(tape)
        return weights / total * ops.cast(peak > INFEASIBLE, weights.dtype)

    def last(self, tape, draws, count):
        """States of the last step, (B, n)."""
        plan = self.plan
        logits = log_weights(self.sum_of_ends(tape)[2])[:, None]
        states = array.arange(plan.states)[None, None]
        first = 0 if plan.moves else (self.lengths[:, None, None] - 1) * plan.states
        places = ops.cast(first + states, "int32")
        chosen = array.argmax(perturbed(logits, draws, 0, places), 2)
        return ops.broadcast_to(ops.cast(chosen, "int32"), (self.batch, count))

    def events(self, states, spans=None):
        """Of paths (n, B, steps)."""
        if self.plan.links and len(self.problem.potentials[0].shape) == 4:
            if spans is None:
                spans = ops.minimum(2 * states + 1, 1)
            labels, spans = (ops.reshape(x, (-1, self.plan.steps)) for x in (states, spans))
            events = at_starts(labels, spans, self.plan.terms)
            return ops.reshape(events, (*states.shape, 2))
        if self.plan.links:
            return states
        portable = dispatch.candidates("chain")["portable"].of(self.problem.spec)
        return portable.event(states, self.problem)
