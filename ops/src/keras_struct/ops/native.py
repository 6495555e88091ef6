"""What every native kernel on the CPU needs: when it may run, threads, arrays that share memory.

The kernels themselves are compiled by Numba (see `compiled.py`), which is only imported where they
run.
"""

import importlib.util
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from keras import ops

SMALL = 1 << 16  # cells of a batch that are not worth a thread
CHUNKS = 4  # pieces of the batch for each thread: ragged examples take unequal times


def rejects(call):
    if call.backend not in ("torch", "numpy"):
        return f"it is a call into Numba, which a program compiled by {call.backend} cannot hold"
    if call.platform != "cpu":
        return f"it runs on the CPU, and the scores are on the {call.platform}"
    if call.traced:
        return "it needs concrete values (no vmap, no torch.func, no torch.compile)"
    if importlib.util.find_spec("numba") is None:
        return "Numba is not installed (pip install keras-struct-ops[native])"
    return None


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
    return np.asarray(ops.stop_gradient(x))


def as_tensor(x):
    return ops.convert_to_tensor(x, dtype=x.dtype.name)


def as_double(x):
    return np.require(as_array(x), "float64", ["C", "W"])
