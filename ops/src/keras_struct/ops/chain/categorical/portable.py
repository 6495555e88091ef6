"""Softmax on every backend."""

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.implementation import Implementation
from keras_struct.ops.messages import log_sum
from keras_struct.ops.noise import flat_places, perturbed
from keras_struct.ops.numerics import INFEASIBLE


class CategoricalPortable(Implementation):
    def forward(self, problem, op):
        (scores,) = problem.potentials
        peak, rest, _, _ = log_sum(scores, 0.0 * scores, 0.0, 1, op)
        return (peak[:, 0], rest[:, 0]), ()

    def backward(self, problem, tape):
        (scores,) = problem.potentials
        peak = array.max(scores, 1, keepdims=True)
        weights = array.exp(scores - peak) * ops.cast(peak > INFEASIBLE, scores.dtype)
        return (weights / array.maximum(array.sum(weights, 1, keepdims=True), 0.0 * peak + 0.5),)

    def curvature(self, problem, tape, tangents):
        (p,) = self.backward(problem, tape)
        (g,) = tangents
        return (p * (g - ops.sum(p * g, axis=1, keepdims=True)),)

    def trace(self, problem, tape, draws=None):
        (scores,) = problem.potentials
        logits = perturbed(scores, draws, 0, flat_places(ops.shape(scores)[1:]))
        return ops.cast(array.argmax(logits, 1), "int32")

    def topk(self, problem, k):
        (scores,) = problem.potentials
        missing = max(0, k - (scores.shape[1] or k))
        scores = ops.pad(scores, [(0, 0), (0, missing)], constant_values=2 * INFEASIBLE)
        best, index = array.top_k(scores, k)
        exists = ops.transpose(best > INFEASIBLE)
        return array.where(exists, ops.cast(ops.transpose(index), "int32"), -1), exists
