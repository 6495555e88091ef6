"""Linear-chain conditional random field as a prediction head or an inner layer."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import initializers, regularizers
from keras import ops as K

from keras_struct.layers.annotations import Config, Initializer, Regularizer, Shape, Spec
from keras_struct.layers.packed import pack, packed_spec
from keras_struct.layers.potentials import ChainPotentials, potential_dtype
from keras_struct.layers.prediction_head import PredictionHead
from keras_struct.layers.sequence_mask import extent, without_padding
from keras_struct.layers.structured_decoder import StructuredDecoder, decode, decoded_spec
from keras_struct.layers.tag_scheme import TagConstraints
from keras_struct.ops.annotations import ArrayLike, Tensor


@keras.saving.register_keras_serializable("keras_struct")
class CRF(PredictionHead):
    """Linear-chain conditional random field over the tags of a sequence.

    **What it returns are not logits**: an `argmax(-1)` of it has no meaning. Tags come from
    `crf.decode(model.predict(x))`, from `decoding_model(model).predict(x)`, or from a layer with
    `output_mode="tags"`.

    The score of tags `y` is the sum of a score per token (a projection of its features), a learned
    score per pair of neighbouring tags, and one for the first and the last tag. As the last layer
    of a model it returns its potentials, packed in one tensor, so the model trains with an ordinary
    `compile(loss=StructuredNLL())` and saves like any other (before it is loaded,
    `keras_struct.layers` is imported). With `output_mode="marginals"` it is an inner layer:
    a softmax per token that knows about its neighbours.

    Args:
        num_tags: Number of tags, K.
        output_mode: What the layer returns: `"potentials"`, the packed potentials, for
            `StructuredNLL`, the metrics and `decoding_model`; `"marginals"`, the probability of
            each tag at each token; `"tags"`, the best tag sequence (Viterbi), -1 in the padding.
        use_projection: Whether to project the features to K scores. If False, the inputs are the
            scores, `(B, N, K)`.
        use_bias: Whether the projection has a bias.
        use_start: Whether the first tag has learned scores.
        use_end: Whether the last tag has learned scores.
        constraints: Which tags may follow each other: a `TagConstraints` (see `tag_constraints`
            for BIO and BIOES), a dict with its fields, or a `(K, K)` boolean matrix, from the
            first tag to the second. What is forbidden has probability 0, also in training: the
            loss of a target that breaks the constraints is infinite.
        temperature: Positive number by which the potentials are divided.
        kernel_initializer: Initializer of the projection.
        bias_initializer: Initializer of its bias.
        transition_initializer: Initializer of the transition, start and end scores. Zeros, the
            default, start from independent tags.
        kernel_regularizer: Regularizer of the projection.
        bias_regularizer: Regularizer of its bias.
        transition_regularizer: Regularizer of the transition, start and end scores.
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: `(B, N, F)` features.
        mask: Boolean `(B, N)`, True for tokens, wherever they stand; by default the Keras mask of
            the inputs. A position where it is False is no part of the sequence: the tokens around
            it are neighbours, and what it holds, NaN included, never matters.

    Returns:
        `"potentials"`: `(B, H + N, K)`, see `unpack`; float32 under every dtype policy but float64.
        `"marginals"`: `(B, N, K)`. `"tags"`: `(B, N)`, int32.

    Example:

    >>> import keras, numpy as np
    >>> from keras_struct import layers
    >>> labels = ["O", "B-PER", "I-PER"]
    >>> model = keras.Sequential([
    ...     keras.layers.Embedding(100, 8, mask_zero=True),
    ...     keras.layers.Bidirectional(keras.layers.LSTM(8, return_sequences=True)),
    ...     layers.CRF(3, constraints=layers.tag_constraints(labels)),
    ... ])
    >>> model.compile("adam", layers.StructuredNLL(), metrics=[layers.SpanF1(labels)])
    >>> words = np.array([[5, 8, 9, 2], [7, 3, 0, 0]])
    >>> potentials = model(words)
    >>> tags = layers.decoding_model(model)(words)  # (2, 4), -1 in the padding

    Source: Lafferty, McCallum and Pereira (2001), Conditional Random Fields.
    """

    OUTPUT_MODES: tuple[str, ...] = ("potentials", "marginals", "tags")
    decoder = StructuredDecoder
    structure = "linear_chain"

    def __init__(
        self,
        num_tags: int,
        output_mode: str = "potentials",
        use_projection: bool = True,
        use_bias: bool = True,
        use_start: bool = True,
        use_end: bool = True,
        constraints: TagConstraints | dict[str, Any] | ArrayLike | None = None,
        temperature: float = 1.0,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        transition_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        transition_regularizer: Regularizer = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(num_tags, int) or num_tags < 1:
            raise ValueError(f"Expected a positive integer. Received: num_tags={num_tags}")
        if output_mode not in self.OUTPUT_MODES:
            raise ValueError(
                f"Expected an output mode among {self.OUTPUT_MODES}. "
                f"Received: output_mode={output_mode!r}"
            )
        if not 0 < temperature < float("inf"):
            raise ValueError(f"Expected a positive number. Received: temperature={temperature}")
        self.num_tags = num_tags
        self.output_mode = output_mode
        self.use_projection = use_projection
        self.use_bias = use_bias
        self.use_start = use_start
        self.use_end = use_end
        self.constraints = as_constraints(constraints, num_tags)
        self.temperature = temperature
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.transition_initializer = initializers.get(transition_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.transition_regularizer = regularizers.get(transition_regularizer)
        self.supports_masking = True

    def build(self, input_shape: Shape) -> None:
        inner = (None,) if self.use_projection else self._inner_shape()
        if len(input_shape) != 2 + len(inner) or input_shape[-1] is None:
            raise ValueError(
                f"Expected inputs of shape {(None, None, *inner)}. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        if not self.use_projection and tuple(input_shape[2:]) != inner:
            raise ValueError(
                f"Expected scores of shape {(None, None, *inner)}, for use_projection=False. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        self.input_spec = keras.layers.InputSpec(ndim=len(input_shape), axes={-1: input_shape[-1]})
        k = self.num_tags
        if self.use_projection:
            self.projection = self._project("projection", input_shape, self.use_bias)
        self.transitions = self._add_scores("transitions", (k, k))
        self.start = self._add_scores("start", (k,)) if self.use_start else None
        self.end = self._add_scores("end", (k,)) if self.use_end else None

    def _project(self, name, input_shape, use_bias):
        dense = keras.layers.Dense(
            self.num_tags,
            use_bias=use_bias,
            kernel_initializer=clone_initializer(self.kernel_initializer),
            bias_initializer=self.bias_initializer,
            kernel_regularizer=self.kernel_regularizer,
            bias_regularizer=self.bias_regularizer,
            dtype=self.dtype_policy,
            name=name,
        )
        dense.build(input_shape)
        return dense

    def _add_scores(self, name, shape):
        # Half precision would round these few numbers for nothing.
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=clone_initializer(self.transition_initializer),
            regularizer=self.transition_regularizer,
            autocast=False,
        )

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        potentials = self._potentials(inputs, mask)
        if self.returns_potentials:
            return pack(potentials)
        decoded = decode(potentials, self.output_mode)
        return K.cast(decoded, self.compute_dtype) if self.output_mode == "marginals" else decoded

    def _potentials(self, inputs, mask):
        inputs, which, allowed = without_padding(inputs, mask), extent(mask), self.constraints
        return ChainPotentials(
            self._tempered(self._scores(inputs, which.get("mask"))),
            self._tempered(self.transitions, allowed and allowed.transitions),
            self._tempered(self.start, allowed and allowed.start),
            self._tempered(self.end, allowed and allowed.end),
            **which,
        )

    def _scores(self, inputs, mask):
        return self.projection(inputs) if self.use_projection else inputs

    def _tempered(self, scores, allowed=None):
        if scores is None and allowed is None:
            return None
        dtype = self._potential_dtype()
        if scores is None:
            scores = K.zeros(allowed.shape, dtype)
        scores = K.cast(scores, dtype) / self.temperature
        return scores if allowed is None else K.where(allowed, scores, -float("inf"))

    def _potential_dtype(self):
        return potential_dtype(self.compute_dtype)

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None = None) -> Tensor | None:
        # The packed potentials hold their lengths, and have rows that are not tokens.
        return None if self.returns_potentials else previous_mask

    def compute_output_spec(self, inputs: Tensor, mask: Tensor | None = None) -> Spec:
        batch, n = inputs.shape[:2]
        if not self.returns_potentials:
            return decoded_spec(self.output_mode, (batch, n), self.num_tags, self.compute_dtype)
        shape = (batch, n, *self._inner_shape())
        return packed_spec(self.structure, {}, shape, self._potential_dtype())

    def _inner_shape(self):
        return (self.num_tags,)

    def get_config(self) -> Config:
        constraints = self.constraints
        if constraints is not None:
            constraints = {key: x.tolist() for key, x in constraints._asdict().items()}
        return {
            **super().get_config(),
            "num_tags": self.num_tags,
            "output_mode": self.output_mode,
            "use_projection": self.use_projection,
            "use_bias": self.use_bias,
            "use_start": self.use_start,
            "use_end": self.use_end,
            "constraints": constraints,
            "temperature": self.temperature,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "transition_initializer": initializers.serialize(self.transition_initializer),
            "kernel_regularizer": regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": regularizers.serialize(self.bias_regularizer),
            "transition_regularizer": regularizers.serialize(self.transition_regularizer),
        }


def as_constraints(constraints, num_tags):
    """`TagConstraints` from what a user may give, or None."""
    if constraints is None:
        return None
    everywhere = np.ones(num_tags, bool)
    if isinstance(constraints, dict):
        constraints = TagConstraints(**constraints)
    elif not isinstance(constraints, TagConstraints):
        constraints = TagConstraints(constraints, everywhere, everywhere)
    constraints = TagConstraints(*(np.asarray(x, bool) for x in constraints))
    shapes = [x.shape for x in constraints]
    if shapes != [(num_tags, num_tags), (num_tags,), (num_tags,)]:
        raise ValueError(
            f"Expected constraints for {num_tags} tags: transitions ({num_tags}, {num_tags}), "
            f"start ({num_tags},), end ({num_tags},). Received: shapes={shapes}"
        )
    return constraints


def clone_initializer(initializer):
    """A fresh copy: an instance that was used gives the same numbers again."""
    return type(initializer).from_config(initializer.get_config())
