"""What all structures over dependency trees share: potentials, labels, events.

Shapes: `B` examples, `N` words, `L` labels. Arcs are indexed [dependent, head], a root on the
diagonal. The one canonical potential is arcs (B, N, N), or arcs plus labels (B, N, N, L); it is
forbidden in the padding.
"""

from collections.abc import Mapping

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.numerics import FORBIDDEN, compute_dtype
from keras_struct.ops.structure import (
    Structure,
    as_potential,
    as_sequence,
    batch_of,
    check_rank,
    flatten_batch,
    flatten_shared,
    one_hot,
    time_mask,
)
from keras_struct.ops.validation import Checks

LONGEST = 2**20  # words, where their number is unknown


class DependencyTree(Structure):
    """Trees over N words: subclasses set `op`, `family` and `spec`, and may narrow `possible`.

    Events are (N,): the head of every word, its own index for a root, -1 in the padding; with
    labels (N, 2): head and label.
    """

    axes: Mapping[str, tuple] = {"arcs": (0, 0), "labels": (0, 0)}
    label_count: int | None = None

    def __init__(self, arcs, labels, lengths, mask, single_root):
        arcs = as_potential("arcs", arcs)
        check_rank("arcs", arcs, 2, "N, N")
        _check_square("arcs", arcs, tuple(arcs.shape[-2:]))
        if not isinstance(single_root, bool):
            raise ValueError(f"Expected True or False. Received: single_root={single_root!r}")
        self.single_root = single_root
        self.checks = Checks()
        self.dtype = arcs.dtype
        self.compute = compute_dtype(arcs.dtype)
        self.batch_shape = batch_of(arcs, 2)
        self.n = ops.shape(arcs)[-1]
        self.potentials = {"arcs": ops.cast(flatten_batch(arcs, 2), self.compute)}
        if labels is not None:
            labels = as_potential("labels", labels)
            check_rank("labels", labels, 3, "N, N, L")
            _check_square("labels", labels, (*labels.shape[-3:-1], arcs.shape[-1]))
            self.labels, self.label_count = "arcs", labels.shape[-1]
            if not self.label_count:
                raise ValueError(
                    "Expected labels with a static number of labels L >= 1. "
                    f"Received: shape of labels={tuple(labels.shape)}"
                )
            labels = flatten_shared("labels", labels, 3, self.batch_shape)
            self.potentials["labels"] = ops.cast(labels, self.compute)
        self.event_rank = 1 if self.labels is None else 2
        words = as_sequence("lengths", lengths, mask, self.batch_shape, self.n, self.checks)
        self.sequences = (words,)
        inside = self._inside(words.lengths) if words.ragged else None
        self.padding = {"arcs": (inside, FORBIDDEN)}
        if self.labels is not None:
            self.padding["labels"] = (None if inside is None else inside[..., None], 0.0)
        self.context = (words.lengths,)
        self.compact()

    def fold(self, potentials):
        scores = potentials["arcs"]
        if self.labels is not None:
            scores = scores[..., None] + potentials["labels"]
        return (scores,)

    def unfold(self, marginals):
        if self.labels is None:
            return {"arcs": marginals[0]}
        return {"arcs": ops.sum(marginals[0], axis=-1), "labels": marginals[0]}

    def parts(self, event, context):
        (lengths,) = context
        heads = event if self.labels is None else event[..., 0]
        heads = array.where(time_mask(lengths, self.n), heads, -1)
        arcs = one_hot(heads, self.n, self.compute)
        if self.labels is None:
            return (arcs,)
        labels = one_hot(event[..., 1], self.label_count, self.compute)
        return (arcs[..., None] * labels[:, :, None],)

    def possible(self, event, context):
        """One head inside the sentence for every word, no cycle, and the right number of roots."""
        (lengths,) = context
        valid = time_mask(lengths, self.n)
        heads = event if self.labels is None else event[..., 0]
        positions = ops.arange(self.n, dtype="int32")[None]
        known = ops.logical_and(heads >= 0, heads < lengths[:, None])
        heads = array.where(ops.logical_and(valid, known), heads, positions)
        ancestor = heads  # of order 1, 2, 4, ...: a root, or on a cycle, in the end
        for _ in range((self.n if isinstance(self.n, int) else LONGEST).bit_length()):
            ancestor = array.take_along_axis(ancestor, ancestor, 1)
        root = ops.equal(heads, positions)
        known = ops.logical_and(known, array.take_along_axis(root, ancestor, 1))
        if self.labels is not None:
            label = event[..., 1]
            known = ops.logical_and(known, ops.logical_and(label >= 0, label < self.label_count))
        tree = ops.all(ops.logical_or(known, ops.logical_not(valid)), axis=1)
        if self.single_root:
            roots = ops.sum(ops.cast(ops.logical_and(valid, root), "int32"), axis=1)
            tree = ops.logical_and(tree, roots <= 1)
        return tree

    def restore(self, event, places):
        return self._with_heads(places[0].scatter(event, 1), places[0].positions)

    def compacted(self, event, places):
        return self._with_heads(places[0].gather(event, 1), places[0].ranks)

    def _with_heads(self, event, function):
        """The event with other numbers of heads; labels stay."""
        if self.labels is None:
            return function(event)
        return ops.stack([function(event[..., 0]), event[..., 1]], axis=-1)

    def _inside(self, lengths):
        """(B, N, N): dependent and head lie before the length."""
        valid = time_mask(lengths, self.n)
        return ops.logical_and(valid[:, :, None], valid[:, None, :])


def _check_square(name, x, sizes):
    known = {size for size in sizes if isinstance(size, int)}
    if len(known) > 1 or 0 in known:
        raise ValueError(
            f"Expected {name} with equal axes of N >= 1 words. "
            f"Received: shape of {name}={tuple(x.shape)}"
        )
