"""Cross-entropy of parts on their own: the loss of parsers without a structure."""

from __future__ import annotations

import keras
from keras import ops as K

from keras_struct.layers.annotations import DType
from keras_struct.layers.potentials import TreePotentials
from keras_struct.layers.targets import token_weights
from keras_struct.ops.annotations import Tensor
from keras_struct.parsers.tree_loss import TreeLoss


@keras.saving.register_keras_serializable("keras_struct")
class LocalCrossEntropy(TreeLoss):
    """Cross-entropy, in nats per sentence, of independent choices instead of a tree.

    The usual baseline of a structured loss, for the same heads: every word chooses its head and
    relation by a softmax of its own (Dozat and Manning); every span chooses its label, or to be no
    constituent, which is label 0. Decode arcs with `TreeDecoder` (the best tree) or word by word,
    spans with `greedy_spans`.

    Args:
        reduction: How Keras reduces the losses of the sentences.
        name: Name of the loss.
        dtype: `"float32"` or `"float64"`; None for float32, whatever `keras.config.floatx` is.
        zero_infinity: Whether the loss of an impossible target is 0; else it is infinite. It has no
            gradient.

    Call arguments:
        y_true: Gold trees, see `TreeDecoder` for their form; spans may be those of any tree.
        y_pred: The packed scores of a parser head, see `layers.pack`.
        sample_weight: Weights of the sentences, `(B,)`, or of the words of dependency trees,
            `(B, N)`, each of which is a choice; the head of a word of weight 0 does not matter.

    Raises:
        ValueError: If `y_true` or `sample_weight` has another shape, or `y_true` a word or label
            that does not exist (under a compiler an infinite loss).

    Example:

    >>> import numpy as np
    >>> from keras_struct import layers, parsers
    >>> scores = np.zeros((1, 3, 3, 1), "float32")
    >>> packed = layers.pack(layers.TreePotentials(scores, structure="eisner"))
    >>> heads = np.array([[[2, 0], [0, 0], [2, 0]]])  # each word one of three
    >>> print(round(float(parsers.LocalCrossEntropy()(heads, packed)), 3))
    3.296

    Source: Dozat and Manning (2017), Deep biaffine attention for neural dependency parsing; Gaddy,
    Stern and Klein (2018), What's going on in neural constituency parsers?, §2 (independent spans).
    """

    weighs_tokens = True

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str = "local_cross_entropy",
        dtype: DType = None,
        zero_infinity: bool = False,
    ) -> None:
        super().__init__(reduction, name, dtype, zero_infinity)

    def word_weights(self, weight: Tensor, potentials: TreePotentials) -> Tensor:
        if potentials.constituency:
            raise ValueError(
                "Expected weights of the sentences (B,): spans have no weights of words. "
                f"Received: shape of sample_weight={tuple(weight.shape)}"
            )
        return token_weights(weight, potentials.positions(), potentials.scores.dtype)

    def tree_loss(
        self, event: Tensor, potentials: TreePotentials, weight: Tensor | None = None
    ) -> Tensor:
        scores = potentials.scores
        batch, n, _, k = K.shape(scores)
        word = potentials.positions()
        if potentials.constituency:
            places = K.arange(n, dtype="int32")
            both = K.logical_and(word[:, :, None], word[:, None])
            valid = K.logical_and(both, places[:, None] <= places)
            target, logits = K.maximum(event, 0), scores
        else:
            valid, heads = word, K.maximum(event[..., 0], 0)
            target = heads * k + K.maximum(event[..., 1], 0)
            logits = K.where(word[:, None, :, None], scores, -1e30)
            logits = K.reshape(logits, (batch, n, n * k))
        logits = K.where(K.expand_dims(valid, -1), logits, 0.0)
        picked = K.take_along_axis(logits, K.expand_dims(K.where(valid, target, 0), -1), axis=-1)
        losses = K.logsumexp(logits, axis=-1) - picked[..., 0]
        if weight is not None:
            valid = K.logical_and(valid, K.not_equal(weight, 0))
            losses = losses * weight
        return K.sum(K.where(valid, losses, 0.0), axis=tuple(range(1, len(losses.shape))))
