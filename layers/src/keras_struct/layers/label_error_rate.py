"""How many edits the predicted labels of sequences need, as a metric."""

from __future__ import annotations

import keras
from keras import ops as K

from keras_struct import ops
from keras_struct.layers.annotations import Config, DType
from keras_struct.layers.ctc_decoding import (
    best_path,
    check_blank,
    collapse,
    read_labels,
    read_predictions,
)
from keras_struct.layers.sequence_loss import pair_extent
from keras_struct.layers.sequence_mask import keras_mask
from keras_struct.layers.targets import check_shape, example_weights
from keras_struct.ops.annotations import Tensor


@keras.saving.register_keras_serializable("keras_struct")
class LabelErrorRate(keras.metrics.Metric):
    """Edits (substitutions, insertions, deletions) from target to predicted labels, per label.

    The character or word error rate of a recogniser, where symbols are characters or words:
    the labels of the best path are compared with the target. It may exceed 1.

    Args:
        blank: Symbol of the blank.
        from_logits: Whether predictions are logits or log-probabilities; False for probabilities.
        name: Name of the metric.
        dtype: Dtype of the metric.

    Call arguments:
        y_true: Labels, see `CTCLoss`.
        y_pred: `(B, T, K)` as a `CTC` head or logits, or decoded labels `(B, T)`, where negative
            numbers are none.
        sample_weight: Weights of the sequences, `(B,)`.

    Example:

    >>> import numpy as np
    >>> from keras_struct import layers
    >>> metric = layers.LabelErrorRate()
    >>> metric.update_state(np.array([[1, 2, 3]]), np.array([[1, 3, -1, -1]]))
    >>> round(float(metric.result()), 3)
    0.333

    Source: Levenshtein (1966); Graves et al. (2006), section 2.1.
    """

    def __init__(
        self,
        blank: int = 0,
        from_logits: bool = True,
        name: str = "label_error_rate",
        dtype: DType = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.blank = check_blank(blank)
        self.from_logits = from_logits
        self.edits = self.add_variable((), "zeros", name="edits")
        self.labels = self.add_variable((), "zeros", name="labels")

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        mask = keras_mask(y_pred)
        y_pred = K.stop_gradient(K.convert_to_tensor(y_pred))
        if len(y_pred.shape) == 3:
            k = y_pred.shape[-1]
            mask = None if mask is None else K.cast(mask, "bool")
            log_probs = read_predictions(y_pred, mask, self.blank, self.from_logits)
            found = collapse(best_path(log_probs, mask), self.blank)
        else:
            check_shape("y_pred", y_pred, "labels (B, T) or predictions (B, T, K)", None, None)
            found, k = K.cast(y_pred, "int32"), None
        batch = y_pred.shape[0]
        labels, valid, _ = read_labels(y_true, self.blank, batch, k)
        weight = K.ones((1,), self.dtype)
        if sample_weight is not None:
            owner = type(self).__name__
            weight = example_weights(sample_weight, batch, self.dtype, owner)
        different = K.not_equal(K.expand_dims(labels, 2), K.expand_dims(found, 1))
        costs, which = K.cast(different, "float32"), pair_extent(valid, found >= 0)
        edits = ops.levenshtein(costs, 1.0, 1.0, temperature=0, **which).value()
        counts = K.sum(K.cast(valid, self.dtype), axis=1)
        self.edits.assign_add(K.sum(weight * K.cast(edits, self.dtype)))
        self.labels.assign_add(K.sum(weight * counts))

    def result(self) -> Tensor:
        return K.divide_no_nan(self.edits, self.labels)

    def get_config(self) -> Config:
        return {**super().get_config(), "blank": self.blank, "from_logits": self.from_logits}
