"""Labelled bracket F1 of predicted constituency spans, while a model trains."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops as K

from keras_struct.layers.annotations import Config, DType
from keras_struct.layers.packed import scores_spec
from keras_struct.layers.potentials import TreePotentials
from keras_struct.layers.segments import last_start
from keras_struct.layers.targets import (
    NO_INTEGER,
    check_names,
    check_numbers,
    check_shape,
    check_where,
    example_weights,
    integers,
)
from keras_struct.ops.annotations import Tensor
from keras_struct.parsers.binarization import JOINER
from keras_struct.parsers.bracket_scores import IGNORED_LABELS, IGNORED_TAGS, scored_label
from keras_struct.parsers.tree_decoder import best_tree
from keras_struct.parsers.tree_spans import NULL

MEASURES = ("f1", "precision", "recall", "exact_match")


@keras.saving.register_keras_serializable("keras_struct")
class BracketF1(keras.metrics.Metric):
    """Micro-averaged F1, precision or recall of labelled brackets, by the conventions of EVALB.

    The metric agrees with `bracket_scores` of the trees. Labels joined by `+` are chains of
    brackets; `NULL` and EVALB's ignored labels do not count; functions (`NP-SBJ`) are cut off, and
    `PRT` counts as `ADVP`. To remove the punctuation as EVALB does, let `y_true` also hold
    the one-word spans of the punctuation tags, such as `(5, 6, ".")`.

    Args:
        labels: Names of the labels, such as those of a `LabelVocabulary`.
        measure: `"f1"`, `"precision"`, `"recall"`, or `"exact_match"`: the share of the sentences
            whose brackets are all right.
        name: Name of the metric, by default `bracket_` and the measure.
        dtype: Dtype of the metric.

    Call arguments:
        y_true: Integers `(B, M, 3)`: start, end (exclusive) and label of M spans; -1 as padding.
        y_pred: The same, `(B, P, 3)`, with P spans, or the packed scores of a `CKYParser`, of which
            the best trees count.
        sample_weight: Weights of the sentences, `(B,)`.

    Example:

    >>> from keras_struct.parsers import BracketF1
    >>> metric = BracketF1(["@", "S", "NP", "S+VP"])
    >>> y_true = [[(0, 3, 3), (0, 1, 2), (1, 3, 0)]]  # S, VP, NP
    >>> y_pred = [[(0, 3, 1), (1, 3, 0), (2, 3, 2)]]  # S, NP
    >>> metric.update_state(y_true, y_pred)
    >>> round(float(metric.result()), 3)  # one of two predicted, one of three found
    0.4

    Source: Sekine and Collins (1997), EVALB.
    """

    def __init__(
        self,
        labels: Sequence[str],
        measure: str = "f1",
        name: str | None = None,
        dtype: DType = None,
    ) -> None:
        if measure not in MEASURES:
            raise ValueError(f"Expected a measure among {MEASURES}. Received: measure={measure!r}")
        super().__init__(name=f"bracket_{measure}" if name is None else name, dtype=dtype)
        self.labels = list(labels)
        self.measure = measure
        self.right = self.add_variable((), "zeros", name="right")
        self.predicted = self.add_variable((), "zeros", name="predicted")
        self.target = self.add_variable((), "zeros", name="target")
        self._brackets, self._is_tag = _label_tables(self.labels)

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        y_true = integers(y_true)
        check_where("y_true", "integers", y_true, y_true >= 0, lambda x: x < NO_INTEGER)
        y_true = K.where(y_true < NO_INTEGER, y_true, -1)
        y_pred = K.convert_to_tensor(y_pred)
        weight = self._checked(y_true, y_pred, sample_weight)
        y_pred, words = best_tree(y_pred)
        y_pred = K.cast(y_pred, "int32")
        if words is not None:
            y_true, y_pred = (_renumbered(spans, words) for spans in (y_true, y_pred))
        base = K.maximum(K.max(y_true), K.max(y_pred)) + 2
        label = y_true[..., 2]
        known = K.logical_and(label >= 0, label < len(self.labels))
        removed = K.take(self._is_tag, K.where(known, label, 0)) * K.cast(known, "int32")
        ends = K.where(removed == 1, y_true[..., 1], base)
        target, predicted = (self._codes(spans, ends, base) for spans in (y_true, y_pred))
        counts = [
            _count_common(target, predicted),
            K.sum(K.cast(predicted > 0, "int32"), axis=1),
            K.sum(K.cast(target > 0, "int32"), axis=1),
        ]
        if self.measure == "exact_match":
            exact = K.logical_and(counts[0] == counts[1], counts[0] == counts[2])
            sentence = K.any(y_true[..., 0] >= 0, axis=1)
            counts = [K.logical_and(exact, sentence), sentence, sentence]
        for variable, count in zip((self.right, self.predicted, self.target), counts, strict=True):
            variable.assign_add(K.sum(K.cast(count, self.dtype) * weight))

    def _checked(self, y_true, y_pred, sample_weight):
        """The weights of the sentences, after the shapes and labels of all were checked."""
        batch, k = y_pred.shape[0], len(self.labels)
        check_shape("y_true", y_true, f"spans (B, M, 3), B = {batch}", batch, None, 3)
        if len(y_pred.shape) < 4:
            check_shape("y_pred", y_pred, "spans (B, P, 3)", None, None, 3)
        elif (found := scores_spec(y_pred, TreePotentials)[0].shape[-1]) > k:  # tags may follow
            check_names(self.labels, found)
        check_numbers("y_true", "labels", y_true[..., 2], y_true[..., 2] >= 0, 0, k)
        if sample_weight is None:
            return 1.0
        return example_weights(sample_weight, batch, self.dtype, type(self).__name__)

    def result(self) -> Tensor:
        if self.measure == "precision":
            return K.divide_no_nan(self.right, self.predicted)
        if self.measure == "recall":
            return K.divide_no_nan(self.right, self.target)
        return K.divide_no_nan(2 * self.right, self.predicted + self.target)

    def _codes(self, spans, ends, base):
        """A number over 0 for each bracket, equal for equal ones, else 0: `(B, M, 3)` -> `(B, MC)`.

        Words that end at `ends` are removed: every position moves left by those before it. With
        100 labels the numbers fit in int32 for sentences of up to 4,000 words.
        """
        known = spans[..., 2] < len(self.labels)
        valid = K.logical_and(K.all(spans >= 0, axis=-1), known)
        start, end = (
            place - K.sum(K.cast(ends[:, None, :] <= place[:, :, None], "int32"), axis=-1)
            for place in (spans[..., 0], spans[..., 1])
        )
        labels = K.take(self._brackets, K.where(valid, spans[..., 2], 0), axis=0)
        counts = K.logical_and(K.logical_and(valid, start < end)[..., None], labels > 0)
        codes = (labels * base + start[..., None]) * base + end[..., None]
        return K.reshape(K.where(counts, codes, 0), (K.shape(codes)[0], -1))

    def get_config(self) -> Config:
        return {**super().get_config(), "labels": self.labels, "measure": self.measure}


def _renumbered(spans, words):
    """Spans `(B, M, 3)` by the numbers of the words `(B, N)` that there are, not their places."""
    before = K.cumsum(K.cast(words, "int32"), axis=1)
    before = K.cast(K.pad(before, [(0, 0), (1, 0)]), "int32")
    places = K.clip(K.reshape(spans[..., :2], (K.shape(spans)[0], -1)), 0, K.shape(words)[1])
    numbers = K.reshape(K.take_along_axis(before, places, axis=1), K.shape(spans[..., :2]))
    numbers = K.where(spans[..., :2] < 0, spans[..., :2], numbers)
    return K.concatenate([numbers, spans[..., 2:]], axis=-1)


def _label_tables(labels):
    """Numbers over 0 of the brackets of each label `(K, C)`; whether each is a tag `(K,)`."""
    chains = [
        [part for part in map(scored_label, label.split(JOINER)) if part not in IGNORED_LABELS]
        if label not in (NULL, *IGNORED_TAGS)
        else []
        for label in labels
    ]
    numbers = {part: i for i, part in enumerate(sorted({p for c in chains for p in c}), 1)}
    brackets = np.zeros((len(labels), max(map(len, chains), default=0) + 1), "int32")
    for row, chain in zip(brackets, chains, strict=True):
        row[: len(chain)] = [numbers[part] for part in chain]
    return brackets, np.array([label in IGNORED_TAGS for label in labels], "int32")


def _count_common(target, predicted):
    """Size of the intersection of multisets `(B, M)` and `(B, P)` of numbers; 0 does not count."""
    keys = K.sort(K.concatenate([2 * target, 2 * predicted + 1], axis=1), axis=1)
    code, is_target = keys // 2, K.cast(keys % 2 == 0, "int32")
    new = K.concatenate([K.ones_like(code[:, :1], "bool"), code[:, 1:] != code[:, :-1]], axis=1)
    first = last_start(new)
    before = K.cumsum(is_target, axis=1) - is_target
    targets = before - K.take_along_axis(before, first, axis=1)
    place = K.arange(K.shape(code)[1], dtype="int32") - first - targets
    common = K.logical_and(K.logical_and(code > 0, is_target == 0), place < targets)
    return K.sum(K.cast(common, "int32"), axis=1)
