"""Negative log-likelihood of a structure under the potentials that a model returns."""

import keras
from keras import ops as K

from keras_struct.layers.packed import unpack
from keras_struct.layers.potentials import ChainPotentials
from keras_struct.layers.targets import StructuredLoss, chain_target, token_weights
from keras_struct.layers.token_nll import weighted_nll


@keras.saving.register_keras_serializable("keras_struct")
class StructuredNLL(StructuredLoss):
    """Negative log-likelihood, in nats per sequence, of the target of a `CRF` or a `SemiMarkovCRF`.

    With weights of tokens, for a `CRF`, it is the sum over the tokens of weight times
    `-log p(tag | observed tags before it)`, where those of weight 0 are not observed. So weights 0
    and 1 give the negative log-likelihood of the tags of weight 1, whatever the others are: their
    labels never matter. One weight for all tokens of a sequence is a weight of the sequence.

    Args:
        reduction: How Keras reduces the losses of the sequences.
        name: Name of the loss.
        dtype: `"float32"` or `"float64"`; None for float32, whatever `keras.config.floatx` is.
        class_weights: For a `CRF`, weights of the tags, a number >= 0 for each or a dict
            `{tag: weight}` with 1 for the others: every token has the weight of its true tag, times
            its sample weight. (`class_weight` of `fit` is one weight for a sequence, of a tag that
            Keras takes from it by an argmax over time: not this.)

    Call arguments:
        y_true: Integer tags `(B, N)` or `(B, N, 1)`, or one-hot tags `(B, N, K)`; segments
            `(B, N, 2)` for a `SemiMarkovCRF`; what they hold in the padding is ignored. A target
            that the constraints forbid has an infinite loss and no gradient. So has one with a tag
            that does not exist, under a compiler; else it is a `ValueError`.
        y_pred: The packed potentials that a `CRF` or a `SemiMarkovCRF` returns.
        sample_weight: Weights of the sequences, `(B,)`, or for a `CRF` of the tokens, `(B, N)`.

    Raises:
        ValueError: If `y_true` or `sample_weight` has another shape, or there are not K class
            weights.

    Example:

    >>> import keras, numpy as np
    >>> from keras_struct import layers
    >>> model = keras.Sequential([keras.Input((None, 8)), layers.CRF(5)])
    >>> model.compile("adam", loss=layers.StructuredNLL())
    >>> loss = model.loss(np.zeros((2, 6)), model(np.ones((2, 6, 8))))
    """

    weighs_tokens = True

    def __init__(
        self,
        reduction="sum_over_batch_size",
        name="structured_nll",
        dtype=None,
        class_weights=None,
    ):
        super().__init__(reduction, name, dtype)
        self.class_weights = _as_class_weights(class_weights)

    def call(self, y_true, y_pred):
        y_true, weight = y_true if isinstance(y_true, tuple) else (y_true, None)
        potentials = unpack(y_pred, ChainPotentials)
        if weight is None and self.class_weights is None:
            target = chain_target(y_true, potentials)
            return -potentials.distribution().log_prob(target)
        if potentials.structure == "semi_markov":
            raise ValueError(
                "Expected weights of the sequences (B,): the likelihood of segments has no weights "
                "of tokens or classes. Received: "
                + (
                    f"class_weights={self.class_weights}"
                    if weight is None
                    else f"shape of sample_weight={tuple(weight.shape)}"
                )
            )
        like = potentials.scores[..., 0]
        weight = token_weights(weight, like, like.dtype)
        target = chain_target(y_true, potentials, weight)
        return weighted_nll(potentials, target, weight * self._weights_of(target, potentials))

    def _weights_of(self, tags, potentials):
        """The class weights of tags `(B, N)`; 1 for a tag that does not exist."""
        if self.class_weights is None:
            return 1.0
        k, dtype = potentials.scores.shape[-1], potentials.scores.dtype
        given = self.class_weights
        if isinstance(given, dict):
            fit = all(0 <= tag < k for tag in given)
            given = [given.get(tag, 1.0) for tag in range(k)] if fit else given
        if len(given) != k or isinstance(given, dict):
            raise ValueError(
                f"Expected class weights of the {k} tags that the potentials have. "
                f"Received: class_weights={self.class_weights}"
            )
        others = K.convert_to_tensor(given, dtype) - 1.0
        is_tag = K.equal(K.expand_dims(tags, -1), K.arange(k, dtype="int32"))
        return 1.0 + K.sum(K.where(is_tag, others, K.zeros_like(others)), axis=-1)

    def get_config(self):
        weights = self.class_weights
        if isinstance(weights, dict):  # the keys of JSON are strings
            weights = {str(tag): weight for tag, weight in weights.items()}
        return {**super().get_config(), "class_weights": weights}


def _as_class_weights(weights):
    """A dict of integers, a list of numbers, or None, from what a user may give."""
    if weights is None:
        return None
    numbers = weights.values() if isinstance(weights, dict) else weights
    numbers = [float(number) for number in numbers]
    if not all(0 <= number < float("inf") for number in numbers):
        raise ValueError(f"Expected finite numbers >= 0. Received: class_weights={weights}")
    if isinstance(weights, dict):
        return {int(tag): number for tag, number in zip(weights, numbers, strict=True)}
    return numbers
