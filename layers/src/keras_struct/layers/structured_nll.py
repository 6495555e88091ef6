"""Negative log-likelihood of a structure under the potentials that a model returns."""

from __future__ import annotations

import keras
from keras import ops as K

from keras_struct.layers.annotations import Config, DType
from keras_struct.layers.chain_targets import chain_target, check_ignore_index
from keras_struct.layers.packed import unpack
from keras_struct.layers.potentials import ChainPotentials
from keras_struct.layers.targets import StructuredLoss, token_weights
from keras_struct.layers.token_nll import weighted_nll
from keras_struct.ops.annotations import ArrayLike, Tensor


@keras.saving.register_keras_serializable("keras_struct")
class StructuredNLL(StructuredLoss):
    """Negative log-likelihood, in nats per sequence, of the target of a `CRF` or a `SemiMarkovCRF`.

    What a target leaves open is summed out, exactly: the loss is minus the log-probability of all
    sequences that agree with what is known. A token is left open wholly by the label
    `ignore_index`, as the further pieces of a word are in data for subword taggers, and partly by a
    row of several 1 in a one-hot target. It stays a part of the sequence; what should be none, so
    that the tags before and after it are neighbours, is masked in the head.

    With weights of tokens, for a `CRF`, it is the sum over the tokens of weight times
    `-log p(tag | observed tags before it)`, where those of weight 0 are not observed. So weights 0
    and 1 give the negative log-likelihood of the tags of weight 1, whatever the others are: their
    labels never matter. One weight for all tokens of a sequence is a weight of the sequence.

    Args:
        reduction: How Keras reduces the losses of the sequences.
        name: Name of the loss.
        dtype: `"float32"` or `"float64"`; None for float32, whatever `keras.config.floatx` is.
        zero_infinity: Whether the loss of an impossible target is 0; else it is infinite. It has no
            gradient.
        class_weights: For a `CRF`, weights of the tags, a number >= 0 for each or a dict
            `{tag: weight}` with 1 for the others: every token has the weight of its true tag, times
            its sample weight; where several tags are allowed, their mean weight. (`class_weight`
            of `fit` is one weight for a sequence, of a tag that Keras takes from it by an argmax
            over time: not this.)
        ignore_index: Label of a tag that is not known, such as -100 or -1; None for no such label.
            In segments a length of `ignore_index`, below -1, says that nothing is known of what
            starts at the token, as a label that the segment may have any label. It costs a second
            sweep where a compiler cannot see that all is known; not with None.

    Call arguments:
        y_true: Integer tags `(B, N)` or `(B, N, 1)`; one-hot tags `(B, N, K)`, or booleans that
            are True for every tag that a token may have; segments `(B, N, 2)` for a
            `SemiMarkovCRF`; what they hold in the padding is ignored. A target that is impossible,
            since the constraints forbid it or a segment is longer than `max_length`, has an
            infinite loss, or 0 if `zero_infinity`, and no gradient. So has one with a tag that does
            not exist, under a compiler; else it is a `ValueError`.
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
        reduction: str | None = "sum_over_batch_size",
        name: str = "structured_nll",
        dtype: DType = None,
        class_weights: ArrayLike | None = None,
        ignore_index: int | None = -100,
        zero_infinity: bool = False,
    ) -> None:
        super().__init__(reduction, name, dtype, zero_infinity)
        self.class_weights = _as_class_weights(class_weights)
        self.ignore_index = check_ignore_index(ignore_index)

    def losses(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_true, weight = y_true if isinstance(y_true, tuple) else (y_true, None)
        potentials = unpack(y_pred, ChainPotentials)
        if weight is None and self.class_weights is None:
            target = chain_target(y_true, potentials, ignore_index=self.ignore_index)
            return -target.log_likelihood(potentials)
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
        target = chain_target(y_true, potentials, weight, self.ignore_index)
        sets = target.tag_sets(potentials.scores.shape[-1])
        return weighted_nll(potentials, sets, weight * self._weights_of(sets, potentials))

    def _weights_of(self, sets, potentials):
        """The mean class weights of sets of tags `(B, N, K)`; 1 where there is none."""
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
        sets = K.cast(sets, dtype)
        return 1.0 + K.sum(sets * others, axis=-1) / K.maximum(K.sum(sets, axis=-1), 1.0)

    def get_config(self) -> Config:
        weights = self.class_weights
        if isinstance(weights, dict):  # the keys of JSON are strings
            weights = {str(tag): weight for tag, weight in weights.items()}
        return {
            **super().get_config(),
            "class_weights": weights,
            "ignore_index": self.ignore_index,
        }


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
