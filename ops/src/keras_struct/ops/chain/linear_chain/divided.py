"""A chain whose positions are divided over devices (see `ops.divided`), parallel in time.

Part d of the positions is, for all that is outside of it, a K x K matrix: the log-sums of the paths
from each tag before the part to each tag at its end. Every device gets those of all parts, and
multiplies them to `before`, the message that comes into its part, and `behind`, the one that comes
back. A chain of its own positions, whose first scores contain the one and whose last the other, has
the marginals of the whole chain, by any implementation.

The tape is what each device keeps: an axis that counts devices stands first.
"""

import dataclasses
from typing import Any, NamedTuple

from keras import ops

from keras_struct.ops import array, autodiff, dispatch
from keras_struct.ops.chain.linear_chain import LinearChainSpec
from keras_struct.ops.division import UNDIVIDED
from keras_struct.ops.exact_sum import two_sum
from keras_struct.ops.implementation import Implementation
from keras_struct.ops.messages import join, log_sum
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE
from keras_struct.ops.problem import Problem
from keras_struct.ops.structure import time_mask


class Tape(NamedTuple):
    """Of one device: the message into its part, a pair (B, K); whether any structure exists (B,);
    and the chain of its part, with the tape of that."""

    high: Any
    low: Any
    exists: Any
    problem: Any
    local: Any


@dataclasses.dataclass(frozen=True)
class DividedChain(Implementation):
    """The chain in parts.

    Attributes:
        division: `Division`; None in the registry.
        local: `Sweeps` of a chain on one device.
    """

    division: Any = None
    local: Any = None

    samples = False

    def rejects(self, call):
        if call.division is None:
            return UNDIVIDED
        if not isinstance(call.spec, LinearChainSpec):
            return f"it has no {call.op}"
        return call.division.rejects(*call.shapes[0][:2], least=2)

    def made_for(self, call):
        """With the division of the call, and what it gets on one device."""
        (batch, n, k), *others = call.shapes
        shapes = (batch, n // call.division.parts, k), *others
        alone = dataclasses.replace(call, division=None, shapes=shapes, traced=True)
        return dataclasses.replace(
            self, division=call.division, local=dispatch.automatic(alone).sweeps()
        )

    def forward(self, problem, op):
        import jax

        def part(unary, transitions, lengths):
            total, tape = self._forward(unary, transitions, lengths, op)
            return total, jax.tree.map(lambda x: x[None], tape)

        place = self.division
        run = place.run(part, self._inputs(problem), (place.spec(), place.own_spec()))
        return run(*self._arrays(problem))

    def backward(self, problem, tape):
        import jax

        def part(unary, transitions, lengths, tape):
            tape = jax.tree.map(lambda x: x[0], tape)
            found = self.local.backward(tape.problem, tape.local)
            return self._read(found, transitions, tape)

        place = self.division
        run = place.run(part, (*self._inputs(problem), place.own_spec()), self._outputs(problem))
        return self._unpadded(problem, run(*self._arrays(problem), tape))

    def curvature(self, problem, tape, tangents):
        import jax

        def part(unary, transitions, lengths, *tangents):
            def marginals(unary, transitions):
                _, tape = self._forward(unary, transitions, lengths, "logsumexp")
                found = autodiff.marginals(self.local, tape.problem, tape.local)
                return self._read(found, transitions, tape)

            every = transitions + ops.zeros_like(tangents[1])
            return jax.jvp(marginals, (unary, every), tangents)[1]

        moved = problem.replace(potentials=tuple(tangents))
        inputs = *self._inputs(problem), *self._inputs(moved)[:2]
        run = self.division.run(part, inputs, self._outputs(problem))
        arrays = *self._arrays(problem), *self._arrays(moved)[:2]
        return self._unpadded(problem, run(*arrays))

    # One device -----------------------------------------------------------------------------------

    def _forward(self, unary, transitions, lengths, op):
        """The log-partition of the whole chain, a pair (B,), and the `Tape` of this part."""
        import jax

        place, size = self.division, unary.shape[1]
        here = ops.clip(lengths - place.index() * size, 0, size)
        into, inner = self._tables(transitions)
        transfers = [
            jax.lax.all_gather(x, place.sequence) for x in _transfer(unary, into, inner, here, op)
        ]
        before, last = _messages_before(transfers, op)
        peak, rest, _, _ = log_sum(last[0], last[1], 0.0, 1, op)
        total = peak[:, 0], rest[:, 0]
        before, behind = (
            [jax.lax.dynamic_index_in_dim(x, place.index(), keepdims=False) for x in found]
            for found in (before, _messages_behind(transfers, op))
        )
        entry = log_sum(before[0][:, :, None], before[1][:, :, None], into, 1, op)[:2]
        places = ops.arange(size, dtype="int32")[None]
        first, final = (ops.cast(places == at[:, None], unary.dtype) for at in (0 * here, here - 1))
        unary = unary + first[..., None] * _centred(*(x[:, 0] for x in entry))[:, None]
        unary = unary + final[..., None] * _centred(*behind)[:, None]
        spec = LinearChainSpec(over_time=transitions.shape[1] != 1)
        problem = Problem(spec, (unary, inner), (here,))
        _, tape = autodiff.forward(self.local, problem, op)
        exists = ops.cast(total[0] > INFEASIBLE, unary.dtype)
        return total, Tape(before[0], before[1], exists, problem, tape)

    def _tables(self, transitions):
        """Transitions into the first position of this part (B or 1, K, K), and those within."""
        first = self.division.index() == 0
        into = transitions[:, 0]
        into = array.where(first, ops.zeros_like(into), into)
        return into, transitions if transitions.shape[1] == 1 else transitions[:, 1:]

    def _read(self, marginals, transitions, tape):
        """Marginals of this part, from those of its own chain."""
        import jax

        place = self.division
        into, _ = self._tables(transitions)
        unary, pairs = (
            x * ops.reshape(tape.exists, (-1, *[1] * (len(x.shape) - 1))) for x in marginals
        )
        _, _, weights, mass = log_sum(
            tape.high[:, :, None], tape.low[:, :, None], into, 1, "logsumexp"
        )
        entry = weights / mass * unary[:, 0, None]
        entry = array.where(place.index() == 0, ops.zeros_like(entry), entry)[:, None]
        if transitions.shape[1] == 1:
            return unary, jax.lax.psum(pairs + entry, place.sequence)
        return unary, ops.concatenate([entry, pairs], axis=1)

    # All devices ----------------------------------------------------------------------------------

    def _arrays(self, problem):
        """Potentials, and lengths; transitions over time with one into the first position."""
        unary, transitions = problem.potentials
        if problem.spec.over_time:
            transitions = array.pad(transitions, ((0, 0), (1, 0), (0, 0), (0, 0)), 0.0)
        return unary, transitions, problem.context[0]

    def _inputs(self, problem):
        unary, transitions = problem.potentials
        place = self.division
        over = place.sequence_spec if problem.spec.over_time else place.spec
        return place.sequence_spec(unary), over(transitions), place.spec(unary)

    def _outputs(self, problem):
        place = self.division
        over = place.sequence_spec if problem.spec.over_time else place.spec
        return place.sequence_spec(), over()

    def _unpadded(self, problem, marginals):
        unary, pairs = marginals
        return unary, pairs[:, 1:] if problem.spec.over_time else pairs


def _transfer(unary, into, inner, lengths, op):
    """Log-sums of the paths from each tag before a part to each at its end, a pair (B, K, K); the
    identity of a part without positions."""
    size, k = unary.shape[1:]
    shared = inner.shape[1] == 1
    table = into + ops.zeros_like(unary[:, 0, :, None])
    identity = FORBIDDEN * (1.0 - ops.eye(k, dtype=unary.dtype)) + ops.zeros_like(table)

    def step(carry, x):
        scores, valid, table = x if len(x) == 3 else (*x, inner[:, 0])
        high, low = carry
        peak, rest, _, _ = log_sum(high[..., None], low[..., None], table[:, None], 2, op)
        rounded, error = two_sum(peak[:, :, 0], scores[:, None])
        found = join(rounded, error + rest[:, :, 0])
        return tuple(
            array.where(valid[:, None, None], a, b) for a, b in zip(found, carry, strict=True)
        ), ()

    valid = time_mask(lengths, size)
    carry, _ = step((identity, ops.zeros_like(identity)), (unary[:, 0], valid[:, 0], table))
    xs = (unary[:, 1:], valid[:, 1:]) if shared else (unary[:, 1:], valid[:, 1:], inner)
    xs = tuple(ops.swapaxes(x, 0, 1) for x in xs)
    return array.scan(step, carry, xs, ())[0]


def _messages_before(transfers, op):
    """Messages into every part, a pair (D, B, K), and the one out of the last."""
    high = transfers[0][0, :, 0]
    first = ops.concatenate([0.0 * high[:, :1], 0.0 * high[:, 1:] + FORBIDDEN], axis=1)

    def step(carry, x):
        high, low = (message[:, :, None] for message in carry)
        return _through(high, low, x, 1, op), carry

    last, every = array.scan(step, (first, ops.zeros_like(first)), tuple(transfers), ())
    return every, last


def _messages_behind(transfers, op):
    """Messages that come back into every part from the one behind it, a pair (D, B, K)."""
    end = ops.zeros_like(transfers[0][0, :, 0])

    def step(carry, x):
        high, low = (message[:, None] for message in carry)
        return _through(high, low, x, 2, op), carry

    return array.scan(step, (end, end), tuple(transfers), (), reverse=True)[1]


def _through(high, low, transfer, axis, op):
    """A message through a part, as a pair."""
    high, error = two_sum(high, transfer[0])
    peak, rest, _, _ = log_sum(high, error + low + transfer[1], 0.0, axis, op)
    return join(*(ops.squeeze(x, axis) for x in (peak, rest)))


def _centred(high, low):
    """A message (B, K), up to its largest number."""
    peak = ops.stop_gradient(array.max(high, 1, keepdims=True))
    return (high - peak) + low
