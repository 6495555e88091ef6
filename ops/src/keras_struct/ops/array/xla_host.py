"""NumPy code inside programs that XLA compiled for the CPU, on the memory of XLA's own arrays.

`jax.pure_callback` would do, at ten times the cost for large arrays: it copies every argument and
every result. A handler of XLA's foreign function interface gets pointers. The layout of its structs
is that of `xla/ffi/api/c_api.h`, whose binary interface is stable; 64-bit words are counted here.
"""

import ctypes
import functools
import hashlib
import math
import sys
import traceback

import jax
import numpy as np

_METADATA = 1  # XLA_FFI_Extension_Metadata
_EXECUTE = 3  # XLA_FFI_ExecutionStage_EXECUTE
_INTERNAL = 13  # XLA_FFI_Error_Code_INTERNAL
_DTYPES = {1: "bool", 4: "int32", 5: "int64", 8: "uint32", 11: "float32", 12: "float64"}

_Handler = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
_CreateError = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)


def host_call(name, function, results, arguments):
    """`function(*arrays, *results)`, which writes into the results, when the program runs.

    Without 64-bit types in JAX, doubles travel between such calls as pairs of uint32.

    Args:
        name: What the function is, the same in every process that compiles it.
        function: Function of NumPy arrays, the batch axis of each first. It may not call JAX.
        results: Shape and dtype of every result.
        arguments: Arrays.

    Returns:
        List of arrays.
    """
    wide = jax.config.jax_enable_x64
    specs = [
        jax.ShapeDtypeStruct((*shape, 2), "uint32")
        if dtype == "float64" and not wide
        else jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in results
    ]
    ranks = tuple(len(x.shape) for x in (*arguments, *specs))
    target = _register(name, function, ranks)
    call = jax.ffi.ffi_call(target, specs, vmap_method="broadcast_all")
    return call(*arguments)


# Versions of jaxlib whose handlers were tested with this file.
TESTED = ((0, 5, 0), (0, 11, 0))


def untested():
    """None, or why this jaxlib may not be called into."""
    import jaxlib

    version = tuple(int(part) for part in jaxlib.__version__.split(".")[:3] if part.isdigit())
    if TESTED[0] <= version < TESTED[1]:
        return None
    low, high = (".".join(map(str, x)) for x in TESTED)
    return f"it was tested with jaxlib from {low} to before {high}, and this is {jaxlib.__version__}"


_handlers: dict[str, object] = {}  # XLA calls them for as long as the process lives


def _register(name, function, ranks):
    digest = hashlib.sha256(f"{name} {ranks}".encode()).hexdigest()[:32]
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
            function(*_without_vmap(list(map(_array, pointers)), ranks))
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


def _without_vmap(arrays, ranks):
    """Mapped axes as part of the batch; pairs of uint32 as doubles."""
    extra = len(arrays[0].shape) - ranks[0]
    if extra:
        batch = max(x.shape[extra] for x in arrays)
        for k, x in enumerate(arrays):
            if x.shape[extra] < batch:
                x = np.broadcast_to(x, (*x.shape[:extra], batch, *x.shape[extra + 1 :]))
            arrays[k] = x.reshape(math.prod(x.shape[: extra + 1]), *x.shape[extra + 1 :])
    return [x.view("float64")[..., 0] if x.dtype == "uint32" else x for x in arrays]


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
