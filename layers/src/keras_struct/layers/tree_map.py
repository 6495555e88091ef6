"""Attention maps of a sequence over itself: the marginals of trees over its positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops as K

from keras_struct import ops
from keras_struct.layers.annotations import Config, Spec
from keras_struct.layers.attention_map import MARGINALS, AttentionMap
from keras_struct.layers.sequence_mask import all_of
from keras_struct.ops.annotations import Tensor


class TreeMap(AttentionMap):
    """Base class of the maps of self-attention: one tree over the positions for each head.

    A subclass implements `marginals(scores, mask, temperature, read)`.

    Args:
        temperature: See `AttentionMap`.
        learn_temperature: See `AttentionMap`.
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        scores: `(..., H, T, T)` of heads, queries and keys, both the same sequence; minus infinity
            for a pair that must not be.
        key_mask: Booleans that broadcast against `(..., H, T)`: which keys there are, wherever they
            stand; None for all.
        query_mask: The same for the queries; a position is there as both.

    Returns:
        `(..., H, T, T)` in the dtype of the scores; exactly 0 for what is not there, and everywhere
        if there is no tree.

    Raises:
        ValueError: Where queries and keys are not equally many.
    """

    over_pairs = True

    def call(
        self,
        scores: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        *,
        training: bool | None = None,
    ) -> Tensor:
        queries, keys = scores.shape[-2:]
        if None not in (queries, keys) and queries != keys:
            raise ValueError(
                "Expected self-attention, with as many queries as keys, for a tree. "
                f"Received: {queries} queries and {keys} keys"
            )
        return self.read(scores, all_of(key_mask, query_mask), training)

    def compute_output_spec(
        self,
        scores: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        *,
        training: bool | None = None,
    ) -> Spec:
        return super().compute_output_spec(scores)


class DependencyMap(TreeMap):
    """Base class of the maps in which each query attends to its head in a dependency tree.

    The score of a query and a key is that of the arc from the key (head) to the query
    (dependent); on the diagonal it is the score of being the root, which attends to itself. Each
    row of the map sums to 1.

    Args:
        single_root: Whether a tree has exactly one root; else one or more.
        temperature: See `AttentionMap`.
        learn_temperature: See `AttentionMap`.
        **kwargs: `name`, `dtype`, `trainable`.
    """

    trees = staticmethod(ops.spanning_tree)

    def __init__(
        self,
        single_root: bool = True,
        temperature: float = 1.0,
        learn_temperature: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(temperature, learn_temperature, **kwargs)
        if not isinstance(single_root, bool):
            raise ValueError(f"Expected True or False. Received: single_root={single_root!r}")
        self.single_root = single_root

    def marginals(
        self,
        scores: Tensor,
        mask: Tensor | None,
        temperature: float,
        read: Callable[[ops.Distribution], Tensor] = MARGINALS,
    ) -> Tensor:
        options: dict[str, Any] = {"single_root": self.single_root, "temperature": temperature}
        return read(self.trees(scores, mask=mask, **options))

    def get_config(self) -> Config:
        return {**super().get_config(), "single_root": self.single_root}


@keras.saving.register_keras_serializable("keras_struct")
class SpanningTreeMap(DependencyMap):
    """Each query attends to its head in a dependency tree, see `DependencyMap`.

    Args:
        single_root: Whether a tree has exactly one root; else one or more.
        temperature: See `AttentionMap`.
        learn_temperature: See `AttentionMap`.
        **kwargs: `name`, `dtype`, `trainable`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_struct import layers
    >>> scores = np.zeros((1, 1, 2, 2), "float32")  # either position is the root
    >>> print(np.round(keras.ops.convert_to_numpy(layers.SpanningTreeMap()(scores)), 3)[0, 0])
    [[0.5 0.5]
     [0.5 0.5]]

    Source: Kim, Denton, Hoang and Rush (2017), Structured attention networks, section 4; Liu and
    Lapata (2018), Learning structured text representations (non-projective trees).
    """


@keras.saving.register_keras_serializable("keras_struct")
class EisnerMap(DependencyMap):
    """Each query attends to its head in a projective dependency tree, see `DependencyMap`.

    Args:
        single_root: Whether a tree has exactly one root; else one or more.
        temperature: See `AttentionMap`.
        learn_temperature: See `AttentionMap`.
        **kwargs: `name`, `dtype`, `trainable`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_struct import layers
    >>> scores = np.zeros((1, 1, 3, 3), "float32")  # seven trees; the root is any position
    >>> print(np.round(7 * keras.ops.convert_to_numpy(layers.EisnerMap()(scores)))[0, 0])
    [[3. 2. 2.]
     [3. 1. 3.]
     [2. 2. 3.]]

    Source: Kim, Denton, Hoang and Rush (2017), Structured attention networks, section 4.
    """

    trees = staticmethod(ops.eisner)


@keras.saving.register_keras_serializable("keras_struct")
class CKYMap(TreeMap):
    """Each position attends to those with which it bounds a phrase of a binary tree.

    The score of the phrase from position i to position j is the sum of the scores of query i with
    key j and of query j with key i (of a single position its own). The map is symmetric: the
    probability that the phrase is in the tree; 1 on the diagonal.

    Args:
        temperature: See `AttentionMap`.
        learn_temperature: See `AttentionMap`.
        **kwargs: `name`, `dtype`, `trainable`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_struct import layers
    >>> scores = np.zeros((1, 1, 3, 3), "float32")  # two trees over three positions
    >>> keras.ops.convert_to_numpy(layers.CKYMap()(scores)).round(3)[0, 0].tolist()
    [[1.0, 0.5, 1.0], [0.5, 1.0, 0.5], [1.0, 0.5, 1.0]]

    Source: Baker (1979), Trainable grammars for speech recognition; the map as in Kim, Denton,
    Hoang and Rush (2017), Structured attention networks.
    """

    def marginals(
        self,
        scores: Tensor,
        mask: Tensor | None,
        temperature: float,
        read: Callable[[ops.Distribution], Tensor] = MARGINALS,
    ) -> Tensor:
        places = K.arange(K.shape(scores)[-1])
        upper = K.cast(places[:, None] < places, scores.dtype)
        alone = K.equal(places[:, None], places)
        # Minus infinity times zero is no number, so what is not added is taken out first.
        both = K.where(alone, scores, scores + K.swapaxes(scores, -2, -1))
        spans = read(ops.cky(both, mask=mask, temperature=temperature))
        return spans + K.swapaxes(spans * upper, -2, -1)
