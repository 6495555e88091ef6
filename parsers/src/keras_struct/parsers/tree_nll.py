"""Negative log-likelihood of gold trees."""

import keras

from keras_struct.parsers.tree_loss import TreeLoss


@keras.saving.register_keras_serializable("keras_struct")
class TreeNLL(TreeLoss):
    """Negative log-likelihood, in nats per sentence, of gold trees under a parser head.

    A target that is no tree of the structure, such as a non-projective one under `EisnerParser`,
    has an infinite loss and no gradient.

    Args:
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
            that does not exist (under a compiler an infinite loss).

    Example:

    >>> import numpy as np
    >>> from keras_struct import layers, parsers
    >>> scores = np.zeros((1, 3, 3, 1), "float32")
    >>> packed = layers.pack(layers.TreePotentials(scores, structure="eisner"))
    >>> heads = np.array([[[2, 0], [0, 0], [2, 0]]])  # one of seven trees
    >>> print(round(float(parsers.TreeNLL()(heads, packed)), 3))
    1.946

    Source: Zhang, Li and Zhang (2020), Efficient second-order TreeCRF for neural dependency
    parsing; Zhang, Zhou and Li (2020), Fast and accurate neural CRF constituency parsing.
    """

    def __init__(
        self,
        reduction="sum_over_batch_size",
        name="tree_nll",
        dtype=None,
        zero_infinity=False,
    ):
        super().__init__(reduction, name, dtype, zero_infinity)

    def tree_loss(self, event, potentials):
        return -potentials.distribution().log_prob(event)
