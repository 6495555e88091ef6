"""The Pallas kernels of transport for GPUs: sums over tiles of a plan that is never stored.

A program has a block of rows and goes over tiles of columns (recurrence.md, "Tiles on a GPU").
`exp` is that of who calls the kernel, `PallasGPU.exp`.

Letters: R rows of a block, C columns of a tile, V values.
"""

from typing import NamedTuple

import jax
from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl

from keras_struct.ops.numerics import FORBIDDEN

LOWEST = 0.1 * FORBIDDEN  # above what is forbidden, below any score
# Sums of exp(logit - expected log-sum) in which nothing that counts is lost.
LEAST, MOST = 2.0**-60, 2.0**100
ROWS_BY_ROWS = (((1,), (1,)), ((), ()))  # x y'
ROWS_BY_COLUMNS = (((1,), (0,)), ((), ()))  # x y

int32 = jnp.int32


class Tiling(NamedTuple):
    """How the pairs are cut, for one pass.

    Attributes:
        rows: R.
        columns: C.
        tiles: How many of them a program sees at most.
        band: Half of the width of the band, or None.
        depth: Features that are multiplied at a time.
        pairs: Which parts of our features, and of theirs, are multiplied.
        factors: The same of what modulates the plan.
        digits: Of products of float32, as `lax.dot_general` takes it.
    """

    rows: int
    columns: int
    tiles: int
    band: int | None
    depth: int
    pairs: tuple
    factors: tuple
    digits: object


class Block:
    """Where a program is: a block of rows, and a range of tiles of columns.

    References are attributes of `refs`: `ours` and `theirs` (1,), how many places there are; `x`
    and `y` (parts, L, D), `g` (L,) of the columns.
    """

    def __init__(self, tiling, refs):
        self.tiling, self.refs = tiling, refs
        self.counts = refs.ours[0], refs.theirs[0]
        self.split = pl.program_id(2)
        self.first = pl.program_id(1) * int32(tiling.rows)
        self.rows = pl.ds(self.first, tiling.rows)
        size = int32(tiling.columns)
        begin = self.split * int32(tiling.tiles)
        end = jnp.minimum(begin + int32(tiling.tiles), _tiles(self.counts[1], size))
        if tiling.band is not None:
            band = int32(tiling.band)
            begin = jnp.maximum(begin, lax.div(jnp.maximum(self.first - band, 0), size))
            reach = self.first + int32(tiling.rows) + band
            end = jnp.minimum(end, _tiles(reach, size))
        self.range = begin, jnp.where(self.first < self.counts[0], end, begin)

    def vector(self, value):
        return jnp.full((self.tiling.rows,), value, self.refs.g.dtype)

    def over(self, body, carry):
        """`carry = body(columns, logits, carry)` for all tiles: where its columns are, (R, C)."""

        def tile(number, carry):
            start = number * int32(self.tiling.columns)
            columns = pl.ds(start, self.tiling.columns)
            return body(columns, self.logits(start, columns), carry)

        return lax.fori_loop(*self.range, tile, carry)

    def logits(self, start, columns):
        """What does not exist is far below zero: g says so of columns, this of a band."""
        refs, tiling = self.refs, self.tiling
        found = self.product(refs.x, refs.y, columns, tiling.pairs) + refs.g[columns][None]
        if tiling.band is None:
            return found
        row = self.first + lax.broadcasted_iota(int32, found.shape, 0)
        column = start + lax.broadcasted_iota(int32, found.shape, 1)
        return jnp.where(jnp.abs(row - column) <= tiling.band, found, FORBIDDEN)

    def product(self, x, y, columns, pairs):
        """Products of features of the rows and of some columns, (R, C)."""
        dtype, found = self.refs.g.dtype, None
        depth = min(self.tiling.depth, x.shape[2])
        for start in range(0, x.shape[2], depth):
            some = pl.ds(start, depth)
            for part, other in pairs:
                product = lax.dot_general(
                    x[part, self.rows, some],
                    y[other, columns, some],
                    ROWS_BY_ROWS,
                    precision=self.tiling.digits,
                    preferred_element_type=dtype,
                )
                found = product if found is None else found + product
        return found


def _tiles(places, size):
    return lax.div(places + size - int32(1), size)


def log_sums(tiling, exp, near, refs):
    """`log sum_j exp(x_i . y_j + g_j)` of the columns of a program, (R,); minus infinity without
    any pair.

    With `near` sums are of exp(logit - expected), as the reference `expected` says what they are
    about; where one leaves the range in which a float has all digits, the block is summed again
    around the largest logits.
    """
    block = Block(tiling, refs)

    def around_largest():
        def add(columns, logits, carry):
            peak, total = carry
            new = jnp.maximum(peak, jnp.max(logits, 1))
            weights = exp(logits - new[:, None])
            return new, total * exp(peak - new) + jnp.sum(weights, 1)

        peak, total = block.over(add, (block.vector(LOWEST), block.vector(0.0)))
        return jnp.log(total) + peak

    if not near:
        refs.out[block.split, block.rows] = around_largest()
        return
    expected = refs.expected[block.rows]

    def add(columns, logits, total):
        return total + jnp.sum(exp(logits - expected[:, None]), 1)

    total = block.over(add, block.vector(0.0))
    place = block.first + lax.broadcasted_iota(int32, (tiling.rows,), 0)
    some = (place < block.counts[0]) & (block.range[0] < block.range[1])
    if tiling.band is not None:
        some &= place - int32(tiling.band) < block.counts[1]
    fine = (total > LEAST) & (total < MOST)
    lost = jnp.max(jnp.where(some & jnp.logical_not(fine), 1, 0).astype(int32))
    refs.out[block.split, block.rows] = lax.cond(
        lost > 0, around_largest, lambda: jnp.log(total) + expected
    )


def weighted_sums(tiling, exp, refs):
    """`sum_j exp(x_i . y_j + f_i + g_j) weights_j`, (R,)."""
    block = Block(tiling, refs)
    f = refs.f[block.rows]

    def add(columns, logits, total):
        weights = refs.weights[columns][None]
        return total + jnp.sum(exp(logits + f[:, None]) * weights, 1)

    refs.out[block.split, block.rows] = block.over(add, block.vector(0.0))


def products(tiling, exp, modulated, refs):
    """`sum_j P_ij values_j` (R, V), with `P_ij = exp(x_i . y_j + f_i + g_j)`.

    If `modulated`, `P_ij (left_i . right_j)` is in its place.
    """
    block = Block(tiling, refs)
    f = refs.f[block.rows]

    def add(columns, logits, out):
        plan = exp(logits + f[:, None])
        if modulated:
            plan = plan * block.product(refs.left, refs.right, columns, tiling.factors)
        return out + lax.dot_general(
            plan.astype(refs.values.dtype),
            refs.values[columns, :],
            ROWS_BY_COLUMNS,
            precision=tiling.digits,
            preferred_element_type=out.dtype,
        )

    shape = tiling.rows, refs.values.shape[1]
    out = block.over(add, jnp.zeros(shape, refs.out.dtype))
    refs.out[block.split, block.rows, :] = out


def combined(x):
    """The log-sums (B, splits, L) of several programs as one."""
    return x[:, 0] if x.shape[1] == 1 else jax.nn.logsumexp(x, 1)
