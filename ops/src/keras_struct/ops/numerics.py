"""Numbers that every structure agrees on: forbidden parts, clean potentials, broadcast sums.

A forbidden part has potential minus infinity. Inside the sweeps it is `FORBIDDEN`, a finite number
so low that its weight is exactly zero beside any user's score, and so far from the end of the
float32 range that sums of it stay finite. No infinity means no `inf - inf`, hence no NaN in any
sweep or in any of its derivatives. A log-partition below `INFEASIBLE` says: no structure exists.
"""

import functools
import itertools

import keras
import numpy as np
from keras import ops

from keras_struct.ops import array

FORBIDDEN = -1e30
INFEASIBLE = -5e29


def clean(x, mask=None, temperature=None):
    """Potentials over the temperature: padding becomes 0, minus infinity becomes `FORBIDDEN`.

    Args:
        x: Floating-point tensor.
        mask: Boolean tensor that broadcasts against `x`; False marks padding, whatever it holds.
        temperature: Positive tensor, () or (B,), or None for 1.
    """
    if mask is not None:
        x = array.where(mask, x, ops.zeros_like(x))
    if temperature is None:
        return array.where(x < FORBIDDEN, ops.full((), FORBIDDEN, dtype=x.dtype), x)
    forbidden = x <= FORBIDDEN
    x = array.where(forbidden, ops.zeros_like(x), x)
    if len(temperature.shape) == 1:
        temperature = ops.reshape(temperature, (-1,) + (1,) * (len(x.shape) - 1))
    return array.where(forbidden, ops.full_like(x, FORBIDDEN), x / temperature)


def compute_dtype(dtype):
    """float32 for anything narrower (and for integers), float64 for float64."""
    return "float64" if keras.backend.standardize_dtype(dtype) == "float64" else "float32"


def inner(potentials, marginals):
    """Sum of `potentials * marginals` per example; forbidden parts count nothing."""
    total = 0.0
    for theta, p in zip(potentials, marginals, strict=True):
        theta = array.where(theta <= INFEASIBLE, ops.zeros_like(theta), theta)
        total = total + per_example(theta * p)
    return total


def per_example(x):
    """Sum over all axes but the first."""
    return ops.sum(x, axis=tuple(range(1, len(x.shape)))) if len(x.shape) > 1 else x


def reduce_to(x, like):
    """Sum `x` over the axes that `like` broadcasts (static size 1)."""
    axes = tuple(
        axis
        for axis, (have, want) in enumerate(zip(x.shape, like.shape, strict=True))
        if want == 1 and have != 1
    )
    return ops.sum(x, axis=axes, keepdims=True) if axes else x


def scale_rows(weight, x):
    """`weight` (B,) times `x` (B, ...)."""
    return ops.reshape(weight, (-1,) + (1,) * (len(x.shape) - 1)) * x


@functools.cache
def no_noise(dtype):
    """Function `noise(shape)` of zeros, the same object for each dtype."""
    return functools.partial(ops.zeros, dtype=dtype)


def gumbel_noise(seed, dtype):
    """Function `noise(shape)` of standard Gumbel noise, fresh at each call.

    Args:
        seed: Integer (the calls of equal rank in the sequence are equal again) or
            `keras.random.SeedGenerator`.
        dtype: Dtype of the noise.
    """
    calls = itertools.count()
    below_one = 1.0 - float(np.finfo(keras.backend.standardize_dtype(dtype)).epsneg)

    def noise(shape):
        call_seed = (seed + 0x9E3779B1 * next(calls)) % 2**31 if isinstance(seed, int) else seed
        uniform = keras.random.uniform(shape, minval=1e-37, dtype=dtype, seed=call_seed)
        uniform = ops.clip(uniform, 0.0, below_one)  # NumPy rounds some up to 1: infinite noise
        return -array.log(-array.log(uniform))

    return noise
