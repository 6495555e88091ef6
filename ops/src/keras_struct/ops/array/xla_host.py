"""NumPy code inside programs that XLA compiled for the CPU, on the memory of XLA's own arrays.

`jax.pure_callback` would do, at ten times the cost for large arrays: it copies every argument and
every result. A handler of XLA's foreign function interface gets pointers. The layout of its structs
is that of `xla/ffi/api/c_api.h`, whose binary interface is stable; 64-bit words are counted here.
"""

import ctypes
import functools
import hashlib
import math
import traceback

import jax
import numpy as np
from jax import numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

_METADATA = 1  # XLA_FFI_Extension_Metadata
_EXECUTE = 3  # XLA_FFI_ExecutionStage_EXECUTE
_INTERNAL = 13  # XLA_FFI_Error_Code_INTERNAL
_DTYPES = {1: "bool", 4: "int32", 5: "int64", 8: "uint32", 11: "float32", 12: "float64"}

_Handler = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
_CreateError = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)


def host_call(name, function, results, arguments):
    """`function(*arrays, *results)`, which writes into the results, when the program runs.

    Where the batch is divided over devices, each of them calls it on its own examples. Without
    64-bit types in JAX, doubles travel between such calls as pairs of uint32.

    Args:
        name: What the function is, the same in every process that compiles it.
        function: Function of NumPy arrays, the batch axis of each first; an argument that the batch
            shares has size 1 there. It may not call JAX.
        results: Shape and dtype of every result.
        arguments: Arrays.

    Returns:
        List of arrays.
    """
    batch = results[0][0][0]
    shared = tuple(x.shape[0] == 1 != batch for x in arguments)
    if not all(x.shape[0] == batch or s for x, s in zip(arguments, shared, strict=True)):
        shapes = [x.shape for x in arguments]
        raise ValueError(f"Expected arguments with a batch of {batch}, or 1. Received: {shapes}")
    target = _register(name, function)
    specs = tuple(_spec(shape[1:], dtype) for shape, dtype in results)
    ranks = tuple(len(x.shape) for x in arguments)
    found = _mappable(target, specs, shared, ranks)(*arguments)
    return [_as_varying_as(arguments, x) for x in found]


def _spec(shape, dtype):
    if dtype == "float64" and not jax.config.jax_enable_x64:
        return (*shape, 2), "uint32"
    return tuple(shape), dtype


def _mappable(target, specs, shared, ranks):
    """The call on a divided batch, to which `jax.vmap` adds a mapped axis.

    Args:
        target: Registered name of the function.
        specs: Shape without the batch axis and dtype of every result.
        shared: Which arguments have size 1 in place of the batch.
        ranks: Number of axes of every argument.
    """
    call = custom_vmap(_partitioned(target, specs, shared, ranks))

    @call.def_vmap
    def mapped(size, which, *arguments):
        """The mapped axis joins the batch as its faster index, so that a divided batch stays so."""
        batch = next(
            x.shape[int(own)]
            for x, own, same in zip(arguments, which, shared, strict=True)
            if not same
        )
        wide, still = [], []
        for x, own, same in zip(arguments, which, shared, strict=True):
            still.append(same and not own)
            if not still[-1]:
                x = jnp.moveaxis(x, 0, 1) if own else x[:, None]
                x = jnp.broadcast_to(x, (batch, size, *x.shape[2:]))
                x = jnp.reshape(x, (batch * size, *x.shape[2:]))
            wide.append(x)
        results = _mappable(target, specs, tuple(still), ranks)(*wide)
        results = tuple(jnp.reshape(x, (batch, size, *x.shape[1:])) for x in results)
        return tuple(jnp.moveaxis(x, 1, 0) for x in results), (True,) * len(results)

    return call


def _batch(arguments, shared):
    """The first argument that the batch does not share."""
    return next(x for x, same in zip(arguments, shared, strict=True) if not same)


@functools.lru_cache(maxsize=256)
def _partitioned(target, specs, shared, ranks):
    """The call, divided over devices along the batch."""

    def call(*arguments):
        size = _batch(arguments, shared).shape[0]
        results = [jax.ShapeDtypeStruct((size, *shape), dtype) for shape, dtype in specs]
        return tuple(jax.ffi.ffi_call(target, results)(*arguments))

    def shardings(mesh, arguments):
        spec = _batch(arguments, shared).sharding.spec
        rows = NamedSharding(mesh, PartitionSpec(*spec[:1]))
        whole = NamedSharding(mesh, PartitionSpec())
        return tuple(whole if same else rows for same in shared), (rows,) * len(specs)

    def partition(mesh, arguments, results):
        of_arguments, of_results = shardings(mesh, arguments)
        return mesh, call, of_results, of_arguments

    def infer(mesh, arguments, results):
        return shardings(mesh, arguments)[1]

    partitioned = custom_partitioning(call)
    partitioned.def_partition(
        partition, infer_sharding_from_operands=infer, sharding_rule=_rule(specs, shared, ranks)
    )
    return partitioned


def _as_varying_as(arguments, x):
    """Under `jax.shard_map` a result differs between devices as any argument does."""
    axes = frozenset().union(*map(_varying, arguments)) - _varying(x)
    if not axes:
        return x
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(x, tuple(sorted(axes)), to="varying")
    return jax.lax.pvary(x, tuple(sorted(axes)))


def _varying(x):
    """The axes of devices along which an array differs; JAX has changed where it says so."""
    kind = jax.typeof(x) if hasattr(jax, "typeof") else None
    kind = getattr(kind, "manual_axis_type", kind)
    return frozenset(getattr(kind, "varying", getattr(kind, "vma", ())))


def _rule(specs, shared, ranks):
    """The factors of all axes: of the batch "b", every other one its own."""
    numbers = iter(range(1 << 20))

    def term(rank, same):
        others = [f"x{next(numbers)}" for _ in range(rank - 1 + same)]
        return " ".join(others if same else ["b", *others])

    arguments = [term(rank, same) for rank, same in zip(ranks, shared, strict=True)]
    results = [term(1 + len(shape), False) for shape, _ in specs]
    return f"{', '.join(arguments)} -> {', '.join(results)}"


# Versions of jaxlib whose handlers were tested with this file.
TESTED = ((0, 5, 0), (0, 11, 0))


def untested():
    """None, or why this jaxlib may not be called into."""
    import jaxlib

    version = tuple(int(part) for part in jaxlib.__version__.split(".")[:3] if part.isdigit())
    if TESTED[0] <= version < TESTED[1]:
        return None
    low, high = (".".join(map(str, x)) for x in TESTED)
    return (
        f"it was tested with jaxlib from {low} to before {high}, and this is {jaxlib.__version__}"
    )


_handlers: dict[str, object] = {}  # XLA calls them for as long as the process lives


def _register(name, function):
    digest = hashlib.sha256(name.encode()).hexdigest()[:32]
    target = f"keras_struct_{digest}"
    if target in _handlers:
        return target

    @_Handler
    def handle(frame):
        words = _words(frame, 15)
        if words[1]:
            _answer(words[1])
            return None
        if words[4] & 0xFFFFFFFF != _EXECUTE:
            return None
        try:
            pointers = [*_words(words[9], words[7]), *_words(words[14], words[12])]
            function(*(_double(_array(pointer)) for pointer in pointers))
        except Exception:
            return _error(words[2], traceback.format_exc())
        return None

    _handlers[target] = handle
    jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(handle), platform="cpu")
    return target


def _words(address, count):
    return (ctypes.c_int64 * count).from_address(address) if count else ()


def _array(buffer):
    """The NumPy array on the memory of an `XLA_FFI_Buffer`."""
    words = _words(buffer, 6)
    shape = tuple(_words(words[5], words[4]))
    dtype = _dtype(words[2] & 0xFFFFFFFF)
    size = math.prod(shape) * dtype.itemsize
    if not size:
        return np.empty(shape, dtype)
    return np.frombuffer((ctypes.c_uint8 * size).from_address(words[3]), dtype).reshape(shape)


@functools.cache
def _dtype(code):
    return np.dtype(_DTYPES[code])


def _double(x):
    """Pairs of uint32 as doubles."""
    return x.view("float64")[..., 0] if x.dtype == "uint32" else x


def _answer(extension):
    """XLA asks for the version of the interface that this file knows."""
    words = _words(extension, 4)
    if words[1] & 0xFFFFFFFF == _METADATA:
        version = (ctypes.c_int32 * 2).from_address(words[3] + 3 * 8)
        version[0], version[1] = 0, 1


def _error(api, message):
    text = ctypes.create_string_buffer(message.encode())
    arguments = (ctypes.c_int64 * 4)(32, 0, ctypes.addressof(text), _INTERNAL)
    return _CreateError(_words(api, 7)[6])(ctypes.addressof(arguments))
