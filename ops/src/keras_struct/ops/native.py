"""What every native kernel on the CPU needs: when it may run, threads, arrays that share memory.

The kernels themselves are compiled by Numba (see `compiled.py`), which is only imported where they
run, or are C++ (see `cpp`).
"""

import importlib.util
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import keras
import numpy as np
from keras import ops

from keras_struct.ops.implementation import Implementation

SMALL = 1 << 16  # cells of a batch that are not worth a thread
CHUNKS = 4  # pieces of the batch for each thread: ragged examples take unequal times


class NativeImplementation(Implementation):
    """Sweeps by methods on NumPy arrays, the batch axis of each first."""

    @property
    def traceable(self):
        return in_xla()

    def rejects(self, call):
        on_jax = call.backend == "jax"
        if call.backend not in ("jax", "torch", "numpy"):
            return f"it is a call into native code, which {call.backend} programs cannot hold"
        if call.platform != "cpu":
            return f"it runs on the CPU, and the scores are on the {call.platform}"
        if call.traced and not call.opaque and not on_jax:
            return "it needs concrete values (no vmap, torch.func, torch.export, torch.jit.trace)"
        missing = self.missing()
        if missing is not None:
            return missing
        if any(size is None for shape in call.shapes for size in shape):
            return "it needs shapes that are known"
        if on_jax and call.exporting:
            return "it is a call into native code, which no other process could load"
        return _xla_host().untested() if on_jax else None

    def missing(self):
        """None, or what is not installed."""
        if importlib.util.find_spec("numba") is None:
            return "Numba is not installed (pip install keras-struct-ops[native])"
        return None

    def parts(self, method, problem, *arguments, dtype=None):
        """Arrays by `method(spec, *arrays, *results)`, shaped like the potentials, and by default
        of their dtype."""
        batch = problem.context[0].shape[0]
        results = [((batch, *x.shape[1:]), dtype or dtype_of(x)) for x in problem.potentials]
        arrays = (*problem.potentials, *problem.context, *arguments)
        return call(self, method, results, *arrays, static=(problem.spec,))


def call(implementation, method, results, *arguments, static=()):
    """`implementation.method(*static, *arrays, *results)`, which writes into the results.

    On JAX the call becomes a part of the program that is compiled.

    Args:
        implementation: A `NativeImplementation`; its class says all about it.
        method: Name of a method on NumPy arrays, with a batch axis as the first of each; it may use
            nothing of the framework, which may be waiting for it with its only thread.
        results: Shape and dtype of every result.
        *arguments: Tensors; doubles may be those of an earlier call.
        static: First arguments of the method; their `repr` says all about them.

    Returns:
        Tuple of tensors.
    """
    function = partial(getattr(implementation, method), *static)
    if in_xla():
        kind = type(implementation)
        name = f"{kind.__module__} {kind.__qualname__} {method} {static}"
        return tuple(_xla_host().host_call(name, function, results, arguments))
    arrays = [_new(shape, dtype) for shape, dtype in results]
    function(*map(as_array, arguments), *arrays)
    return tuple(map(as_tensor, arrays))


def _new(shape, dtype):
    return np.empty(shape, dtype)


def in_xla():
    """Whether `call` becomes a part of a compiled program."""
    return keras.backend.backend() == "jax"


def dtype_of(x):
    return keras.backend.standardize_dtype(x.dtype)


def _xla_host():
    from keras_struct.ops.array import xla_host

    return xla_host


def on_examples(kernel, batch, cells, plan, *arguments):
    """`kernel(plan, (first, last), *arguments)` for all examples, in parallel if that pays.

    Args:
        kernel: A compiled function that lets other threads run.
        batch: Number of examples.
        cells: Number of cells of their tables, together.
        plan: Its first argument.
        *arguments: Further arguments.
    """
    threads = _threads() if cells > SMALL else 1
    if threads == 1:
        kernel(plan, (0, batch), *arguments)
        return
    chunk = -(-batch // (CHUNKS * threads))
    chunks = [(b, min(b + chunk, batch)) for b in range(0, batch, chunk)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda x: kernel(plan, x, *arguments), chunks))


def _threads():
    """NUMBA_NUM_THREADS (by default all cores), and no more than OMP_NUM_THREADS."""
    import numba

    most = os.environ.get("OMP_NUM_THREADS", "")
    count = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    return min(count, int(most)) if most.isdigit() and int(most) > 0 else count


def as_array(x):
    """NumPy array that shares memory with a tensor."""
    return x if isinstance(x, np.ndarray) else np.asarray(ops.stop_gradient(x))


def as_tensor(x):
    if keras.backend.backend() == "numpy":
        return x
    return ops.convert_to_tensor(x, dtype=x.dtype.name)


def as_double(x):
    return np.require(as_array(x), "float64", ["C", "W"])
