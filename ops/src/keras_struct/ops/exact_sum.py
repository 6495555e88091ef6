"""Placeholder until the chain engine's version lands."""

from keras import ops


def exact_sum(x, axis):
    total = ops.sum(x, axis=axis)
    return total, ops.zeros_like(total)
