"""Linear-chain conditional random field."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.annotations import ArrayLike
from keras_struct.ops.distribution import Distribution
from keras_struct.ops.numerics import compute_dtype
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
from keras_struct.ops.symbolic import public
from keras_struct.ops.validation import Checks


@public
def linear_chain(
    unary: ArrayLike,
    transitions: ArrayLike,
    start: ArrayLike | None = None,
    end: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    mask: ArrayLike | None = None,
    implementation: str | None = None,
) -> Distribution:
    """Distribution over the tag sequences of a linear chain (CRF).

    The score of tags `y` is `sum_t unary[t, y_t] + sum_t transitions[y_t, y_{t+1}]`, plus
    `start[y_first]` and `end[y_last]`.

    Shapes: `...` batch axes, `N` positions, `K` tags.

    Args:
        unary: (..., N, K) scores of tag k at position n.
        transitions: (K, K), (..., K, K) or (..., N-1, K, K) scores of going from the first tag to
            the second.
        start: (K,) or (..., K) scores of the first tag, or None for zeros.
        end: (K,) or (..., K) scores of the last tag, or None for zeros.
        lengths: Integers (...,) between 0 and N; None for N. Length 0 has one structure, the empty
            sequence, and value 0.
        temperature: Positive number, tensor or variable, () or (...,); the number 0 is Viterbi.
        mask: Booleans (..., N), instead of lengths: a position where it is False is not part of
            the sequence, wherever it stands; its neighbours are neighbours. Transitions over time
            are those of the step into the later position.
        implementation: Name, or None for the best one (see `ops.explain`): `"native_cpu"` and
            `"portable"` take N steps of K x K work, `"parallel"` log N steps of K x K x K work for
            each position.

    Returns:
        `Distribution`. Events are tags (..., N), int32, -1 in the padding.

    Raises:
        ValueError: For shapes or lengths that do not fit.
        NotImplementedError: If the requested implementation does not take this call.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> d = ops.linear_chain(np.zeros((2, 5, 3), "float32"), np.zeros((3, 3), "float32"))
    >>> print(np.round(np.array(d.log_partition()), 3))  # log 3^5
    [5.493 5.493]

    Source: Lafferty, McCallum and Pereira (2001), Conditional Random Fields; forward-backward:
    Rabiner (1989), section III; parallel in time: Särkkä and García-Fernández (2021).
    """
    structure = LinearChain(unary, transitions, start, end, lengths, mask)
    return Distribution(structure, temperature, implementation)


@dataclasses.dataclass(frozen=True)
class LinearChainSpec:
    """Potentials: unary (B, N, K), transitions (B or 1, N - 1 or 1, K, K). Context: lengths (B,).

    Attributes:
        over_time: Whether there are N - 1 transitions; else they are shared over time.
    """

    over_time: bool


class LinearChain(Structure):
    op = "linear_chain"
    family = "chain"
    axes: Mapping[str, tuple] = {"unary": (0, None)}

    def __init__(self, unary, transitions, start, end, lengths, mask):
        unary = as_potential("unary", unary)
        transitions = as_potential("transitions", transitions)
        check_rank("unary", unary, 2, "N, K")
        self.checks = Checks()
        self.dtype = unary.dtype
        self.compute = compute_dtype(unary.dtype)
        self.batch_shape = batch_of(unary, 2)
        n, k = unary.shape[-2:]
        if n == 0:
            raise ValueError(
                "Expected at least one position (use lengths for empty sequences). "
                f"Received: shape of unary={tuple(unary.shape)}"
            )
        static = isinstance(n, int)
        if tuple(transitions.shape[-2:]) != (k, k):
            raise ValueError(
                f"Expected transitions of shape (..., {k}, {k}). "
                f"Received: shape of transitions={tuple(transitions.shape)}"
            )
        over_time = len(transitions.shape) > 2 and len(transitions.shape) == len(unary.shape) + 1
        steps = transitions.shape[-3] if over_time else None
        if static and isinstance(steps, int) and steps != n - 1:
            raise ValueError(
                f"Expected transitions over time of shape (..., {n - 1}, {k}, {k}). "
                f"Received: shape of transitions={tuple(transitions.shape)}"
            )
        self.spec = LinearChainSpec(over_time)
        named = {"unary": flatten_batch(unary, 2)}
        named["transitions"] = flatten_shared(
            "transitions", transitions, 3 if over_time else 2, self.batch_shape
        )
        for name, x in (("start", start), ("end", end)):
            if x is not None:
                x = as_potential(name, x)
                if x.shape[-1] != k:
                    raise ValueError(
                        f"Expected {name} of shape (..., {k}). "
                        f"Received: shape of {name}={tuple(x.shape)}"
                    )
                named[name] = flatten_shared(name, x, 1, self.batch_shape)
        self.potentials = {key: ops.cast(x, self.compute) for key, x in named.items()}
        self.n = ops.shape(unary)[-2]
        positions = as_sequence("lengths", lengths, mask, self.batch_shape, self.n, self.checks)
        self.sequences, self.context = (positions,), (positions.lengths,)
        valid = positions.mask(self.n)
        if valid is not None:
            self.padding = {"unary": (valid[..., None], 0.0)}
            if over_time:
                self.padding["transitions"] = (valid[:, 1:, None, None], 0.0)
        self.compact()

    def compact(self):
        super().compact()
        places = self.sequences[0].places
        if places is not None and self.spec.over_time:
            steps = ops.maximum(places.order[:, 1:] - 1, 0)
            self.potentials["transitions"] = _at_steps(self.potentials["transitions"], steps)

    def scattered(self, name, x):
        if name != "transitions" or not self.spec.over_time:
            return super().scattered(name, x)
        steps = self.sequences[0].places.rank[:, 1:] - 1  # into the first position there is none
        found = _at_steps(x, ops.maximum(steps, 0))
        return array.where((steps >= 0)[:, :, None, None], found, ops.zeros_like(found))

    def fold(self, potentials):
        unary = potentials["unary"]
        (lengths,) = self.context
        first, last = _ends(lengths, self.n, unary.dtype)
        if "start" in potentials:
            unary = unary + first * potentials["start"][:, None, :]
        if "end" in potentials:
            unary = unary + last * potentials["end"][:, None, :]
        transitions = potentials["transitions"]
        return unary, transitions if self.spec.over_time else transitions[:, None]

    def unfold(self, marginals):
        unary, transitions = marginals
        (lengths,) = self.context
        first, last = _ends(lengths, self.n, unary.dtype)
        named = {"unary": unary, "transitions": transitions}
        if not self.spec.over_time:
            named["transitions"] = transitions[:, 0]
        if "start" in self.potentials:
            named["start"] = ops.sum(first * unary, axis=1)
        if "end" in self.potentials:
            named["end"] = ops.sum(last * unary, axis=1)
        return named

    def parts(self, event, context):
        (lengths,) = context
        k = ops.shape(self.potentials["unary"])[-1]
        tags = array.where(time_mask(lengths, self.n), event, -1)
        unary = one_hot(tags, k, self.compute)
        if self.spec.over_time:
            return unary, unary[:, :-1, :, None] * unary[:, 1:, None, :]
        pairs = array.matmul(ops.swapaxes(unary[:, :-1], 1, 2), unary[:, 1:])
        return unary, pairs[:, None]

    def possible(self, event, context):
        (lengths,) = context
        k = ops.shape(self.potentials["unary"])[-1]
        known = ops.logical_and(event >= 0, event < k)
        padding = ops.logical_not(time_mask(lengths, self.n))
        return ops.all(ops.logical_or(known, padding), axis=1)


def _at_steps(x, index):
    """Transitions (B or 1, N - 1, K, K) at the steps (B, N - 1) of every example."""
    shape = (ops.shape(index)[0], *ops.shape(x)[1:])
    x = ops.broadcast_to(x, shape) if x.shape[0] == 1 else x
    index = ops.broadcast_to(index[:, :, None, None], shape)
    return array.take_along_axis(x, index, 1)


def _ends(lengths, n, dtype):
    """Indicators (B, N, 1) of the first and the last position; zeros for length 0."""
    positions = ops.arange(n, dtype="int32")[None, :]
    some = lengths[:, None] > 0
    first = ops.logical_and(positions == 0, some)
    last = ops.logical_and(positions == lengths[:, None] - 1, some)
    return ops.cast(first, dtype)[..., None], ops.cast(last, dtype)[..., None]
