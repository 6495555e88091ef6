"""Transport by kernels that make tiles of a plan again for each sum."""

import dataclasses
from typing import Any, NamedTuple

from keras import ops

from keras_struct.ops.transport.solver import plain_steps
from keras_struct.ops.transport.tiled import Tiled


class Side(NamedTuple):
    """The features of one side.

    Attributes:
        raw: (B, L, D).
        laid_out: As kernels take them, see `Streamed.laid_out`.
    """

    raw: Any
    laid_out: Any


@dataclasses.dataclass(frozen=True)
class Streamed(Tiled):
    """Sums by kernels; their derivatives in reverse mode are kernels, too.

    Attributes:
        kernels: `TransportTPU` or another one, whose method `passes` makes `Passes`.
    """

    kernels: Any = None

    @property
    def numbers(self):
        """What the features are exactly, in float32 arithmetic."""
        return "bfloat16" if self.half else "float32"

    @property
    def functions(self):
        """The module of the functions `log_sums`, `times` and `modulated`."""
        from keras_struct.ops.transport import passes

        return passes

    def passes(self, *arguments, **options):
        return self.kernels.passes(self, *arguments, **options)

    def laid_out(self, raw, lengths):
        """The features of both sides as kernels take them."""
        return self.passes(raw, lengths).features

    def log_sums(self, side, features, offsets, lengths, near=None):
        laid_out = None
        if isinstance(features[0], Side):
            laid_out = tuple(x.laid_out for x in features)
            features = tuple(x.raw for x in features)
        extra = lengths, near, laid_out
        return self.functions.log_sums(self, side, tuple(features), offsets, extra)

    def plan(self, rows, columns, potentials, lengths):
        return StreamedPlan(self, (rows, columns), tuple(potentials), tuple(lengths))

    def steps(self, solver, sides, start, number):
        """Those of `solver`; the features are laid out once."""
        raw = sides[:2]
        laid_out = self.laid_out(tuple(map(ops.stop_gradient, raw)), sides[3])
        features = tuple(Side(x, y) for x, y in zip(raw, laid_out, strict=True))
        return plain_steps(solver, (*features, *sides[2:]), start, number)


class StreamedPlan:
    """A plan that is made again for each product; products as `TiledPlan` has them."""

    def __init__(self, sums, features, potentials, lengths):
        self.sums, self.lengths = sums, lengths
        self.features, self.potentials = features, potentials

    def times(self, values):
        return self._times(0, values)

    def transposed_times(self, values):
        return self._times(1, values)

    def modulated(self, left, right):
        modulated = self.sums.functions.modulated
        arguments = self.features, self.potentials, (left, right), self.lengths
        return tuple(modulated(self.sums, side, *arguments) for side in (0, 1))

    def _times(self, side, values):
        arguments = self.features, self.potentials, values, self.lengths
        return self.sums.functions.times(self.sums, side, *arguments)
