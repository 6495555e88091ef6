"""Messages in log space, whose rounding errors do not grow with the chain or path.

A message is a sum over a prefix: for 2,000 steps of scores around 20 it is 40,000, and the last
digit of that in float32 is 0.004. Here it is a pair `(high, low)` that stands for the exact sum of
the two. Only differences of messages are rounded, and they are as small as the scores between them.
"""

from keras_struct.ops import array
from keras_struct.ops.exact_sum import two_sum


def log_sum(high, low, scores, axis, op):
    """Log-sum (or maximum, by `op`) of `high + low + scores` over an axis, which stays with size 1.

    Returns:
        `(peak, rest, weights, total)`: the result is `peak + rest`; `weights / total` is the
        softmax of the terms, which sums to 1 because `total` is the sum of the weights.
    """
    if op == "max":  # of large scores, a maximum may miss their last digits
        peak = array.max(high + scores, axis, keepdims=True)
        logits = ((high - peak) + scores) + low
    else:
        high, error = two_sum(high, scores)
        peak = array.max(high, axis, keepdims=True)
        logits = (high - peak) + (error + low)
    # Once a unit in the last place of `high` is large, so are these.
    top = array.max(logits, axis, keepdims=True)
    weights = array.exp(logits - top)
    total = array.sum(weights, axis, keepdims=True)
    return peak, top if op == "max" else top + array.log(total), weights, total


def join(peak, rest):
    """The pair that stands for `peak + rest`, with `low` below the rounding of `high`."""
    high = peak + rest
    return high, (peak - high) + rest


def log_weights(weights):
    """Logarithm of weights, very negative where they are 0."""
    return array.log(array.maximum(weights, weights * 0.0 + 1e-37))
