"""Dependency parsers over token states, as prediction heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops as K

from keras_struct.layers.annotations import Config, Initializer, Shape
from keras_struct.layers.crf import clone_initializer
from keras_struct.ops.annotations import Tensor
from keras_struct.parsers.biaffine import Biaffine
from keras_struct.parsers.parser_head import ParserHead, check_size


class DependencyParser(ParserHead):
    """Distribution over the dependency trees of a sentence, from the states of its tokens.

    The score of a tree is the sum of the scores of its arcs and of their relations, both biaffine
    forms of the projected states of dependent and head; the root has learned states of its own. As
    the last layer of a model it returns its scores, packed in one tensor, so the model trains with
    an ordinary `compile(loss=TreeNLL())` or `TreeMaxMargin()`;
    `keras_struct.layers.decoding_model` turns the trained model into one that returns the best
    trees.

    Args:
        num_relations: Number of relations, K; 1 for heads only.
        output_mode: What the layer returns: `"potentials"`, packed, for the losses, the metrics and
            `decoding_model`; `"tree"`, `"minimum_risk"` or `"marginals"`, see `TreeDecoder`.
        single_root: Whether a tree has exactly one root; else one or more.
        arc_dim: Number of features of a projected state, for the scores of the arcs.
        relation_dim: The same for those of the relations.
        dropout: Rate of the projected states.
        activation: Activation of the projections.
        kernel_initializer: Initializer of all kernels.
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        states: `(B, N, F)` token states.
        mask: Boolean `(B, N)`, True for tokens, wherever they stand; by default the Keras mask of
            the states. A position where it is False is no part of the sentence, and what it holds,
            NaN included, never matters.

    Returns:
        `"potentials"`: `(B, 2 + N, 1 + N, K)` with axes of size 1, see `layers.unpack`;
        float32 under every dtype policy but float64. Else as `TreeDecoder`.

    Raises:
        ValueError: For arguments, or a shape of the states, that do not fit.
    """

    def __init__(
        self,
        num_relations: int,
        output_mode: str = "potentials",
        single_root: bool = True,
        arc_dim: int = 256,
        relation_dim: int = 64,
        dropout: float = 0.0,
        activation: str | Callable[[Tensor], Tensor] = "leaky_relu",
        kernel_initializer: Initializer = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        check_size("num_relations", num_relations)
        super().__init__(
            num_relations, output_mode, dropout, activation, kernel_initializer, **kwargs
        )
        if not isinstance(single_root, bool):
            raise ValueError(f"Expected True or False. Received: single_root={single_root!r}")
        self.num_relations = num_relations
        self.single_root = single_root
        self.arc_dim = check_size("arc_dim", arc_dim)
        self.relation_dim = check_size("relation_dim", relation_dim)

    def build_scores(self, states_shape: Shape) -> None:
        features = states_shape[-1]
        self.root = self.add_weight(shape=(features,), initializer="zeros", name="root")
        # Keras before 3.15 saves no weights of layers in a list of tuples.
        self.arc_layers = self._part("arc", self.arc_dim, 1, features)
        self.relation_layers = []
        if self.num_relations > 1:
            self.relation_layers = self._part(
                "relation", self.relation_dim, self.num_relations, features
            )

    def _part(self, name, units, scores, features):
        dependent = self.projection(f"{name}_dependent", units, features)
        head = self.projection(f"{name}_head", units, features)
        biaffine = Biaffine(
            scores,
            kernel_initializer=clone_initializer(self.kernel_initializer),
            dtype=self.dtype_policy,
            name=f"{name}_scores",
        )
        biaffine.build((None, None, units), (None, None, units))
        return [dependent, head, biaffine]

    def scores(self, states: Tensor, mask: Tensor | None, training: bool | None) -> Tensor:
        batch, n, features = K.shape(states)
        root = K.broadcast_to(K.cast(self.root, states.dtype), (batch, 1, features))
        heads = K.concatenate([states, root], axis=1)
        scores = [
            biaffine(
                self.projected(dependent, states, training), self.projected(head, heads, training)
            )
            for dependent, head, biaffine in filter(None, (self.arc_layers, self.relation_layers))
        ]
        total = scores[0] if len(scores) == 1 else scores[0] + scores[1]
        places = K.arange(n, dtype="int32")
        alone = K.equal(places[:, None], places)[:, :, None]
        return K.where(alone, total[:, :, n:], total[:, :, :n])

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "num_relations": self.num_relations,
            "single_root": self.single_root,
            "arc_dim": self.arc_dim,
            "relation_dim": self.relation_dim,
        }


@keras.saving.register_keras_serializable("keras_struct")
class EisnerParser(DependencyParser):
    """Distribution over the projective dependency trees of a sentence, see `DependencyParser`.

    Args:
        num_relations: Number of relations, K; 1 for heads only.
        output_mode: `"potentials"`, `"tree"`, `"minimum_risk"` or `"marginals"`.
        single_root: Whether a tree has exactly one root; else one or more.
        arc_dim: Number of features of a projected state, for the scores of the arcs.
        relation_dim: The same for those of the relations.
        dropout: Rate of the projected states.
        activation: Activation of the projections.
        kernel_initializer: Initializer of all kernels.
        **kwargs: `name`, `dtype`, `trainable`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_struct import layers, parsers
    >>> model = keras.Sequential(
    ...     [keras.layers.Embedding(9, 8, mask_zero=True), parsers.EisnerParser(4)]
    ... )
    >>> model.compile("adam", parsers.TreeNLL(), metrics=[parsers.AttachmentScore()])
    >>> words, trees = np.array([[5, 8, 2]]), np.array([[(2, 1), (0, 0), (2, 3)]])
    >>> history = model.fit(words, trees, verbose=0)
    >>> tuple(layers.decoding_model(model)(words).shape)  # heads and relations
    (1, 3, 2)

    Source: Dozat and Manning (2017), Deep biaffine attention for neural dependency parsing; Eisner
    (1996), Three new probabilistic models for dependency parsing.
    """

    structure = "eisner"


@keras.saving.register_keras_serializable("keras_struct")
class SpanningTreeParser(DependencyParser):
    """Distribution over all dependency trees of a sentence, crossing arcs too.

    See `DependencyParser`.

    Args:
        num_relations: Number of relations, K; 1 for heads only.
        output_mode: `"potentials"`, `"tree"`, `"minimum_risk"` or `"marginals"`.
        single_root: Whether a tree has exactly one root; else one or more.
        arc_dim: Number of features of a projected state, for the scores of the arcs.
        relation_dim: The same for those of the relations.
        dropout: Rate of the projected states.
        activation: Activation of the projections.
        kernel_initializer: Initializer of all kernels.
        **kwargs: `name`, `dtype`, `trainable`.

    Example:

    >>> import numpy as np
    >>> from keras_struct import parsers
    >>> head = parsers.SpanningTreeParser(4, output_mode="marginals")
    >>> tuple(head(np.ones((1, 3, 8), "float32")).shape)  # [dependent, head, relation]
    (1, 3, 3, 4)

    Source: Dozat and Manning (2017), Deep biaffine attention for neural dependency parsing; Koo,
    Globerson, Carreras and Collins (2007), Structured prediction models via the Matrix-Tree
    theorem.
    """

    structure = "spanning_tree"
