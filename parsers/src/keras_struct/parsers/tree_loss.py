"""What the losses of trees share."""

from __future__ import annotations

from keras import ops as K

from keras_struct.layers.packed import unpack
from keras_struct.layers.potentials import TreePotentials
from keras_struct.layers.targets import StructuredLoss
from keras_struct.ops.annotations import Tensor
from keras_struct.parsers.tree_target import read_tree


class TreeLoss(StructuredLoss):
    """Base class of losses of gold trees under the packed scores of a parser head.

    A subclass implements `tree_loss(event, potentials)`, which returns `(B,)`. If it weights words,
    see `StructuredLoss`, there is a third argument where it was given weights.

    Args:
        reduction: How Keras reduces the losses of the sentences.
        name: Name of the loss.
        dtype: `"float32"` or `"float64"`; None for float32, whatever `keras.config.floatx` is.
        zero_infinity: Whether the loss of an impossible target is 0; else it is infinite. It has no
            gradient.

    Call arguments:
        y_true: Constituency trees: `(B, 2N - 1, 3)`, start, end (exclusive) and label of all spans
            of a binary tree, see `chart_spans`. Dependency trees: `(B, N, 2)`, head (0 for the
            root, else the number of the head from 1) and relation, or heads `(B, N)` where there is
            one relation only. -1 in the padding. A tree with a word or a label that does not exist
            has an infinite loss and no gradient, under a compiler; else it is a `ValueError`.
        y_pred: The packed scores of a parser head, see `layers.pack`.
        sample_weight: Weights of the sentences, `(B,)`.
    """

    def __init__(self, reduction="sum_over_batch_size", name=None, dtype=None, zero_infinity=False):
        super().__init__(reduction, name, dtype, zero_infinity)

    def losses(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_true, weight = y_true if isinstance(y_true, tuple) else (y_true, None)
        potentials = unpack(y_pred, TreePotentials)
        if weight is not None:
            weight = self.word_weights(weight, potentials)
        return self.losses_of(y_true, potentials, weight)

    def losses_of(
        self, y_true: Tensor, potentials: TreePotentials, weight: Tensor | None = None
    ) -> Tensor:
        """The losses `(B,)` of trees under potentials, infinite where there is no such tree."""
        event, exists = read_tree(y_true, potentials, weight)
        given = () if weight is None else (weight,)
        losses = self.tree_loss(event, potentials, *given)
        return K.where(exists, losses, float("inf"))

    def word_weights(self, weight: Tensor, potentials: TreePotentials) -> Tensor:
        """Weights `(B, N)` of words, or a `ValueError`; only where `weighs_tokens` is True."""
        raise NotImplementedError

    def tree_loss(self, event, potentials):
        """The losses `(B,)`, see the class."""
        raise NotImplementedError
