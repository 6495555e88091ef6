"""What every Pallas kernel for TPUs needs: when it may run, examples on lanes, how it is called.

A TPU register is 8 sublanes by 128 lanes. The kernels put 128 examples on the lanes and positions
on the sublanes (rotating sublanes takes 8 cycles, rotating lanes over 100), so arrays go in and out
with a block of examples as their last axis. A kernel file imports JAX only where it runs.

On a TPU, Mosaic compiles a kernel. `interpreted` is the same kernel for tests on any machine.
"""

import copy
from typing import Any

from keras_struct.ops.implementation import Implementation

LANES = 128
SUBLANES = 8
MEGABYTE = 1 << 20


class PallasTPU(Implementation):
    """Sweeps by Pallas kernels.

    Attributes:
        interpreter: None on a TPU, else what Pallas takes as `interpret` (see `interpreted`).
    """

    interpreter: Any = None

    def rejects(self, call):
        if call.backend != "jax":
            return f"it is written in Pallas, a part of JAX, and the backend is {call.backend}"
        if self.interpreter is None and call.platform != "tpu":
            return f"it runs on a TPU, and the scores are on the {call.platform}"
        if self.interpreter is None and call.dtype == "float64":
            return "a TPU has no float64"
        if call.exporting:
            return "it is a program for TPUs only, and a SavedModel may run anywhere"
        if any(size is None for shape in call.shapes for size in shape):
            return "it needs shapes that are known"
        return None

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

        other = copy.copy(self)
        other.interpreter = True
        if strict:
            other.interpreter = pltpu.InterpretParams(
                detect_races=True, uninitialized_memory="nan", out_of_bounds_reads="raise"
            )
        for name, value in attributes.items():
            setattr(other, name, value)
        return other

    def call(self, kernel, name, grid, inputs, outputs, scratch=(), memory=None):
        """Run a kernel: `kernel(*input refs, *output refs, *scratch refs)`.

        Args:
            kernel: Function of references.
            name: Its name in compiled programs.
            grid: Sizes; the first counts blocks of examples, which know nothing of each other.
            inputs: Triples of an array, the shape of its blocks and a function from grid indices to
                the index of a block. A None in a block is an axis that the kernel does not see;
                None for a block is the whole array, as numbers in SMEM. A fourth element is the
                number of its buffers in VMEM, 2 by default.
            outputs: The same, with `jax.ShapeDtypeStruct` for arrays.
            scratch: `jax.ShapeDtypeStruct` of every array in VMEM that outlives a grid step.
            memory: Bytes of VMEM that it may take; None for the compiler's own limit.

        Returns:
            List of arrays.
        """
        from jax.experimental import pallas as pl
        from jax.experimental.pallas import tpu as pltpu

        def specs(triples):
            return [spec(*rest) for _, *rest in triples]

        def spec(block, index, buffers=None):
            if block is None:
                return pl.BlockSpec(memory_space=pltpu.SMEM)
            mode = None if buffers is None else pl.Buffered(buffers)
            return pl.BlockSpec(block, index, pipeline_mode=mode)

        def run(*arrays):
            blocks = arrays[0].shape[0]
            return pl.pallas_call(
                kernel,
                name=name,
                grid=(blocks, *grid[1:]),
                in_specs=specs(inputs),
                out_specs=specs(outputs),
                out_shape=tuple(_result(shape, blocks, arrays) for shape, *_ in outputs),
                scratch_shapes=[pltpu.VMEM(x.shape, x.dtype) for x in scratch],
                compiler_params=pltpu.CompilerParams(
                    dimension_semantics=("parallel", *["arbitrary"] * (len(grid) - 1)),
                    vmem_limit_bytes=memory,
                ),
                interpret=False if self.interpreter is None else self.interpreter,
            )(*arrays)

        arrays = [x for x, *_ in inputs]
        if self.interpreter not in (None, True):
            return list(run(*arrays))  # its calls back to Python cannot be divided over devices
        return list(_by_blocks(run, [len(shape.shape) for shape, *_ in outputs])(*arrays))


def _by_blocks(run, ranks):
    """`run` of arrays with an axis of blocks in front, to a tuple of such arrays of these ranks, in
    which blocks know nothing of each other: devices divide them, and `jax.vmap` makes them more."""
    from jax import numpy as jnp
    from jax.custom_batching import custom_vmap
    from jax.experimental.custom_partitioning import custom_partitioning
    from jax.sharding import NamedSharding, PartitionSpec

    def rows(mesh, arguments):
        spec = next((x.sharding.spec for x in arguments if len(x.sharding.spec)), ())
        return NamedSharding(mesh, PartitionSpec(*spec[:1]))

    def partition(mesh, arguments, results):
        divided = rows(mesh, arguments)
        return mesh, run, (divided,) * len(ranks), (divided,) * len(arguments)

    def infer(mesh, arguments, results):
        return (rows(mesh, arguments),) * len(ranks)

    def call(*arrays):
        divided = custom_partitioning(run)
        divided.def_partition(
            partition,
            infer_sharding_from_operands=infer,
            sharding_rule=_rule([x.ndim for x in arrays], ranks),
        )
        return divided(*arrays)

    mappable = custom_vmap(call)

    @mappable.def_vmap
    def mapped(size, which, *arrays):
        blocks = next(x.shape[int(own)] for x, own in zip(arrays, which, strict=True))
        wide = [
            x if own else jnp.broadcast_to(x, (size, *x.shape))
            for x, own in zip(arrays, which, strict=True)
        ]
        found = _by_blocks(run, ranks)(*[x.reshape(-1, *x.shape[2:]) for x in wide])
        results = tuple(x.reshape(size, blocks, *x.shape[1:]) for x in found)
        return results, (True,) * len(results)

    return mappable


def _rule(arguments, results):
    """For Shardy: all arrays share their first axis, and no other."""
    names = iter(f"x{n}" for n in range(sum(arguments) + sum(results)))

    def operands(ranks):
        return ", ".join(" ".join(["b", *(next(names) for _ in range(n - 1))]) for n in ranks)

    return f"{operands(arguments)} -> {operands(results)}"


def _result(shape, blocks, arrays):
    """The shape of a result, which under `jax.shard_map` differs between devices as any array does;
    JAX has changed where that is said."""
    import jax

    sizes = blocks, *shape.shape[1:]
    kinds = [jax.typeof(x) for x in arrays]
    if hasattr(kinds[0], "manual_axis_type"):
        widest = max((x.manual_axis_type for x in kinds), key=lambda x: len(x.varying))
        return jax.ShapeDtypeStruct(sizes, shape.dtype, manual_axis_type=widest)
    axes = frozenset().union(*(x.vma for x in kinds))
    return jax.ShapeDtypeStruct(sizes, shape.dtype, vma=axes)


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


def rounded(n, multiple):
    """The least multiple that is not below n."""
    return -(-n // multiple) * multiple
