"""Negative log-likelihood of gold trees."""

from __future__ import annotations

import keras
from keras import ops as K

from keras_struct.layers.annotations import Config, DType
from keras_struct.layers.chain_targets import always, check_ignore_index
from keras_struct.layers.potentials import TreePotentials
from keras_struct.layers.targets import integers
from keras_struct.ops.annotations import Tensor
from keras_struct.parsers.tree_loss import TreeLoss
from keras_struct.parsers.tree_target import read_tree


@keras.saving.register_keras_serializable("keras_struct")
class TreeNLL(TreeLoss):
    """Negative log-likelihood, in nats per sentence, of gold trees under a parser head.

    A target that is no tree of the structure, such as a non-projective one under `EisnerParser`,
    has an infinite loss and no gradient.

    Trees may be known in part, as in partial annotation: the loss is minus the log-probability of
    all trees that agree with what is known, exactly. Of a dependency tree heads or relations may be
    `ignore_index`. Of a constituency tree a label may be, and a row of three `ignore_index` says
    that there are other spans than those that are listed.

    Args:
        reduction: How Keras reduces the losses of the sentences.
        name: Name of the loss.
        dtype: `"float32"` or `"float64"`; None for float32, whatever `keras.config.floatx` is.
        zero_infinity: Whether the loss of an impossible target is 0; else it is infinite. It has no
            gradient.
        ignore_index: Number of a head, a relation or a label that is not known, such as -100; None
            for no such number. It costs a second sweep where a compiler cannot see that all is
            known; not with None.

    Call arguments:
        y_true: Gold trees, see `TreeDecoder` for their form.
        y_pred: The packed scores of a parser head, see `layers.pack`.
        sample_weight: Weights of the sentences, `(B,)`.

    Raises:
        ValueError: If `y_true` or `sample_weight` has another shape, or `y_true` a word or label
            that does not exist (under a compiler an infinite loss).

    Example:

    >>> import numpy as np
    >>> from keras_struct import layers, parsers
    >>> scores = np.zeros((1, 3, 3, 1), "float32")
    >>> packed = layers.pack(layers.TreePotentials(scores, structure="eisner"))
    >>> heads = np.array([[[2, 0], [0, 0], [2, 0]]])  # one of seven trees
    >>> print(round(float(parsers.TreeNLL()(heads, packed)), 3))
    1.946

    Source: Zhang, Li and Zhang (2020), Efficient second-order TreeCRF for neural dependency
    parsing; Zhang, Zhou and Li (2020), Fast and accurate neural CRF constituency parsing.
    """

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str = "tree_nll",
        dtype: DType = None,
        zero_infinity: bool = False,
        ignore_index: int | None = -100,
    ) -> None:
        super().__init__(reduction, name, dtype, zero_infinity)
        self.ignore_index = check_ignore_index(ignore_index)

    def losses_of(
        self, y_true: Tensor, potentials: TreePotentials, weight: Tensor | None = None
    ) -> Tensor:
        if self.ignore_index is None:
            return super().losses_of(y_true, potentials, weight)
        y_true = integers(y_true)
        unknown = K.equal(y_true, self.ignore_index)
        if always(K.logical_not(unknown)):
            return super().losses_of(y_true, potentials, weight)
        parts_of = _spans_of if potentials.constituency else _arcs_of
        allowed, exists = parts_of(y_true, unknown, potentials)
        scores = K.where(allowed, potentials.scores, -float("inf"))
        some = potentials._replace(scores=scores).distribution()
        losses = -potentials.distribution().log_prob_of(some)
        return K.where(exists, losses, float("inf"))

    def tree_loss(self, event: Tensor, potentials: TreePotentials) -> Tensor:
        return -potentials.distribution().log_prob(event)

    def get_config(self) -> Config:
        return {**super().get_config(), "ignore_index": self.ignore_index}


def _arcs_of(tree, unknown, potentials):
    """Booleans in the shape of the scores: the arcs that agree with what is known of a tree.

    Args:
        tree: `(B, N, 2)`, heads and relations, or `(B, N)`.
        unknown: Booleans in its shape: which of them are not known.
        potentials: The `TreePotentials`.

    Returns:
        The booleans `(B, N, N, K)`, and whether what is known can be, `(B,)`.
    """
    event, exists = read_tree(K.where(unknown, 0, tree), potentials)
    unknown = K.reshape(unknown, (*K.shape(event)[:2], -1))
    places, relations = (K.arange(n, dtype="int32") for n in K.shape(potentials.scores)[2:])
    head = K.logical_or(unknown[..., :1], K.equal(event[..., :1], places))
    relation = K.logical_or(unknown[..., -1:], K.equal(event[..., 1:], relations))
    return K.logical_and(head[..., None], relation[:, :, None]), exists


def _spans_of(tree, unknown, potentials):
    """The same of spans `(B, M, 3)`: a row without a start says that there are others.

    A binary tree none of whose spans crosses a bracket has this bracket, so it is enough to forbid
    those that do.
    """
    others = unknown[..., 0]
    unlabelled = K.logical_and(unknown[..., 2], K.logical_not(others))
    known = K.where(others[..., None], -1, K.where(unknown, 0, tree))
    event, exists = read_tree(known, potentials)
    free, _ = read_tree(K.where(unlabelled[..., None], known, -1), potentials)
    listed, free = event >= 0, free >= 0
    label = K.equal(event[..., None], K.arange(K.shape(potentials.scores)[3], dtype="int32"))
    open_ = K.logical_or(listed, K.any(others, axis=1)[:, None, None])
    fits = K.logical_and(open_, K.logical_not(_crossing(known, K.shape(event)[1])))
    either = K.logical_or(label, K.logical_or(free, K.logical_not(listed))[..., None])
    return K.logical_and(fits[..., None], either), exists


def _crossing(spans, n):
    """Which spans `(B, N, N)` from a first to a last word cross one of `(B, M, 3)`."""
    start, end = spans[..., :1], spans[..., 1:2]
    first = K.arange(n, dtype="int32")
    last = first + 1  # where a span ends
    inside, before, within, beyond = (
        K.cast(x, "float32")
        for x in (
            K.logical_and(start < first, first < end),
            first < start,
            K.logical_and(start < last, last < end),
            last > end,
        )
    )
    there = K.cast(start >= 0, "float32")
    crossing = sum(
        K.matmul(K.transpose(x * there, (0, 2, 1)), y)
        for x, y in ((inside, beyond), (before, within))
    )
    return crossing > 0
