"""Passes of the kernels of `tpu_tiles.py` over a plan (see `passes.py`)."""

import functools
from typing import NamedTuple

import jax
from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl

from keras_struct.ops.numerics import FORBIDDEN
from keras_struct.ops.pallas import rounded
from keras_struct.ops.pallas_tpu import LANES, numbers_of_block
from keras_struct.ops.transport import passes, tpu_tiles
from keras_struct.ops.transport.passes import split
from keras_struct.ops.transport.tpu_tiles import Tiling

WIDEST, SEVERAL = 1024, 384  # columns of a tile on a band, where one is enough and where not
MOST_VALUES = 512  # of one call
VMEM = 60 * 2**20

# Which parts of a first and of a second factor are multiplied. Of features, the first are those of
# the rows, which were divided by epsilon; FACTORS are what modulates a plan.
ONE = ((0, 0),)
SIX = ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0))
FEATURES = {"bfloat16": ((0, 0), (1, 0)), "float32": SIX, "float64": ONE}
FACTORS = {"bfloat16": ((0, 0), (0, 1), (1, 0)), "float32": SIX, "float64": ONE}
# Parts of a plan, and of the values that it multiplies.
VALUES = {"bfloat16": 1, "float32": 2, "float64": 1}


class Cut(NamedTuple):
    """How both sides are cut into blocks.

    Attributes:
        tilings: `Tiling` of the pass of each side.
        sizes: Places of each side, with padding, the first `front` of which are before the others.
        blocks: Blocks of places of each side.
    """

    tilings: tuple
    sizes: tuple
    blocks: tuple


def cut(kernels, band, sizes, width):
    """The `Cut` of sides of these sizes, with so many bytes for each place of a chunk."""
    most = kernels.chunk // (2 * width)  # two buffers
    if band is not None:
        found = windows(kernels, band, sizes)
        smallest = min(rounded(n, LANES) for n in sizes)
        if found.tilings[0].chunk <= min(most, max(smallest, 4 * LANES)):
            return found
    pairs = []
    for n in sizes:
        fits = [x for x in kernels.sizes if x[0] <= most] or kernels.sizes[-1:]
        pairs.append(min(fits, key=lambda x: (rounded(n, x[0]), -x[0])))
    padded = [rounded(n, rows) for n, (rows, _) in zip(sizes, pairs, strict=True)]
    tilings = []
    for side in (0, 1):
        (rows, _), (_, columns), there = pairs[side], pairs[1 - side], padded[1 - side]
        chunks = next(
            k
            for k in range(1, there // columns + 1)
            if there % (k * columns) == 0 and (there // k <= most or there == k * columns)
        )
        tilings.append(Tiling(rows, rows, columns, there // chunks, chunks, 0, band, False))
    blocks = tuple(n // rows for n, (rows, _) in zip(padded, pairs, strict=True))
    return Cut(tuple(tilings), tuple(padded), blocks)


def windows(kernels, band, sizes):
    """The `Cut` where a chunk is what a block of rows reaches on a band."""
    step, longest = kernels.band_step, max(sizes)
    count = -(-longest // kernels.band_rows)
    rows = rounded(-(-longest // count), step)
    front = rounded(band, LANES)
    reach = step + 2 * front
    columns = reach if reach <= WIDEST else SEVERAL
    chunk = rows - step + rounded(reach, columns)
    blocks = tuple(-(-n // rows) for n in sizes)
    padded = tuple(
        max(front + blocks[side] * rows, (blocks[1 - side] - 1) * rows + chunk) for side in (0, 1)
    )
    tiling = Tiling(rows, step, columns, chunk, 1, front, band, True)
    return Cut((tiling, tiling), padded, blocks)


class Passes(passes.Passes):
    """All passes over one plan.

    Args:
        sums: `Streamed`.
        raw: Features of both sides, (B, L1, D) and (B, L2, D).
        lengths: Of both sides, (B,).
        laid_out: What `features` was for these, if that is known.
        widths: Numbers of the values, and of the factors that modulate the plan.
    """

    def __init__(self, sums, raw, lengths, laid_out=None, widths=(0, 0)):
        super().__init__(sums, raw, lengths)
        if self.numbers != "float64":  # the matrix unit takes parts of 8 bits
            self.narrow = jnp.bfloat16
        values, factors = widths
        lanes = (
            rounded(len(FEATURES[self.numbers]) * raw[0].shape[2], LANES)
            + rounded(VALUES[self.numbers] * min(values, MOST_VALUES), LANES)
            + rounded(len(FACTORS[self.numbers]) * factors, LANES)
        )
        sizes = tuple(x.shape[1] for x in raw)
        self.cut = cut(self.kernels, self.band, sizes, lanes * jnp.dtype(self.narrow).itemsize)
        self.features = laid_out or self.laid_out(FEATURES, raw)

    def log_sums(self, side, offsets, near=None):
        """`log sum_j exp(x_i . y_j + g_j)` (B, L), minus infinity without any pair."""
        tiling = self.cut.tilings[side]
        if tiling.chunks > 1:
            near = None
        expected = jnp.zeros_like(self.raw[side][..., 0]) if near is None else near
        found = self.call(
            functools.partial(tpu_tiles.log_sums, tiling, near is not None),
            "log_sums" if near is None else "log_sums_near",
            side,
            [
                self.all_of(1 - side, self.existing(1 - side, offsets)),
                self.block_of(side, expected),
            ],
            self.block_of(side),
            [(tiling.rows, LANES)] * 2,
        )
        return self.unblocked(side, found)

    def sums(self, side, potentials, weights):
        """`sum_j P_ij weights_j` (B, L)."""
        tiling = self.cut.tilings[side]
        found = self.call(
            functools.partial(tpu_tiles.weighted_sums, tiling),
            "sums",
            side,
            [*self.potentials(side, potentials), self.all_of(1 - side, weights, 0.0)],
            self.block_of(side),
            [(tiling.rows, LANES)] * 2,
        )
        return self.unblocked(side, found)

    def products(self, side, potentials, values, factors=None):
        """`sum_j P_ij values_j` (B, L, V); with factors, `P_ij (left_i . right_j)` for `P_ij`."""
        tiling, size = self.cut.tilings[side], values.shape[2]
        if size > MOST_VALUES:
            pieces = [values[..., i : i + MOST_VALUES] for i in range(0, size, MOST_VALUES)]
            found = [self.products(side, potentials, x, factors) for x in pieces]
            return jnp.concatenate(found, 2)
        inputs = self.potentials(side, potentials)
        if factors is not None:
            both = self.laid_out(FACTORS, factors)
            inputs += [self.ours(side, both[side]), self.theirs(side, both[1 - side])]
        count = VALUES[self.numbers]
        wide = jnp.concatenate(split(values, count), 2)
        inputs.append(self.theirs(side, self.padded(1 - side, wide)))
        lanes = rounded(count * size, LANES)
        found = self.call(
            functools.partial(tpu_tiles.products, tiling, factors is not None),
            "products" if factors is None else "modulated",
            side,
            inputs,
            self.ours(side, None, lanes),
            [(tiling.rows, LANES)],
            (count, tiling.rows, tiling.columns),
        )
        found = found[:, : self.raw[side].shape[1]]
        return sum(found[..., i * size : (i + 1) * size] for i in range(count))

    def call(self, kernel, name, side, inputs, output, scratch, plan=None):
        """Run a kernel over all blocks of a side."""
        tiling = self.cut.tilings[side]
        lengths = self.lengths[side], self.lengths[1 - side]
        features = self.features[side], self.features[1 - side]
        scratch = [jax.ShapeDtypeStruct(shape, self.dtype) for shape in scratch]
        if plan is not None:
            scratch.append(jax.ShapeDtypeStruct(plan, self.narrow))
        (found,) = self.kernels.call(
            kernel,
            f"keras_struct_transport_{name}",
            (features[0].shape[0], self.cut.blocks[side], tiling.chunks),
            [
                *map(numbers_of_block, lengths),
                self.ours(side, features[0]),
                self.theirs(side, features[1]),
                *inputs,
            ],
            [output],
            scratch,
            VMEM,
        )
        return found

    def ours(self, side, x, lanes=None):
        """(B, S, lanes) by blocks of rows; without an array, for a result."""
        tiling = self.cut.tilings[side]
        if x is None:
            shape = self.raw[side].shape[0], self.cut.blocks[side] * tiling.rows, lanes
            x = jax.ShapeDtypeStruct(shape, self.dtype)
        elif tiling.windowed:
            block = None, pl.Element(tiling.rows), pl.Element(x.shape[2])

            def index(b, q, c):
                return b, pl.multiple_of(q * tiling.rows + tiling.front, LANES), 0

            return x, block, index
        return x, (None, tiling.rows, x.shape[2]), lambda b, q, c: (b, q, 0)

    def theirs(self, side, x):
        """(B, S, lanes) by chunks."""
        tiling = self.cut.tilings[side]
        if tiling.windowed:
            block = None, pl.Element(tiling.chunk), pl.Element(x.shape[2])
            return x, block, lambda b, q, c: (b, pl.multiple_of(q * tiling.rows, LANES), 0)

        def index(b, q, c):
            if tiling.band is not None:  # nothing is fetched that no row of the block reaches
                first = jnp.maximum(q * tiling.rows - tiling.band, 0)
                last = (q + 1) * tiling.rows + tiling.band
                size = jnp.int32(tiling.chunk)
                c = jnp.maximum(jnp.minimum(c, lax.div(last, size)), lax.div(first, size))
                c = jnp.minimum(c, tiling.chunks - 1)
            return b, c, 0

        return x, (None, tiling.chunk, x.shape[2]), index

    def all_of(self, side, x, fill=FORBIDDEN):
        """(B, L) as (B, T, LANES), all of it in VMEM."""
        front = self.cut.tilings[side].front
        widths = (0, 0), (front, self.cut.sizes[side] - front - x.shape[1])
        x = jnp.pad(x, widths, constant_values=fill)
        x = x.reshape(x.shape[0], -1, LANES)
        return x, (None, *x.shape[1:]), lambda b, q, c: (b, 0, 0)

    def block_of(self, side, x=None, fill=0.0):
        """(B, L) as (B, blocks, T, LANES), T of one block; without an array, for a result."""
        rows = self.cut.tilings[side].rows
        shape = self.raw[side].shape[0], self.cut.blocks[side], rows // LANES, LANES
        if x is None:
            x = jax.ShapeDtypeStruct(shape, self.dtype)
        else:
            widths = (0, 0), (0, self.cut.blocks[side] * rows - x.shape[1])
            x = jnp.pad(x, widths, constant_values=fill).reshape(shape)
        return x, (None, None, *shape[2:]), lambda b, q, c: (b, q, 0, 0)

    def unblocked(self, side, x):
        return x.reshape(x.shape[0], -1)[:, : self.raw[side].shape[1]]

    def potentials(self, side, potentials):
        g = self.existing(1 - side, potentials[1 - side])
        f = self.existing(side, potentials[side])
        return [self.all_of(1 - side, g), self.block_of(side, f, FORBIDDEN)]

    def laid_out(self, which, pair):
        """Arrays (B, S, D') of parts, whose products are those of a pair of arrays (B, L, D)."""
        chosen = which[self.numbers]
        found = []
        for side, x in enumerate(pair):
            parts = split(x, 1 + max(pair[side] for pair in chosen))
            wide = jnp.concatenate([parts[pair[side]] for pair in chosen], 2)
            found.append(self.padded(side, wide))
        return tuple(found)

    def padded(self, side, x):
        front = self.cut.tilings[side].front
        behind = self.cut.sizes[side] - front - x.shape[1]
        lanes = rounded(x.shape[2], LANES) - x.shape[2]
        return jnp.pad(x.astype(self.narrow), ((0, 0), (front, behind), (0, lanes)))
