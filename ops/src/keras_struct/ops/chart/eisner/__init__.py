"""Projective dependency trees (Eisner)."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import numpy as np
from keras import ops

from keras_struct.ops import array
from keras_struct.ops.annotations import ArrayLike
from keras_struct.ops.chart import layout
from keras_struct.ops.chart.spec import Item, Product, Spec
from keras_struct.ops.dependency_tree import DependencyTree
from keras_struct.ops.distribution import Distribution
from keras_struct.ops.numerics import FORBIDDEN, any_over
from keras_struct.ops.structure import time_mask
from keras_struct.ops.symbolic import public


@public
def eisner(
    arcs: ArrayLike,
    labels: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    single_root: bool = True,
    temperature: ArrayLike = 1.0,
    mask: ArrayLike | None = None,
    implementation: str | None = None,
) -> Distribution:
    """Distribution over the projective dependency trees of a sentence.

    Every word has one head, another word or the root, no word is its own ancestor, and no arc
    crosses another when the words stand in order and the root stands left of them. The score of a
    tree is the sum of `arcs[m, h]` over its arcs from head h to dependent m, of `arcs[m, m]` over
    its roots and, with labels, of `labels[m, h, l]` over its labelled arcs: each arc, also that of
    a root, carries one label.

    Shapes: `...` batch axes, `N` words, `L` labels. Time O(N^3), memory O(N^2) (and the labels).

    Args:
        arcs: (..., N, N) scores [dependent, head]; on the diagonal those of the roots.
        labels: (N, N, L) or (..., N, N, L) scores of the labels of each arc, or None.
        lengths: Integers (...,) between 0 and N; None for N. Length 0 has one structure, the empty
            tree, and value 0.
        single_root: Whether a tree has exactly one root; else one or more.
        temperature: Positive number, tensor or variable, () or (...,); the number 0 is the best
            tree.
        mask: Booleans (..., N), instead of lengths: a word where it is False is not there.
        implementation: Name, or None for the best one (see `ops.explain`).

    Returns:
        `Distribution`. Events are (..., N), int32: the head of every word, its own index for a
        root, -1 in the padding; with labels (..., N, 2): head and label.

    Raises:
        ValueError: For shapes, lengths or a `single_root` that do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> d = ops.eisner(np.zeros((1, 4, 4), "float32"))
    >>> print(np.round(np.exp(np.array(d.value())), 3))  # binom(3n - 2, n - 1) / n trees, n = 4
    [30.]

    Source: Eisner (1996), Three new probabilistic models for dependency parsing; Kim, Denton, Hoang
    and Rush (2017), Structured attention networks, section 4. See recurrence.md of `chart`.
    """
    structure = Eisner(arcs, labels, lengths, mask, single_root)
    return Distribution(structure, temperature, implementation)


@functools.cache
def projective_trees(single_root):
    """Arcs to the right and to the left, complete spans headed by their left and right word."""
    right_arc, left_arc, right, left = range(4)
    return Spec(
        items=(
            Item(product=0, scored=True),
            Item(product=0, scored=True),
            Item(product=1, unit=0),
            Item(product=2, unit=0),
        ),
        products=(
            Product(right, left, gap=1, closed=single_root),
            Product(right_arc, right),
            Product(left, left_arc),
        ),
        order=(
            ("product", 0),
            ("item", right_arc),
            ("item", left_arc),
            ("product", 1),
            ("product", 2),
            ("item", right),
            ("item", left),
        ),
        goal=right,
    )


@dataclasses.dataclass(frozen=True)
class EisnerSpec:
    """Scores of the arcs (B, N, N) [dependent, head], those of the roots on the diagonal.

    The chart is over the root and the N words: node 0 is the root, node m + 1 the word m. An arc to
    the right goes from head i to dependent i + w, one to the left from head i + w to dependent i.
    """

    single_root: bool
    marks: ClassVar = "heads"

    @property
    def chart(self):
        return projective_trees(self.single_root)

    def by_width(self, potentials):
        (arcs,) = potentials
        roots = ops.diagonal(arcs, axis1=1, axis2=2)[:, None]
        right = ops.concatenate([roots, ops.swapaxes(arcs, 1, 2)[:, :-1]], axis=1)
        left = ops.concatenate([ops.full_like(roots, FORBIDDEN), arcs[:, :-1]], axis=1)
        return [layout.by_width(x, FORBIDDEN) for x in (right, left)], []

    def by_part(self, items, cuts):
        right, left = (layout.by_ends(x) for x in items)
        none = ops.zeros_like(right[:, :1])
        below = ops.swapaxes(ops.concatenate([right[:, 1:], none], axis=1), 1, 2)
        above = ops.concatenate([left[:, 1:], none], axis=1)
        places = ops.arange(ops.shape(right)[1], dtype="int32")
        root = ops.equal(places[:, None], places)
        return (below + above + array.where(root, right[:, :1], none),)

    def event(self, used):
        (arcs,) = used
        heads = ops.cast(array.argmax(arcs, 2), "int32")
        return array.where(ops.sum(arcs, axis=2) > 0, heads, -1)

    def places(self, n):
        """The root is head of i in place (i, i), word m in place (i, m)."""
        start, end, exists = layout.ends_by_width(n)
        right = end * n + np.where(start == 0, end, start - 1)
        left = np.where(start == 0, -1, (start - 1) * n + end)
        return [np.where(exists, right, -1), np.where(exists, left, -1)]


class Eisner(DependencyTree):
    op = "eisner"
    family = "chart"

    def __init__(self, arcs, labels, lengths, mask, single_root):
        super().__init__(arcs, labels, lengths, mask, single_root)
        self.spec = EisnerSpec(single_root)

    def possible(self, event, context):
        tree = super().possible(event, context)
        return ops.logical_and(tree, self._projective(event, context))

    def _projective(self, event, context):
        """No arc from the left of a word leads over the arc of a word left of it."""
        valid = time_mask(context[0], self.n)
        heads = event if self.labels is None else event[..., 0]
        words = ops.arange(self.n, dtype="int32")[None] + 1  # the root is node 0
        heads = array.where(ops.equal(heads + 1, words), 0, heads + 1)
        low, high = ops.minimum(heads, words), ops.maximum(heads, words)
        low, high = array.where(valid, low, -1), array.where(valid, high, -1)
        a, b = low[:, :, None], high[:, :, None]
        c, d = low[:, None], high[:, None]
        crosses = ops.logical_and(ops.logical_and(a < c, c < b), b < d)
        return ops.logical_not(any_over(crosses, (1, 2)))
