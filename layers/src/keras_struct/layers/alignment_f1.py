"""Precision, recall and F1 of the matched pairs of an alignment."""

from __future__ import annotations

import keras
from keras import ops as K

from keras_struct.layers.alignment_loss import check_reference, read_reference, reference_pairs
from keras_struct.layers.annotations import Config, DType
from keras_struct.layers.span_f1 import MEASURES, ratio
from keras_struct.layers.targets import example_weights
from keras_struct.ops.annotations import Tensor


@keras.saving.register_keras_serializable("keras_struct")
class AlignmentF1(keras.metrics.Metric):
    """Micro-averaged F1, precision or recall of the matched pairs of the best alignment.

    Args:
        measure: `"f1"`, `"precision"` or `"recall"`.
        reference: `"path"` or `"pairs"`: what `y_true` is.
        name: Name of the metric, by default `alignment_f1`, `alignment_precision` or
            `alignment_recall`.
        dtype: Dtype of the metric.

    Call arguments:
        y_true: The reference alignment, see `AlignmentCrossEntropy`.
        y_pred: The packed potentials that an `Aligner` returns.
        sample_weight: Weights of the alignments, `(B,)`.

    Raises:
        ValueError: If `measure` or `reference` is unknown, or `y_true` has another shape.

    Example:

    >>> import numpy as np
    >>> from keras_struct import layers
    >>> scores = np.eye(3, dtype="float32")[None]
    >>> packed = layers.pack(layers.AlignmentPotentials(scores, gap_open=-1.0))
    >>> metric = layers.AlignmentF1(reference="pairs")
    >>> metric.update_state(np.array([[[1, 0, 0], [0, 0, 0], [0, 0, 0]]]), packed)
    >>> float(metric.result())  # one of three predicted pairs, one of one found
    0.5
    """

    def __init__(
        self,
        measure: str = "f1",
        reference: str = "path",
        name: str | None = None,
        dtype: DType = None,
    ) -> None:
        if measure not in MEASURES:
            raise ValueError(f"Expected a measure among {MEASURES}. Received: measure={measure!r}")
        super().__init__(name=f"alignment_{measure}" if name is None else name, dtype=dtype)
        self.measure = measure
        self.reference = check_reference(reference)
        self.right = self.add_variable((), "zeros", name="right")
        self.predicted = self.add_variable((), "zeros", name="predicted")
        self.target = self.add_variable((), "zeros", name="target")

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        y_true = K.convert_to_tensor(y_true)
        y_pred = K.stop_gradient(K.convert_to_tensor(y_pred))
        y_true, potentials, _ = read_reference(self.reference, y_true, y_pred)
        weight = 1.0
        if sample_weight is not None:
            batch, owner = potentials.scores.shape[0], type(self).__name__
            weight = example_weights(sample_weight, batch, self.dtype, owner)
        alignments = potentials.distribution(temperature=0)
        predicted = K.cast(alignments.marginals(), self.dtype)
        target = reference_pairs(self.reference, y_true, potentials, alignments)
        target = K.cast(target, self.dtype)
        for variable, pairs in (
            (self.right, predicted * target),
            (self.predicted, predicted),
            (self.target, target),
        ):
            variable.assign_add(K.sum(weight * K.sum(pairs, axis=(1, 2))))

    def result(self) -> Tensor:
        return ratio(self.measure, self.right, self.predicted, self.target)

    def get_config(self) -> Config:
        return {**super().get_config(), "measure": self.measure, "reference": self.reference}
