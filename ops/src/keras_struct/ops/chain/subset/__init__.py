"""Exactly k of N items."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from keras import ops

from keras_struct.ops.annotations import ArrayLike
from keras_struct.ops.chain import shift
from keras_struct.ops.distribution import Distribution
from keras_struct.ops.numerics import FORBIDDEN, compute_dtype
from keras_struct.ops.structure import (
    Structure,
    as_lengths,
    as_potential,
    as_sequence,
    batch_of,
    check_rank,
    flatten_batch,
    one_hot,
    time_mask,
)
from keras_struct.ops.symbolic import public
from keras_struct.ops.validation import Checks, concrete


@public
def subset(
    scores: ArrayLike,
    k: ArrayLike,
    lengths: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    mask: ArrayLike | None = None,
    implementation: str | None = None,
) -> Distribution:
    """Distribution over the subsets of exactly k out of N items.

    The score of a subset is the sum of the scores of its items; the marginals sum to k.

    Args:
        scores: (..., N) scores of the items.
        k: Number of items, an integer or integers (...,) with concrete values.
        lengths: Integers (...,) between 0 and N; None for N. Fewer items than k: no structure,
            value minus infinity.
        temperature: Positive number, tensor or variable, () or (...,); the number 0 is top-k.
        mask: Booleans (..., N), instead of lengths: an item where it is False is not there.
        implementation: Name, or None for the best one (see `ops.explain`).

    Returns:
        `Distribution`. Events are indicators (..., N), int32: 1 in, 0 out, -1 in the padding.

    Raises:
        ValueError: For a negative k, or shapes or lengths that do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> d = ops.subset(np.zeros((1, 5), "float32"), k=2)
    >>> print(np.round(np.exp(np.array(d.value())), 3))  # 5 choose 2
    [10.]

    Source: Chen, Dempster and Liu (1994), Weighted finite population sampling (conditional
    Poisson), by the recurrence of elementary symmetric polynomials.
    """
    return Distribution(Subset(scores, k, lengths, mask), temperature, implementation)


@dataclasses.dataclass(frozen=True)
class SubsetSpec:
    """A chain of moves 0 (out) and 1 (in), see `shift`. Context: `final`, lengths, k."""


class Subset(Structure):
    op = "subset"
    family = "chain"
    spec = SubsetSpec()
    axes: Mapping[str, tuple] = {"scores": (0,)}

    def __init__(self, scores, k, lengths, mask):
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
        self.potentials = {"scores": ops.cast(flatten_batch(scores, 1), self.compute)}
        sizes = concrete(k) if ops.is_tensor(k) else np.asarray(k)
        if sizes is None:
            raise NotImplementedError("subset needs a k with known values (not traced)")
        if not np.issubdtype(sizes.dtype, np.integer):
            raise ValueError(f"Expected an integer k. Received: k={k}")
        most = int(sizes.max(initial=0))
        if sizes.min(initial=0) < 0:
            raise ValueError(f"Expected k >= 0. Received: k={k}")
        items = as_sequence("lengths", lengths, mask, self.batch_shape, self.n, self.checks)
        k = as_lengths("k", sizes.astype("int32"), self.batch_shape, None, self.checks)
        self.sequences = (items,)
        self.padding = {"scores": (items.mask(self.n), 0.0)}
        final = (1.0 - one_hot(k, most + 1, self.compute)) * FORBIDDEN
        self.context = (final, items.lengths, k)
        self.compact()

    def options(self):
        return {"states": self.context[0].shape[1]}

    def fold(self, potentials):
        scores = potentials["scores"]
        moves = ops.stack([ops.zeros_like(scores), scores], axis=-1)[:, :, None, :]
        return (shift.free_padding(moves, time_mask(self.context[1], self.n)),)

    def unfold(self, marginals):
        chosen = marginals[0][:, :, 0, 1]
        return {"scores": chosen * ops.cast(time_mask(self.context[1], self.n), chosen.dtype)}

    def parts(self, event, context):
        _, lengths, _ = context
        inside = ops.logical_and(time_mask(lengths, self.n), event == 1)
        return (one_hot(ops.cast(inside, "int32"), 2, self.compute)[:, :, None, :],)

    def possible(self, event, context):
        _, lengths, k = context
        valid = time_mask(lengths, self.n)
        known = ops.logical_or(ops.logical_or(event == 0, event == 1), ops.logical_not(valid))
        count = ops.sum(ops.cast(ops.logical_and(valid, event == 1), "int32"), axis=1)
        # `==` would lose the static rank under TensorFlow.
        return ops.logical_and(ops.all(known, axis=1), ops.equal(count, k))
