"""Transport on an NVIDIA GPU under PyTorch, by the Triton kernels of `triton_tiles.py`."""

import dataclasses

from keras_struct.ops.gpu import Named
from keras_struct.ops.transport.gpu_plan import PROGRAMS, Tile, stays_in_cache, too_deep
from keras_struct.ops.transport.streamed import Side, Streamed, StreamedPlan
from keras_struct.ops.triton import TritonGPU

# Pairs of parts of features (see `triton_passes.laid_out`), with the digits of their product as
# Triton names them, and of factors. Of features in bfloat16 they are all pairs.
ONE = ((0, 0, "ieee"),)
TWO = ((0, 0, "ieee"), (0, 1, "ieee"), (1, 0, "ieee"))
THREE = (*TWO, (1, 1, "ieee"), (0, 2, "ieee"), (2, 0, "ieee"))
FEATURES = {
    "float32": ((0, 0, "tf32"), (1, 2, "ieee"), (2, 1, "ieee")),
    "float64": ONE,
}
FACTORS = {"bfloat16": TWO, "float32": THREE, "float64": ONE}
PARTS = {"bfloat16": (2, 1), "float32": (3, 3), "float64": (1, 1)}  # of factors, and of values
# Tiles of sums over a row; of products, whose results are in registers, too; of those with factors.
# Of features that are more than `depth` a piece after the other is read for each tile.
SMALLEST = Tile(64, 32, 32, 4, 1)
SUMS = {
    "bfloat16": Tile(128, 64, 128, 4, 2),
    "float32": Tile(128, 64, 64, 4, 1),
    "float64": SMALLEST,
}
PRODUCTS = {
    "bfloat16": Tile(128, 64, 64, 8, 1),
    "float32": Tile(128, 32, 64, 8, 1),
    "float64": SMALLEST,
}
FACTORED = {
    "bfloat16": Tile(128, 32, 64, 8, 1),
    "float32": Tile(64, 16, 64, 4, 1),
    "float64": SMALLEST,
}


def tile_for(numbers, features, values=0, factors=0):
    """The tile of a pass over features (numbers of them that are padded), with so many factors."""
    table = FACTORED if factors else PRODUCTS if values else SUMS
    tile = table[numbers]
    return tile if features <= tile.depth else SMALLEST


@dataclasses.dataclass(frozen=True, repr=False)
class Plan(Named):
    """All that is known of a kernel when it is compiled.

    Attributes:
        rows, columns: Of a block of rows, and of a tile of columns.
        depth: Features that are multiplied at a time.
        width: Features, with the zeros behind them.
        pairs: See `FEATURES`.
        banded: Whether only pairs on a band exist.
        first: The first place of each side that exists.
        values: How many there are, with zeros.
        factors: Widths of the factors of the plan.
        factor_pairs: See `FACTORS`.
        approximate: Whether exponentials are those of the special function unit.
    """

    rows: int
    columns: int
    depth: int
    width: int
    pairs: tuple
    banded: bool
    first: int = 0
    values: int = 0
    factors: tuple[int, ...] = ()
    factor_pairs: tuple = ()
    approximate: bool = True

    @classmethod
    def of(cls, numbers, tile, width, parts, **facts):
        """Of features that are these `numbers` exactly, so many parts of both sides, in tiles."""
        pairs = tuple((i, j, "ieee") for i in range(parts[0]) for j in range(parts[1]))
        return cls(
            tile.rows,
            tile.columns,
            tile.depth,
            width,
            FEATURES.get(numbers, pairs),
            factor_pairs=FACTORS[numbers],
            **facts,
        )


class TransportTriton(TritonGPU):
    """Makes an implementation of transport for a support.

    Attributes:
        tile: None, or that of all passes.
        least: With fewer programs than these, several of them divide the columns.
    """

    sweeps = ()
    free_axes = 2
    tile: Tile | None = None
    least = PROGRAMS

    def __call__(self, support, half=False):
        return TritonStreamed(support, half, self)

    def rejects(self, call):
        return super().rejects(call) or too_deep(call)

    def avoids(self, call):
        return stays_in_cache(call)

    def tile_of(self, *facts):
        return tile_for(*facts) if self.tile is None else self.tile


class TritonStreamed(Streamed):
    """Sums by kernels, each of which is an operator of PyTorch's."""

    @property
    def functions(self):
        from keras_struct.ops.transport import triton_passes

        return triton_passes

    def laid_out(self, raw, lengths):
        return self.functions.laid_out(self, raw)

    def plan(self, rows, columns, potentials, lengths):
        raw = rows, columns
        sides = tuple(Side(x, y) for x, y in zip(raw, self.laid_out(raw, lengths), strict=True))
        return StreamedPlan(self, sides, tuple(potentials), tuple(lengths))
