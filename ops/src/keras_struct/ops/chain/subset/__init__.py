"""Exactly k of N items."""

import numpy as np
from keras import ops

from keras_struct.ops.chain import shift
from keras_struct.ops.distribution import Distribution
from keras_struct.ops.numerics import FORBIDDEN, clean, compute_dtype
from keras_struct.ops.structure import (
    Structure,
    as_lengths,
    as_potential,
    as_temperature,
    batch_of,
    check_rank,
    concrete,
    flatten_batch,
    one_hot,
    time_mask,
)
from keras_struct.ops.symbolic import public


@public
def subset(scores, k, lengths=None, temperature=1.0, implementation=None):
    """Distribution over the subsets of exactly k out of N items.

    The score of a subset is the sum of the scores of its items; the marginals sum to k.

    Args:
        scores: (..., N) scores of the items.
        k: Number of items, an integer or integers (...,) with concrete values.
        lengths: Integers (...,) between 0 and N; None for N. Fewer items than k: no structure,
            value minus infinity.
        temperature: Positive number, tensor or variable, () or (...,); the number 0 is top-k.
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
    structure = Subset(scores, k, lengths)
    temperature = as_temperature(temperature, structure.batch_shape, structure.compute)
    return Distribution(structure, temperature, implementation)


class Subset(Structure):
    op = "subset"

    def __init__(self, scores, k, lengths):
        scores = as_potential("scores", scores)
        check_rank("scores", scores, 1, "N")
        if scores.shape[-1] == 0:
            raise ValueError(
                "Expected at least one item (use lengths for empty sequences). "
                f"Received: shape of scores={tuple(scores.shape)}"
            )
        self.dtype = scores.dtype
        self.compute = compute_dtype(scores.dtype)
        self.batch_shape = batch_of(scores, 1)
        self.n = ops.shape(scores)[-1]
        self.potentials = {"scores": ops.cast(flatten_batch(scores, 1), self.compute)}
        sizes = concrete(k) if ops.is_tensor(k) else np.asarray(k)
        if sizes is None:
            raise NotImplementedError("subset needs a k with known values (not traced)")
        most = int(sizes.max()) if sizes.size else 0
        if (sizes < 0).any():
            raise ValueError(f"Expected k >= 0. Received: k={k}")
        k = as_lengths("k", ops.convert_to_tensor(sizes, dtype="int32"), self.batch_shape, None)
        self.lengths = as_lengths("lengths", lengths, self.batch_shape, self.n)
        final = (1.0 - one_hot(k, most + 1, self.compute)) * FORBIDDEN
        self.context = (final, self.lengths, k)

    def clean_potentials(self, temperature):
        mask = time_mask(self.lengths, self.n)
        return {"scores": clean(self.potentials["scores"], mask, temperature)}

    def fold(self, potentials):
        scores = potentials["scores"]
        moves = ops.stack([ops.zeros_like(scores), scores], axis=-1)[:, :, None, :]
        return (shift.free_padding(moves, time_mask(self.lengths, self.n)),)

    def unfold(self, marginals):
        chosen = marginals[0][:, :, 0, 1]
        mask = ops.cast(time_mask(self.lengths, self.n), chosen.dtype)
        return {"scores": chosen * mask}

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
