"""How the native kernels are compiled by Numba, and elementary functions that it can vectorise."""

import math
import os

import numba
import numpy as np


def _can_cache():
    """Whether there is a folder for what Numba compiled; without one, it refuses to compile."""
    folders = os.path.dirname(__file__), os.path.expanduser("~")
    return "NUMBA_CACHE_DIR" in os.environ or any(os.access(x, os.W_OK) for x in folders)


OPTIONS = {"nogil": True, "cache": _can_cache(), "error_model": "numpy"}
_ROUNDING = {"contract", "nsz", "arcp"}  # no reassociation: it would undo the rounding of exp
compiled = numba.njit(**OPTIONS, fastmath=_ROUNDING)
inlined = numba.njit(**OPTIONS, fastmath=_ROUNDING, inline="always")  # with the caller's fastmath
reordered = numba.njit(
    **OPTIONS, fastmath=True
)  # sums and maxima in any order; no exp_or_zero here

# Modes of an example: maxima; sums of logarithms, or of numbers with an exponent each; sums of
# plain numbers, each zero or above exp(-RANGE), so that no product of four vanishes.
HARD, EXACT, FAST = 0, 1, 2
RANGE = 160.0
LEAST_WEIGHT = math.exp(-RANGE)

_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_ROUND = 1.5 * 2.0**52  # x + _ROUND has round(x) in its last bits
_LEAST = -708.0
_BITS_OF_ONE, _BITS_OF_ROOT_HALF = 0x3FF0000000000000, 0x3FE6A09E667F3BCD


@inlined
def exp_or_zero(x):
    """exp(x) where that is a normal number below 2**1000, and 0 where it is less."""
    y = _LEAST if x < _LEAST else x
    shifted = y * _LOG2_E + _ROUND
    k = shifted - _ROUND
    r = (y - k * _LN2_HIGH) - k * _LN2_LOW
    p = 1.0 / 6227020800.0
    p = p * r + 1.0 / 479001600.0
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    power = np.int64((np.float64(shifted).view(np.int64) << 52) + _BITS_OF_ONE)
    return 0.0 if x < _LEAST else p * power.view(np.float64)


@inlined
def log(x):
    """log(x) for x >= 1, as fdlibm computes it."""
    k = (np.float64(x).view(np.int64) - _BITS_OF_ROOT_HALF) >> 52
    f = x * np.int64(_BITS_OF_ONE - (k << 52)).view(np.float64) - 1.0
    s = f / (2.0 + f)
    z = s * s
    p = 1.479819860511658591e-01
    p = p * z + 1.531383769920937332e-01
    p = p * z + 1.818357216161805012e-01
    p = p * z + 2.222219843214978396e-01
    p = p * z + 2.857142874366239149e-01
    p = p * z + 3.999999999940941908e-01
    p = p * z + 6.666666666666735130e-01
    square = 0.5 * f * f
    return k * _LN2_HIGH + (f - (square - (s * (square + p * z) + k * _LN2_LOW)))
