"""Binary bracketings (CKY)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.annotations import ArrayLike
from keras_struct.ops.chart import layout
from keras_struct.ops.chart.bracketing import Bracketing, check_square, split
from keras_struct.ops.chart.spec import Item, Product, Spec
from keras_struct.ops.distribution import Distribution
from keras_struct.ops.numerics import FORBIDDEN, all_over, compute_dtype
from keras_struct.ops.structure import (
    as_potential,
    as_sequence,
    batch_of,
    check_rank,
    flatten_batch,
    flatten_shared,
    one_hot,
)
from keras_struct.ops.symbolic import public
from keras_struct.ops.validation import Checks


@public
def cky(
    spans: ArrayLike,
    labels: ArrayLike | None = None,
    splits: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    mask: ArrayLike | None = None,
    implementation: str | None = None,
) -> Distribution:
    """Distribution over the binary bracketings of a sentence.

    A bracketing has 2N - 1 spans: the sentence, its words, and every span of two words or more is
    cut into two others. Its score is the sum of `spans[i, j]` over its spans from word i to word j
    (both included; words are spans too), with labels of `labels[i, j, k]` of the one label that
    each span carries, and with splits of `splits[i, k, j]` for every span that is cut after word
    k. What stands below the diagonal is never read.

    Shapes: `...` batch axes, `N` words, `K` labels. Time O(N^3), memory O(N^2) on top of the
    potentials.

    Args:
        spans: (..., N, N) scores [first word, last word].
        labels: (N, N, K) or (..., N, N, K) scores of the labels of each span, or None.
        splits: (..., N, N, N) scores [first word, last word of the left part, last word], or None.
        lengths: Integers (...,) between 0 and N; None for N. Length 0 has one structure, the empty
            one, and value 0.
        temperature: Positive number, tensor or variable, () or (...,); the number 0 is the best
            tree.
        mask: Booleans (..., N), instead of lengths: a word where it is False is not there, and its
            neighbours stand side by side.
        implementation: Name, or None for the best one (see `ops.explain`).

    Returns:
        `Distribution`. Events are (..., N, N), int32: the label of every span of the tree (0
        without labels), -1 elsewhere.

    Raises:
        ValueError: For shapes or lengths that do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> d = ops.cky(np.zeros((1, 5, 5), "float32"))
    >>> print(np.round(np.exp(np.array(d.value())), 3))  # the Catalan number of 4
    [14.]

    Source: Baker (1979), Trainable grammars for speech recognition (inside-outside); Stern, Andreas
    and Klein (2017), A minimal span-based neural constituency parser. See recurrence.md of `chart`.
    """
    return Distribution(CKY(spans, labels, splits, lengths, mask), temperature, implementation)


TREES = Spec(
    items=(Item(product=0, scored=True, unit=1),),
    products=(Product(0, 0),),
    order=(("product", 0), ("item", 0)),
    goal=0,
)
TREES_BY_SPLITS = dataclasses.replace(TREES, products=(Product(0, 0, scored=True),))


@dataclasses.dataclass(frozen=True)
class CKYSpec:
    """Scores of the spans (B, N, N), and of the splits (B, N, N, N) if these have any.

    One item whose product is itself with itself; a span of width 1 is a word.
    """

    splits: bool
    marks: ClassVar = "spans"

    @property
    def chart(self):
        return TREES_BY_SPLITS if self.splits else TREES

    def by_width(self, potentials):
        spans, *splits = potentials
        cuts = [layout.cuts_by_width(x, FORBIDDEN) for x in splits]
        return [layout.by_width(spans, FORBIDDEN)], cuts

    def by_part(self, items, cuts):
        return (layout.by_ends(items[0]), *map(layout.cuts_by_ends, cuts))

    def event(self, used):
        return array.where(used[0] > 0, 0, -1)

    def places(self, n):
        return [layout.places_of_spans(n)]


class CKY(Bracketing):
    op = "cky"
    family = "chart"
    axes: Mapping[str, tuple] = {"spans": (0, 0), "labels": (0, 0), "splits": (0, 0, 0)}
    label_count: int | None = None

    def __init__(self, spans, labels, splits, lengths, mask):
        spans = as_potential("spans", spans)
        check_rank("spans", spans, 2, "N, N")
        check_square("spans", spans, (-2, -1), "N, N")
        self.checks = Checks()
        self.dtype = spans.dtype
        self.compute = compute_dtype(spans.dtype)
        self.batch_shape = batch_of(spans, 2)
        self.n = ops.shape(spans)[-1]
        size = spans.shape[-1]
        named = {"spans": flatten_batch(spans, 2)}
        if labels is not None:
            labels = as_potential("labels", labels)
            check_rank("labels", labels, 3, "N, N, K")
            self.labels, self.label_count = "spans", labels.shape[-1]
            if tuple(labels.shape[-3:-1]) != (size, size) or not self.label_count:
                raise ValueError(
                    f"Expected labels of shape (..., {size}, {size}, K) with a static K >= 1. "
                    f"Received: shape of labels={tuple(labels.shape)}"
                )
            named["labels"] = flatten_shared("labels", labels, 3, self.batch_shape)
        self.spec = CKYSpec(splits=splits is not None)
        if splits is not None:
            splits = as_potential("splits", splits)
            check_rank("splits", splits, 3, "N, N, N")
            if tuple(splits.shape[-3:]) != (size,) * 3:
                raise ValueError(
                    f"Expected splits of shape (..., {size}, {size}, {size}). "
                    f"Received: shape of splits={tuple(splits.shape)}"
                )
            named["splits"] = flatten_shared("splits", splits, 3, self.batch_shape)
        self.potentials = {key: ops.cast(x, self.compute) for key, x in named.items()}
        words = as_sequence("lengths", lengths, mask, self.batch_shape, self.n, self.checks)
        self.sequences = (words,)
        self.context = (words.lengths,)
        inside = self.inside(words.lengths)
        self.padding = {"spans": (inside, FORBIDDEN)}
        if labels is not None:
            self.padding["labels"] = (inside[..., None], 0.0)
        if splits is not None:
            self.padding["splits"] = (self._cuts(inside), FORBIDDEN)
        self.compact()

    def fold(self, potentials):
        spans = potentials["spans"]
        if self.labels is not None:
            spans = spans[..., None] + potentials["labels"]
        return (spans, potentials["splits"]) if self.spec.splits else (spans,)

    def unfold(self, marginals):
        named = {"spans": marginals[0]}
        if self.labels is not None:
            named = {"spans": ops.sum(marginals[0], axis=-1), "labels": marginals[0]}
        if self.spec.splits:
            named["splits"] = marginals[1]
        return named

    def parts(self, event, context):
        used = self.used(event, context)
        if self.labels is None:
            parts = (ops.cast(used, self.compute),)
        else:
            parts = (one_hot(array.where(used, event, -1), self.label_count, self.compute),)
        return (*parts, ops.cast(split(used), self.compute)) if self.spec.splits else parts

    def possible(self, event, context):
        tree = super().possible(event, context)
        known = event < (1 if self.labels is None else self.label_count)
        known = ops.logical_or(known, ops.logical_not(self.inside(context[0])))
        return ops.logical_and(tree, all_over(known, (1, 2)))

    def _cuts(self, inside):
        """(B, N, N, N): span i..j exists, and word k is in it and not the last."""
        places = ops.arange(self.n, dtype="int32")
        i, k, j = places[:, None, None], places[:, None], places
        return ops.logical_and(inside[:, :, None], ops.logical_and(i <= k, k < j))
