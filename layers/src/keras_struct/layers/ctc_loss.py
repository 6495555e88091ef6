"""Connectionist temporal classification as a loss."""

from __future__ import annotations

import keras
from keras import ops as K

from keras_struct import ops
from keras_struct.layers.annotations import Config, DType
from keras_struct.layers.ctc_decoding import check_blank, read_labels, read_predictions
from keras_struct.layers.sequence_loss import SequenceLoss, pair_extent
from keras_struct.layers.targets import not_below_0
from keras_struct.ops.annotations import Tensor


@keras.saving.register_keras_serializable("keras_struct")
class CTCLoss(SequenceLoss):
    """Minus the log-probability of label sequences, over all their alignments with the frames.

    Predictions are the log-probabilities of a `CTC` head or any logits: they are normalised here,
    which leaves log-probabilities as they are. What is left out of the frames by the Keras mask of
    the predictions, and where labels end, is read from the data: there are no lengths to give.

    Args:
        blank: Symbol of the blank, from 0 to K - 1.
        from_logits: Whether predictions are logits or log-probabilities; False for probabilities.
        reduction: How Keras reduces the losses of the sequences.
        name: Name of the loss.
        dtype: `"float32"` or `"float64"`; None for float32, whatever `keras.config.floatx` is.
        zero_infinity: Whether the loss of an impossible target, such as one that needs more frames
            than there are, is 0; else it is infinite. It has no gradient.

    Call arguments:
        y_true: Labels `(B, S)` or `(B, S, 1)`, integers from 0 to K - 1. The blank and negative
            numbers are padding, wherever they stand; a target may be empty. A target with a label
            of K or more is impossible under a compiler; else it is a `ValueError`.
        y_pred: `(B, T, K)`, see `from_logits`, with the Keras mask they carry.
        sample_weight: Weights of the sequences, `(B,)`.

    Raises:
        ValueError: If shapes do not fit, or predictions are, where they can be read, probabilities
            for logits or the reverse.

    Example:

    >>> import numpy as np
    >>> from keras_struct import layers
    >>> logits = np.zeros((1, 3, 2), "float32")
    >>> loss = layers.CTCLoss()
    >>> print(round(float(loss(np.array([[1, 0, 0]]), logits)), 3))  # 6 of 8 strings read "1"
    0.288
    >>> float(loss(np.array([[1, 1, 1]]), logits))  # it needs five frames
    inf

    Source: Graves et al. (2006), Connectionist temporal classification, section 4.1.
    """

    def __init__(
        self,
        blank: int = 0,
        from_logits: bool = True,
        reduction: str | None = "sum_over_batch_size",
        name: str = "ctc_loss",
        dtype: DType = None,
        zero_infinity: bool = False,
    ) -> None:
        super().__init__(reduction, name, dtype, zero_infinity)
        self.blank = check_blank(blank)
        self.from_logits = from_logits

    def sequence_loss(self, y_true: Tensor, y_pred: Tensor, mask: Tensor | None) -> Tensor:
        log_probs = read_predictions(y_pred, mask, self.blank, self.from_logits)
        labels, valid, exists = read_labels(y_true, self.blank, *y_pred.shape[::2])
        which = pair_extent(mask, valid)
        alignments = ops.ctc(log_probs, labels, blank=self.blank, **which)
        return K.where(exists, not_below_0(-alignments.value()), float("inf"))

    def get_config(self) -> Config:
        return {**super().get_config(), "blank": self.blank, "from_logits": self.from_logits}
