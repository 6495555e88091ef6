"""One of N items: the softmax."""

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.distribution import Distribution
from keras_struct.ops.numerics import FORBIDDEN, clean, compute_dtype
from keras_struct.ops.structure import (
    Structure,
    as_lengths,
    as_potential,
    as_temperature,
    batch_of,
    check_rank,
    flatten_batch,
    one_hot,
    time_mask,
)
from keras_struct.ops.symbolic import public


@public
def categorical(scores, lengths=None, temperature=1.0, implementation=None):
    """Distribution over one of N items; its marginals are the softmax.

    Args:
        scores: (..., N) scores of the items.
        lengths: Integers (...,) between 0 and N; None for N. Length 0: no structure, value minus
            infinity.
        temperature: Positive number, tensor or variable, () or (...,); the number 0 is the argmax.
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
    structure = Categorical(scores, lengths)
    temperature = as_temperature(temperature, structure.batch_shape, structure.compute)
    return Distribution(structure, temperature, implementation)


class Categorical(Structure):
    op = "categorical"
    event_rank = 0

    def __init__(self, scores, lengths):
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
        self.context = (as_lengths("lengths", lengths, self.batch_shape, self.n),)

    def clean_potentials(self, temperature):
        mask = time_mask(self.context[0], self.n)
        return {"scores": clean(self.potentials["scores"], mask, temperature)}

    def fold(self, potentials):
        scores = potentials["scores"]
        mask = time_mask(self.context[0], self.n)
        return (array.where(mask, scores, ops.full_like(scores, FORBIDDEN)),)

    def unfold(self, marginals):
        return {"scores": marginals[0]}

    def parts(self, event, context):
        return (one_hot(event, self.n, self.compute),)

    def possible(self, event, context):
        return ops.logical_and(event >= 0, event < context[0])
