"""Numbers that every structure agrees on: forbidden parts, clean potentials, broadcast sums.

A forbidden part has potential minus infinity. Inside the sweeps it is `FORBIDDEN`, a finite number
so low that its weight is exactly zero beside any user's score, and so far from the end of the
float32 range that sums of it stay finite. No infinity means no `inf - inf`, hence no NaN in any
sweep or in any of its derivatives. A log-partition below `INFEASIBLE` says: no structure exists.
"""

import keras
from keras import ops

from keras_struct.ops import array

FORBIDDEN = -1e30
INFEASIBLE = -5e29


def clean(x, used=None, fill=0.0, temperature=None):
    """Potentials over the temperature: padding is filled, minus infinity becomes `FORBIDDEN`.

    Args:
        x: Floating-point tensor.
        used: Boolean tensor that broadcasts against `x`; False marks padding, whatever it holds.
        fill: What stands in the padding, 0 or `FORBIDDEN`.
        temperature: Positive tensor, () or (B,), or None for 1.
    """
    if used is not None:
        x = array.where(used, x, ops.full((), fill, dtype=x.dtype))
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


def any_over(x, axes):
    """Whether any boolean is True along axes."""
    return ops.sum(ops.cast(x, "int32"), axis=axes) > 0  # Keras 3.14's `any` takes one on PyTorch


def all_over(x, axes):
    """Whether all booleans are True along axes."""
    return ops.logical_not(any_over(ops.logical_not(x), axes))


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
