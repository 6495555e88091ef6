"""What the losses of trees share."""

import keras

from keras_struct.layers.packed import unpack
from keras_struct.layers.potentials import TreePotentials
from keras_struct.parsers.tree_target import event_of


class TreeLoss(keras.losses.Loss):
    """Base class of losses of gold trees under the packed scores of a parser head.

    A subclass implements `tree_loss(event, potentials)`, which returns `(B,)`.

    Args:
        reduction: How Keras reduces the losses of the sentences.
        name: Name of the loss.
        dtype: `"float32"` or `"float64"`; None for float32, whatever `keras.config.floatx` is.

    Call arguments:
        y_true: Constituency trees: `(B, 2N - 1, 3)`, start, end (exclusive) and label of all spans
            of a binary tree, see `chart_spans`. Dependency trees: `(B, N, 2)`, head (0 for the
            root, else the number of the head from 1) and relation, or heads `(B, N)` where there is
            one relation only. -1 in the padding.
        y_pred: The packed scores of a parser head, see `layers.pack`.
        sample_weight: Weights of the sentences, `(B,)`.
    """

    def __init__(self, reduction="sum_over_batch_size", name=None, dtype=None):
        super().__init__(
            name=name, reduction=reduction, dtype="float32" if dtype is None else dtype
        )

    def call(self, y_true, y_pred):
        potentials = unpack(y_pred, TreePotentials)
        return self.tree_loss(event_of(y_true, potentials), potentials)

    def tree_loss(self, event, potentials):
        """The losses `(B,)`, see the class."""
        raise NotImplementedError

    def get_config(self):
        return {**super().get_config(), "dtype": self.dtype}
