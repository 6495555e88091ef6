"""What a target says of the tags or segments of chains, where perhaps not all is known."""

from typing import Any, NamedTuple

from keras import ops as K

from keras_struct.layers.segments import last_start, token_labels, window_sums
from keras_struct.layers.sequence_mask import in_order
from keras_struct.layers.targets import check_numbers, check_shape, fits, integers, known_now


class ChainTarget(NamedTuple):
    """What is known of a batch of chains.

    Attributes:
        event: Tags `(B, N)` or segments `(B, N, 2)`, int32, where they are known.
        allowed: Booleans in the shape of the scores: which tags a token may have, which segments
            there may be; None where `event` is known to say it all.
        known: Booleans `(B, N)`: tokens of whose tags something is known.
        single: Booleans `(B, N)`: tokens of whose tags all is known.
    """

    event: Any
    allowed: Any
    known: Any
    single: Any

    def log_likelihood(self, potentials):
        """`log p(what is known)`, `(B,)`, under `ChainPotentials`."""
        d = potentials.distribution()
        if self.allowed is None:
            return d.log_prob(self.event)
        scores = K.where(self.allowed, potentials.scores, -float("inf"))
        return d.log_prob_of(potentials._replace(scores=scores).distribution())

    def tag_sets(self, k):
        """Booleans `(B, N, K)`: which tags a token may have."""
        if self.allowed is not None:
            return self.allowed
        return K.equal(K.expand_dims(self.event, -1), K.arange(k, dtype="int32"))


def check_ignore_index(ignore_index):
    """The label of what is not known, or a `ValueError`."""
    if ignore_index is not None and not isinstance(ignore_index, int):
        raise ValueError(f"Expected an integer or None. Received: ignore_index={ignore_index!r}")
    return ignore_index


def chain_target(y_true, potentials, weight=None, ignore_index=None):
    """The `ChainTarget` of `ChainPotentials`.

    Args:
        y_true: As `tags_of` takes it; for semi-Markov potentials segments `(B, N, 2)`, where
            `ignore_index` as length says that nothing is known of what starts at a token, as label
            that the segment may have any label.
        potentials: The `ChainPotentials`.
        weight: Weights of the tokens `(B, N)`: where they are 0, a target may be any number.
        ignore_index: Label of what is not known, or None.
    """
    valid = potentials.positions()
    if weight is not None:
        valid = K.logical_and(valid, K.not_equal(weight, 0))
    if potentials.structure == "semi_markov":
        return _segments(y_true, potentials, valid, ignore_index)
    (batch, n), k = potentials.scores.shape[:2], potentials.scores.shape[-1]
    return tags_of(y_true, k, valid, ignore_index, batch, n)


def tags_of(y_true, k, valid, ignore_index=None, batch=None, n=None, negative=False):
    """The `ChainTarget` of tags `(B, N)` or `(B, N, 1)`, or of sets of tags `(B, N, K)` if K > 1.

    Args:
        y_true: Numbers of any of these shapes. A row of a set holds 1 for the tags that are
            allowed, else 0: a single 1 is one-hot. One without a 1, or with another number, is no
            tag.
        k: Number of tags.
        valid: Booleans `(B, N)`: tokens whose tags must exist.
        ignore_index: Label of a tag that is not known, or None.
        batch: B, if known.
        n: N, if known.
        negative: Whether any negative tag is not known.
    """
    numbers, shape = tag_numbers(y_true, k, batch, n), K.shape(valid)
    if len(numbers.shape) == 3:
        sets = K.reshape(numbers, (*shape, k))
        allowed = K.equal(sets, 1)
        sound = K.all(K.logical_or(allowed, K.equal(sets, 0)), axis=-1)
        allowed = K.logical_and(allowed, K.expand_dims(sound, -1))
        event, count = _first(allowed), K.sum(K.cast(allowed, "int32"), axis=-1)
        known, single = count < k, count <= 1
    else:
        event = K.reshape(numbers, shape)
        allowed = K.equal(K.expand_dims(event, -1), K.arange(k, dtype="int32"))
        known = K.ones_like(valid)
        if ignore_index is not None:
            known = K.not_equal(event, ignore_index)
        if negative:
            known = K.logical_and(known, event >= 0)
        allowed = K.logical_or(allowed, K.expand_dims(K.logical_not(known), -1))
        single = known
    others = _others(ignore_index)
    check_numbers("y_true", "tags", event, K.logical_and(valid, known), 0, k, others)
    exact = len(numbers.shape) == 2 and ignore_index is None and not negative
    if exact or always(K.logical_or(single, K.logical_not(valid))):
        allowed = None
    return ChainTarget(event, allowed, known, single)


def _segments(y_true, potentials, valid, ignore_index):
    batch, n, longest, k = potentials.scores.shape
    y_true = K.convert_to_tensor(y_true)
    check_shape("y_true", y_true, f"segments (B, N, 2) = ({batch}, {n}, 2)", batch, n, 2)
    # A dynamic shape that does not fit must not broadcast.
    shape = (*K.shape(potentials.scores)[:2], 2)
    event = K.reshape(integers(y_true), shape)
    label, length = event[..., 0], event[..., 1]
    there = K.ones_like(valid)
    starts = K.logical_and(valid, length > 0)
    if ignore_index is None:
        check_numbers("y_true", "labels", label, starts, 0, k)
        return ChainTarget(event, None, there, there)
    if ignore_index >= -1:
        raise ValueError(
            "Expected a number below -1, which is where no segment starts. "
            f"Received: ignore_index={ignore_index}"
        )
    unlabelled = K.equal(label, ignore_index)
    known, others = K.logical_and(starts, K.logical_not(unlabelled)), _others(ignore_index)
    check_numbers("y_true", "labels", label, known, 0, k, others)
    starts = K.logical_and(potentials.positions(), length > 0)
    open_ = K.equal(length, ignore_index)
    if always(K.logical_not(K.logical_or(open_, K.logical_and(starts, unlabelled)))):
        return ChainTarget(event, None, there, there)

    def allowed(starts, label, length, unlabelled, open_):
        """Segments that agree with what is known to start at their first and further tokens."""
        same_length = K.equal(length[..., None], K.arange(1, longest + 1, dtype="int32"))
        same_label = K.equal(label[..., None], K.arange(k, dtype="int32"))
        same_label = K.logical_or(same_label, unlabelled[..., None])
        same = K.logical_and(same_length[..., None], same_label[:, :, None])
        same = K.logical_and(same, starts[..., None, None])
        others = window_sums(K.cast(starts, "int32")[..., None], longest)
        others = others - K.cast(starts, "int32")[..., None, None]
        return K.logical_and(K.logical_or(same, open_[..., None, None]), K.equal(others, 0))

    def covered(starts, length):
        """Tokens in a segment that is known."""
        places = K.arange(K.shape(starts)[1], dtype="int32")
        start = last_start(starts)
        some = start <= places
        start = K.where(some, start, 0)
        end = start + K.take_along_axis(length, start, axis=1)
        return K.logical_and(some, places < end)

    mask, given = potentials.mask, (starts, label, length, unlabelled, open_)
    known = in_order(covered, mask, starts, length)
    unlabelled = K.equal(token_labels(event, potentials.positions()), ignore_index)
    single = K.logical_and(known, K.logical_not(unlabelled))
    return ChainTarget(event, in_order(allowed, mask, *given), known, single)


def tag_numbers(y_true, k, batch=None, n=None, sets=True):
    """Tags `(B, N)`, int32, or sets of tags `(B, N, K)`, float32, as `tags_of` takes them.

    Args:
        y_true: Numbers.
        k: Number of tags.
        batch: B, if known.
        n: N, if known.
        sets: Whether sets are taken.
    """
    y_true = K.convert_to_tensor(y_true)
    shape = y_true.shape
    if sets and k > 1 and fits(shape, (batch, n, k)) and shape[-1] == k:
        return K.cast(y_true, "float32")
    if not (fits(shape, (batch, n)) or fits(shape, (batch, n, 1))):
        forms = "(B, N), (B, N, 1) or one-hot (B, N, K)" if sets else "(B, N) or (B, N, 1)"
        raise ValueError(
            f"Expected tags {forms}, where (B, N) = ({batch}, {n}) and K = {k}. "
            f"Received: shape of y_true={tuple(shape)}"
        )
    y_true = integers(y_true)
    return K.squeeze(y_true, -1) if len(shape) == 3 else y_true


def _others(ignore_index):
    return "" if ignore_index is None else f", or ignore_index={ignore_index}"


def _first(allowed):
    """The least tag `(B, N)` that sets allow, -1 where they allow none."""
    first = K.cast(K.argmax(K.cast(allowed, "int32"), axis=-1), "int32")
    return K.where(K.any(allowed, axis=-1), first, -1)


def always(x):
    """Whether booleans can be read and are all True."""
    return known_now(x) and bool(K.convert_to_numpy(x).all())
