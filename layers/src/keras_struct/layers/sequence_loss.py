"""Losses of whole sequences: the Keras mask of the predictions says what belongs to them."""

from __future__ import annotations

from keras import ops as K

from keras_struct.layers.sequence_mask import extent, keras_mask, without_padding
from keras_struct.layers.targets import StructuredLoss, check_shape
from keras_struct.ops.annotations import Tensor


class SequenceLoss(StructuredLoss):
    """Base class of losses that give one number for a sequence of predictions.

    A subclass implements `sequence_loss(y_true, y_pred, mask)`, with the predictions `(B, N, F)`,
    zero in the padding, their mask `(B, N)` or None, and returns `(B,)`.
    """

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> Tensor:
        # Keras would multiply the losses of the sequences by the mask of the positions.
        mask = keras_mask(y_pred)
        given = (y_pred,) if mask is None else (y_pred, mask)
        return super().__call__(y_true, given, sample_weight)

    def losses(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_pred, mask = (*y_pred, None)[:2]
        check_shape("y_pred", y_pred, "predictions (B, N, F)", None, None, None)
        mask = None if mask is None else K.cast(mask, "bool")
        return self.sequence_loss(y_true, without_padding(y_pred, mask), mask)

    def sequence_loss(self, y_true, y_pred, mask):
        """The losses `(B,)`, see the class."""
        raise NotImplementedError


def pair_extent(first, second):
    """What `ops` takes of the masks of two sequences, or None, as keyword arguments."""
    which = extent(first), extent(second)
    return {name: tuple(x.get(name) for x in which) for name in ("lengths", "mask")}


def check_temperature(temperature):
    """The temperature, or a `ValueError`."""
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"Expected a number >= 0. Received: temperature={temperature}")
    return temperature
