"""Structured hinge loss of gold trees."""

from __future__ import annotations

import keras
from keras import ops as K

from keras_struct.layers.annotations import Config, DType
from keras_struct.layers.potentials import TreePotentials
from keras_struct.ops.annotations import Tensor
from keras_struct.parsers.tree_loss import TreeLoss


@keras.saving.register_keras_serializable("keras_struct")
class TreeMaxMargin(TreeLoss):
    """Structured hinge loss: by how much the gold tree fails to win with a margin.

    `max over trees Y of score(Y) + margin · errors(Y), minus score(gold)`, where the errors of Y
    are its labelled spans or arcs that are not gold. It is 0 where the gold tree scores higher than
    any other by the margin for each error.

    Args:
        margin: Positive number.
        reduction: How Keras reduces the losses of the sentences.
        name: Name of the loss.
        dtype: `"float32"` or `"float64"`; None for float32, whatever `keras.config.floatx` is.
        zero_infinity: Whether the loss of an impossible target is 0; else it is infinite. It has no
            gradient.

    Call arguments:
        y_true: Gold trees, see `TreeDecoder` for their form.
        y_pred: The packed scores of a parser head, see `layers.pack`.
        sample_weight: Weights of the sentences, `(B,)`.

    Raises:
        ValueError: If `y_true` or `sample_weight` has another shape, or `y_true` a word or label
            that does not exist (under a compiler an infinite loss), or the margin is not positive.

    Example:

    >>> import numpy as np
    >>> from keras_struct import layers, parsers
    >>> scores = np.zeros((1, 3, 3, 1), "float32")
    >>> packed = layers.pack(layers.TreePotentials(scores, structure="eisner"))
    >>> heads = np.array([[[2, 0], [0, 0], [2, 0]]])
    >>> print(round(float(parsers.TreeMaxMargin()(heads, packed)), 3))  # three wrong arcs
    3.0

    Source: Taskar, Klein, Collins, Koller and Manning (2004), Max-margin parsing; Stern, Andreas
    and Klein (2017), A minimal span-based neural constituency parser, §3.
    """

    def __init__(
        self,
        margin: float = 1.0,
        reduction: str | None = "sum_over_batch_size",
        name: str = "tree_max_margin",
        dtype: DType = None,
        zero_infinity: bool = False,
    ) -> None:
        super().__init__(reduction, name, dtype, zero_infinity)
        if not 0 < margin < float("inf"):
            raise ValueError(f"Expected a positive number. Received: margin={margin}")
        self.margin = margin

    def tree_loss(self, event: Tensor, potentials: TreePotentials) -> Tensor:
        gold = potentials.distribution(temperature=0)
        wrong = 1 - gold.parts(event)["labels"]
        raised = potentials._replace(scores=potentials.scores + self.margin * wrong)
        value, score = raised.distribution(temperature=0).value(), gold.score(event)
        possible = K.isfinite(score)
        # A target that is no tree has no gradient; infinity minus infinity would be no number.
        loss = K.where(possible, value, 0.0) - K.where(possible, score, 0.0)
        return K.where(possible, K.maximum(loss, 0.0), float("inf"))

    def get_config(self) -> Config:
        return {**super().get_config(), "margin": self.margin}
