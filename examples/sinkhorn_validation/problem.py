"""A synthetic attention problem, and the same surrogate written with whole plans and autodiff."""

import dataclasses
import math

import keras
import numpy as np
from keras import ops as K

from keras_struct.ops.testing import tensor

FORBIDDEN = -1e9


@dataclasses.dataclass(frozen=True)
class Problem:
    """Queries, keys, values and a linear loss; of two examples, the second is shorter.

    Attributes:
        length: L.
        band_width: Half of the width of the band.
        depth: D.
        epsilon: Temperature.
        base_steps: T.
        dtype: Of everything.
        seed: Of the numbers.
    """

    length: int = 64
    band_width: int = 16
    depth: int = 16
    epsilon: float = 0.5
    base_steps: int = 20
    dtype: str = "float32"
    seed: int = 0

    @property
    def lengths(self):
        n = np.array([self.length, 3 * self.length // 4])
        return n, n

    def arrays(self):
        """Queries, keys, values and the gradient of the loss, (2, L, D)."""
        rng = np.random.default_rng(self.seed)
        return [tensor(rng.normal(size=(2, self.length, self.depth)), self.dtype) for _ in range(4)]

    def options(self):
        """Arguments of `ops.sinkhorn_tail`."""
        names = "band_width", "epsilon", "base_steps"
        return {"lengths": self.lengths, **{name: getattr(self, name) for name in names}}

    def support(self):
        """Which pairs exist, (2, L, L)."""
        i = np.arange(self.length)
        inside = i < self.lengths[0][:, None]
        near = abs(i[:, None] - i) <= self.band_width
        return inside[:, :, None] & inside[:, None] & near

    def scores(self, query, key):
        """(2, L, L), far below zero where no pair exists."""
        products = K.matmul(query, K.transpose(key, (0, 2, 1)))
        scale = 1.0 / (self.epsilon * math.sqrt(self.depth))
        return K.where(self.support(), products * scale, K.full_like(products, FORBIDDEN))


def half_step(scores, other, axis):
    """Minus the log-sum over an axis; 0 for what has no pair."""
    logits = scores + K.expand_dims(other, 3 - axis)
    sums = K.logsumexp(logits, axis=axis)
    return K.where(sums > FORBIDDEN / 2, -sums, K.zeros_like(sums))


def refine(scores, g, steps):
    """All f and g of some steps from g."""
    fs, gs = [], [g]
    for _ in range(steps):
        fs.append(half_step(scores, gs[-1], 2))
        gs.append(half_step(scores, fs[-1], 1))
    return fs, gs


def whole_plan_attention(problem, query, key, value, tail_steps):
    """`ops.sinkhorn_tail` with the plan in memory, its gradient left to the framework."""
    scores = problem.scores(query, key)
    stopped = K.stop_gradient(scores)
    fs, gs = refine(stopped, K.zeros_like(scores[:, 0]), problem.base_steps)
    f, g = K.stop_gradient(fs[-1]), K.stop_gradient(gs[-1])
    if tail_steps:
        fs, gs = refine(scores, g, tail_steps)
        f, g = fs[-1], gs[-1]
    return K.matmul(K.exp(scores + f[:, :, None] + g[:, None]), value)


def largest(arrays):
    """The largest absolute value in several tensors."""
    return max(float(abs(keras.ops.convert_to_numpy(x)).max()) for x in arrays)
