"""Kernels in C++ for the CPU, where their library was compiled (see `build.py`).

A wheel has the libraries of its platform; a source install compiles them if there is a compiler.
Without them Numba's kernels do the same, slower.
"""

import ctypes
import functools
import os
import platform

from keras_struct.ops.cpp import build

byref = ctypes.byref


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


@functools.cache
def library():
    """The library for this processor, or None."""
    for processor in build.processors():
        file = build.library(processor)
        if file.exists() and supports(processor):
            found = ctypes.CDLL(str(file))
            for name in ("lattice", "lattice_rows", "lattice_move", "best", "best_rows"):
                getattr(found, name).restype = ctypes.c_int64
            for function in (found.lattice, found.best):
                function.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
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
