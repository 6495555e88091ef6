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

    def rows(self, sides, g):
        rows, columns, masses, lengths = sides
        sums = self.sums.log_sums(rows, columns, g, lengths)
        return _step(self.relax[0], masses[0], sums, lengths[0])

    def columns(self, sides, f):
        rows, columns, masses, lengths = sides
        sums = self.sums.log_sums(columns, rows, f, lengths[::-1])
        return _step(self.relax[1], masses[1], sums, lengths[1])


def _step(relax, mass, sums, lengths):
    valid = time_mask(lengths, ops.shape(sums)[1])
    return array.where(valid, relax * (mass - sums), ops.zeros_like(sums))


def repeated(step, carry, number):
    """The carry after `step(carry)`, a number of times."""
    if not number:
        return carry
    times = ops.arange(number, dtype="int32")
    return array.scan(lambda carry, x: (step(carry), ()), carry, (times,), ())[0]
