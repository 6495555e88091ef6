"""Sparsemax and 1.5-entmax in closed form, by sorting (Peters, Niculae and Martins 2019, app. B).

Both are a power of what is left of the scores above a threshold tau, at which they sum to 1:

    sparsemax      p = [z - tau]_+           entmax, alpha = 1.5      p = [z / 2 - tau]_+ ^ 2

Only the support needs an order; given it, tau is a formula, which autodiff follows.
"""

from keras import ops

from keras_struct.ops import array


def sparsemax(scores):
    """(B, N) from scores (B, N)."""
    z = _near(scores)
    ordered, count = _ordered(z)
    total = array.cumsum(ordered, 1)
    support = ops.stop_gradient(z) > _last((total - 1.0) / count, 1.0 + count * ordered > total)
    size, total = _size(support, z), _sum(support, z)
    return array.where(support, z - (total - 1.0) / size, ops.zeros_like(z))


def entmax15(scores):
    """(B, N) from scores (B, N)."""
    z = _near(scores / 2.0)
    ordered, count = _ordered(z)
    mean = array.cumsum(ordered, 1) / count
    left = 1.0 - (array.cumsum(ordered * ordered, 1) - count * mean * mean)
    tau = mean - (array.maximum(left, ops.zeros_like(left)) / count) ** 0.5
    support = ops.stop_gradient(z) > _last(tau, tau < ordered)
    size = _size(support, z)
    mean = _sum(support, z) / size
    left = 1.0 - _sum(support, (z - mean) * (z - mean))
    root = z - (mean - (left / size) ** 0.5)
    return array.where(support, root * root, ops.zeros_like(z))


def _near(z):
    """Scores less the best one; those below -1 have no probability, however far they are."""
    z = z - ops.stop_gradient(array.max(z, 1, keepdims=True))
    return array.where(z < -2.0, -2.0 * ops.ones_like(z), z)


def _ordered(z):
    """From the highest to the lowest, and 1, 2, ..."""
    return -ops.sort(-ops.stop_gradient(z), axis=1), array.cumsum(ops.ones_like(z), 1)


def _last(tau, inside):
    """The threshold (B, 1) of the largest support, of those that begin the order."""
    index = ops.sum(ops.cast(inside, "int32"), axis=1, keepdims=True) - 1
    return array.take_along_axis(tau, index, 1)


def _sum(support, x):
    return ops.sum(array.where(support, x, ops.zeros_like(x)), axis=1, keepdims=True)


def _size(support, z):
    return ops.sum(ops.cast(support, z.dtype), axis=1, keepdims=True)
