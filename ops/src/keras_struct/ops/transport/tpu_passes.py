"""Passes of the kernels of `tpu_tiles.py` over a plan, and their derivatives.

A side is 0 for the rows and 1 for the columns. A pass has results for `ours`, the places of one
side, and sums over `theirs`, those of the other.
"""

import functools
from typing import NamedTuple

import jax
from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl

from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE
from keras_struct.ops.pallas_tpu import LANES, numbers_of_block, rounded
from keras_struct.ops.structure import time_mask
from keras_struct.ops.transport import tiles, tpu_tiles
from keras_struct.ops.transport.tiles import Support
from keras_struct.ops.transport.tpu_tiles import Tiling

ALL = Support(None)

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


class Passes:
    """All passes over one plan.

    Args:
        sums: `Streamed`.
        raw: Features of both sides, (B, L1, D) and (B, L2, D).
        lengths: Of both sides, (B,).
        laid_out: What `features` was for these, if that is known.
        widths: Numbers of the values, and of the factors that modulate the plan.
    """

    def __init__(self, sums, raw, lengths, laid_out=None, widths=(0, 0)):
        self.kernels, self.raw = sums.kernels, raw
        self.lengths = tuple(n.astype("int32") for n in lengths)
        self.band = sums.support.band_width
        self.spokes = sums.support.spokes and self.band is not None
        self.dtype = raw[0].dtype
        self.numbers = "float64" if self.dtype == jnp.float64 else sums.numbers
        self.narrow = self.dtype if self.numbers == "float64" else jnp.bfloat16
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

    def existing(self, side, x):
        """Potentials of a side, far below zero where a kernel has no place."""
        there = time_mask(self.lengths[side], x.shape[1])
        if self.spokes:  # the first one has passes of its own
            there &= jnp.arange(x.shape[1]) > 0
        return jnp.where(there, x, FORBIDDEN)

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


def split(x, count):
    """`count` arrays of 8 bits each whose sum is x."""
    found = []
    for _ in range(count - 1):
        # A conversion to bfloat16 and back is what compilers leave out.
        found.append(lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7))
        x = x - found[-1]
    return [*found, x]


def _ordered(side, ours, theirs):
    return (ours, theirs) if side == 0 else (theirs, ours)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def log_sums(sums, side, raw, offsets, extra):
    """`log sum_j exp(x_i . y_j + offsets_j)` (B, L), 0 without any pair.

    Args:
        sums: `Streamed`.
        side: Whose sums are wanted; offsets are those of the other side.
        raw: Features of both sides.
        offsets: (B, L) of the other side.
        extra: Lengths of both sides; what the sums are about, or None; `Passes.features`, or None.
    """
    lengths, near, laid_out = extra
    passes = Passes(sums, raw, lengths, laid_out)
    found = passes.log_sums(side, offsets, near)

    def spoke(ours, theirs, offsets, lengths):
        return tiles.log_sums(ALL, ours, theirs, offsets, lengths)

    if passes.spokes:
        found = _with_spokes(spoke, jnp.logaddexp, found, side, raw, (offsets,), (), lengths)
    return jnp.where(found < INFEASIBLE, 0.0, found)


def _log_sums_forward(sums, side, raw, offsets, extra):
    found = log_sums(sums, side, raw, offsets, extra)
    return found, (raw, offsets, found, extra[0])


def _log_sums_backward(sums, side, residuals, cotangent):
    raw, offsets, found, lengths = residuals
    potentials = _ordered(side, -found, offsets)
    ours, theirs = raw[side], raw[1 - side]
    weights = cotangent[..., None]
    back = times(sums, 1 - side, raw, potentials, weights * ours, lengths)
    dours = weights * times(sums, side, raw, potentials, theirs, lengths)
    doffsets = times(sums, 1 - side, raw, potentials, weights, lengths)[..., 0]
    return _ordered(side, dours, back), doffsets, None


log_sums.defvjp(_log_sums_forward, _log_sums_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def times(sums, side, raw, potentials, values, lengths):
    """The plan of these potentials, or transposed, times values (B, L, V) of the other side."""
    passes = Passes(sums, raw, lengths, widths=(values.shape[2], 0))
    if values.shape[2] == 1:
        found = passes.sums(side, potentials, values[..., 0])[..., None]
    else:
        found = passes.products(side, potentials, values)
    if passes.spokes:

        def spoke(ours, theirs, f, g, values, lengths):
            return tiles.apply_plan(ALL, ours, theirs, (f, g), values, lengths)

        f, g = potentials[side], potentials[1 - side]
        found = _with_spokes(spoke, jnp.add, found, side, raw, (g, values), (f,), lengths)
    return found


def _times_forward(sums, side, raw, potentials, values, lengths):
    found = times(sums, side, raw, potentials, values, lengths)
    return found, (raw, potentials, values, lengths, found)


def _times_backward(sums, side, residuals, cotangent):
    raw, potentials, values, lengths, found = residuals
    dvalues = times(sums, 1 - side, raw, potentials, cotangent, lengths)
    slopes = jnp.sum(cotangent * found, 2), jnp.sum(values * dvalues, 2)
    factors = _ordered(side, cotangent, values)
    draw = tuple(modulated(sums, i, raw, potentials, factors, lengths) for i in (0, 1))
    return draw, _ordered(side, *slopes), dvalues, None


times.defvjp(_times_forward, _times_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def modulated(sums, side, raw, potentials, factors, lengths):
    """`sum_j P_ij (left_i . right_j) y_j` (B, L, D) for one side, y the features of the other."""
    widths = raw[0].shape[2], factors[0].shape[2]
    passes = Passes(sums, raw, lengths, widths=widths)
    found = passes.products(side, potentials, raw[1 - side], factors)
    if passes.spokes:

        def spoke(ours, theirs, f, left, g, right, lengths):
            return tiles.modulated_plan(ALL, ours, theirs, (f, g), left, right, theirs, lengths)

        mine, other = ((potentials[i], factors[i]) for i in (side, 1 - side))
        found = _with_spokes(spoke, jnp.add, found, side, raw, other, mine, lengths)
    return found


def _modulated_forward(sums, side, *arguments):
    return modulated(sums, side, *arguments), arguments


def _modulated_backward(sums, side, residuals, cotangent):
    """By tiles, as they are without kernels: derivatives of derivatives are seldom wanted."""
    raw, potentials, factors, lengths = residuals

    def function(raw, potentials, factors):
        x, f, left = ((y[side]) for y in (raw, potentials, factors))
        y, g, right = ((y[1 - side]) for y in (raw, potentials, factors))
        both = _ordered(side, *lengths)
        return tiles.modulated_plan(sums.support, x, y, (f, g), left, right, y, both)

    return *jax.vjp(function, raw, potentials, factors)[1](cotangent), None


modulated.defvjp(_modulated_forward, _modulated_backward)


def _with_spokes(function, join, found, side, raw, theirs, ours, lengths):
    """`found` of a band, with what the first row and the first column reach besides.

    Args:
        function: Of features of some of our places and some of theirs, arrays of ours and of theirs
            and lengths.
        join: Of two results for the same places.
        found: (B, L, ...), without the first place of either side.
        side: Which is ours.
        raw: Features of both sides.
        theirs: Arrays of the other side.
        ours: Arrays of our side.
        lengths: Of both sides.
    """
    one = jnp.ones_like(lengths[0])
    x, y = raw[side], raw[1 - side]
    first = function(x[:, :1], y, *(a[:, :1] for a in ours), *theirs, (one, lengths[1 - side]))
    column = function(x, y[:, :1], *ours, *(a[:, :1] for a in theirs), (lengths[side], one))
    return jnp.concatenate([first, join(found, column)[:, 1:]], 1)
