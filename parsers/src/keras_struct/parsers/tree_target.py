"""Gold trees as padded arrays, and the events of `ops` that they stand for.

Constituency trees are `(B, M, 3)`: start, end (exclusive) and label of all 2N - 1 spans of a binary
tree, see `chart_spans`. Dependency trees are `(B, N, 2)`: head (0 for the root, else the number
from 1 of the head) and relation, or `(B, N)` without relations. Padding is -1. All numbers of words
are their places in the array, also behind padding: a mask hides positions, it does not renumber.
"""

from keras import ops as K

from keras_struct.layers.potentials import positions_of


def event_of(tree, potentials):
    """The event of `potentials.distribution()` that a padded array of a tree stands for."""
    tree = K.cast(K.convert_to_tensor(tree), "int32")
    n = K.shape(potentials.scores)[1]
    if not potentials.constituency:
        return _heads_of(tree, potentials.scores.shape[-1])
    if len(tree.shape) != 3 or tree.shape[-1] != 3:
        raise ValueError(
            "Expected spans (B, M, 3): start, end and label. "
            f"Received: shape of y_true={tuple(tree.shape)}"
        )
    # A sum over the spans, of which a tree has one in each place: (B, N, N) without scatter.
    dtype, places = potentials.scores.dtype, K.arange(n, dtype="int32")
    starts = K.cast(K.equal(tree[:, :, :1], places), dtype)
    ends = K.cast(K.equal(tree[:, :, 1:2] - 1, places), dtype)
    labels = K.cast(tree[:, :, 2:] + 1, dtype)
    event = K.matmul(K.transpose(starts * labels, (0, 2, 1)), ends)
    return K.cast(K.round(event), "int32") - 1


def _heads_of(tree, relations):
    if len(tree.shape) == 2 and relations == 1:
        tree = K.stack([tree, K.zeros_like(tree)], axis=-1)
    if len(tree.shape) != 3 or tree.shape[-1] != 2:
        raise ValueError(
            "Expected heads and relations (B, N, 2), or without relations heads (B, N). "
            f"Received: shape of y_true={tuple(tree.shape)}"
        )
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
    labels = K.take_along_axis(K.reshape(event, (batch, n * n)), starts * n + ends, axis=1)
    spans = K.stack([starts, ends + 1, labels], axis=-1)
    return K.where(K.expand_dims(exists, -1), spans, -1)
