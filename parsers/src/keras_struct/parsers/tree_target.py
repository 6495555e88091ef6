"""Gold trees as padded arrays, and the events of `ops` that they stand for.

Constituency trees are `(B, M, 3)`: start, end (exclusive) and label of all 2N - 1 spans of a binary
tree, see `chart_spans`. Dependency trees are `(B, N, 2)`: head (0 for the root, else the number
from 1 of the head) and relation, or `(B, N)` without relations. Padding is -1. All numbers of words
are their places in the array, also behind padding: a mask hides positions, it does not renumber.
"""

import functools

from keras import ops as K

from keras_struct.layers.potentials import positions_of
from keras_struct.layers.targets import check_numbers, check_shape, integers
from keras_struct.ops import array


def read_tree(tree, potentials, weight=None):
    """The event of a target whose shape was checked, and whether its parts exist, `(B,)`.

    Args:
        tree: Padded array of a tree.
        potentials: The `TreePotentials`.
        weight: Weights of the words `(B, N)` of a dependency tree: where they are 0, a head may be
            any number.

    Returns:
        The event, where words and labels that do not exist are others that do; and booleans.
    """
    event = event_of(tree, potentials)
    n, k = potentials.scores.shape[2:]
    size = K.shape(potentials.scores)[2]
    if potentials.constituency:
        spans = integers(tree)
        start, end, label = (spans[..., axis] for axis in range(3))
        for what, x, low, high in (
            ("starts", start, 0, n),
            ("ends", end, 1, None if n is None else n + 1),
            ("labels", label, 0, k),
        ):
            check_numbers("y_true", what, x, start >= 0, low, high)
        inside = _all(label >= 0, label < k, start < end, end <= size)
        exists = K.all(K.logical_or(start < 0, inside), axis=1)
        return K.minimum(event, k - 1), exists
    word = potentials.positions()
    counts = word if weight is None else K.logical_and(word, K.not_equal(weight, 0))
    place, relation = event[..., 0], event[..., 1]
    heads = integers(tree if len(tree.shape) == 2 else tree[..., 0])
    check_numbers("y_true", "heads", heads, counts, 0, None if n is None else n + 1)
    check_numbers("y_true", "relations", relation, counts, 0, k)
    known = _all(place >= 0, place < size, relation >= 0, relation < k)
    place, relation = (K.where(known, x, 0) for x in (place, relation))
    there = K.take_along_axis(K.cast(word, "int32"), place, axis=1) > 0
    exists = K.all(K.logical_or(K.logical_not(counts), _all(known, there)), axis=1)
    return K.stack([place, relation], axis=-1), exists


def _all(*conditions):
    return functools.reduce(K.logical_and, conditions)


def event_of(tree, potentials):
    """The event of `potentials.distribution()` that a padded array of a tree stands for."""
    tree = integers(tree)
    n = K.shape(potentials.scores)[1]
    if not potentials.constituency:
        return _heads_of(tree, potentials.scores)
    batch = potentials.scores.shape[0]
    expected = f"spans (B, M, 3): start, end and label; B = {batch}"
    check_shape("y_true", tree, expected, batch, None, 3)
    # A sum over the spans, of which a tree has one in each place: (B, N, N) without scatter.
    dtype, places = potentials.scores.dtype, K.arange(n, dtype="int32")
    starts = K.cast(K.equal(tree[:, :, :1], places), dtype)
    ends = K.cast(K.equal(tree[:, :, 1:2] - 1, places), dtype)
    labels = K.cast(tree[:, :, 2:] + 1, dtype)
    event = K.matmul(K.transpose(starts * labels, (0, 2, 1)), ends)
    return K.cast(K.round(event), "int32") - 1


def _heads_of(tree, scores):
    batch, n, _, relations = scores.shape
    if len(tree.shape) == 2 and relations == 1:
        tree = K.stack([tree, K.zeros_like(tree)], axis=-1)
    expected = (
        f"heads and relations (B, N, 2), or without relations heads (B, N); (B, N) = ({batch}, {n})"
    )
    check_shape("y_true", tree, expected, batch, n, 2)
    tree = K.reshape(tree, (*K.shape(scores)[:2], 2))  # of unknown sizes: not broadcast
    heads = tree[..., 0]
    places = K.arange(K.shape(heads)[1], dtype="int32")
    heads = K.where(K.equal(heads, 0), places, heads - 1)
    return K.stack([heads, tree[..., 1]], axis=-1)


def tree_of(event, potentials):
    """The padded array of the tree that an event stands for; the inverse of `event_of`."""
    if potentials.constituency:
        valid = positions_of(potentials.lengths, potentials.mask, K.shape(event)[:2])
        return _spans_of(event, valid)
    heads, relations = event[..., 0], event[..., 1]
    places = K.arange(K.shape(heads)[1], dtype="int32")
    numbers = K.where(K.equal(heads, places), 0, heads + 1)
    return K.stack([K.where(heads < 0, -1, numbers), relations], axis=-1)


def _spans_of(event, valid):
    """Spans `(B, 2N - 1, 3)` in preorder; `valid` (B, N) says which words there are."""
    batch, n, _ = K.shape(event)
    places = K.arange(n, dtype="int32")
    order = places[:, None] * n + (n - 1 - places)  # by start, the longest first
    used = K.logical_and(event >= 0, valid[:, None])
    keys = K.reshape(K.where(used, order, n * n), (batch, n * n))
    keys = K.sort(keys, axis=1)[:, : 2 * n - 1]
    exists = keys < n * n
    keys = K.where(exists, keys, 0)
    starts, ends = keys // n, n - 1 - keys % n
    labels = array.take_along_axis(K.reshape(event, (batch, n * n)), starts * n + ends, 1)
    spans = K.stack([starts, ends + 1, labels], axis=-1)
    return K.where(K.expand_dims(exists, -1), spans, -1)
