"""The two updates of a Sinkhorn step, over what an implementation sums."""

import dataclasses
from typing import Any

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.structure import time_mask


@dataclasses.dataclass(frozen=True)
class HalfSteps:
    """The two updates, `f = relax · (log mass - log sum_j exp(s + g))` and the same of g.

    `sides` are the features of the rows and of the columns, log-masses of both, lengths of both.

    Attributes:
        sums: `Tiled`, `Stored` or another implementation.
        relax: Of the rows and of the columns, in (0, 1]; 1 where the masses must be met.
    """

    sums: Any
    relax: tuple[float, float] = (1.0, 1.0)

    def rows(self, sides, g, before):
        """f from g; `before` is an earlier f, which the new one is near to."""
        return self._step(0, sides, g, before)

    def columns(self, sides, f, before):
        return self._step(1, sides, f, before)

    def _step(self, side, sides, other, before):
        *features, masses, lengths = sides
        relax, mass = self.relax[side], masses[side]
        near = ops.stop_gradient(mass - before / relax)
        sums = self.sums.log_sums(side, features, other, lengths, near)
        valid = time_mask(lengths[side], ops.shape(sums)[1])
        return array.where(valid, relax * (mass - sums), ops.zeros_like(sums))


def repeated(step, carry, number):
    """The carry after `step(carry)`, a number of times."""
    if not number:
        return carry
    times = ops.arange(number, dtype="int32")
    return array.scan(lambda carry, x: (step(carry), ()), carry, (times,), ())[0]
