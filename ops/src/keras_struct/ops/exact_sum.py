"""Sums in the working precision that keep the digits a plain sum loses, as pairs of numbers.

A pair `(high, low)` stands for the exact sum of its two numbers, which is never evaluated. What is
left of it after a large number has been taken away, such as a log-partition from a score, has the
precision of the small remainder.
"""

import keras
import numpy as np
from keras import ops

from keras_struct.ops import array


def exact_sum(x, axis):
    """Sum over one axis or several, as a pair whose first number carries no rounding error.

    Every entry is split at a power of two that is so large that the upper parts, whole multiples
    of it, are summed exactly in any order. The lower parts are summed as usual; together they are
    at most the number of entries times that power of two.

    Args:
        x: Tensor of finite numbers, float32 or float64. Entries as large as `FORBIDDEN` are fine:
            they cost only the sums that they enter their last digits.
        axis: Axis, or tuple of axes.

    Returns:
        Pair `(high, low)`. The gradient is that of the sum.

    Source: Rump, Ogita and Oishi (2008), Accurate floating-point summation I, section 3 (extraction
    of high-order parts).
    """
    axes = axis if isinstance(axis, tuple) else (axis,)
    if any(x.shape[a] == 0 for a in axes):
        total = array.sum(x, axis)
        return total, total
    upper = _upper(x, axes)
    return array.sum(upper, axis), array.sum(x - upper, axis)


def cancelling_sum(x, axis):
    """Sum over an axis, of size 1 at least, of numbers that cancel: as precise as what is left.

    As `exact_sum`, whose lower parts are split once more. The gradient is that of the sum.
    """
    upper = _upper(x, (axis,))
    high, low = exact_sum(x - upper, axis)
    return array.sum(upper, axis) + (high + low)


def halves(x):
    """Two numbers whose sum is `x`, of half the digits each: their products with numbers of half
    the digits, such as counts, have no rounding error (Veltkamp). The gradient is that of `x`."""
    half = (np.finfo(keras.backend.standardize_dtype(x.dtype)).nmant + 2) // 2
    wide = x * (2.0**half + 1.0)
    upper = ops.stop_gradient(wide - (wide - x))
    return upper, x - upper


def two_sum(x, y):
    """`x + y` as a pair without any rounding error (Knuth): the rounded sum and its error."""
    high = x + y
    part = high - x
    return high, (x - (high - part)) + (y - part)


def add_pairs(x, y):
    """Sum of two pairs."""
    high, low = two_sum(x[0], y[0])
    return high, low + (x[1] + y[1])


def _upper(x, axes):
    """The upper parts of the entries, whose sum over the axes has no rounding error; constant."""
    unit = ops.stop_gradient(_unit(x, axes))
    return ops.stop_gradient(array.round(x / unit) * unit)


def _unit(x, axes):
    """A power of two, at least the count times the largest entry over 2 to the mantissa's bits."""
    dtype = keras.backend.standardize_dtype(x.dtype)
    info = np.finfo(dtype)
    count = 1
    for axis in axes:
        count = count * ops.shape(x)[axis]
    largest = x
    for axis in axes:
        largest = array.max(array.maximum(largest, -largest), axis, keepdims=True)
    # Entries below this have no upper part.
    bound = largest * ops.cast(count, dtype) + 1e-24
    logarithm = array.round(array.log(bound) * 1.4426950408889634)  # off by one at most
    return array.power_of_two(logarithm + (1.0 - info.nmant))
