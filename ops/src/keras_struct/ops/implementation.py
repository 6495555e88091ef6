"""What an implementation provides, and what is done for the sweeps that it lacks."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from keras_struct.ops import array
from keras_struct.ops.annotations import Tensor
from keras_struct.ops.noise import Draws, Noise
from keras_struct.ops.problem import Problem

if TYPE_CHECKING:
    from keras_struct.ops.dispatch import Call

BLOCK = 1 << 22  # numbers of tapes that are repeated at a time to draw samples


class Implementation:
    """The sweeps of one recurrence; stateless, one object for every call.

    A subclass needs `forward`. The other sweeps are optional: what it lacks, the `portable`
    implementation of its family does, from its own forward sweep, and `explain` says so.

    The tape is the implementation's own: a (named) tuple of arrays in any layout, which no other
    code looks into. Where it lies under `torch.func.vmap` is said by `batch_axis`.
    """

    # Of its family.
    sweeps: tuple[str, ...] = ("forward", "backward", "curvature", "trace", "sample", "topk")
    samples = True  # whether it draws samples by the numbers of places in `recurrence.md`
    batch_axis = 0  # of every array in the tape

    def made_for(self, call: Call) -> Implementation:
        """The implementation as it is where this call will run; equal ones for equal calls."""
        return self

    def rejects(self, call: Call) -> str | None:
        """None, or why it cannot take this call, as a sentence that a user can act on."""
        return None

    def avoids(self, call: Call) -> str | None:
        """None, or why it takes this call on request only."""
        return None

    def forward(self, problem: Problem, op: str) -> tuple[Any, Any]:
        """`(log_partition, tape)`, with `op` "logsumexp" or "max" as local operator.

        The log-partition is (B,), or a pair of such arrays that stands for its exact sum (what a
        float32 number cannot hold of a large one is in the second).
        """
        raise NotImplementedError

    def backward(self, problem: Problem, tape: Any) -> Any:
        """Marginals of every example, one array per potential; zeros where no structure exists."""
        raise NotImplementedError

    def curvature(self, problem: Problem, tape: Any, tangents: Any) -> Any:
        """Hessian of the log-partition times `tangents` (shaped like the marginals)."""
        raise NotImplementedError

    def trace(self, problem: Problem, tape: Any, draws: Draws | None = None) -> Tensor:
        """One event per example, back through the tape: the best predecessor of every cell.

        Args:
            problem: The problem.
            tape: Of a "max" sweep without draws, else of a "logsumexp" sweep.
            draws: None for the best structure; `noise.Draws` for an exact sample: its noise is
                added to the log-weights at the places that `recurrence.md` numbers.
        """
        raise NotImplementedError

    def sample(self, problem: Problem, tape: Any, noise: Noise) -> Tensor:
        """`noise.count` samples, (n, B, ...): by default by `trace`.

        Compilers map it over the samples; elsewhere as many samples at a time are part of the batch
        as fit into `BLOCK` numbers.
        """
        if array.MAPS_SAMPLES:
            return array.map_samples(
                lambda i: self.trace(problem, tape, noise.draws(i)), noise.count
            )
        batch = noise.keys.shape[0]
        arrays = [*problem.potentials, *problem.context, *keras.tree.flatten(tape)]
        size = max(1, BLOCK // max(1, sum(math.prod(x.shape) for x in arrays)))
        events = []
        for first in range(0, noise.count, size):
            count = min(size, noise.count - first)
            many, tapes = self._repeated(problem, tape, count)
            event = self.trace(many, tapes, noise.block(first, count))
            events.append(ops.reshape(event, (count, batch, *ops.shape(event)[1:])))
        return events[0] if len(events) == 1 else ops.concatenate(events)

    def _repeated(self, problem, tape, n):
        """Problem and tape with the batch n times; what the batch shares stays as it is."""

        def repeat(x, axis=0):
            return x if n == 1 or x.shape[axis] == 0 else ops.concatenate([x] * n, axis=axis)

        shared = problem.context[0].shape[0] != 1
        potentials = tuple(
            x if shared and x.shape[0] == 1 else repeat(x) for x in problem.potentials
        )
        context = tuple(map(repeat, problem.context))
        tape = keras.tree.map_structure(lambda x: repeat(x, self.batch_axis), tape)
        return problem.replace(potentials=potentials, context=context), tape

    def topk(self, problem: Problem, k: int) -> tuple[Tensor, Tensor]:
        """The k best events of every example, best first: `(events (k, B, ...), exists (k, B))`."""
        raise NotImplementedError


class Drawing(Implementation):
    """Kernels that draw all samples at once: `paths(problem, tape, draws, count)` gives events
    (n, B, ...), of the best structure without draws."""

    def paths(self, problem, tape, draws, count):
        raise NotImplementedError

    def trace(self, problem, tape, draws=None):
        if draws is not None:
            draws = Draws(tuple(word[:, None] for word in draws.key))
        return self.paths(problem, tape, draws, 1)[0]

    def sample(self, problem, tape, noise):
        return self.paths(problem, tape, noise.every(), noise.count)


class Paths(Drawing):
    """Sweeps over paths, with the same steps in every engine."""

    def cut(self, problem):
        """The problem laid out, with the calls of the kernels on it: `forward(op)` to a tape,
        `total(tape, op)` to a pair (B,), `backward(tape)`, `curvature(tape, tangents)` and
        `paths(tape, draws, count)`."""
        raise NotImplementedError

    def forward(self, problem, op):
        tiles = self.cut(problem)
        tape = tiles.forward(op)
        return tiles.total(tape, op), tape

    def backward(self, problem, tape):
        return self.cut(problem).backward(tape)

    def curvature(self, problem, tape, tangents):
        return self.cut(problem).curvature(tape, tangents)

    def paths(self, problem, tape, draws, count):
        return self.cut(problem).paths(tape, draws, count)


def provides(implementation, sweep):
    """Whether an implementation has a sweep of its own."""
    if sweep == "sample":
        return implementation.samples and provides(implementation, "trace")
    method = getattr(type(implementation), sweep, None)
    return method is not None and method is not getattr(Implementation, sweep)


class BySpec(Implementation):
    """One implementation for each kind of `problem.spec`.

    Args:
        implementations: Dict from kinds of specs to implementations.
        kind: Function of a spec; its type by default.
    """

    def __init__(self, implementations, kind=type):
        self.implementations, self.kind = implementations, kind
        self.traceable = all(getattr(x, "traceable", True) for x in implementations.values())

    def rejects(self, call: Call) -> str | None:
        chosen = self.implementations.get(self.kind(call.spec))
        return f"it has no {call.op}" if chosen is None else chosen.rejects(call)

    def avoids(self, call):
        return self.implementations[self.kind(call.spec)].avoids(call)

    def of(self, spec):
        return self.implementations[self.kind(spec)]

    def forward(self, problem, op):
        return self.of(problem.spec).forward(problem, op)

    def backward(self, problem, tape):
        return self.of(problem.spec).backward(problem, tape)

    def curvature(self, problem, tape, tangents):
        return self.of(problem.spec).curvature(problem, tape, tangents)

    def trace(self, problem, tape, draws=None):
        return self.of(problem.spec).trace(problem, tape, draws)

    def sample(self, problem, tape, noise):
        return self.of(problem.spec).sample(problem, tape, noise)

    def topk(self, problem, k):
        return self.of(problem.spec).topk(problem, k)


@dataclasses.dataclass(frozen=True)
class Sweeps:
    """An implementation, completed by the portable one of its family.

    Hashable: it travels through `jax.jit` and custom gradients as a static argument.
    """

    own: Any
    portable: Any

    @property
    def differentiable(self):
        """Sweeps of the same recurrence that the framework's own autodiff can follow."""
        return Sweeps(self.portable, self.portable)

    @property
    def traceable(self):
        """Whether the sweeps run on unknown values, so that a compiler can take them."""
        return getattr(self.own, "traceable", True)

    @property
    def batch_axis(self):
        return self.own.batch_axis

    def forward(self, problem, op):
        log_partition, tape = self.own.forward(problem, op)
        if not isinstance(log_partition, tuple):
            log_partition = log_partition, array.zeros_like(log_partition)
        return log_partition, tape

    def backward(self, problem, tape):
        implementation, tape = self._ready("backward", problem, tape)
        return implementation.backward(problem, tape)

    def curvature(self, problem, tape, tangents):
        implementation, tape = self._ready("curvature", problem, tape)
        return implementation.curvature(problem, tape, tangents)

    def trace(self, problem, tape):
        implementation, tape = self._ready("trace", problem, tape, "max")
        return implementation.trace(problem, tape)

    def sample(self, problem, tape, noise):
        implementation, tape = self._ready("sample", problem, tape)
        return implementation.sample(problem, tape, noise)

    def topk(self, problem, k):
        return (self.own if provides(self.own, "topk") else self.portable).topk(problem, k)

    def _ready(self, sweep, problem, tape, op="logsumexp"):
        """Who does a sweep, and its tape."""
        if provides(self.own, sweep):
            return self.own, tape
        return self.portable, self.portable.forward(problem, op)[1]
