"""Transport on a GPU, by the Pallas kernels of `gpu_tiles.py`; JAX is imported where it runs."""

from keras_struct.ops.pallas_gpu import PallasGPU
from keras_struct.ops.transport.gpu_plan import PROGRAMS, Tile, stays_in_cache, too_deep
from keras_struct.ops.transport.streamed import Streamed

# By what features are exactly: as large as registers, and the shared memory of any card, allow.
SMALLER = Tile(64, 32, 32, 4, 1)
TILES = {"bfloat16": Tile(128, 64, 64, 8, 1), "float32": SMALLER, "float64": SMALLER}


class TransportGPU(PallasGPU):
    """Makes an implementation of transport for a support.

    Attributes:
        tile: None, or that of all features.
        least: With fewer programs than these, several of them divide the columns.
    """

    sweeps = ()
    tile: Tile | None = None
    least = PROGRAMS

    def __call__(self, support, half=False):
        return Streamed(support, half, self)

    def passes(self, *arguments, **options):
        from keras_struct.ops.transport import gpu_passes

        return gpu_passes.Passes(*arguments, **options)

    def tile_of(self, numbers):
        return TILES[numbers] if self.tile is None else self.tile

    def rejects(self, call):
        return super().rejects(call) or too_deep(call)

    def avoids(self, call):
        return stays_in_cache(call)
