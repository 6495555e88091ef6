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

# Modes of an example: logarithms, or numbers with an exponent each; plain numbers, each zero or
# above exp(-RANGE), so that no product of four vanishes.
EXACT, FAST = 1, 2
RANGE = 160.0
LEAST_WEIGHT = math.exp(-RANGE)

WORD = np.uint64(0xFFFFFFFF)
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


@inlined
def _mix(x, y, rotation):
    """One round of Threefry on two 32-bit words in 64-bit integers."""
    x = (x + y) & WORD
    left, right = np.uint64(rotation), np.uint64(32 - rotation)
    y = (((y << left) | (y >> right)) & WORD) ^ x
    return x, y


@compiled
def threefry(k0, k1, c0, c1):
    """The words of `noise.threefry`, as 64-bit integers from 0 to 2**32 - 1."""
    k0, k1 = np.uint64(k0) & WORD, np.uint64(k1) & WORD
    k2 = k0 ^ k1 ^ np.uint64(0x1BD11BDA)
    x = ((np.uint64(c0) & WORD) + k0) & WORD
    y = ((np.uint64(c1) & WORD) + k1) & WORD
    keys = (k0, k1, k2)
    for block in range(5):
        if block % 2 == 0:
            x, y = _mix(x, y, 13)
            x, y = _mix(x, y, 15)
            x, y = _mix(x, y, 26)
            x, y = _mix(x, y, 6)
        else:
            x, y = _mix(x, y, 17)
            x, y = _mix(x, y, 29)
            x, y = _mix(x, y, 16)
            x, y = _mix(x, y, 24)
        x = (x + keys[(block + 1) % 3]) & WORD
        y = (y + keys[(block + 2) % 3] + np.uint64(block + 1)) & WORD
    return x, y


@compiled
def key_of_sample(k0, k1, sample):
    """The key of a sample of an example, from that of the example (see `noise`)."""
    return threefry(k0, k1, 1, sample)


@compiled
def gumbel(k0, k1, stream, place, wide):
    """The noise at a place, from the key of a sample (see `noise`).

    Args:
        wide: Whether the potentials are float64, so that the noise has 52 bits and not 23.
    """
    x, y = threefry(k0, k1, stream, place)
    if wide:
        high, low = np.float64(x >> np.uint64(8)), np.float64(y >> np.uint64(4))
        uniform = (high * 2.0**28 + (low + 0.5)) * 2.0**-52
    else:
        uniform = (np.float64(x >> np.uint64(9)) + 0.5) * 2.0**-23
    return -math.log(-math.log(uniform))
