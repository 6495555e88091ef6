"""Numbers m 2^e (`scaled.py`) in Triton kernels, on blocks.

`PLAN` says whether exponentials are approximate and whether numbers are float64 (`wide`).
"""

import triton
import triton.language as tl

from keras_struct.ops.triton_math import exp

EMPTY: tl.constexpr = tl.constexpr(-1e30)
POSSIBLE: tl.constexpr = tl.constexpr(-5e29)
MOST: tl.constexpr = tl.constexpr(1e30)
LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN2_HIGH: tl.constexpr = tl.constexpr(0.693359375)
LN2_LOW: tl.constexpr = tl.constexpr(-2.121944400546905827679e-4)


@triton.jit
def from_log(x, PLAN: tl.constexpr):
    """`scaled.from_log`."""
    exists = x > POSSIBLE
    x = tl.where(exists, x, 0.0)
    e = tl.floor(x * LOG2_E + 0.5)
    upper = tl.floor(e * (1 / 4096) + 0.5) * 4096
    rest = ((x - upper * LN2_HIGH) - (e - upper) * LN2_HIGH) - e * LN2_LOW
    m = exp(tl.minimum(tl.maximum(rest, -1.0), 1.0), PLAN.approximate)
    return tl.where(exists, m, 0.0), tl.where(exists, e, EMPTY)


@triton.jit
def normalised(m, e, PLAN: tl.constexpr):
    """`m 2^e` with a mantissa from 1 to 2, as its bits say."""
    exists = m > 0
    safe = tl.where(exists, m, 1.0)
    if PLAN.wide:
        word = safe.to(tl.int64, bitcast=True)
        exponent = (word >> 52) - 1023
        mantissa = (word - (exponent << 52)).to(tl.float64, bitcast=True)
    else:
        word = safe.to(tl.int32, bitcast=True)
        exponent = (word >> 23) - 127
        mantissa = (word - (exponent << 23)).to(tl.float32, bitcast=True)
    return tl.where(exists, mantissa, 0.0), tl.where(exists, e + exponent.to(m.dtype), EMPTY)


@triton.jit
def over(x, m):
    """`x / m`, 0 where m is."""
    exists = m > 0
    return tl.where(exists, x / tl.where(exists, m, 1.0), 0.0)
