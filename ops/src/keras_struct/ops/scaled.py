"""Numbers m · 2^e with float32 precision and almost no limit on their size, for sums of products.

In log space a chart of many words loses precision (a sum of scores near 3,000 is rounded to 2e-4)
and pays an exponential per term. Here a product costs one multiplication and one addition, a sum
shifts bits, and the rounding error is that of the mantissas. Zero has mantissa 0 exactly and the
exponent `EMPTY`. Exponents are whole numbers and constants for automatic differentiation.
"""

from typing import Any, NamedTuple

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.exact_sum import two_sum
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE

EMPTY = -1e30
LOG2_E = 1.4426950408889634
LN2 = 0.6931471805599453
# ln 2 in two parts (Cody and Waite): multiples of the first are exact.
LN2_HIGH, LN2_LOW = 0.693359375, -2.121944400546905827679e-4


class Scaled(NamedTuple):
    """The numbers `m * 2**e`: two arrays of one shape and dtype, `e` whole."""

    m: Any
    e: Any

    def map(self, function):
        """`function(x, fill)` of both arrays; `fill` is what zero holds there."""
        return Scaled(function(self.m, 0), function(self.e, EMPTY))


def from_log(x):
    """`exp(x)`, zero where x is forbidden."""
    exists = x > INFEASIBLE
    x = array.where(exists, x, ops.zeros_like(x))
    e = ops.stop_gradient(array.round(x * LOG2_E))
    upper = _upper(e)
    rest = ((x - upper * LN2_HIGH) - (e - upper) * LN2_HIGH) - e * LN2_LOW
    # Of numbers with more digits than the mantissa has, the rest is their rounding error.
    one = ops.ones_like(x)
    excess = ops.stop_gradient(rest - array.maximum(-one, -array.maximum(-one, -rest)))
    m = array.exp(rest - excess)
    zero = ops.zeros_like(x)
    return Scaled(array.where(exists, m, zero), array.where(exists, e, zero + EMPTY))


def _upper(e):
    """The upper part of whole numbers; of both parts the product with `LN2_HIGH` is exact."""
    return ops.stop_gradient(array.round(e * (1 / 4096)) * 4096)


def to_log(x):
    """Logarithm; `FORBIDDEN` of zero."""
    exists = x.m > 0
    safe = array.where(exists, x.m, ops.ones_like(x.m))
    logarithm = array.log(safe) + array.where(exists, x.e, ops.zeros_like(x.e)) * LN2
    return array.where(exists, logarithm, ops.zeros_like(logarithm) + FORBIDDEN)


def to_log_pair(x):
    """Logarithm as a pair whose sum has the precision of the mantissa beside that of the exponent;
    `(FORBIDDEN, 0)` of zero."""
    exists = x.m > 0
    zero = ops.zeros_like(x.m)
    e = array.where(exists, x.e, zero)
    upper = _upper(e)
    high, low = two_sum(upper * LN2_HIGH, (e - upper) * LN2_HIGH)
    low = low + (e * LN2_LOW + array.log(array.where(exists, x.m, ops.ones_like(x.m))))
    return array.where(exists, high, zero + FORBIDDEN), array.where(exists, low, zero)


def normalise(m, e):
    """`m * 2**e` with mantissas between 1/2 and 2."""
    exists = m > 0
    one = ops.ones_like(m)
    k = ops.stop_gradient(array.round(array.log(array.where(exists, m, one)) * LOG2_E))
    return Scaled(m * array.power_of_two(-k), array.where(exists, e + k, one * EMPTY))


def times(x, y):
    """Product. Mantissas are not normalised: a few products in a row are fine."""
    return Scaled(x.m * y.m, array.maximum(x.e + y.e, ops.full((), EMPTY, dtype=x.e.dtype)))


def total(x, axis, reduce=array.sum):
    """Sum (or, with `reduce=array.max`, maximum) over an axis."""
    return normalise(*raw_total(x, axis, reduce))


def raw_total(x, axis, reduce=array.sum):
    """The same with the largest exponent: shares in it are exact, however large that is."""
    peak = array.max(x.e, axis, keepdims=True)
    return Scaled(reduce(x.m * array.power_of_two(x.e - peak), axis), array.max(x.e, axis))


def add(x, y, maximum=False):
    """Sum (or maximum) of two."""
    return normalise(*raw_add(x, y, maximum))


def raw_add(x, y, maximum=False):
    """The same with the larger exponent."""
    peak = array.maximum(x.e, y.e)
    a, b = x.m * array.power_of_two(x.e - peak), y.m * array.power_of_two(y.e - peak)
    return Scaled(array.maximum(a, b) if maximum else a + b, peak)


def ratio(x, y):
    """`x / y`, a plain array, for `x` not much above `y`; 0 where y is 0."""
    exists = y.m > 0
    safe = array.where(exists, y.m, ops.ones_like(y.m))
    small = x.m / safe * array.power_of_two(x.e - y.e)
    return array.where(exists, small, ops.zeros_like(small))
