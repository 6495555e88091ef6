"""Non-projective dependency trees (Matrix-Tree)."""

from __future__ import annotations

import dataclasses

from keras_struct.ops.annotations import ArrayLike
from keras_struct.ops.dependency_tree import DependencyTree
from keras_struct.ops.distribution import Distribution
from keras_struct.ops.symbolic import public


@public
def spanning_tree(
    arcs: ArrayLike,
    labels: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    single_root: bool = True,
    temperature: ArrayLike = 1.0,
    mask: ArrayLike | None = None,
    implementation: str | None = None,
) -> Distribution:
    """Distribution over the spanning trees of a sentence (non-projective dependency trees).

    Every word has one head, another word or the root, and no word is its own ancestor. The score
    of a tree is the sum of `arcs[m, h]` over its arcs from head h to dependent m, of `arcs[m, m]`
    over its roots and, with labels, of `labels[m, h, l]` over its labelled arcs: each arc, also
    that of a root, carries one label.

    Shapes: `...` batch axes, `N` words, `L` labels. Time O(N^3). The gradient needs O(N^3) memory
    while it is computed, the distribution itself O(N^2).

    Args:
        arcs: (..., N, N) scores [dependent, head]; on the diagonal those of the roots.
        labels: (N, N, L) or (..., N, N, L) scores of the labels of each arc, or None.
        lengths: Integers (...,) between 0 and N; None for N. Length 0 has one structure, the empty
            tree, and value 0.
        single_root: Whether a tree has exactly one root; else one or more.
        temperature: Positive number, tensor or variable, () or (...,); the number 0 is the maximum
            spanning tree.
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
    >>> d = ops.spanning_tree(np.zeros((1, 4, 4), "float32"))
    >>> print(np.round(np.exp(np.array(d.value())), 3))  # 4^3 rooted trees on 4 words
    [64.]

    Source: Tutte (1984), Graph theory, section VI.4; Koo, Globerson, Carreras and Collins (2007),
    Structured prediction models via the Matrix-Tree theorem; Smith and Smith (2007); McDonald and
    Satta (2007). Best trees as by Chu and Liu (1965) and Edmonds (1967), samples as by Colbourn,
    Myrvold and Neufeld (1996), k best as by Zmigrod, Vieira and Cotterell (2021); the elimination
    is that of Grassmann, Taksar and Heyman (1985). See recurrence.md.
    """
    structure = SpanningTree(arcs, labels, lengths, mask, single_root)
    return Distribution(structure, temperature, implementation)


@dataclasses.dataclass(frozen=True)
class SpanningTreeSpec:
    """Scores of the arcs (B, N, N) [dependent, head], those of the roots on the diagonal; context:
    lengths."""

    single_root: bool


class SpanningTree(DependencyTree):
    op = "spanning_tree"
    family = "spanning_tree"

    def __init__(self, arcs, labels, lengths, mask, single_root):
        super().__init__(arcs, labels, lengths, mask, single_root)
        self.spec = SpanningTreeSpec(single_root)
