"""One minus the expected F1 of the matched pairs of an `Aligner`, as a loss."""

from __future__ import annotations

import keras
from keras import ops as K

from keras_struct import ops
from keras_struct.layers.alignment_loss import AlignmentLoss, reference_pairs
from keras_struct.layers.annotations import DType
from keras_struct.layers.potentials import AlignmentPotentials
from keras_struct.ops.annotations import Tensor


@keras.saving.register_keras_serializable("keras_struct")
class AlignmentF1Loss(AlignmentLoss):
    """One minus the soft F1 of the matched pairs, `1 - 2 Σ P A / (Σ P + Σ A)`, per alignment.

    `P` is the soft map of the potentials and `A` the reference. Its gradient goes through the
    map, the second derivative of the structure, so it also teaches gaps and temperature what the
    map needs. Where both have no pair the loss is 0.

    Args:
        reference: `"path"` or `"pairs"`: what `y_true` is.
        reduction: How Keras reduces the losses of the alignments.
        name: Name of the loss.
        dtype: `"float32"` or `"float64"`; None for float32, whatever `keras.config.floatx` is.
        zero_infinity: Whether the loss of an impossible target is 0; else it is infinite. It has no
            gradient.

    Call arguments:
        y_true: The reference alignment, see `AlignmentCrossEntropy`.
        y_pred: The packed potentials that an `Aligner` returns.
        sample_weight: Weights of the alignments, `(B,)`.

    Raises:
        ValueError: If `reference` is unknown, or `y_true` has another shape.

    Example:

    >>> import numpy as np
    >>> from keras_struct import layers
    >>> scores = np.zeros((1, 1, 1), "float32")
    >>> packed = layers.pack(
    ...     layers.AlignmentPotentials(scores, gap_open=0.0, structure="needleman_wunsch")
    ... )
    >>> loss = layers.AlignmentF1Loss("pairs")  # the pair has probability 1/3
    >>> print(round(float(loss(np.ones((1, 1, 1)), packed)), 3))
    0.5
    """

    def __init__(
        self,
        reference: str = "path",
        reduction: str | None = "sum_over_batch_size",
        name: str = "alignment_f1_loss",
        dtype: DType = None,
        zero_infinity: bool = False,
    ) -> None:
        super().__init__(reference, reduction, name, dtype, zero_infinity)

    def alignment_loss(
        self, y_true: Tensor, potentials: AlignmentPotentials, alignments: ops.Distribution
    ) -> Tensor:
        p = alignments.marginals()
        target = K.cast(reference_pairs(self.reference, y_true, potentials, alignments), p.dtype)
        both, all_pairs = (K.sum(x, axis=(1, 2)) for x in (p * target, p + target))
        some = all_pairs > 0
        f1 = 2 * both / K.where(some, all_pairs, K.ones_like(all_pairs))
        return K.where(some, 1 - f1, K.zeros_like(f1))
