"""What Pallas kernels of every kind need: how they are called, divided over devices, interpreted.

A kernel file imports JAX only where it runs. `pallas_tpu.py` and `pallas_gpu.py` have what is
special to a platform. `interpreted` is the same kernel for tests on any machine.
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


class Pallas(Implementation):
    """Sweeps by Pallas kernels of one platform.

    Attributes:
        interpreter: None on the platform, else what Pallas takes as `interpret`.
        platform: Its name, such as "tpu".
        any_batch: Whether the size of the batch may be unknown.
    """

    interpreter: Any = None
    platform: str
    any_batch = False
    call: Any  # a method: runs a kernel, see its subclasses

    def rejects(self, call):
        if call.backend != "jax":
            return f"it is written in Pallas, a part of JAX, and the backend is {call.backend}"
        if self.interpreter is None and call.platform != self.platform:
            name = self.platform.upper()
            return f"it runs on a {name}, and the scores are on the {call.platform}"
        if call.exporting:
            name = self.platform.upper()
            return f"it is a program for {name}s only, and a SavedModel may run anywhere"
        first = 1 if self.any_batch else 0
        if any(size is None for shape in call.shapes for size in shape[first:]):
            return "it needs shapes that are known" + ", but for the batch" * first
        return None

    def interpreted(self, **attributes):
        """A copy that runs on any machine, as one program of XLA for the whole grid.

        Args:
            **attributes: Attributes of the copy, such as smaller tiles.
        """
        other = copy.copy(self)
        other.interpreter = True
        for name, value in attributes.items():
            setattr(other, name, value)
        return other

    def pallas_call(self, kernel, grid, inputs, outputs, **options):
        """`pl.pallas_call` for as many blocks as there are, wherever that is decided.

        Args:
            kernel: Function of references.
            grid: Sizes; the first counts blocks of examples, which know nothing of each other.
            inputs: Pairs of an array and a function from the size of its first axis to its
                `pl.BlockSpec`; where that size is 1, all blocks share the array.
            outputs: The same, with `jax.ShapeDtypeStruct` for arrays.
            **options: Of `pl.pallas_call`.

        Returns:
            List of arrays.
        """
        from jax import numpy as jnp
        from jax.experimental import pallas as pl

        shapes, in_specs = [x for x, _ in outputs], [spec for _, spec in inputs]
        out_specs = [spec for _, spec in outputs]
        written = options.get("input_output_aliases", {})

        def run(*arrays):
            blocks = _blocks(arrays)
            # What is written has an array for each block.
            arrays = tuple(
                jnp.broadcast_to(x, (blocks, *x.shape[1:])) if n in written else x
                for n, x in enumerate(arrays)
            )
            # A size that is a symbol is a number of the program, not of the kernel.
            count = blocks if isinstance(blocks, int) else jnp.asarray(blocks, "int32")
            return pl.pallas_call(
                kernel,
                grid=(count, *grid[1:]),
                in_specs=[spec(x.shape[0]) for spec, x in zip(in_specs, arrays, strict=True)],
                out_specs=[spec(blocks) for spec in out_specs],
                out_shape=tuple(_result(shape, blocks, arrays) for shape in shapes),
                interpret=False if self.interpreter is None else self.interpreter,
                **options,
            )(*arrays)

        arrays = [x for x, _ in inputs]
        if self.interpreter not in (None, True):
            return list(run(*arrays))  # its calls back to Python cannot be divided over devices
        return list(_by_blocks(run, *arrays))

    def call_by_name(self, kernel, name, grid, inputs, outputs, scratch=None, **options):
        """`call` with dicts: `kernel(references)` has each by name; returns a dict of arrays."""
        scratch = scratch or {}
        names = [*inputs, *outputs, *scratch]

        def run(*refs):
            kernel(types.SimpleNamespace(**dict(zip(names, refs, strict=True))))

        given, made, kept = (list(x.values()) for x in (inputs, outputs, scratch))
        more = {"scratch": kept} if kept else {}
        found = self.call(run, name, grid, given, made, **more, **options)
        return dict(zip(outputs, found, strict=True))


def rounded(n, multiple):
    """The least multiple that is not below n."""
    return -(-n // multiple) * multiple


def power_of_two(e):
    """`2 ** e` of a whole e that is not above 0, exactly, in a kernel."""
    from jax import lax
    from jax import numpy as jnp

    integer, bits, bias = {"float32": ("int32", 23, 127), "float64": ("int64", 52, 1023)}[
        e.dtype.name
    ]
    e = jnp.maximum(e, -bias) + (1.5 * 2.0**bits + bias)  # its last bits are an exponent
    return lax.bitcast_convert_type(lax.bitcast_convert_type(e, integer) << bits, e.dtype)


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


def _blocks(arrays):
    return next((x.shape[0] for x in arrays if x.shape[0] != 1), 1)


def _by_blocks(run, *arrays):
    """`run` of arrays with an axis of blocks in front, or of size 1 for all of them, to a tuple of
    such arrays, in which blocks know nothing of each other: devices divide them, and `jax.vmap`
    makes them more."""
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
            run = _divided(run, devices, context.avals_in)
        return mlir.lower_fun(run, multiple_results=True)(context, *arrays)

    def mapped(arrays, axes, *, run, results):
        size = next(x.shape[axis] for x, axis in zip(arrays, axes, strict=True) if axis is not None)
        counts = (
            x.shape[0] if axis is None else jax.numpy.moveaxis(x, axis, 0).shape[1]
            for x, axis in zip(arrays, axes, strict=True)
        )
        count = next((n for n in counts if n != 1), 1)

        def repeated(x, axis):
            if axis is None and x.shape[0] == 1:
                return x
            x = x[None] if axis is None else jax.numpy.moveaxis(x, axis, 0)
            return jax.numpy.broadcast_to(x, (size, count, *x.shape[2:])).reshape(-1, *x.shape[2:])

        found = _by_blocks(run, *map(repeated, arrays, axes))
        return [x.reshape(size, -1, *x.shape[1:]) for x in found], [0] * len(found)

    mlir.register_lowering(blocks, lower)
    dispatch.prim_requires_devices_during_lowering.add(blocks)  # so that the mesh is told
    batching.primitive_batchers[blocks] = mapped
    return blocks


def _divided(run, devices, arrays):
    """`run`, with as many axes of the devices' mesh as there are blocks for."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, PartitionSpec

    mesh, blocks = devices.abstract_mesh, _blocks(arrays)
    if mesh is None:
        mesh = Mesh(np.array(devices.device_assignment), ("blocks",))
    axes: list[str] = []
    for name, size in mesh.shape.items():
        if blocks % (size * math.prod(mesh.shape[x] for x in axes)) == 0:
            axes.append(name)
    spec = PartitionSpec(tuple(axes))
    in_specs = tuple(spec if x.shape[0] == blocks else PartitionSpec() for x in arrays)
    return jax.shard_map(run, mesh=mesh, in_specs=in_specs, out_specs=spec, check_vma=False)


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
