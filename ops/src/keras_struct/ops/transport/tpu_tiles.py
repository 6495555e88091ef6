"""The Pallas kernels of transport: sums over tiles of a plan that is never stored.

A block of rows lies on the sublanes, the columns of a tile on the lanes (recurrence.md, "Tiles on a
TPU"). A matrix product makes the logits of a tile, so 128 lanes are added up where they are, and
across lanes only once for each block.

Letters: R rows of a block, C columns of a tile, D features, V values; T groups of 128 places.
"""

import functools
from typing import NamedTuple

import jax
from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl

from keras_struct.ops.numerics import FORBIDDEN
from keras_struct.ops.pallas_tpu import LANES

LOWEST = 0.1 * FORBIDDEN  # above what is forbidden, below any score
# Sums of exp(logit - expected log-sum) in which nothing that counts is lost.
LEAST, MOST = 2.0**-60, 2.0**100
ROWS_BY_ROWS = (((1,), (1,)), ((), ()))  # x y'
ROWS_BY_COLUMNS = (((1,), (0,)), ((), ()))  # x y


class Tiling(NamedTuple):
    """How the pairs are cut, for one pass.

    Attributes:
        rows: R.
        step: Rows of a block that share their tiles: all, or on a band as many as make it narrow.
        columns: C.
        chunk: Columns in VMEM at a time.
        chunks: How many of these a block of rows sees, one after the other.
        front: Columns of padding before the first one, on a band whose windows follow the rows.
        band: Half of the width of the band, or None.
        windowed: Whether a chunk is the window of a block of rows, `front` before it and behind it.
    """

    rows: int
    step: int
    columns: int
    chunk: int
    chunks: int
    front: int
    band: int | None
    windowed: bool


class Block(NamedTuple):
    """Where a grid step is.

    Attributes:
        first: Row 0 of the block.
        counts: Rows and columns that the example has.
        origin: First column of the chunk, as it is numbered.
        group: First group of 128 columns of the chunk, among those of the padded array.
        tiles: Range of the tiles to be seen.
        chunk: Number of the chunk.
    """

    first: jax.Array
    counts: tuple
    origin: jax.Array
    group: jax.Array
    tiles: tuple
    chunk: jax.Array


def block_of(tiling, ours, theirs):
    q, c = pl.program_id(1), pl.program_id(2)
    counts = ours[0, 0], theirs[0, 0]
    first = q * tiling.rows
    end = first + tiling.rows
    if tiling.windowed:
        there = (first < counts[0]) & (first - tiling.band < counts[1])
        tiles = 0, jnp.where(there, (tiling.chunk - tiling.rows + tiling.step) // tiling.columns, 0)
        origin, group = first - tiling.front, q * (tiling.rows // LANES)
    else:
        origin, group = c * tiling.chunk, c * (tiling.chunk // LANES)
        start, stop = origin, jnp.minimum(origin + tiling.chunk, counts[1])
        if tiling.band is not None:
            start = jnp.maximum(start, first - tiling.band)
            stop = jnp.minimum(stop, end + tiling.band)
        stop = jnp.where(first < counts[0], stop, start)
        whole = jnp.int32(tiling.columns)
        start, stop = start - origin, jnp.maximum(stop - origin, 0)
        tiles = lax.div(start, whole), lax.div(stop + (tiling.columns - 1), whole)
    return Block(first, counts, origin, group, tiles, c)


def log_sums(tiling, near, ours, theirs, x, y, g, expected, out, total, peak):
    """`log sum_j exp(x_i . y_j + g_j)`, (T, LANES) for R rows; minus infinity without any pair.

    With `near` sums are of exp(logit - expected), as `expected` says what they are about; where one
    leaves the range in which a float has all digits, the block is summed again around the largest
    logits. Needs one chunk.
    """
    block = block_of(tiling, ours, theirs)

    def start(near):
        total[...] = jnp.zeros_like(total)
        if near:
            to_columns(peak, expected)
        else:
            peak[...] = jnp.full_like(peak, LOWEST)

    def add(near):
        def tile(number, carry):
            for here, logits, _ in parts_of(tiling, block, number, x, y, g):
                old = new = peak[here, :]
                sums = total[here, :]
                if not near:
                    new = functools.reduce(jnp.maximum, logits, old)
                    peak[here, :] = new
                    sums = sums * jnp.exp(old - new)
                for logit in logits:
                    sums = sums + jnp.exp(logit - new)
                total[here, :] = sums
            return carry

        lax.fori_loop(*block.tiles, tile, 0)

    def finish():
        """Number of rows whose sum has lost digits."""
        lost = jnp.zeros((1, LANES), total.dtype)
        for group in range(tiling.rows // LANES):
            here = pl.ds(group * LANES, LANES)
            most = peak[here, :].T
            top = jnp.max(most, axis=0, keepdims=True)
            sums = jnp.sum(total[here, :].T * jnp.exp(most - top), axis=0, keepdims=True)
            out[pl.ds(group, 1), :] = jnp.log(sums) + top
            place = block.first + group * LANES + lax.broadcasted_iota(jnp.int32, (1, LANES), 1)
            some = place < block.counts[0]
            if tiling.band is not None:
                some &= place - tiling.band < block.counts[1]
            fine = (sums > LEAST) & (sums < MOST)
            lost = lost + jnp.where(some & jnp.logical_not(fine), 1.0, 0.0)
        return jnp.sum(lost)

    pl.when(block.chunk == 0)(functools.partial(start, near))
    add(near)

    @pl.when(block.chunk == tiling.chunks - 1)
    def _():
        lost = finish()
        if near:

            @pl.when(lost > 0)
            def _():
                start(False)
                add(False)
                finish()


def weighted_sums(tiling, ours, theirs, x, y, g, f, weights, out, total, ours_f):
    """`sum_j exp(x_i . y_j + f_i + g_j) weights_j`, (T, LANES) for R rows."""
    block = block_of(tiling, ours, theirs)

    @pl.when(block.chunk == 0)
    def _():
        total[...] = jnp.zeros_like(total)
        to_columns(ours_f, f)

    def tile(number, carry):
        for here, logits, groups in parts_of(tiling, block, number, x, y, g):
            sums, potential = total[here, :], ours_f[here, :]
            for logit, group in zip(logits, groups, strict=True):
                sums = sums + jnp.exp(logit + potential) * weights[pl.ds(group, 1), :]
            total[here, :] = sums
        return carry

    lax.fori_loop(*block.tiles, tile, 0)

    @pl.when(block.chunk == tiling.chunks - 1)
    def _():
        for group in range(tiling.rows // LANES):
            sums = total[pl.ds(group * LANES, LANES), :].T
            out[pl.ds(group, 1), :] = jnp.sum(sums, axis=0, keepdims=True)


def products(tiling, modulated, ours, theirs, x, y, g, f, *refs):
    """`sum_j P_ij values_j` (R, V), with `P_ij = exp(x_i . y_j + f_i + g_j)`.

    If `modulated`, `P_ij (left_i . right_j)` is in its place. Parts (see `parts`) of a tile of it
    stand in `plan`: left to the compiler, they would be spilled registers.
    """
    *modulation, values, out, ours_f, plan = refs
    block = block_of(tiling, ours, theirs)

    @pl.when(block.chunk == 0)
    def _():
        out[...] = jnp.zeros_like(out)
        to_columns(ours_f, f)

    def tile(number, carry):
        for here, logits, _ in parts_of(tiling, block, number, x, y, g):
            potential = ours_f[here, :]
            if modulated:
                left, right = modulation
                there = columns_of(tiling, here, number)
                factors = lax.dot_general(
                    left[here, :], right[there, :], ROWS_BY_ROWS, preferred_element_type=out.dtype
                )
            for m, logit in enumerate(logits):
                lanes = slice(m * LANES, (m + 1) * LANES)
                w = jnp.exp(logit + potential)
                if modulated:
                    w = w * factors[:, lanes]
                for part, some in enumerate(parts(w, plan)):
                    plan[part, here, lanes] = some
        for here in blocks_of_rows(tiling):
            there = columns_of(tiling, here, number)
            for part in range(plan.shape[0]):
                out[here, :] += lax.dot_general(
                    plan[part, here, :],
                    values[there, :],
                    ROWS_BY_COLUMNS,
                    preferred_element_type=out.dtype,
                )
        return carry

    lax.fori_loop(*block.tiles, tile, 0)


def blocks_of_rows(tiling):
    return [pl.ds(start, tiling.step) for start in range(0, tiling.rows, tiling.step)]


def columns_of(tiling, here, number):
    """Where the columns of a tile are in their chunk."""
    start = number * tiling.columns + (here.start if tiling.windowed else 0)
    return pl.ds(pl.multiple_of(start, LANES), tiling.columns)


def parts_of(tiling, block, number, x, y, g):
    """For all rows that share a tile: where they are, its logits by 128 columns, and their groups.

    What does not exist is far below zero: g says so of columns, and here it is said of the band.
    """
    for here in blocks_of_rows(tiling):
        there = columns_of(tiling, here, number)
        products = lax.dot_general(
            x[here, :], y[there, :], ROWS_BY_ROWS, preferred_element_type=g.dtype
        )
        groups = tiling.columns // LANES
        shift = here.start // LANES if tiling.windowed else 0
        first = block.group + shift + number * groups
        logits = []
        for m in range(groups):
            logit = products[:, m * LANES : (m + 1) * LANES] + g[pl.ds(first + m, 1), :]
            if tiling.band is not None:
                begin = number * tiling.columns + m * LANES
                if tiling.windowed:  # both ends move with the rows
                    begin = begin - tiling.front
                else:
                    begin = block.origin + begin - block.first
                logit = jnp.where(near_diagonal(tiling, begin), logit, FORBIDDEN)
            logits.append(logit)
        yield here, logits, [first + m for m in range(groups)]


def near_diagonal(tiling, begin):
    """Which of (step, LANES) are in the band, the first column `begin` after the first row."""
    shape = tiling.step, LANES
    ahead = lax.broadcasted_iota(jnp.int32, shape, 1) - lax.broadcasted_iota(jnp.int32, shape, 0)
    return jnp.abs(ahead + begin) <= tiling.band


def to_columns(columns, x):
    """(T, LANES) to (T · LANES, LANES), each number on all lanes."""
    for group in range(x.shape[0]):
        row = jnp.broadcast_to(x[pl.ds(group, 1), :], (LANES, LANES))
        columns[pl.ds(group * LANES, LANES), :] = row.T


def parts(x, like):
    """As many numbers of the dtype of `like` (parts, ...) as it has parts, whose sum is x."""
    found = []
    for _ in range(like.shape[0] - 1):
        # The upper half of a float32, rounded. Compilers leave out a conversion and back.
        bits = (lax.bitcast_convert_type(x, jnp.int32) + jnp.int32(32768)) & jnp.int32(-65536)
        high = lax.bitcast_convert_type(bits, x.dtype)
        found.append(high.astype(like.dtype))
        x = x - high
    return [*found, x.astype(like.dtype)]
