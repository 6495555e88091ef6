"""Labels from the log-probabilities of symbols: best path, collapsing, prefix beam search.

Shapes: `B` examples, `T` frames, `K` symbols with the blank, `W` beams.
"""

from typing import Any, NamedTuple

import numpy as np
from keras import ops as K

from keras_struct.layers.chain_targets import tag_numbers
from keras_struct.layers.potentials import potential_dtype
from keras_struct.layers.sequence_mask import mask_from_lengths, without_padding
from keras_struct.layers.targets import check_numbers, known_now
from keras_struct.ops import array
from keras_struct.ops.masks import places_of
from keras_struct.ops.numerics import FORBIDDEN


def check_blank(blank, k=None):
    """The blank, or a `ValueError`; K if it is known."""
    if not isinstance(blank, int) or blank < 0 or (k is not None and blank >= k):
        end = "" if k is None else f" to {k - 1}, the number of symbols less one"
        raise ValueError(f"Expected an integer from 0{end}. Received: blank={blank!r}")
    return blank


def read_predictions(y_pred, mask, blank, from_logits=True):
    """Log-probabilities `(B, T, K)` of symbols from what predictions may be.

    Args:
        y_pred: `(B, T, K)` logits or log-probabilities, which stay as they are; or probabilities.
        mask: Booleans `(B, T)`, or None for all.
        blank: Symbol of the blank.
        from_logits: False for probabilities.

    Raises:
        ValueError: If they can be read and are the other of the two.
    """
    check_blank(blank, y_pred.shape[-1])
    y_pred = without_padding(K.cast(y_pred, potential_dtype(y_pred.dtype)), mask)
    if known_now(y_pred) and (mask is None or known_now(mask)):
        values = K.convert_to_numpy(K.stop_gradient(y_pred))
        if mask is not None:
            values = values[np.broadcast_to(K.convert_to_numpy(mask), values.shape[:2])]
        sums = values.sum(-1, dtype="float64")
        probabilities = (values >= 0).all() and (np.abs(sums - 1) < 1e-2).all()
        if values.size and probabilities == from_logits:
            kinds = ("logits or log-probabilities", "probabilities (rows that sum to 1)")
            expected, received = kinds if from_logits else kinds[::-1]
            raise ValueError(
                f"Expected {expected} as y_pred. Received: {received}, from_logits={from_logits}"
            )
    if from_logits:
        return K.log_softmax(y_pred, axis=-1)
    return K.log(K.maximum(y_pred, 1e-30))


def read_labels(y_true, blank, batch, k):
    """Labels `(B, S)`, where they are, and whether all of them exist `(B,)`.

    Args:
        y_true: Integers `(B, S)` or `(B, S, 1)`; the blank and negative numbers are none.
        blank: Symbol of the blank.
        batch: B, if known.
        k: Number of symbols.
    """
    labels = tag_numbers(y_true, k, batch, sets=False)
    valid = K.logical_and(labels >= 0, K.not_equal(labels, blank))
    check_numbers("y_true", "labels", labels, valid, 0, k)
    known = K.ones_like(valid) if k is None else labels < k
    exists = K.all(K.logical_or(known, K.logical_not(valid)), axis=1)
    return K.where(known, labels, int(blank == 0)), valid, exists


def best_path(log_probs, mask):
    """The most probable symbol of each frame `(B, T)`, -1 where the mask is False."""
    path = K.cast(array.argmax(log_probs, 2), "int32")
    return path if mask is None else K.where(mask, path, -1)


def collapse(path, blank):
    """Labels `(B, T)` in front, then -1, that a path `(B, T)` reads, where -1 is no frame."""
    places = places_of(path >= 0)
    path = places.gather(path, 1)
    before = K.concatenate([K.full_like(path[:, :1], blank), path[:, :-1]], axis=1)
    new = K.logical_and(K.not_equal(path, before), K.not_equal(path, blank))
    places = places_of(K.logical_and(new, path >= 0))
    valid = mask_from_lengths(places.lengths, K.shape(path)[1])
    return K.where(valid, places.gather(path, 1), -1)


_NONE = -9  # no length, nor one more or less than one


class _Beams(NamedTuple):
    """The prefixes of a frame, the best first.

    Attributes:
        labels: `(B, W, T)` int32, then -1.
        lengths: `(B, W)` int32; `_NONE` where there is no further prefix.
        blank: `(B, W)` log-probability of the paths that end with a blank.
        label: `(B, W)` the same of those that end with the last label.
    """

    labels: Any
    lengths: Any
    blank: Any
    label: Any


def prefix_beam(log_probs, mask, blank, width):
    """The label sequences with the largest probabilities, by prefix beam search.

    Args:
        log_probs: `(B, T, K)` log-probabilities.
        mask: Booleans `(B, T)`, or None for all.
        blank: Symbol of the blank.
        width: How many prefixes are kept at each frame, W.

    Returns:
        Labels `(B, W, T)`, int32, then -1, and their log-probabilities `(B, W)`, over the paths
        that were kept: the best first, and minus infinity, with labels -1, where there are fewer.
    """
    (batch, frames), k = K.shape(log_probs)[:2], log_probs.shape[-1]
    log_probs = K.maximum(log_probs, FORBIDDEN)
    never = K.full((batch, width), FORBIDDEN, log_probs.dtype)
    lengths = K.where(K.arange(width) == 0, K.zeros((batch, width), "int32"), _NONE)
    labels = K.full((batch, width, frames), -1, "int32")
    first = K.concatenate([K.zeros_like(never[:, :1]), never[:, 1:]], axis=1)
    places = K.arange(frames, dtype="int32")
    symbols = K.arange(k, dtype="int32")
    valid = K.ones((batch, frames), "bool") if mask is None else mask

    def step(carry, x):
        beams, (p, valid) = _Beams(*carry), x
        total = _log_add(beams.blank, beams.label)
        ends = K.equal(places, beams.lengths[..., None] - 1)
        last = K.max(K.where(ends, beams.labels, -1), axis=2)  # -1 of the empty prefix
        p_last = K.take_along_axis(p, K.maximum(last, 0), axis=1)
        # From prefix j to prefix i, where i is j with one more label: one candidate, not two.
        same = K.logical_or(
            K.equal(beams.labels[:, :, None], beams.labels[:, None]), ends[:, :, None]
        )
        longer = K.equal(beams.lengths[:, :, None], beams.lengths[:, None] + 1)
        grown = K.logical_and(K.all(same, axis=3), longer)
        repeated = K.equal(last[:, :, None], last[:, None])
        sources = K.where(repeated, beams.blank[:, None], total[:, None])
        sources = _log_sum(K.where(grown, sources, FORBIDDEN))
        # A prefix stays as it is, by a blank or its last label again, or is reached from its own.
        kept_blank = total + p[:, blank, None]
        kept_label = K.where(last < 0, FORBIDDEN, _log_add(beams.label, sources) + p_last)
        # Or it grows by a label, of which there is not yet such a prefix.
        new = K.where(K.equal(last[..., None], symbols), beams.blank[..., None], total[..., None])
        new = new + p[:, None]
        known = K.logical_and(grown[..., None], K.equal(last[:, :, None, None], symbols))
        stays = K.logical_or(K.any(known, axis=1), K.equal(symbols, blank))
        new = K.where(stays, FORBIDDEN, new)
        scores = K.concatenate(
            [_log_add(kept_blank, kept_label), K.reshape(new, (batch, width * k))], axis=1
        )
        best, choice = array.top_k(K.maximum(scores, FORBIDDEN), width)
        choice = K.cast(choice, "int32")
        grows = choice >= width
        parent = K.where(grows, (choice - width) // k, choice)
        symbol = K.where(grows, (choice - width) % k, -1)

        def of(y):
            return K.take_along_axis(y, parent, axis=1)

        lengths = of(beams.lengths)
        labels = K.take_along_axis(beams.labels, parent[..., None], axis=1)
        put = K.logical_and(K.equal(places, lengths[..., None]), grows[..., None])
        exists = best > FORBIDDEN / 2
        moved = _Beams(
            K.where(exists[..., None], K.where(put, symbol[..., None], labels), -1),
            K.where(exists, lengths + K.cast(grows, "int32"), _NONE),
            K.where(grows, FORBIDDEN, K.maximum(of(kept_blank), FORBIDDEN)),
            K.where(grows, best, K.maximum(of(kept_label), FORBIDDEN)),
        )
        carry = tuple(
            K.where(K.reshape(valid, (-1, *[1] * (len(y.shape) - 1))), y, x)
            for x, y in zip(beams, moved, strict=True)
        )
        return carry, (valid,)

    xs = (K.swapaxes(log_probs, 0, 1), K.swapaxes(valid, 0, 1))
    carry, _ = array.scan(step, (labels, lengths, first, never), xs, like=(valid[:, 0],))
    beams = _Beams(*carry)
    total = _log_add(beams.blank, beams.label)
    exists = total > FORBIDDEN / 2
    total = K.where(exists, total, -float("inf"))
    return K.where(exists[..., None], beams.labels, -1), total


def _log_add(x, y):
    """`log(exp(x) + exp(y))` of finite numbers, of operations that every runtime has."""
    return K.maximum(x, y) + K.log(1 + K.exp(-K.abs(x - y)))


def _log_sum(x):
    """`log sum exp` over the last axis, of finite numbers."""
    peak = K.max(x, axis=-1)
    return peak + K.log(K.sum(K.exp(x - peak[..., None]), axis=-1))
