"""What Triton kernels compute with, on blocks of numbers: exponentials, exact sums, noise.

Numbers are those of `messages.py`, `exact_sum.py` and `noise.py`. Exponential, logarithm and
reciprocal of float32 are those of the GPU's special function unit (errors of one or two units in
the last place): Triton's own logarithm is a program of twenty instructions.
"""

import triton
import triton.language as tl

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN_2: tl.constexpr = tl.constexpr(0.6931471805599453)


@triton.constexpr_function
def static(n):
    """A number that is known when a kernel is compiled, as `tl.static_range` takes it."""
    return n


@triton.jit
def exp2(x, APPROXIMATE: tl.constexpr):
    if APPROXIMATE:
        return tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1
        )
    return tl.exp2(x)


@triton.jit
def exp(x, APPROXIMATE: tl.constexpr):
    if APPROXIMATE:
        return exp2(x * LOG2_E, APPROXIMATE)
    return tl.exp(x)


@triton.jit
def log(x, APPROXIMATE: tl.constexpr):
    if APPROXIMATE:
        return LN_2 * tl.inline_asm_elementwise(
            "lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1
        )
    return tl.log(x)


@triton.jit
def reciprocal(x, APPROXIMATE: tl.constexpr):
    if APPROXIMATE:
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1
        )
    return 1.0 / x


@triton.jit
def two_sum(x, y):
    high = x + y
    part = high - x
    return high, (x - (high - part)) + (y - part)


@triton.jit
def join(peak, rest):
    high = peak + rest
    return high, (peak - high) + rest


@triton.jit
def sum_over(x, AXIS: tl.constexpr):
    return tl.reduce(x, AXIS, tl.standard._sum_combine)


@triton.jit
def max_over(x, AXIS: tl.constexpr):
    return tl.reduce(x, AXIS, tl.standard._elementwise_max)


@triton.jit
def min_over(x, AXIS: tl.constexpr):
    return tl.reduce(x, AXIS, tl.standard._elementwise_min)


@triton.jit
def threefry_mix(x, y, ROTATION: tl.constexpr):
    x = x + y
    y = ((y << ROTATION) | (y >> (32 - ROTATION))) ^ x
    return x, y


@triton.jit
def threefry(k0, k1, c0, c1):
    """`noise.threefry` of words in uint32."""
    k2 = k0 ^ k1 ^ 0x1BD11BDA
    x, y = c0 + k0, c1 + k1
    for block in tl.static_range(5):
        if block % 2 == 0:
            x, y = threefry_mix(x, y, 13)
            x, y = threefry_mix(x, y, 15)
            x, y = threefry_mix(x, y, 26)
            x, y = threefry_mix(x, y, 6)
        else:
            x, y = threefry_mix(x, y, 17)
            x, y = threefry_mix(x, y, 29)
            x, y = threefry_mix(x, y, 16)
            x, y = threefry_mix(x, y, 24)
        keys = (k0, k1, k2)
        x = x + keys[(block + 1) % 3]
        y = y + keys[(block + 2) % 3] + (block + 1)
    return x, y


@triton.jit
def gumbel(k0, k1, STREAM: tl.constexpr, place, WIDE: tl.constexpr):
    """`noise.Draws.gumbel`: key words and places (int32 blocks) to float32, or float64 if WIDE."""
    place = place.to(tl.uint32, bitcast=True)
    k0, k1 = k0.to(tl.uint32, bitcast=True), k1.to(tl.uint32, bitcast=True)
    x, y = threefry(k0, k1, tl.full(place.shape, STREAM, tl.uint32), place)
    if WIDE:
        high, low = (x >> 8).to(tl.float64), (y >> 4).to(tl.float64)
        uniform = (high * 268435456.0 + (low + 0.5)) * 2.220446049250313e-16
    else:
        uniform = ((x >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07
    return -tl.log(-tl.log(uniform))
