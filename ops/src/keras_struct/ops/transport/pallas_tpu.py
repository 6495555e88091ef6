"""Transport on a TPU, by the Pallas kernels of `tpu_tiles.py`: how their arrays are laid out.

Products of float32 features are those of parts of 8 bits each, which the matrix unit takes at its
full speed (recurrence.md, "Tiles on a TPU"). JAX is imported where it runs.
"""

import dataclasses
from typing import Any, NamedTuple

from keras_struct.ops.pallas_tpu import MEGABYTE, PallasTPU
from keras_struct.ops.transport.solver import plain_steps
from keras_struct.ops.transport.tiled import Tiled

# Rows of a block and columns of a tile where there is no band, or it is too wide for windows.
SIZES = ((1024, 512), (768, 384), (512, 512), (384, 384), (256, 256), (128, 128))
# Rows of a block on a band, and how many of them share a window.
BAND_ROWS, BAND_STEP = 1024, 128
CHUNK = 16 * MEGABYTE  # columns that are in VMEM at a time
SMALL = 2**16  # pairs
MOST_FEATURES = 2048


class TransportTPU(PallasTPU):
    """Makes an implementation of transport for a support.

    Attributes:
        sizes: Pairs of rows of a block and columns of a tile, of which one is taken.
        band_rows: The most rows of a block on a band.
        band_step: How many of these share a window of columns.
        chunk: Bytes of VMEM for columns.
    """

    sweeps = ()
    sizes = SIZES
    band_rows = BAND_ROWS
    band_step = BAND_STEP
    chunk = CHUNK

    def __call__(self, support, half=False):
        return Streamed(support, half, self)

    def rejects(self, call):
        reason = super().rejects(call)
        if reason is None and call.shapes[0][-1] > MOST_FEATURES:
            return f"its tiles have at most {MOST_FEATURES:,} features"
        return reason

    def avoids(self, call):
        rows, columns = (shape[1] for shape in call.shapes[:2])
        if call.option("band_width") is None and rows * columns < SMALL:
            return (
                f"it starts anew for each example, and a plan of {rows} x {columns} pairs is read "
                "from memory sooner"
            )
        return None


class Side(NamedTuple):
    """The features of one side.

    Attributes:
        raw: (B, L, D).
        laid_out: As kernels take them, see `tpu_passes.Passes.features`.
    """

    raw: Any
    laid_out: Any


@dataclasses.dataclass(frozen=True)
class Streamed(Tiled):
    """Sums by kernels; their derivatives in reverse mode are kernels, too.

    Attributes:
        kernels: `TransportTPU`.
    """

    kernels: Any = None

    @property
    def numbers(self):
        """What the features are exactly, in float32 arithmetic."""
        return "bfloat16" if self.half else "float32"

    def log_sums(self, side, features, offsets, lengths, near=None):
        from keras_struct.ops.transport import tpu_passes

        laid_out = None
        if isinstance(features[0], Side):
            laid_out = tuple(x.laid_out for x in features)
            features = tuple(x.raw for x in features)
        return tpu_passes.log_sums(self, side, tuple(features), offsets, (lengths, near, laid_out))

    def plan(self, rows, columns, potentials, lengths):
        return StreamedPlan(self, (rows, columns), tuple(potentials), tuple(lengths))

    def steps(self, solver, sides, start, number):
        """Those of `solver`; the features are laid out once."""
        from jax import lax

        from keras_struct.ops.transport import tpu_passes

        raw = sides[:2]
        passes = tpu_passes.Passes(self, lax.stop_gradient(raw), sides[3])
        features = tuple(Side(x, y) for x, y in zip(raw, passes.features, strict=True))
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
        from keras_struct.ops.transport import tpu_passes

        arguments = self.features, self.potentials, (left, right), self.lengths
        return tuple(tpu_passes.modulated(self.sums, side, *arguments) for side in (0, 1))

    def _times(self, side, values):
        from keras_struct.ops.transport import tpu_passes

        arguments = self.features, self.potentials, values, self.lengths
        return tpu_passes.times(self.sums, side, *arguments)
