"""Transport on a GPU, by the Pallas kernels of `gpu_tiles.py`; JAX is imported where it runs."""

from typing import NamedTuple

from keras_struct.ops.pallas_gpu import PallasGPU
from keras_struct.ops.transport.streamed import Streamed

MOST_FEATURES = 512
SMALL = 2**20  # pairs of a batch, 4 MB


class Tile(NamedTuple):
    """What a program works on at a time.

    Attributes:
        rows: Of a block.
        columns: Of a tile.
        depth: Features that are multiplied at a time.
        warps: Of a program.
        stages: How many tiles are fetched ahead.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


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
    least = 528  # four for each of 132 multiprocessors

    def __call__(self, support, half=False):
        return Streamed(support, half, self)

    def passes(self, *arguments, **options):
        from keras_struct.ops.transport import gpu_passes

        return gpu_passes.Passes(*arguments, **options)

    def tile_of(self, numbers):
        return TILES[numbers] if self.tile is None else self.tile

    def rejects(self, call):
        reason = super().rejects(call)
        if reason is None and call.shapes[0][-1] > MOST_FEATURES:
            return f"its tiles have at most {MOST_FEATURES:,} features"
        return reason

    def avoids(self, call):
        batch, rows, columns = call.shapes[0][0], call.shapes[0][1], call.shapes[1][1]
        if call.option("band_width") is None and batch * rows * columns <= SMALL:
            return (
                f"plans of {batch} x {rows} x {columns} pairs stay in the cache, from where they "
                "are read sooner than they are made again"
            )
        return None
