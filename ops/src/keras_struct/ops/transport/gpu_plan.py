"""How transport is cut on a GPU, for the kernels of JAX and of PyTorch."""

from typing import NamedTuple

from keras_struct.ops.gpu import power

MOST_FEATURES = 512
MOST_VALUES = 64  # of one product
LEAST_DEPTH = 16  # of a product on tensor cores
SMALL = 2**20  # pairs of a batch, 4 MB
PROGRAMS = 528  # four for each of 132 multiprocessors


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


def too_deep(call):
    """None, or why the kernels do not take these features."""
    if call.shapes[0][-1] > MOST_FEATURES:
        return f"its tiles have at most {MOST_FEATURES:,} features"
    return None


def stays_in_cache(call):
    """None, or why a plan that is kept takes less time than one that is made again."""
    (batch, rows), columns = call.shapes[0][:2], call.shapes[1][1]
    if call.option("band_width") is not None or None in (batch, rows, columns):
        return None
    if batch * rows * columns > SMALL:
        return None
    return (
        f"plans of {batch} x {rows} x {columns} pairs stay in the cache, from where they "
        "are read sooner than they are made again"
    )


def padded_depth(size, depth):
    """Features with the zeros behind them: a power of two, or whole pieces of `depth`."""
    return max(LEAST_DEPTH, power(size)) if size <= depth else -(-size // depth) * depth


def divided(tiles, programs, least):
    """How many programs divide the tiles of columns of a block of rows."""
    return max(1, min(tiles, least // max(programs, 1)))
