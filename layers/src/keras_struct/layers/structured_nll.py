"""Negative log-likelihood of a structure under the potentials that a model returns."""

import keras
from keras import ops as K

from keras_struct.layers.packed import unpack
from keras_struct.layers.potentials import ChainPotentials


@keras.saving.register_keras_serializable("keras_struct")
class StructuredNLL(keras.losses.Loss):
    """Negative log-likelihood, in nats per sequence, of the target of a `CRF` or a `SemiMarkovCRF`.

    Args:
        reduction: How Keras reduces the losses of the sequences.
        name: Name of the loss.
        dtype: `"float32"` or `"float64"`; None for float32, whatever `keras.config.floatx` is.

    Call arguments:
        y_true: Integer tags `(B, N)`, or segments `(B, N, 2)` for a `SemiMarkovCRF`; what they hold
            in the padding is ignored. A target that the constraints forbid, or with a tag that does
            not exist, has an infinite loss and no gradient.
        y_pred: The packed potentials that a `CRF` or a `SemiMarkovCRF` returns.
        sample_weight: Weights of the sequences, `(B,)`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_struct import layers
    >>> model = keras.Sequential([keras.Input((None, 8)), layers.CRF(5)])
    >>> model.compile("adam", loss=layers.StructuredNLL())
    >>> loss = model.loss(np.zeros((2, 6)), model(np.ones((2, 6, 8))))
    """

    def __init__(self, reduction="sum_over_batch_size", name="structured_nll", dtype=None):
        super().__init__(
            name=name, reduction=reduction, dtype="float32" if dtype is None else dtype
        )

    def call(self, y_true, y_pred):
        return -unpack(y_pred, ChainPotentials).distribution().log_prob(K.cast(y_true, "int32"))

    def get_config(self):
        return {**super().get_config(), "dtype": self.dtype}
