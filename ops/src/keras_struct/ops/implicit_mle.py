"""Implicit maximum likelihood: a gradient for the best structure, by another best structure.

    d loss / d theta  ~  (mu(theta) - mu(theta - lambda d loss / d mu)) / lambda

with mu(theta) the parts of the best structure (Niepert, Minervini and Franceschi 2021, eq. 9: the
target distribution is that of the potentials after a step against the gradient).
"""

import dataclasses
from typing import Any

from keras import ops

from keras_struct.ops.numerics import reduce_to, scale_rows
from keras_struct.ops.sparsemap import best_parts


@dataclasses.dataclass(frozen=True)
class ImplicitMLE:
    """Output and gradient, of a distribution `d` with other scores, one array for each potential.

    Attributes:
        sweeps: Those of its structure.
        step: Lambda.
    """

    sweeps: Any
    step: float

    @property
    def traceable(self):
        return self.sweeps.traceable

    def output(self, d, scores):
        """Parts of the best structure; 0 where there is none."""
        parts, exists = best_parts(d.structure, self.sweeps, scores)
        return tuple(scale_rows(ops.cast(exists, x.dtype), x) for x in parts)

    def vjp(self, d, scores, cotangents):
        """For each of the scores."""
        wide = [_as(g, x) for g, x in zip(cotangents, scores, strict=True)]
        moved = tuple(x - self.step * g for x, g in zip(scores, wide, strict=True))
        pairs = zip(self.output(d, scores), self.output(d, moved), scores, strict=True)
        return tuple(reduce_to(_as((a - b) / self.step, x), x) for a, b, x in pairs)


def _as(parts, scores):
    """Parts (B, ...) with the axes of the potential."""
    return ops.reshape(parts, (ops.shape(parts)[0], *ops.shape(scores)[1:]))
