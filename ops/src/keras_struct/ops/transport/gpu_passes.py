"""Passes of the kernels of `gpu_tiles.py` over a plan (see `passes.py`)."""

import functools

import jax
from jax import lax
from jax import numpy as jnp

from keras_struct.ops.gpu import power
from keras_struct.ops.numerics import FORBIDDEN
from keras_struct.ops.pallas import rounded
from keras_struct.ops.transport import gpu_tiles, passes
from keras_struct.ops.transport.gpu_plan import LEAST_DEPTH, MOST_VALUES, divided, padded_depth
from keras_struct.ops.transport.gpu_tiles import Tiling
from keras_struct.ops.transport.passes import split

# Parts of the features of the rows, which were divided by epsilon, and of the columns; of factors.
ONE = ((0, 0),)
FEATURES = {"bfloat16": ((0, 0), (1, 0)), "float32": ONE, "float64": ONE}
FACTORS = {"bfloat16": ((0, 0), (0, 1), (1, 0)), "float32": ONE, "float64": ONE}


class Passes(passes.Passes):
    """All passes over one plan.

    Args:
        sums: `Streamed`.
        raw: Features of both sides, (B, L1, D) and (B, L2, D).
        lengths: Of both sides, (B,).
        laid_out: What `features` was for these, if that is known.
        widths: Of values and factors, which do not matter here.
    """

    def __init__(self, sums, raw, lengths, laid_out=None, widths=None):
        super().__init__(sums, raw, lengths)
        self.tile = self.kernels.tile_of(self.numbers)
        whole = max(self.tile.rows, self.tile.columns)
        self.sizes = [rounded(x.shape[1], whole) for x in raw]
        self.features = laid_out or self.laid_out(FEATURES, raw)

    def tiling(self, side):
        """`Tiling`, and how many programs divide the columns of a block of rows."""
        rows, columns = self.tile[:2]
        tiles = self.sizes[1 - side] // columns
        programs = self.raw[side].shape[0] * self.sizes[side] // rows
        splits = 1 if self.band is not None else divided(tiles, programs, self.kernels.least)
        return Tiling(
            rows,
            columns,
            -(-tiles // splits),
            self.band,
            self.tile.depth,
            _from(side, FEATURES[self.numbers]),
            _from(side, FACTORS[self.numbers]),
            self._digits(),
        ), splits

    def _digits(self):
        if self.numbers == "bfloat16":
            return None
        if self.numbers == "float64" or self.kernels.interpreter is not None:
            return lax.Precision.HIGHEST
        return lax.DotAlgorithmPreset.TF32_TF32_F32_X3

    def log_sums(self, side, offsets, near=None):
        inputs = {"g": self.padded(1 - side, self.existing(1 - side, offsets), FORBIDDEN)}
        if near is not None:
            inputs["expected"] = self.padded(side, near)
        name = "log_sums" if near is None else "log_sums_near"
        found = self.call(gpu_tiles.log_sums, name, side, inputs, (), near is not None)
        return gpu_tiles.combined(found)

    def sums(self, side, potentials, weights):
        inputs = {**self.potentials(side, potentials), "weights": self.padded(1 - side, weights)}
        return self.call(gpu_tiles.weighted_sums, "sums", side, inputs, ()).sum(1)

    def products(self, side, potentials, values, factors=None):
        size = values.shape[2]
        if size > MOST_VALUES:
            pieces = [values[..., i : i + MOST_VALUES] for i in range(0, size, MOST_VALUES)]
            found = [self.products(side, potentials, x, factors) for x in pieces]
            return jnp.concatenate(found, 2)
        inputs = self.potentials(side, potentials)
        if factors is not None:
            both = self.laid_out(FACTORS, factors)
            inputs |= {"left": both[side], "right": both[1 - side]}
        width = max(LEAST_DEPTH, power(size))
        values = jnp.pad(values, ((0, 0), (0, 0), (0, width - size)))
        inputs["values"] = self.padded(1 - side, values).astype(self.narrow)
        name = "products" if factors is None else "modulated"
        found = self.call(gpu_tiles.products, name, side, inputs, (width,), factors is not None)
        return found.sum(1)[..., :size]

    def call(self, kernel, name, side, inputs, width, *options):
        """Run a kernel over all blocks of a side, to (B, splits, L, ...)."""
        tiling, splits = self.tiling(side)
        batch, size = self.raw[side].shape[0], self.sizes[side]
        run = functools.partial(kernel, tiling, self.kernels.exp, *options)
        found = self.kernels.call_by_name(
            run,
            f"keras_struct_transport_{name}",
            (batch, size // tiling.rows, splits),
            {
                "ours": self.lengths[side][:, None],
                "theirs": self.lengths[1 - side][:, None],
                "x": self.features[side],
                "y": self.features[1 - side],
                **inputs,
            },
            {"out": jax.ShapeDtypeStruct((batch, splits, size, *width), self.dtype)},
            warps=self.tile.warps,
            stages=self.tile.stages,
        )
        return found["out"][:, :, : self.raw[side].shape[1]]

    def potentials(self, side, potentials):
        return {
            name: self.padded(which, self.existing(which, potentials[which]), FORBIDDEN)
            for name, which in (("g", 1 - side), ("f", side))
        }

    def laid_out(self, which, pair):
        """Arrays (B, parts, S, D') of parts, some products of which are those of (B, L, D)."""
        chosen = which[self.numbers]
        found = []
        for side, x in enumerate(pair):
            size = x.shape[2]
            wide = padded_depth(size, self.tile.depth)
            x = self.padded(side, jnp.pad(x, ((0, 0), (0, 0), (0, wide - size))))
            parts = split(x, 1 + max(pair[side] for pair in chosen))
            found.append(jnp.stack(parts, 1).astype(self.narrow))
        return tuple(found)

    def padded(self, side, x, fill=0.0):
        """(B, L, ...) to (B, S, ...)."""
        more = self.sizes[side] - x.shape[1]
        widths = ((0, 0), (0, more), *[(0, 0)] * (x.ndim - 2))
        return jnp.pad(x, widths, constant_values=fill)


def _from(side, pairs):
    """Pairs of parts of the rows and the columns as those of ours and theirs."""
    return pairs if side == 0 else tuple((b, a) for a, b in pairs)
