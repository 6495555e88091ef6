"""Projective dependency trees (Eisner)."""

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.dependency.tree import DependencyTree
from keras_struct.ops.distribution import Distribution
from keras_struct.ops.structure import as_temperature, time_mask
from keras_struct.ops.symbolic import public


@public
def eisner(arcs, labels=None, lengths=None, single_root=True, temperature=1.0, implementation=None):
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
    structure = Eisner(arcs, labels, lengths, single_root)
    temperature = as_temperature(temperature, structure.batch_shape, structure.compute)
    return Distribution(structure, temperature, implementation)


class Eisner(DependencyTree):
    op = "eisner"

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
        return ops.logical_not(ops.any(crosses, axis=(1, 2)))
