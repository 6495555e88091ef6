"""What every Pallas kernel for TPUs needs: when it may run, examples on lanes, how it is called.

A TPU register is 8 sublanes by 128 lanes. The kernels put 128 examples on the lanes and positions
on the sublanes (rotating sublanes takes 8 cycles, rotating lanes over 100), so arrays go in and out
with a block of examples as their last axis. A kernel file imports JAX only where it runs.

On a TPU, Mosaic compiles a kernel. `interpreted` is the same kernel for tests on any machine.
"""

import copy
import functools
import math
import types
from functools import partial
from typing import Any, NamedTuple

from keras_struct.ops.implementation import Implementation
from keras_struct.ops.noise import Draws
from keras_struct.ops.numerics import INFEASIBLE

LANES = 128
SUBLANES = 8
MEGABYTE = 1 << 20
MOST_PADDED = 1.0  # gigabytes of padded potentials
SPARE = 2  # megabytes of VMEM beside the arrays of a kernel


class Total(NamedTuple):
    """The tape of kernels that hold a whole example in VMEM, and make it again.

    Attributes:
        high: The log-partition, (B,).
    """

    high: Any

    def existing(self, lengths):
        """Lengths (B,), 0 where nothing exists."""
        from jax import numpy as jnp

        return jnp.where(self.high > INFEASIBLE, lengths, 0)


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

        in_specs, out_specs = specs(inputs), specs(outputs)  # `run` outlives the arrays

        def run(*arrays):
            blocks = arrays[0].shape[0]
            return pl.pallas_call(
                kernel,
                name=name,
                grid=(blocks, *grid[1:]),
                in_specs=in_specs,
                out_specs=out_specs,
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
        return list(_by_blocks(run, *arrays))

    def call_by_name(self, kernel, name, grid, inputs, outputs, scratch, memory=None):
        """`call` with dicts: `kernel(references)` has each by name; returns a dict of arrays."""
        names = [*inputs, *outputs, *scratch]

        def run(*refs):
            kernel(types.SimpleNamespace(**dict(zip(names, refs, strict=True))))

        given, made, kept = (list(x.values()) for x in (inputs, outputs, scratch))
        found = self.call(run, name, grid, given, made, kept, memory)
        return dict(zip(outputs, found, strict=True))


class DrawingTPU(PallasTPU):
    """Kernels that draw all samples at once: `paths(problem, tape, draws, count)` gives events
    (n, B, ...), of the best structure without draws."""

    def paths(self, problem, tape, draws, count):
        raise NotImplementedError

    def trace(self, problem, tape, draws=None):
        if draws is not None:
            draws = Draws(tuple(word[:, None] for word in draws.key))
        return self.paths(problem, tape, draws, 1)[0]

    def sample(self, problem, tape, noise):
        return self.paths(problem, tape, noise.every(), noise.count)


class PathsTPU(DrawingTPU):
    """Sweeps over paths, tile by tile, with the same tapes and the same steps in every engine."""

    def cut(self, problem):
        """The problem cut into tiles, with the calls of the kernels on it: `forward(op)` to a tape,
        `total(tape, op)` to a pair (B,), `backward(tape)`, `curvature(tape, tangents)` and
        `paths(tape, draws, count)`."""
        raise NotImplementedError

    def avoids(self, call):
        batch = call.shapes[0][0]
        lanes = blocks_of(batch) * LANES
        gigabytes = 4 * lanes * sum(math.prod(shape[1:]) for shape in call.shapes) / 1e9
        if lanes >= 4 * batch and gigabytes > MOST_PADDED:
            return (
                f"it puts {LANES} examples side by side: with a batch of {batch}, its copy of the "
                f"potentials would be {gigabytes:.0f} GB, mostly padding"
            )
        return None

    def forward(self, problem, op):
        tiles = self.cut(problem)
        tape = tiles.forward(op)
        return tiles.total(tape, op), tape

    def backward(self, problem, tape):
        return self.cut(problem).backward(tape)

    def curvature(self, problem, tape, tangents):
        return self.cut(problem).curvature(tape, tangents)

    def paths(self, problem, tape, draws, count):
        return self.cut(problem).paths(tape, draws, count)


def in_pieces(paths, draws, count, most):
    """`paths(draws, count)`, events (count, B, ...), for as many samples at once as fit.

    Args:
        paths: Function of draws and their number.
        draws: `Draws` with words (B, count), or None for best paths.
        count: Number of paths.
        most: How many fit.
    """
    from jax import lax
    from jax import numpy as jnp

    if count <= most:
        return paths(draws, count)
    pieces = -(-count // most)
    keys = [jnp.pad(word, [(0, 0), (0, pieces * most - count)]) for word in draws.key]
    keys = [jnp.moveaxis(key.reshape(-1, pieces, most), 1, 0) for key in keys]
    events = lax.map(lambda key: paths(Draws(tuple(key)), most), tuple(keys))
    return events.reshape(pieces * most, *events.shape[2:])[:count]


def _by_blocks(run, *arrays):
    """`run` of arrays with an axis of blocks in front, to a tuple of such arrays, in which blocks
    know nothing of each other: devices divide them, and `jax.vmap` makes them more."""
    import jax

    closed = jax.make_jaxpr(run)(*arrays)
    return _primitive().bind(*arrays, run=run, results=tuple(closed.out_avals))


@functools.cache
def _primitive():
    """`_by_blocks` for JAX.

    A Mosaic kernel cannot be divided by the compiler, and `custom_partitioning` is unknown to the
    one for TPUs. But where a program for several devices is lowered, it is known which they are.
    """
    import jax
    from jax._src import dispatch
    from jax.extend.core import Primitive
    from jax.interpreters import batching, mlir

    blocks = Primitive("keras_struct_blocks")
    blocks.multiple_results = True
    blocks.def_abstract_eval(lambda *arrays, run, results: results)
    blocks.def_impl(lambda *arrays, **options: jax.jit(partial(blocks.bind, **options))(*arrays))

    def lower(context, *arrays, run, results):
        devices = context.module_context.axis_context
        if getattr(devices, "num_devices", 1) > 1:
            run = _divided(run, devices, context.avals_in[0].shape[0])
        return mlir.lower_fun(run, multiple_results=True)(context, *arrays)

    def mapped(arrays, axes, *, run, results):
        size = next(x.shape[axis] for x, axis in zip(arrays, axes, strict=True) if axis is not None)
        wide = [
            jax.numpy.broadcast_to(x, (size, *x.shape))
            if axis is None
            else jax.numpy.moveaxis(x, axis, 0)
            for x, axis in zip(arrays, axes, strict=True)
        ]
        found = _by_blocks(run, *(x.reshape(-1, *x.shape[2:]) for x in wide))
        return [x.reshape(size, -1, *x.shape[1:]) for x in found], [0] * len(found)

    mlir.register_lowering(blocks, lower)
    dispatch.prim_requires_devices_during_lowering.add(blocks)  # so that the mesh is told
    batching.primitive_batchers[blocks] = mapped
    return blocks


def _divided(run, devices, blocks):
    """`run`, with as many axes of the devices' mesh as there are blocks for."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, PartitionSpec

    mesh = devices.abstract_mesh
    if mesh is None:
        mesh = Mesh(np.array(devices.device_assignment), ("blocks",))
    axes: list[str] = []
    for name, size in mesh.shape.items():
        if blocks % (size * math.prod(mesh.shape[x] for x in axes)) == 0:
            axes.append(name)
    spec = PartitionSpec(tuple(axes))
    return jax.shard_map(run, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)


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


def of_block(x, *buffers):
    """For `PallasTPU.call`: an array (blocks, ...) of which each block of examples has its own."""
    zeros = (0,) * (len(x.shape) - 1)
    return x, (None, *x.shape[1:]), lambda n, *rest: (n, *zeros), *buffers


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


# Megabytes of VMEM that a kernel may take: of 128, 64 and 16.
_ROOM = {"v5e": 118, "v5 lite": 118, "v6": 118, "v4": 14}
_LEAST_KNOWN = 58


def room(device_kind):
    """Megabytes of VMEM that a kernel may take on a chip."""
    kind = (device_kind or "").lower()
    return next((size for name, size in _ROOM.items() if name in kind), _LEAST_KNOWN)


def power_of_two(e):
    """`2 ** e` of a whole e that is not above 0, exactly, in a kernel."""
    from jax import lax
    from jax import numpy as jnp

    integer, bits, bias = {"float32": ("int32", 23, 127), "float64": ("int64", 52, 1023)}[
        e.dtype.name
    ]
    e = jnp.maximum(e, -bias) + (1.5 * 2.0**bits + bias)  # its last bits are an exponent
    return lax.bitcast_convert_type(lax.bitcast_convert_type(e, integer) << bits, e.dtype)
