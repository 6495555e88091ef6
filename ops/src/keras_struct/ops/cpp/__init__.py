"""Kernels in C++ for the CPU, where their library was compiled (see `build.py`).

A wheel has the libraries of its platform; a source install compiles them if there is a compiler.
Without them Numba does the same for alignments, slower, and the portable sweeps do it for chains.
"""

import ctypes
import functools
import os
import platform

from keras_struct.ops.cpp import build

byref = ctypes.byref
# Of each library: how many pointers and then integers a function takes; all return an integer.
FUNCTIONS = {
    "lattice": {"lattice": (1, 2), "best": (1, 2), "lattice_rows": (0, 2), "best_rows": (0, 2)},
    "chain": {"chain": (1, 1)},
}


class Call(ctypes.Structure):
    """The arguments of a sweep over the lattice, as `structures.h` declares them."""

    SLOTS = 8

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "rows", "columns")),
        *((name, ctypes.c_int64) for name in ("threads", "strips", "sweep")),
        *((name, ctypes.c_int64) for name in ("start", "end", "empty", "forbidden")),
        ("lengths", ctypes.c_void_p),
        ("data", ctypes.c_void_p * SLOTS),
        ("results", ctypes.c_void_p * SLOTS),
        ("tangents", ctypes.c_void_p * SLOTS),
        ("strides", ctypes.c_int64 * 2 * SLOTS),
        ("result_strides", ctypes.c_int64 * SLOTS),
        ("heads", ctypes.c_void_p),
        ("totals", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("outside", ctypes.c_void_p),
        ("last", ctypes.c_void_p),
        ("places", ctypes.c_void_p),
        ("times", ctypes.c_int64),
        ("by_rows", ctypes.c_int64),
    )


class ChainCall(ctypes.Structure):
    """The arguments of a sweep over time, as `chain.cpp` declares them."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "steps", "tags", "threads", "sweep")),
        *((name, ctypes.c_int64) for name in ("stride", "over_time")),
        *((name, ctypes.c_void_p) for name in ("lengths", "unary", "transitions")),
        *((name, ctypes.c_void_p) for name in ("unary_tangent", "transitions_tangent")),
        *((name, ctypes.c_void_p) for name in ("sums", "shifts", "kinds", "high", "low")),
        *((name, ctypes.c_void_p) for name in ("of_unary", "of_transitions", "events")),
    )


@functools.cache
def library(name):
    """A library, "lattice" or "chain", for this processor, or None."""
    for processor in build.processors():
        file = build.library(name, processor)
        if file.exists() and supports(processor):
            found = ctypes.CDLL(str(file))
            for function, arguments in FUNCTIONS[name].items():
                pointers, numbers = arguments
                function = getattr(found, function)
                function.restype = ctypes.c_int64
                function.argtypes = [ctypes.c_void_p] * pointers + [ctypes.c_int64] * numbers
            return found
    return None


def supports(processor):
    """Whether this machine runs what was compiled for a processor."""
    needed = {
        "x86-64-v4": ("AVX512F", "AVX512CD", "AVX512_SKX"),
        "x86-64-v3": ("AVX2", "FMA3"),
    }[processor]
    features = _features()
    return all(features.get(name, False) for name in needed)


def _features():
    """What NumPy found out about the processor; nothing where it keeps that elsewhere."""
    try:
        from numpy._core._multiarray_umath import __cpu_features__
    except ImportError:
        return {}
    return __cpu_features__


def threads():
    """As many as cores that this process may use, OMP_NUM_THREADS and NUMBA_NUM_THREADS at most."""
    cores = len(os.sched_getaffinity(0)) if platform.system() == "Linux" else (os.cpu_count() or 1)
    given = (os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"))
    return min([cores, *(int(x) for x in given if x.isdigit() and int(x) > 0)])
