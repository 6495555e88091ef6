"""Constituency parser over token states, as a prediction head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops as K

from keras_struct.layers.annotations import Config, Initializer, Shape
from keras_struct.layers.crf import clone_initializer
from keras_struct.layers.sequence_mask import in_order
from keras_struct.ops.annotations import Tensor
from keras_struct.parsers.biaffine import Biaffine
from keras_struct.parsers.parser_head import ParserHead, check_size


@keras.saving.register_keras_serializable("keras_struct")
class CKYParser(ParserHead):
    """Distribution over the labelled binary trees of a sentence, from the states of its tokens.

    The score of a tree is the sum of the scores of its spans and their labels. The score of a span
    is a biaffine form of its two boundaries, each the projected states of the tokens before and
    after it. As the last layer of a model it returns its scores, packed in one tensor, so the model
    trains with an ordinary `compile(loss=TreeNLL())` or `TreeMaxMargin()`;
    `keras_struct.layers.decoding_model` turns the trained model into one that returns the best
    trees. `chart_spans` and `tree_from_spans` go from trees to spans and back.

    Args:
        num_labels: Number of labels, K, such as `len(vocabulary)` of a `LabelVocabulary` that has
            `NULL` among them.
        output_mode: What the layer returns: `"potentials"`, packed, for the losses, the metrics and
            `decoding_model`; `"tree"`, `"minimum_risk"` or `"marginals"`, see `TreeDecoder`.
        boundary_dim: Number of features of a projected boundary.
        dropout: Rate of the projected boundaries.
        activation: Activation of the projections.
        kernel_initializer: Initializer of all kernels.
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        states: `(B, N, F)` token states.
        mask: Boolean `(B, N)`, True for tokens, wherever they stand; by default the Keras mask of
            the states. A position where it is False is no part of the sentence, and what it holds,
            NaN included, never matters.

    Returns:
        `"potentials"`: `(B, 1, 1, 2 + N, 1 + N, K)`, see `layers.unpack`; float32 under every dtype
        policy but float64. Else as `TreeDecoder`.

    Raises:
        ValueError: For arguments, or a shape of the states, that do not fit.

    Example:

    >>> import keras, numpy as np
    >>> from keras_struct import layers, parsers
    >>> (tree,) = parsers.read_trees(["(S (NP (PRP We)) (VP (VBD left) (ADVP (RB early))))"])
    >>> spans = parsers.chart_spans(tree)
    >>> labels = parsers.LabelVocabulary.of([label for *_, label in spans], [parsers.NULL])
    >>> model = keras.Sequential(
    ...     [keras.layers.Embedding(9, 8, mask_zero=True), parsers.CKYParser(len(labels))]
    ... )
    >>> model.compile("adam", parsers.TreeNLL())
    >>> words, target = np.array([[5, 8, 2]]), labels.encode_spans(spans, 5)[None]
    >>> history = model.fit(words, target, verbose=0)
    >>> tuple(layers.decoding_model(model)(words).shape)  # start, end and label of 2N - 1 spans
    (1, 5, 3)

    Source: Zhang, Zhou and Li (2020), Fast and accurate neural CRF constituency parsing; Stern,
    Andreas and Klein (2017), A minimal span-based neural constituency parser.
    """

    structure = "cky"

    def __init__(
        self,
        num_labels: int,
        output_mode: str = "potentials",
        boundary_dim: int = 100,
        dropout: float = 0.0,
        activation: str | Callable[[Tensor], Tensor] = "leaky_relu",
        kernel_initializer: Initializer = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        check_size("num_labels", num_labels)
        super().__init__(num_labels, output_mode, dropout, activation, kernel_initializer, **kwargs)
        self.boundary_dim = check_size("boundary_dim", boundary_dim)

    def build_scores(self, states_shape: Shape) -> None:
        features, d = 2 * states_shape[-1], self.boundary_dim
        self.left = self.projection("left", d, features)
        self.right = self.projection("right", d, features)
        self.biaffine = Biaffine(
            self.num_labels,
            kernel_initializer=clone_initializer(self.kernel_initializer),
            dtype=self.dtype_policy,
            name="biaffine",
        )
        self.biaffine.build((None, None, d), (None, None, d))

    def scores(self, states: Tensor, mask: Tensor | None, training: bool | None) -> Tensor:
        before = K.concatenate([in_order(_previous, mask, states), states], axis=-1)
        after = K.concatenate([states, in_order(_next, mask, states)], axis=-1)
        left = self.projected(self.left, before, training)
        right = self.projected(self.right, after, training)
        return self.biaffine(left, right)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "num_labels": self.num_labels,
            "boundary_dim": self.boundary_dim,
        }


def _previous(states):
    """The states of the token before each one, zeros for the first."""
    return K.pad(states, [(0, 0), (1, 0), (0, 0)])[:, :-1]


def _next(states):
    """The states of the token after each one, zeros for the last."""
    return K.pad(states, [(0, 0), (0, 1), (0, 0)])[:, 1:]
