"""One of N items: the softmax."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.annotations import ArrayLike
from keras_struct.ops.chain.categorical.entmax import entmax15, sparsemax
from keras_struct.ops.distribution import Distribution
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE, compute_dtype, scale_rows
from keras_struct.ops.structure import (
    Structure,
    as_potential,
    as_sequence,
    batch_of,
    check_rank,
    flatten_batch,
    one_hot,
)
from keras_struct.ops.symbolic import public
from keras_struct.ops.validation import Checks


@public
def categorical(
    scores: ArrayLike,
    lengths: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    mask: ArrayLike | None = None,
    implementation: str | None = None,
) -> Distribution:
    """Distribution over one of N items; its marginals are the softmax.

    Args:
        scores: (..., N) scores of the items.
        lengths: Integers (...,) between 0 and N; None for N. Length 0: no structure, value minus
            infinity.
        temperature: Positive number, tensor or variable, () or (...,); the number 0 is the argmax.
        mask: Booleans (..., N), instead of lengths: an item where it is False is not there.
        implementation: Name, or None for the best one (see `ops.explain`).

    Returns:
        `Distribution`. Events are indices (...,), int32; -1 where there is no structure.

    Raises:
        ValueError: For shapes or lengths that do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> d = ops.categorical(np.log([[1.0, 3.0]]).astype("float32"))
    >>> print(np.round(np.array(d.marginals()), 3))
    [[0.25 0.75]]
    """
    return Distribution(Categorical(scores, lengths, mask), temperature, implementation)


@dataclasses.dataclass(frozen=True)
class CategoricalSpec:
    """One potential, (B, N); `FORBIDDEN` beyond the length, which is the context."""


class Categorical(Structure):
    op = "categorical"
    family = "chain"
    event_rank = 0
    closed_entmax = True
    spec = CategoricalSpec()
    axes: Mapping[str, tuple] = {"scores": (0,)}

    def __init__(self, scores, lengths, mask):
        scores = as_potential("scores", scores)
        check_rank("scores", scores, 1, "N")
        if scores.shape[-1] == 0:
            raise ValueError(
                "Expected at least one item (use lengths for empty sequences). "
                f"Received: shape of scores={tuple(scores.shape)}"
            )
        self.checks = Checks()
        self.dtype = scores.dtype
        self.compute = compute_dtype(scores.dtype)
        self.batch_shape = batch_of(scores, 1)
        self.n = ops.shape(scores)[-1]
        items = as_sequence("lengths", lengths, mask, self.batch_shape, self.n, self.checks)
        self.sequences = (items,)
        self.potentials = {"scores": ops.cast(flatten_batch(scores, 1), self.compute)}
        self.padding = {"scores": (items.mask(self.n), FORBIDDEN)}
        self.context = (items.lengths,)
        self.compact()

    def fold(self, potentials):
        return (potentials["scores"],)

    def unfold(self, marginals):
        return {"scores": marginals[0]}

    def parts(self, event, context):
        return (one_hot(event, self.n, self.compute),)

    def possible(self, event, context):
        return ops.logical_and(event >= 0, event < context[0])

    def entmax(self, scores, alpha):
        scores = scores["scores"]
        found = (sparsemax if alpha == 2 else entmax15)(scores)
        exists = ops.cast(array.max(scores, 1) > INFEASIBLE, found.dtype)
        return {"scores": scale_rows(exists, found)}

    def restore(self, event, places):
        return places[0].positions(event)

    def compacted(self, event, places):
        return places[0].ranks(event)
