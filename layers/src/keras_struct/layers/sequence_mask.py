"""Keras masks: which positions of a sequence there are, wherever they stand."""

from __future__ import annotations

import functools

from keras import ops as K
from keras.src.backend.common.masking import get_keras_mask as keras_mask

from keras_struct.layers.targets import fits
from keras_struct.ops.annotations import ArrayLike, Tensor
from keras_struct.ops.masks import places_of
from keras_struct.ops.validation import concrete, readable

__all__ = [
    "all_of",
    "as_mask",
    "extent",
    "in_order",
    "kept_first",
    "keras_mask",
    "lengths_from_mask",
    "mask_from_lengths",
    "without_padding",
]


def lengths_from_mask(mask: ArrayLike) -> Tensor:
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


def mask_from_lengths(lengths: ArrayLike, n: int) -> Tensor:
    """Boolean mask `(..., n)` of right-padded sequences of the given integer lengths `(...,)`."""
    lengths = K.cast(K.convert_to_tensor(lengths), "int32")
    return K.arange(n, dtype="int32") < K.expand_dims(lengths, -1)


def extent(mask):
    """What `ops` takes of a mask `(..., N)` or None, as keyword arguments.

    Lengths where positions are known to stand in front, which is faster; else the mask.
    """
    if mask is None:
        return {}
    mask = as_mask(mask)
    if readable(mask):
        values = K.convert_to_numpy(mask)
        if not (values[..., 1:] > values[..., :-1]).any():
            return {"lengths": K.sum(K.cast(mask, "int32"), axis=-1)}
    return {"mask": mask}


def in_order(function, mask, *xs):
    """`function` of tensors (B, N, ...) as if only what the mask keeps were there.

    Args:
        function: From tensors (B, N, ...), what is kept in front, to one (B, N, ...).
        mask: Booleans (B, N), or None for all.
        *xs: The tensors.
    """
    if mask is None:
        return function(*xs)
    places = places_of(mask)
    return places.scatter(function(*(places.gather(x, 1) for x in xs)), 1)


def as_mask(mask):
    """Booleans, from what a user may give; None for all."""
    return None if mask is None else K.cast(K.convert_to_tensor(mask), "bool")


def without_padding(x, mask):
    """Zeros in the padding: a product with NaN would poison outputs and gradients.

    Args:
        x: `(B, N, ...)`.
        mask: Booleans `(B, N)`, or `(1, N)` for all alike; None for no padding.

    Raises:
        ValueError: If the mask has another shape.
    """
    if mask is None:
        return x
    mask = as_mask(mask)
    shape = tuple(mask.shape)
    leading = (1 if shape[:1] == (1,) else x.shape[0], *x.shape[1 : len(shape)])
    if not 2 <= len(shape) < len(x.shape) or not fits(shape, leading):
        raise ValueError(
            f"Expected a mask (B, N) of inputs with shape {tuple(x.shape)}. "
            f"Received: shape of mask={shape}"
        )
    while len(mask.shape) < len(x.shape):
        mask = K.expand_dims(mask, -1)
    return K.where(mask, x, K.zeros_like(x))


def all_of(*masks):
    """The conjunction of boolean masks that broadcast, without those that are None; or None."""
    given = [as_mask(mask) for mask in masks if mask is not None]
    return functools.reduce(K.logical_and, given) if given else None


def kept_first(x, mask):
    """`x` (..., N) with what a mask keeps in front; how many there are (...,); and the way back."""
    shape = K.shape(x)
    places = places_of(K.reshape(K.broadcast_to(mask, shape), (-1, shape[-1])))

    def back(y):
        return K.reshape(places.scatter(K.reshape(y, (-1, shape[-1])), 1), shape)

    moved = places.gather(K.reshape(x, (-1, shape[-1])), 1)
    return K.reshape(moved, shape), K.reshape(places.lengths, shape[:-1]), back
