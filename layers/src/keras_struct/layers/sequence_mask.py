"""Keras masks are boolean; structures take lengths. The bridge between the two."""

from keras import ops as K
from keras.src.backend.common.masking import get_keras_mask as keras_mask

from keras_struct.ops.structure import concrete

__all__ = ["keras_mask", "lengths_from_mask", "mask_from_lengths", "without_padding"]


def lengths_from_mask(mask):
    """Lengths of right-padded sequences.

    Args:
        mask: Boolean tensor `(..., N)`, True where a token is.

    Returns:
        Integer tensor `(...,)`.

    Raises:
        ValueError: If a False stands before a True and the values are concrete (not while tracing).

    Example:

    >>> import numpy as np
    >>> from keras_struct.layers import lengths_from_mask
    >>> np.asarray(lengths_from_mask([[True, True, False], [False, False, False]])).tolist()
    [2, 0]
    """
    mask = K.cast(K.convert_to_tensor(mask), "bool")
    values = concrete(mask)
    if values is not None and (values[..., 1:] > values[..., :-1]).any():
        raise ValueError(
            "Expected a mask of right-padded sequences: after the first False only False. "
            f"Received: mask={values.tolist()}"
        )
    return K.sum(K.cast(mask, "int32"), axis=-1)


def mask_from_lengths(lengths, n):
    """Boolean mask `(..., n)` of right-padded sequences of the given integer lengths `(...,)`."""
    return K.arange(n) < K.expand_dims(lengths, -1)


def without_padding(x, mask):
    """Zeros in the padding: a product with NaN would poison outputs and gradients."""
    if mask is None:
        return x
    mask = K.cast(mask, "bool")
    while len(mask.shape) < len(x.shape):
        mask = K.expand_dims(mask, -1)
    return K.where(mask, x, K.zeros_like(x))
