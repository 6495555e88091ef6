"""Passes of kernels over a plan, and their derivatives, which are passes again.

A side is 0 for the rows and 1 for the columns. A pass has results for `ours`, the places of one
side, and sums over `theirs`, those of the other.
"""

import functools

import jax
from jax import lax
from jax import numpy as jnp

from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE
from keras_struct.ops.structure import time_mask
from keras_struct.ops.transport import tiles
from keras_struct.ops.transport.tiles import Support

ALL = Support(None)


class Passes:
    """All passes over one plan: a subclass has the kernels of one platform.

    `log_sums(side, offsets, near)` are minus infinity without any pair, `sums(side, potentials,
    weights)` are products with one column, `products(side, potentials, values, factors)` with
    several; with factors, `P_ij (left_i . right_j)` is in the place of `P_ij`.

    Args:
        sums: `Streamed`.
        raw: Features of both sides, (B, L1, D) and (B, L2, D).
        lengths: Of both sides, (B,).
    """

    def __init__(self, sums, raw, lengths):
        self.kernels, self.raw = sums.kernels, raw
        self.lengths = tuple(n.astype("int32") for n in lengths)
        self.band = sums.support.band_width
        self.spokes = sums.support.spokes and self.band is not None
        self.dtype = raw[0].dtype
        self.numbers = "float64" if self.dtype == jnp.float64 else sums.numbers
        self.narrow = jnp.bfloat16 if self.numbers == "bfloat16" else self.dtype

    def existing(self, side, x):
        """Potentials of a side, far below zero where a kernel has no place."""
        there = time_mask(self.lengths[side], x.shape[1])
        if self.spokes:  # the first one has passes of its own
            there &= jnp.arange(x.shape[1]) > 0
        return jnp.where(there, x, FORBIDDEN)


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
    passes = sums.passes(raw, lengths, laid_out)
    found = passes.log_sums(side, offsets, near)

    def spoke(ours, theirs, offsets, lengths):
        return tiles.log_sums(ALL, ours, theirs, offsets, lengths)

    if passes.spokes:
        found = tiles.with_spokes(spoke, jnp.logaddexp, found, side, raw, (offsets,), (), lengths)
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
    passes = sums.passes(raw, lengths, widths=(values.shape[2], 0))
    if values.shape[2] == 1:
        found = passes.sums(side, potentials, values[..., 0])[..., None]
    else:
        found = passes.products(side, potentials, values)
    if passes.spokes:

        def spoke(ours, theirs, f, g, values, lengths):
            return tiles.apply_plan(ALL, ours, theirs, (f, g), values, lengths)

        f, g = potentials[side], potentials[1 - side]
        found = tiles.with_spokes(spoke, jnp.add, found, side, raw, (g, values), (f,), lengths)
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
    passes = sums.passes(raw, lengths, widths=widths)
    found = passes.products(side, potentials, raw[1 - side], factors)
    if passes.spokes:

        def spoke(ours, theirs, f, left, g, right, lengths):
            return tiles.modulated_plan(ALL, ours, theirs, (f, g), left, right, theirs, lengths)

        mine, other = ((potentials[i], factors[i]) for i in (side, 1 - side))
        found = tiles.with_spokes(spoke, jnp.add, found, side, raw, other, mine, lengths)
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
