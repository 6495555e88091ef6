"""Precision, recall and F1 of labelled spans."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops as K

from keras_struct.layers.annotations import Config, DType
from keras_struct.layers.chain_targets import chain_target, check_ignore_index, tags_of
from keras_struct.layers.packed import unpack
from keras_struct.layers.potentials import ChainPotentials
from keras_struct.layers.segments import last_start
from keras_struct.layers.sequence_mask import extent, keras_mask
from keras_struct.layers.tag_scheme import span_tables
from keras_struct.layers.targets import check_names, token_weights
from keras_struct.ops.annotations import Tensor
from keras_struct.ops.masks import places_of

MEASURES = ("f1", "precision", "recall")


@keras.saving.register_keras_serializable("keras_struct")
class SpanF1(keras.metrics.Metric):
    """Micro-averaged F1, precision or recall of the labelled spans that tags mark.

    A predicted span is right if its start, its end and its type are those of a target span. The
    rules for where spans start and end are those of the CoNLL-2000 evaluation script, so the
    metric takes every scheme: BIO, IOB1, BIOES, BILOU, BMES, and `["I", "B"]` for the boundaries
    of words, where every token belongs to a word.

    Args:
        labels: Names of the tags, such as `["O", "B-PER", "I-PER"]`; for a `SemiMarkovCRF` names of
            the segments, such as `["O", "PER"]`, where those named `"O"` are not spans.
        measure: `"f1"`, `"precision"` or `"recall"`.
        from_potentials: Whether predictions are the packed potentials of a `CRF` or a
            `SemiMarkovCRF`. If False, they are tags `(B, N)` or scores `(B, N, K)` of a tagger,
            with the Keras mask they carry (which Keras does not hand to metrics in `fit` on JAX:
            give `sample_weight` there).
        name: Name of the metric, by default `span_f1`, `span_precision` or `span_recall`.
        dtype: Dtype of the metric.
        ignore_index: Label of a tag that is not known, see `StructuredNLL`. Tokens whose tag is not
            known, also where several are allowed, are left out of both sequences of tags, as is
            usual with the further pieces of a word; and segments that start at one.

    Call arguments:
        y_true: Tags `(B, N)`, `(B, N, 1)` or one-hot `(B, N, K)`, or segments `(B, N, 2)` for a
            `SemiMarkovCRF`, see `StructuredNLL`; what they hold in the padding is ignored. If
            `from_potentials` is False, negative tags are not known.
        y_pred: Predictions, see `from_potentials`.
        sample_weight: Weights of the sequences, `(B,)`, or of the tokens, `(B, N)`; a span has the
            weight of its last token (of a `SemiMarkovCRF`, its first).

    Raises:
        ValueError: If the shapes do not fit, or there are other labels than scores of a token.

    Example:

    >>> from keras_struct.layers import SpanF1
    >>> metric = SpanF1(["O", "B-PER", "I-PER"], from_potentials=False)
    >>> metric.update_state([[1, 2, 0, 1]], [[1, 2, 0, 0]])
    >>> round(float(metric.result()), 3)  # one of one predicted, one of two found
    0.667

    Source: Tjong Kim Sang and Buchholz (2000), Introduction to the CoNLL-2000 Shared Task.
    """

    def __init__(
        self,
        labels: Sequence[str],
        measure: str = "f1",
        from_potentials: bool = True,
        name: str | None = None,
        dtype: DType = None,
        ignore_index: int | None = -100,
    ) -> None:
        if measure not in MEASURES:
            raise ValueError(f"Expected a measure among {MEASURES}. Received: measure={measure!r}")
        super().__init__(name=f"span_{measure}" if name is None else name, dtype=dtype)
        self.labels = list(labels)
        self.measure = measure
        self.from_potentials = from_potentials
        self.ignore_index = check_ignore_index(ignore_index)
        self.right = self.add_variable((), "zeros", name="right")
        self.predicted = self.add_variable((), "zeros", name="predicted")
        self.target = self.add_variable((), "zeros", name="target")

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        read = self._potentials if self.from_potentials else self._tags
        best, y_true, valid, weight, holes = read(y_true, y_pred, sample_weight)
        weight = weight * K.cast(valid, self.dtype)
        if holes:  # neighbours are those that are left
            places = places_of(valid)
            best, y_true, valid, weight = (
                places.gather(x, 1) for x in (best, y_true, valid, weight)
            )
        spans = self._spans_of_segments if len(best.shape) == 3 else self._spans_of_tags
        predicted, target = spans(best, valid), spans(y_true, valid)
        ends = K.logical_and(predicted[0], target[0])
        same = K.logical_and(K.equal(predicted[1], target[1]), K.equal(predicted[2], target[2]))
        for variable, spans in (
            (self.right, K.logical_and(ends, same)),
            (self.predicted, predicted[0]),
            (self.target, target[0]),
        ):
            variable.assign_add(K.sum(K.cast(spans, self.dtype) * weight))

    def result(self) -> Tensor:
        return ratio(self.measure, self.right, self.predicted, self.target)

    def _potentials(self, y_true, y_pred, sample_weight):
        """The best tags `(B, N)` or segments `(B, N, 2)`; the target; which tokens count, `(B, N)`;
        their weights; and whether others may stand before them."""
        potentials = unpack(K.stop_gradient(K.convert_to_tensor(y_pred)), ChainPotentials)
        check_names(self.labels, potentials.scores.shape[-1])
        valid = potentials.positions()
        weight = token_weights(sample_weight, valid, self.dtype)
        target = chain_target(y_true, potentials, weight, self.ignore_index)
        best, known = potentials.distribution().argmax(), K.logical_and(valid, target.single)
        if len(best.shape) == 3:  # a segment goes on where what starts is not known
            weight = weight * K.cast(known, self.dtype)
            return best, target.event, valid, weight, potentials.mask is not None
        holes = potentials.mask is not None or target.allowed is not None
        return best, target.event, known, weight, holes

    def _tags(self, y_true, y_pred, sample_weight):
        """The same of tags `(B, N)` or scores `(B, N, K)`."""
        mask = keras_mask(y_pred)
        tags, k = K.convert_to_tensor(y_pred), len(self.labels)
        if len(tags.shape) == 3:
            check_names(self.labels, tags.shape[-1])
            tags = K.argmax(tags, axis=-1)
        tags = K.cast(tags, "int32")
        valid = K.ones_like(tags, dtype="bool") if mask is None else K.cast(mask, "bool")
        weight = token_weights(sample_weight, valid, self.dtype)
        counts = K.logical_and(valid, K.not_equal(weight, 0))
        batch, n = tags.shape
        target = tags_of(y_true, k, counts, self.ignore_index, batch, n, negative=True)
        holes = "mask" in extent(mask) or target.allowed is not None
        return tags, target.event, K.logical_and(valid, target.single), weight, holes

    def _spans_of_tags(self, tags, valid):
        """For each token: whether a span ends at it, where that span starts, and its type."""
        outside = len(self.labels)
        known = K.logical_and(valid, K.logical_and(tags >= 0, tags < outside))
        tags = K.where(known, tags, outside)
        edge = K.full_like(tags[:, :1], outside)
        starts = self._look_up("starts", K.concatenate([edge, tags[:, :-1]], axis=1), tags)
        ends = self._look_up("ends", tags, K.concatenate([tags[:, 1:], edge], axis=1))
        return ends, last_start(starts), K.take(np.array(self._tables.types, "int32"), tags)

    def _spans_of_segments(self, segments, valid):
        """For each token: whether a span starts at it, its length, and its type."""
        types = np.array([-1 if label == "O" else i for i, label in enumerate(self.labels)])
        label, length = segments[..., 0], segments[..., 1]
        known = K.logical_and(label >= 0, label < len(self.labels))
        starts = K.logical_and(K.logical_and(valid, known), length > 0)
        types = K.take(types, K.where(starts, label, 0))
        return K.logical_and(starts, types >= 0), length, types

    @functools.cached_property
    def _tables(self):
        return span_tables(self.labels)

    def _look_up(self, table, first, second):
        flat = np.reshape(getattr(self._tables, table), -1)
        return K.take(flat, first * (len(self.labels) + 1) + second)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "labels": self.labels,
            "measure": self.measure,
            "from_potentials": self.from_potentials,
            "ignore_index": self.ignore_index,
        }


def ratio(measure, right, predicted, target):
    """Precision, recall or F1 of counts, 0 where there are none."""
    whole = {"precision": predicted, "recall": target, "f1": (predicted + target) / 2}
    return K.divide_no_nan(right, whole[measure])
