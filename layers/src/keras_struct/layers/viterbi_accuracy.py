"""How often the best tags under the potentials of a model are right."""

from __future__ import annotations

import keras
from keras import ops as K

from keras_struct.layers.annotations import Config, DType
from keras_struct.layers.chain_targets import chain_target, check_ignore_index
from keras_struct.layers.packed import unpack
from keras_struct.layers.potentials import ChainPotentials
from keras_struct.layers.segments import token_labels
from keras_struct.layers.targets import example_weights, token_weights
from keras_struct.ops.annotations import Tensor


@keras.saving.register_keras_serializable("keras_struct")
class ViterbiAccuracy(keras.metrics.Mean):
    """Share of the tokens whose tag in the best sequence (Viterbi) is right.

    The metric decodes every batch; to save that time while training, leave it out of `compile`
    and evaluate the `decoding_model`.

    Args:
        name: Name of the metric.
        dtype: Dtype of the metric.
        ignore_index: Label of a tag that is not known, see `StructuredNLL`: it does not count.

    Call arguments:
        y_true: Tags `(B, N)`, `(B, N, 1)` or one-hot `(B, N, K)`, or segments `(B, N, 2)` for a
            `SemiMarkovCRF`, see `StructuredNLL`; what they hold in the padding is ignored. Where a
            token may have several tags, each of them is right.
        y_pred: The packed potentials that a `CRF` or a `SemiMarkovCRF` returns.
        sample_weight: Weights of the sequences, `(B,)`, or of the tokens, `(B, N)`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_struct import layers
    >>> metric = layers.ViterbiAccuracy()
    >>> chain = layers.ChainPotentials(np.eye(3, dtype="float32")[None], np.zeros((3, 3)))
    >>> metric.update_state([[0, 1, 0]], layers.pack(chain))
    >>> round(float(metric.result()), 3)
    0.667
    """

    def __init__(
        self, name: str = "viterbi_accuracy", dtype: DType = None, ignore_index: int | None = -100
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.ignore_index = check_ignore_index(ignore_index)

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        potentials = _potentials(y_pred)
        weight = token_weights(sample_weight, potentials.positions(), self.dtype)
        right, known = _right_tags(y_true, potentials, self.ignore_index, weight)
        weight = weight * K.cast(known, self.dtype)
        super().update_state(K.cast(right, self.dtype), sample_weight=weight)

    def get_config(self) -> Config:
        return {**super().get_config(), "ignore_index": self.ignore_index}


@keras.saving.register_keras_serializable("keras_struct")
class ViterbiSequenceAccuracy(keras.metrics.Mean):
    """Share of the sequences whose best tags (Viterbi) are all right.

    Args:
        name: Name of the metric.
        dtype: Dtype of the metric.
        ignore_index: Label of a tag that is not known, see `StructuredNLL`: it does not count.

    Call arguments:
        y_true: Tags `(B, N)`, `(B, N, 1)` or one-hot `(B, N, K)`, or segments `(B, N, 2)` for a
            `SemiMarkovCRF`, see `StructuredNLL`; what they hold in the padding is ignored. Where a
            token may have several tags, each of them is right.
        y_pred: The packed potentials that a `CRF` or a `SemiMarkovCRF` returns.
        sample_weight: Weights of the sequences, `(B,)`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_struct import layers
    >>> metric = layers.ViterbiSequenceAccuracy()
    >>> chain = layers.ChainPotentials(np.eye(3, dtype="float32")[None], np.zeros((3, 3)))
    >>> metric.update_state([[0, 1, 2]], layers.pack(chain))
    >>> float(metric.result())
    1.0
    """

    def __init__(
        self,
        name: str = "viterbi_sequence_accuracy",
        dtype: DType = None,
        ignore_index: int | None = -100,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.ignore_index = check_ignore_index(ignore_index)

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        potentials = _potentials(y_pred)
        if sample_weight is not None:
            batch, owner = potentials.scores.shape[0], type(self).__name__
            sample_weight = example_weights(sample_weight, batch, self.dtype, owner)
        right, known = _right_tags(y_true, potentials, self.ignore_index)
        right = K.all(K.logical_or(right, K.logical_not(known)), axis=-1)
        super().update_state(K.cast(right, self.dtype), sample_weight=sample_weight)

    def get_config(self) -> Config:
        return {**super().get_config(), "ignore_index": self.ignore_index}


def _potentials(y_pred):
    return unpack(K.stop_gradient(K.convert_to_tensor(y_pred)), ChainPotentials)


def _right_tags(y_true, potentials, ignore_index, weight=None):
    """Whether each tag is right, and whether it counts, both `(B, N)`."""
    target = chain_target(y_true, potentials, weight, ignore_index)
    best, valid = potentials.distribution().argmax(), potentials.positions()
    if len(best.shape) == 3:
        right = K.equal(token_labels(best, valid), token_labels(target.event, valid))
        return right, K.logical_and(valid, target.single)
    sets = target.tag_sets(potentials.scores.shape[-1])
    right = K.take_along_axis(sets, K.expand_dims(K.maximum(best, 0), -1), axis=-1)[..., 0]
    return right, K.logical_and(valid, target.known)
