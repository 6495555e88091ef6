"""From the states of subwords to those of words."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops as K

from keras_struct.layers.annotations import Spec
from keras_struct.ops.annotations import Tensor


@keras.saving.register_keras_serializable("keras_struct")
class WordPooling(keras.layers.Layer):
    """The state of a word: those of its first and of its last subword, side by side.

    The places count the subwords of the whole batch, row by row, so that the subwords of one
    sentence may lie in several rows (windows). The output carries the Keras mask of the words.

    Call arguments:
        inputs: List of two. The states of subwords, `(R, T, F)`; and integers `(B, N, 2)`, the
            place, row · T + column, of the first and the last subword of every word, -1 in the
            padding, on the right.

    Returns:
        `(B, N, 2F)`; 0 in the padding.

    Example:

    >>> import keras, numpy as np
    >>> from keras_struct.treebank import WordPooling
    >>> states = np.arange(6, dtype="float32").reshape(1, 6, 1)
    >>> places = np.array([[[1, 1], [2, 4], [-1, -1]]])
    >>> keras.ops.convert_to_numpy(WordPooling()([states, places])).tolist()
    [[[1.0, 1.0], [2.0, 4.0], [0.0, 0.0]]]
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs: Tensor) -> Tensor:
        states, places = inputs
        features = states.shape[-1]
        batch, n, _ = K.shape(places)
        flat = K.reshape(states, (-1, features))
        index = K.reshape(K.maximum(K.cast(places, "int32"), 0), (-1,))
        words = K.reshape(K.take(flat, index, axis=0), (batch, n, 2 * features))
        return K.where(places[:, :, :1] >= 0, words, K.zeros_like(words))

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None = None) -> Tensor | None:
        return inputs[1][..., 0] >= 0

    def compute_output_spec(self, inputs: Tensor) -> Spec:
        states, places = inputs
        shape = (*places.shape[:2], 2 * states.shape[-1])
        return keras.KerasTensor(shape, self.compute_dtype)
