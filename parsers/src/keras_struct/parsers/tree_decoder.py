"""From packed scores to trees and marginals, as a layer that lives in the graph."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops as K

from keras_struct.layers.annotations import Config, Spec
from keras_struct.layers.import_hint import ImportHint
from keras_struct.layers.packed import scores_spec, unpack
from keras_struct.layers.potentials import TreePotentials
from keras_struct.ops.annotations import Tensor
from keras_struct.parsers.tree_target import tree_of

OUTPUT_MODES = ("tree", "marginals", "minimum_risk")


@keras.saving.register_keras_serializable("keras_struct")
class TreeDecoder(ImportHint):
    """Best trees or marginals of the packed scores of a parser head.

    The layer has no weights: the scores hold everything.

    Args:
        output_mode: `"tree"`, the best tree; `"minimum_risk"`, the tree with the most expected
            correct parts: the best one by the marginals; `"marginals"`, the probability of every
            labelled span or arc.
        temperature: Number >= 0 by which the scores are divided for the marginals; 0 gives the
            indicator of the best tree.
        null_label: For `"minimum_risk"`: number of the label of spans that do not count, such as
            those that only make a tree binary; None if all count.
        threshold: For `"minimum_risk"` with a null label: a span or arc counts its probability less
            this, so that those below are rather given the null label. Half of the F1 that is
            reached makes the expected F1 greatest.
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: Packed scores, see `layers.pack`.

    Returns:
        Constituency trees: `(B, 2N - 1, 3)`, int32, start, end (exclusive) and label of every
        span, parents before their children, then -1. Dependency trees: `(B, N, 2)`, int32, head (0
        for the root, else the number of the head from 1) and relation, -1 in the padding. Words are
        numbered by their place in the array, also behind padding.
        Marginals: `(B, N, N, K)`, see `TreePotentials`; 0 in the padding.

    Example:

    >>> import numpy as np
    >>> from keras_struct import layers, parsers
    >>> scores = np.zeros((1, 3, 3, 1), "float32")  # [dependent, head, relation]
    >>> scores[0, [0, 1, 2], [1, 1, 0]] = 1
    >>> packed = layers.pack(layers.TreePotentials(scores, structure="spanning_tree"))
    >>> keras.ops.convert_to_numpy(parsers.TreeDecoder()(packed))[0, :, 0].tolist()
    [2, 0, 1]

    Source: Goodman (1996), Parsing algorithms and metrics (the tree of minimum risk); Lipton, Elkan
    and Naryanaswamy (2014), Optimal thresholding of classifiers to maximize F1 measure.
    """

    def __init__(
        self,
        output_mode: str = "tree",
        temperature: float = 1.0,
        null_label: int | None = None,
        threshold: float = 0.0,
        **kwargs: Any,
    ) -> None:
        # Half precision would round the scores and lose the lengths.
        super().__init__(autocast=False, **kwargs)
        if output_mode not in OUTPUT_MODES:
            raise ValueError(
                f"Expected an output mode among {OUTPUT_MODES}. "
                f"Received: output_mode={output_mode!r}"
            )
        if not 0 <= temperature < float("inf"):
            raise ValueError(f"Expected a number >= 0. Received: temperature={temperature}")
        if not 0 <= threshold < 1:
            raise ValueError(f"Expected a number from 0 to 1. Received: threshold={threshold}")
        self.output_mode = output_mode
        self.temperature = temperature
        self.null_label, self.threshold = null_label, threshold

    def call(self, inputs: Tensor) -> Tensor:
        potentials = unpack(inputs, TreePotentials)
        k = potentials.scores.shape[-1]
        if self.null_label is not None and not 0 <= self.null_label < k:
            raise ValueError(
                f"Expected one of the labels 0 to {k - 1}. Received: null_label={self.null_label}"
            )
        return decode(
            potentials,
            self.output_mode,
            self.compute_dtype,
            self.temperature,
            self.null_label,
            self.threshold,
        )

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None = None) -> Tensor | None:
        return None

    def compute_output_spec(self, inputs: Tensor) -> Spec:
        scores, header = scores_spec(inputs, TreePotentials)
        return decoded_spec(self.output_mode, scores.shape, header.structure, self.compute_dtype)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "output_mode": self.output_mode,
            "temperature": self.temperature,
            "null_label": self.null_label,
            "threshold": self.threshold,
        }


def decode(potentials, output_mode, dtype, temperature=1.0, null_label=None, threshold=0.0):
    """Trees or marginals of `TreePotentials`; the marginals in `dtype`."""
    if output_mode != "tree":
        marginals = potentials.distribution(temperature).marginals("labels")
        if output_mode == "marginals":
            return K.cast(marginals, dtype)
        if null_label is not None:
            counts = K.not_equal(K.arange(marginals.shape[-1]), null_label)
            marginals = K.where(counts, marginals - threshold, K.zeros_like(marginals))
        potentials = potentials._replace(scores=marginals)
    return tree_of(potentials.distribution(temperature=0).argmax(), potentials)


def decoded_spec(output_mode, shape, structure, dtype):
    """The `KerasTensor` of what `decode` returns, for scores of this shape."""
    batch, n = shape[:2]
    if output_mode == "marginals":
        return keras.KerasTensor(shape, dtype)
    if structure == "cky":
        return keras.KerasTensor((batch, None if n is None else 2 * n - 1, 3), "int32")
    return keras.KerasTensor((batch, n, 2), "int32")


def best_tree(y_pred):
    """The padded array of the best trees of packed scores, and which words there are `(B, N)`.

    Any other array as it is, and None.
    """
    y_pred = K.convert_to_tensor(y_pred)
    if len(y_pred.shape) < 4:
        return y_pred, None
    potentials = unpack(K.stop_gradient(y_pred), TreePotentials)
    return decode(potentials, "tree", None), potentials.positions()
