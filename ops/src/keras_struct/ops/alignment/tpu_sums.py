"""Sums over the moves into a state, in a kernel for TPUs.

A message is a pair `(high, low)` that stands for the exact sum of the two (see `messages.py`).
Where a block of examples has scores of such a size that no sum of them leaves the digits of
a float (`in_range`), `high` is a whole number and `low` what is left, half at most: sums of whole
numbers have no rounding error, so nothing has to be found out about it. Else `high` is any number,
and `two_sum` says what its sums lose. Both are messages to whoever reads them.
"""

import functools

from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl

from keras_struct.ops.alignment.run import largest
from keras_struct.ops.exact_sum import two_sum
from keras_struct.ops.messages import join
from keras_struct.ops.numerics import INFEASIBLE

BITS = {"float32": 24, "float64": 53}


def in_range(potentials, steps, op):
    """Whether sums of wholes are exact, (B,) or (1,).

    Args:
        potentials: Canonical potentials.
        steps: Moves of a path, at most.
        op: For "logsumexp", scores of all paths are below 2^23 (of float32), so whole numbers are
            exact. For "max", they are also multiples of one power of two, so that no sum is rounded
            at all.
    """
    bits, most, least = BITS[potentials[0].dtype.name] - 1, 0.0, jnp.inf
    for x in potentials:
        x = jnp.where(x > INFEASIBLE, x, 0.0)
        most = jnp.maximum(most, jnp.max(jnp.abs(x), (1, 2)))
        if op == "max":
            least = jnp.minimum(least, jnp.min(jnp.where(x == 0, jnp.inf, _last_bit(x)), (1, 2)))
    if op == "max":
        return steps * most <= 2.0**bits * least
    return steps * (most + 4.0) <= 2.0**bits


def _last_bit(x):
    """The power of two of the last digit of x that is not 0."""
    bits = BITS[x.dtype.name] - 1
    raw = lax.bitcast_convert_type(x, "int32" if x.dtype.itemsize == 4 else "int64")
    digits = raw & (2**bits - 1) | 2**bits
    power = lax.bitcast_convert_type(raw & ~(2**bits - 1), x.dtype)
    return jnp.abs(power) * ((digits & -digits).astype(x.dtype) * 2.0**-bits)


def ones(dtype, there):
    """The number whose last digit is that of ones: what is added to it becomes whole.

    Args:
        dtype: Of the numbers.
        there: True, but a value of the program: XLA would take a constant away again.
    """
    return jnp.where(there, jnp.asarray(1.5 * 2.0 ** (BITS[dtype.name] - 1), dtype), 0)


def parts(x, big):
    """A score as a whole number and the rest, half at most; `big` are `ones`."""
    whole = (x + big) - big
    return whole, x - whole


def sum_of_wholes(big, terms, op):
    """`sum_of` of messages whose first numbers are whole; `big` are `ones`, scores are `parts`. Of
    a maximum, where no sum is rounded, scores are plain and the low part is None instead of 0."""
    score = terms[0][2]
    shared = all(x is score for _, _, x in terms)
    if op == "max":
        if shared:
            high = largest([high for high, _, _ in terms]) + score
        else:
            high = largest([high + x for high, _, x in terms])
        return (high, None), [None] * len(terms)
    if shared:
        peak = largest([high for high, _, _ in terms])
        logits = [(high - peak) + low for high, low, _ in terms]
    else:
        wholes = [high + x[0] for high, _, x in terms]
        peak = largest(wholes)
        logits = [
            (whole - peak) + (low + x[1]) for whole, (_, low, x) in zip(wholes, terms, strict=True)
        ]
    weights, total = _softmax(logits)
    rest = jnp.log(total)
    if shared:
        peak, rest = peak + score[0], rest + score[1]
    whole, rest = parts(rest, big)
    return (peak + whole, rest), _shares(weights, total)


def sum_of(terms, op):
    """`run.sum_of` with fewer operations: one division, and a score that all terms share is added
    once."""
    score = terms[0][2]
    shared = all(x is score for _, _, x in terms)
    if shared:
        peak = largest([high for high, _, _ in terms])
        logits = [(high - peak) + low for high, low, _ in terms]
    else:
        sums = [two_sum(high, x) for high, _, x in terms]
        peak = largest([high for high, _ in sums])
        logits = [
            (high - peak) + (error + low)
            for (high, error), (_, low, _) in zip(sums, terms, strict=True)
        ]
    rest = top = largest(logits)
    weights = [None] * len(terms)
    if op == "logsumexp":
        weights, total = _softmax([logit - top for logit in logits])
        rest, weights = top + jnp.log(total), _shares(weights, total)
    if shared:
        high, error = two_sum(peak, score)
        return (high, error + rest), weights
    return join(peak, rest), weights


def _softmax(logits):
    weights = [jnp.exp(logit) for logit in logits]
    return weights, functools.reduce(lambda a, b: a + b, weights)


def _shares(weights, total):
    inverse = pl.reciprocal(total, full_range=False)
    return [weight * inverse for weight in weights]
