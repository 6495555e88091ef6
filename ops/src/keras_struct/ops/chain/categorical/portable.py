"""Softmax on every backend."""

import dataclasses

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.numerics import INFEASIBLE
from keras_struct.ops.sweeps import Sweeps


def rejects(call):
    return None


def sweeps(call):
    return CategoricalSweeps()


@dataclasses.dataclass(frozen=True)
class CategoricalSweeps(Sweeps):
    def forward(self, potentials, context, op):
        (scores,) = potentials
        return (array.max if op == "max" else array.logsumexp)(scores, 1), ()

    def backward(self, potentials, context, tape):
        (scores,) = potentials
        peak = array.max(scores, 1, keepdims=True)
        weights = array.exp(scores - peak) * ops.cast(peak > INFEASIBLE, scores.dtype)
        return (weights / array.maximum(array.sum(weights, 1, keepdims=True), 0.0 * peak + 0.5),)

    def curvature(self, potentials, context, tape, tangents):
        (p,) = self.backward(potentials, context, tape)
        (g,) = tangents
        return (p * (g - ops.sum(p * g, axis=1, keepdims=True)),)

    def trace(self, potentials, context, tape, noise):
        (scores,) = potentials
        return ops.cast(array.argmax(scores + noise(ops.shape(scores)), 1), "int32")

    def topk(self, potentials, context, k):
        (scores,) = potentials
        missing = max(0, k - (scores.shape[1] or k))
        scores = ops.pad(scores, [(0, 0), (0, missing)], constant_values=2 * INFEASIBLE)
        best, index = array.top_k(scores, k)
        exists = ops.transpose(best > INFEASIBLE)
        return array.where(exists, ops.cast(ops.transpose(index), "int32"), -1), exists
