"""Soft edit distance between predicted token probabilities and target tokens, as a loss."""

from __future__ import annotations

import math

import keras
from keras import ops as K

from keras_struct import ops
from keras_struct.layers.annotations import Config, DType
from keras_struct.layers.chain_targets import tag_numbers
from keras_struct.layers.sequence_loss import SequenceLoss, check_temperature, pair_extent
from keras_struct.layers.targets import check_numbers
from keras_struct.ops.annotations import Tensor


@keras.saving.register_keras_serializable("keras_struct")
class SoftEditDistance(SequenceLoss):
    """Soft edit distance from target tokens to predicted distributions over tokens.

    Substituting target token `t` by a position with probabilities `p` costs its expectation,
    `substitution * (1 - p[t])`. The loss is the soft minimum of the cost over all ways to edit: at
    temperature 0 and with one-hot predictions the Levenshtein distance, else less, and perhaps
    negative: the higher the temperature, the more alike ways there are, the lower the value.

    Args:
        substitution: Cost of another token, a number >= 0.
        deletion: Cost of a target token that the prediction lacks, a number >= 0.
        insertion: Cost of a predicted position that the target lacks, a number >= 0.
        temperature: Number >= 0, in the unit of the costs.
        from_logits: Whether predictions are logits; by default they are probabilities.
        padding: Token that is none: padding of `y_true`, wherever it stands.
        reduction: How Keras reduces the losses of the sequences.
        name: Name of the loss.
        dtype: `"float32"` or `"float64"`; None for float32, whatever `keras.config.floatx` is.
        zero_infinity: Whether the loss of an impossible target is 0; else it is infinite. It has no
            gradient.

    Call arguments:
        y_true: Integer tokens `(B, L1)` or `(B, L1, 1)`, from 0 to K - 1, or `padding`.
            A target with another token has an infinite loss and no gradient, under a compiler; else
            it is a `ValueError`.
        y_pred: `(B, L2, K)`, with the Keras mask they carry, whatever it is.
        sample_weight: Weights of the sequences, `(B,)`.

    Raises:
        ValueError: If the arguments, or the shapes of the sequences, do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct import layers
    >>> kitten, sitting = np.array([[4, 3, 6, 6, 2, 5, -1]]), np.array([[0, 3, 6, 6, 3, 5, 1]])
    >>> float(layers.SoftEditDistance(temperature=0)(kitten, np.eye(7)[sitting]))
    3.0

    Source: Levenshtein (1966); Ofitserov, Tsvetkov and Nazarov (2019), Soft edit distance for
    differentiable comparison of symbolic sequences.
    """

    def __init__(
        self,
        substitution: float = 1.0,
        deletion: float = 1.0,
        insertion: float = 1.0,
        temperature: float = 0.1,
        from_logits: bool = False,
        padding: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str = "soft_edit_distance",
        dtype: DType = None,
        zero_infinity: bool = False,
    ) -> None:
        super().__init__(reduction, name, dtype, zero_infinity)
        costs = {"substitution": substitution, "deletion": deletion, "insertion": insertion}
        if not all(0 <= cost < math.inf for cost in costs.values()):
            raise ValueError(f"Expected finite costs >= 0. Received: costs={costs}")
        self.costs = costs
        self.temperature = check_temperature(temperature)
        self.from_logits = from_logits
        self.padding = padding

    def sequence_loss(self, y_true: Tensor, y_pred: Tensor, mask: Tensor | None) -> Tensor:
        k = y_pred.shape[-1]
        y_true = tag_numbers(y_true, k, y_pred.shape[0], sets=False)
        valid = K.not_equal(y_true, self.padding)
        check_numbers("y_true", "tokens", y_true, valid, 0, k)
        known = K.logical_and(y_true >= 0, y_true < k)
        tokens = K.expand_dims(K.where(K.logical_and(valid, known), y_true, 0), 1)
        tokens = K.broadcast_to(tokens, (*K.shape(y_pred)[:2], K.shape(y_true)[1]))
        probabilities = K.softmax(y_pred) if self.from_logits else y_pred
        hits = K.transpose(K.take_along_axis(probabilities, tokens, axis=2), (0, 2, 1))
        distance = ops.levenshtein(
            self.costs["substitution"] * (1 - hits),
            self.costs["deletion"],
            self.costs["insertion"],
            temperature=self.temperature,
            **pair_extent(valid, mask),
        ).value()
        possible = K.all(K.logical_or(known, K.logical_not(valid)), axis=1)
        return K.where(possible, distance, float("inf"))

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            **self.costs,
            "temperature": self.temperature,
            "from_logits": self.from_logits,
            "padding": self.padding,
        }
