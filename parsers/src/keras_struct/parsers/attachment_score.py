"""Attachment scores of predicted heads and relations, while a model trains."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops as K

from keras_struct.layers.annotations import Config, DType
from keras_struct.layers.packed import scores_spec
from keras_struct.layers.potentials import TreePotentials
from keras_struct.layers.sequence_mask import all_of
from keras_struct.layers.targets import (
    check_names,
    check_numbers,
    check_shape,
    fits,
    integers,
    token_weights,
)
from keras_struct.ops.annotations import Tensor
from keras_struct.parsers.attachment_scores import CONTENT_RELATIONS, universal_relation
from keras_struct.parsers.tree_decoder import best_tree

MEASURES = ("uas", "las", "clas")


@keras.saving.register_keras_serializable("keras_struct")
class AttachmentScore(keras.metrics.Metric):
    """UAS, LAS or CLAS, by the conventions of the CoNLL 2018 shared task.

    The metric agrees with `attachment_scores` of the trees. All words count, punctuation too; of a
    relation only what stands before `:` is compared; CLAS is the F1 of the words whose relation is
    a content one.

    Args:
        measure: `"uas"`: heads; `"las"`: heads and relations; `"clas"`: the same of content words.
        labels: Names of the relations, for `"las"` and `"clas"`.
        name: Name of the metric, by default the measure.
        dtype: Dtype of the metric.

    Call arguments:
        y_true: Integers `(B, N, 2)`, head and relation of N words, or for `"uas"` heads `(B, N)`;
            -1 in the padding.
        y_pred: The same, or the packed scores of a `DependencyParser`, of which the best trees
            count, and of both what is no padding of the parser; what it holds in the padding is
            ignored.
        sample_weight: Weights of the sentences, `(B,)`, or of the words, `(B, N)`.

    Example:

    >>> from keras_struct.parsers import AttachmentScore
    >>> metric = AttachmentScore("las", labels=["root", "nsubj", "nsubj:pass", "advmod"])
    >>> y_true, y_pred = [[(2, 1), (0, 0), (2, 3), (-1, -1)]], [[(2, 2), (0, 0), (1, 3), (0, 0)]]
    >>> metric.update_state(y_true, y_pred)
    >>> round(float(metric.result()), 3)
    0.667

    Source: Zeman et al. (2018), CoNLL 2018 Shared Task, §5.1; Nivre and Fang (2017), Universal
    Dependency Evaluation (CLAS).
    """

    def __init__(
        self,
        measure: str = "uas",
        labels: Sequence[str] | None = None,
        name: str | None = None,
        dtype: DType = None,
    ) -> None:
        if measure not in MEASURES:
            raise ValueError(f"Expected a measure among {MEASURES}. Received: measure={measure!r}")
        if labels is None and measure != "uas":
            raise ValueError(f"Expected the names of the relations for {measure}. Received: None")
        super().__init__(name=measure if name is None else name, dtype=dtype)
        self.measure = measure
        self.labels = None if labels is None else list(labels)
        self.right = self.add_variable((), "zeros", name="right")
        self.predicted = self.add_variable((), "zeros", name="predicted")
        self.target = self.add_variable((), "zeros", name="target")

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        y_true = integers(y_true)
        y_pred = K.convert_to_tensor(y_pred)
        self._check_shapes(y_true, y_pred)
        y_pred, words = best_tree(y_pred)
        y_pred = K.cast(y_pred, "int32")
        heads, found_heads = (y[..., 0] if len(y.shape) == 3 else y for y in (y_true, y_pred))
        valid = all_of(heads >= 0, words)
        n = heads.shape[1]
        check_numbers("y_true", "heads", heads, valid, 0, None if n is None else n + 1)
        right, predicted, target = K.logical_and(valid, heads == found_heads), valid, valid
        if self.labels is not None and self.measure != "uas":
            universal, content = _relation_tables(self.labels)
            k = len(self.labels)
            check_numbers("y_true", "relations", y_true[..., 1], valid, 0, k)
            # A relation that does not exist is none that counts, and never right.
            exists = [K.logical_and(y[..., 1] >= 0, y[..., 1] < k) for y in (y_true, y_pred)]
            right = K.logical_and(right, K.logical_and(*exists))
            known = [
                K.where(K.logical_and(valid, there), y[..., 1], 0)
                for y, there in zip((y_true, y_pred), exists, strict=True)
            ]
            relations = [K.take(universal, relation) for relation in known]
            right = K.logical_and(right, relations[0] == relations[1])
            if self.measure == "clas":
                target, predicted = (
                    K.logical_and(K.logical_and(valid, there), K.take(content, relation) == 1)
                    for relation, there in zip(known, exists, strict=True)
                )
                right = K.logical_and(right, target)
        weight = token_weights(sample_weight, heads, self.dtype)
        for variable, counted in (
            (self.right, right),
            (self.predicted, predicted),
            (self.target, target),
        ):
            variable.assign_add(K.sum(K.cast(counted, self.dtype) * weight))

    def _check_shapes(self, y_true, y_pred):
        packed = len(y_pred.shape) >= 4
        given = scores_spec(y_pred, TreePotentials)[0] if packed else y_pred
        shape = given.shape[:2]
        if packed and self.measure != "uas":
            check_names(self.labels, given.shape[-1])
        forms = [(*shape, 2)] if self.measure != "uas" else [(*shape, 2), (*shape, 1), shape]
        if not any(fits(y_true.shape, form) for form in forms):
            raise ValueError(
                f"Expected heads and relations (B, N, 2), or for 'uas' heads (B, N), for the "
                f"predictions {tuple(y_pred.shape)}. "
                f"Received: shape of y_true={tuple(y_true.shape)}"
            )
        if self.measure != "uas" and not packed:
            check_shape("y_pred", y_pred, "heads and relations (B, N, 2)", None, None, 2)

    def result(self) -> Tensor:
        return K.divide_no_nan(2 * self.right, self.predicted + self.target)

    def get_config(self) -> Config:
        return {**super().get_config(), "measure": self.measure, "labels": self.labels}


def _relation_tables(labels):
    """Number of the universal part of each relation, and whether it is a content relation."""
    parts = [universal_relation(label) for label in labels]
    content = [part in CONTENT_RELATIONS for part in parts]
    return np.array([parts.index(part) for part in parts], "int32"), np.array(content, "int32")
