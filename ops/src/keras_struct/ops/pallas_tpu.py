"""What every Pallas kernel for TPUs needs: when it may run, examples on lanes, how it is called.

A TPU register is 8 sublanes by 128 lanes. The kernels put 128 examples on the lanes and positions
on the sublanes (rotating sublanes takes 8 cycles, rotating lanes over 100), so arrays go in and out
with a block of examples as their last axis. A kernel file imports JAX only where it runs.

On a TPU, Mosaic compiles a kernel. `interpreted` is the same kernel for tests on any machine.
"""

import math

from keras_struct.ops.implementation import Paths
from keras_struct.ops.pallas import Pallas

LANES = 128
SUBLANES = 8
MEGABYTE = 1 << 20
MOST_PADDED = 1.0  # gigabytes of padded potentials
SPARE = 2  # megabytes of VMEM beside the arrays of a kernel


class PallasTPU(Pallas):
    """Sweeps by Pallas kernels for TPUs."""

    platform = "tpu"
    any_batch = True

    def rejects(self, call):
        reason = super().rejects(call)
        if reason is None and self.interpreter is None and call.dtype == "float64":
            return "a TPU has no float64"
        return reason

    def interpreted(self, strict=False, **attributes):
        """A copy that runs interpreted, on any machine and in float64, too.

        Args:
            strict: Whether by the interpreter of TPUs, which looks for races (in time that is
                quadratic in the number of accesses), fills fresh memory with NaN and raises at a
                read outside of an array; else by a program of XLA for the whole grid, which is
                many times faster.
            **attributes: Attributes of the copy, such as smaller tiles.
        """
        from jax.experimental.pallas import tpu as pltpu

        other = super().interpreted(**attributes)
        if strict:
            other.interpreter = pltpu.InterpretParams(
                detect_races=True, uninitialized_memory="nan", out_of_bounds_reads="raise"
            )
        return other

    def call(self, kernel, name, grid, inputs, outputs, scratch=(), memory=None):
        """Run a kernel: `kernel(*input refs, *output refs, *scratch refs)`.

        Args:
            kernel: Function of references.
            name: Its name in compiled programs.
            grid: Sizes; the first counts blocks of examples, which know nothing of each other.
            inputs: Triples of an array, the shape of its blocks and a function from grid indices to
                the index of a block. A None in a block is an axis that the kernel does not see. A
                fourth element is the number of its buffers in VMEM, 2 by default, or "SMEM".
            outputs: The same, with `jax.ShapeDtypeStruct` for arrays.
            scratch: `jax.ShapeDtypeStruct` of every array in VMEM that outlives a grid step.
            memory: Bytes of VMEM that it may take; None for the compiler's own limit.

        Returns:
            List of arrays.
        """
        from jax.experimental import pallas as pl
        from jax.experimental.pallas import tpu as pltpu

        def with_spec(x, block, index, buffers=None):
            if buffers == "SMEM":
                return x, lambda blocks: pl.BlockSpec(block, index, memory_space=pltpu.SMEM)
            mode = None if buffers is None else pl.Buffered(buffers)
            return x, lambda blocks: pl.BlockSpec(block, index, pipeline_mode=mode)

        return self.pallas_call(
            kernel,
            grid,
            [with_spec(*x) for x in inputs],
            [with_spec(*x) for x in outputs],
            name=name,
            scratch_shapes=[pltpu.VMEM(x.shape, x.dtype) for x in scratch],
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", *["arbitrary"] * (len(grid) - 1)),
                vmem_limit_bytes=memory,
            ),
        )


class PathsTPU(Paths, PallasTPU):
    """Sweeps over paths, tile by tile, with the same tapes in every engine."""

    def avoids(self, call):
        batch = call.shapes[0][0]
        if batch is None:
            return None
        lanes = blocks_of(batch) * LANES
        gigabytes = 4 * lanes * sum(math.prod(shape[1:]) for shape in call.shapes) / 1e9
        if lanes >= 4 * batch and gigabytes > MOST_PADDED:
            return (
                f"it puts {LANES} examples side by side: with a batch of {batch}, its copy of the "
                f"potentials would be {gigabytes:.0f} GB, mostly padding"
            )
        return None


def of_block(x, *buffers):
    """For `PallasTPU.call`: an array (blocks, ...) of which each block of examples has its own."""
    zeros = (0,) * (len(x.shape) - 1)
    return x, (None, *x.shape[1:]), lambda n, *rest: (n, *zeros), *buffers


def numbers_of_block(x):
    """For `PallasTPU.call`: integers (blocks, n) or (blocks,), of which a kernel sees the (1, n) of
    its block in SMEM."""
    return of_block(x.reshape(x.shape[0], 1, -1), "SMEM")


def blocks_of(batch):
    """How many blocks of `LANES` examples hold a batch."""
    return -(-batch // LANES)


def on_lanes(x, batch, fill=0.0):
    """(B or 1, ...) to (blocks, ..., LANES); lanes without an example hold `fill`."""
    from jax import numpy as jnp

    blocks = blocks_of(batch)
    if x.shape[0] == 1:
        lanes = jnp.broadcast_to(x[..., None], (1, *x.shape[1:], LANES))
        return jnp.broadcast_to(lanes, (blocks, *lanes.shape[1:]))
    widths = [(0, blocks * LANES - batch)] + [(0, 0)] * (x.ndim - 1)
    padded = jnp.pad(x, widths, constant_values=fill)
    return jnp.moveaxis(padded.reshape(blocks, LANES, *x.shape[1:]), 1, -1)


def off_lanes(x, batch):
    """(blocks, ..., LANES) to (B, ...)."""
    from jax import numpy as jnp

    moved = jnp.moveaxis(x, -1, 1)
    return moved.reshape(moved.shape[0] * LANES, *moved.shape[2:])[:batch]


# Megabytes of VMEM that a kernel may take: of 128, 64 and 16.
_ROOM = {"v5e": 118, "v5 lite": 118, "v6": 118, "v4": 14}
_LEAST_KNOWN = 58


def room(device_kind):
    """Megabytes of VMEM that a kernel may take on a chip."""
    kind = (device_kind or "").lower()
    return next((size for name, size in _ROOM.items() if name in kind), _LEAST_KNOWN)
