"""Losses of whole sequences: the Keras mask of the predictions says how long they are."""

import keras
from keras import ops as K

from keras_struct.layers.sequence_mask import keras_mask, lengths_from_mask


class SequenceLoss(keras.losses.Loss):
    """Base class of losses that give one number for a sequence of predictions.

    A subclass implements `sequence_loss(y_true, y_pred, lengths)`, with the predictions
    `(B, N, F)`, zero in the padding, their lengths `(B,)`, and returns `(B,)`.
    """

    def __init__(self, reduction, name, dtype):
        super().__init__(
            name=name, reduction=reduction, dtype="float32" if dtype is None else dtype
        )

    def __call__(self, y_true, y_pred, sample_weight=None):
        # Keras would multiply the losses of the sequences by the mask of the positions.
        mask = keras_mask(y_pred)
        mask = K.ones(K.shape(y_pred)[:2], "bool") if mask is None else mask
        return super().__call__(y_true, (y_pred, mask), sample_weight)

    def call(self, y_true, y_pred):
        y_pred, mask = y_pred
        if len(y_pred.shape) != 3:
            raise ValueError(
                f"Expected predictions (B, N, F). Received: shape of y_pred={tuple(y_pred.shape)}"
            )
        mask = K.cast(mask, "bool")
        y_pred = K.where(K.expand_dims(mask, -1), y_pred, K.zeros_like(y_pred))
        return self.sequence_loss(y_true, y_pred, lengths_from_mask(mask))

    def sequence_loss(self, y_true, y_pred, lengths):
        """The losses `(B,)`, see the class."""
        raise NotImplementedError

    def get_config(self):
        return {**super().get_config(), "dtype": self.dtype}


def check_temperature(temperature):
    """The temperature, or a `ValueError`."""
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"Expected a number >= 0. Received: temperature={temperature}")
    return temperature
