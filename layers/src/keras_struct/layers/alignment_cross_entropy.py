"""How unlikely a reference alignment is under the potentials of an `Aligner`, as a loss."""

from __future__ import annotations

import keras
from keras import ops as K

from keras_struct import ops
from keras_struct.layers.alignment_loss import AlignmentLoss, reference_pairs
from keras_struct.layers.annotations import DType
from keras_struct.layers.potentials import AlignmentPotentials
from keras_struct.ops.annotations import Tensor


@keras.saving.register_keras_serializable("keras_struct")
class AlignmentCrossEntropy(AlignmentLoss):
    """Cross-entropy, in nats per pair of sequences, of a reference under an `Aligner`.

    A whole alignment as reference, a path, has its exact negative log-likelihood. Where only
    matched pairs are known, or trusted, the loss is the sum of the binary cross-entropies of all
    pairs under the soft map.

    Args:
        reference: `"path"` or `"pairs"`: what `y_true` is.
        reduction: How Keras reduces the losses of the alignments.
        name: Name of the loss.
        dtype: `"float32"` or `"float64"`; None for float32, whatever `keras.config.floatx` is.
        zero_infinity: Whether the loss of an impossible target is 0; else it is infinite. It has no
            gradient.

    Call arguments:
        y_true: A path: the nodes `(B, N, 2)` as `argmax` of `ops.smith_waterman` and its like gives
            them, then -1, where a token counts by its place, also behind padding; an impossible one
            has an infinite loss and no gradient (but with a node that does not exist, and not under
            a compiler, it is a `ValueError`). Or pairs: `(B, L1, L2)`, 1 (or a probability) where
            two tokens are matched, else 0; what it holds in the padding is ignored.
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
    >>> path = np.array([[[0, 0], [1, 1]]])  # one of three
    >>> print(round(float(layers.AlignmentCrossEntropy()(path, packed)), 3))
    1.099
    >>> loss = layers.AlignmentCrossEntropy("pairs")
    >>> print(round(float(loss(np.ones((1, 1, 1)), packed)), 3))
    1.099
    """

    def __init__(
        self,
        reference: str = "path",
        reduction: str | None = "sum_over_batch_size",
        name: str = "alignment_cross_entropy",
        dtype: DType = None,
        zero_infinity: bool = False,
    ) -> None:
        super().__init__(reference, reduction, name, dtype, zero_infinity)

    def alignment_loss(
        self, y_true: Tensor, potentials: AlignmentPotentials, alignments: ops.Distribution
    ) -> Tensor:
        if self.reference == "path":
            return -alignments.log_prob(y_true)
        p = alignments.marginals()
        # The logarithm of a probability keeps its gradient far below that of its complement.
        matched = K.log(K.maximum(p, 1e-30))
        unmatched = K.log(K.maximum(1 - p, 1e-7))
        y_true = reference_pairs(self.reference, y_true, potentials, alignments)
        return -K.sum(y_true * matched + (1 - y_true) * unmatched, axis=(1, 2))
