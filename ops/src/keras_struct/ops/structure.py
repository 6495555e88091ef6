"""What one structure says about itself, so that `Distribution` can be generic."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_struct.ops.masks import Places, as_mask, places_of
from keras_struct.ops.numerics import clean
from keras_struct.ops.problem import Problem


class Structure:
    """One call of a public function: its potentials, flattened to one batch axis.

    Subclasses set `op`, `family` and `event_rank`; their `__init__` sets the attributes below and
    ends with `self.compact()`. Every array in an attribute is a leaf of the pytree that a
    `Distribution` is; every other attribute is static and hashable.

    Attributes:
        op: Public name of the structure.
        family: Whose implementations it has (see `dispatch`).
        costs: Whether potentials are costs (value is a soft minimum).
        event_rank: Number of axes of an event, without batch axes.
        labels: None, or "arcs" or "spans" if these carry one label each (see `labels`).
        as_given: Whether the first canonical potential has the numbers of the primary potential.
        closed_entmax: Whether sparse marginals have a closed form, `entmax`.
        axes: For each potential, for each of its axes after the batch: the number of the sequence
            that it runs along, or None. Potentials that are not named run along no sequence.
        spec: The structure as static data for implementations.
        potentials: Named potentials, flat batch axis first (size 1 where shared), compute dtype.
        padding: For each potential that has padding, a boolean array that is True where it is used,
            and what stands for it elsewhere: 0, or `FORBIDDEN`.
        context: Arrays without gradient, batch axis first.
        sequences: `Sequence` of every sequence.
        batch_shape: The user's batch axes.
        dtype: The user's dtype (of the primary potential).
        compute: float32 or float64.
        checks: What is still to be checked.
    """

    op = ""
    family = ""
    costs = False
    event_rank = 1
    labels: str | None = None
    as_given = False
    closed_entmax = False
    axes: Mapping[str, tuple] = MappingProxyType({})
    spec: Any = None
    sequences: tuple = ()
    padding: Mapping[str, tuple] = MappingProxyType({})
    potentials: dict[str, Any]
    context: tuple

    def fold(self, potentials):
        """Canonical potentials (a tuple) from named ones; linear."""
        raise NotImplementedError

    def unfold(self, marginals):
        """Named marginals from canonical ones: the transpose of `fold`, per example."""
        raise NotImplementedError

    def parts(self, event, context):
        """Canonical indicator of an event (flat batch): how often it uses each part."""
        raise NotImplementedError

    def possible(self, event, context):
        """Whether the structure has this event at all, (B,) (scores aside)."""
        return ops.ones(ops.shape(event)[:1], "bool")

    def restore(self, event, places):
        """An event (B, ...) in positions as given, from one in positions of the sequences.

        Args:
            event: The event.
            places: `Places` or None of every sequence, at least one of which is not None.
        """
        return self._positions_along(event, places, "scatter")

    def compacted(self, event, places):
        """The inverse of `restore`."""
        return self._positions_along(event, places, "gather")

    def _positions_along(self, event, places, move):
        """Events with one axis along the first sequence, whose numbers are no positions."""
        return getattr(places[0], move)(event, 1) if self.event_rank else event

    def entmax(self, scores, alpha):
        """Named sparse marginals of `scores`, if `closed_entmax` says so."""
        raise NotImplementedError

    def options(self):
        """Further static options, which an implementation may ask for by `call.option`."""
        return {}

    # What is derived -------------------------------------------------------------------------

    def compact(self):
        """Moves what is masked out behind the end of the sequences."""
        for name, axes in self.axes.items():
            if name in self.potentials:
                self.potentials[name] = self._moved(self.potentials[name], axes, "gather")

    def scattered(self, name, x):
        """A marginal with every position where it was given."""
        return self._moved(x, self.axes.get(name, ()), "scatter")

    def _moved(self, x, axes, move):
        for axis, number in enumerate(axes, 1):
            places = None if number is None else self.sequences[number].places
            if places is not None and x.shape[axis] != 1:
                x = getattr(places, move)(x, axis)
        return x

    @property
    def places(self):
        """`Places` or None of every sequence, or None if none was masked."""
        places = tuple(sequence.places for sequence in self.sequences)
        return None if all(x is None for x in places) else places

    def scores(self, temperature):
        """Named potentials over the temperature (None for 1), prepared, costs with a minus."""
        cleaned = {}
        for name, x in self.potentials.items():
            used, fill = self.padding.get(name, (None, 0.0))
            cleaned[name] = clean(-x if self.costs else x, used, fill, temperature)
        return cleaned

    def problem(self, scores):
        """The `Problem` of `scores`."""
        return Problem(self.spec, self.fold(scores), self.context, self.labels)


class Sequence(NamedTuple):
    """The positions of one sequence of every example.

    Attributes:
        lengths: (B,) int32: how many positions there are.
        places: `Places` of a mask, or None where positions stand in front.
        ragged: Whether some may be shorter than the axis.
    """

    lengths: Any
    places: Places | None
    ragged: bool

    def mask(self, n):
        """Boolean (B, n), or None if all positions are there."""
        return time_mask(self.lengths, n) if self.ragged else None


def as_sequence(name, lengths, mask, batch_shape, n, checks):
    """`Sequence` from integers (...,) or a boolean mask (..., n); all positions without either."""
    if mask is None:
        return Sequence(
            as_lengths(name, lengths, batch_shape, n, checks), None, lengths is not None
        )
    if lengths is not None:
        raise ValueError(f"Expected {name} or a mask, not both. Received: {name}={lengths}")
    name = name.replace("lengths", "mask")
    places = places_of(as_mask(name, mask, (*batch_shape, n)))
    return Sequence(places.lengths, places, True)


def as_pair(name, x):
    """A pair of values for two sequences; None is a pair of None."""
    if x is None:
        return None, None
    if not isinstance(x, (tuple, list)) or len(x) != 2:
        raise ValueError(f"Expected a pair as {name}, or None. Received: {name}={x}")
    return tuple(x)


def as_potential(name, x):
    """Tensor of floating dtype, or a clear error."""
    if not ops.is_tensor(x):  # on NumPy this would lose float64
        x = ops.convert_to_tensor(x)
    if not keras.backend.is_float_dtype(x.dtype):
        if keras.backend.standardize_dtype(x.dtype) == "bool":
            raise ValueError(f"Expected numbers as {name}. Received: dtype of {name}={x.dtype}")
        x = ops.cast(x, keras.config.floatx())
    return x


def flatten_batch(x, core_rank):
    """Merge all leading axes into one."""
    lead = len(x.shape) - core_rank
    if lead == 1:
        return x
    if lead == 0:
        return ops.expand_dims(x, 0)
    shape = ops.shape(x)
    return ops.reshape(x, (size_of(shape[:lead]), *shape[lead:]))


def size_of(shape):
    """The product of sizes, known or unknown."""
    size = 1
    for n in shape:
        size = size * n
    return size


def restore_batch(x, batch_shape, prefix=0):
    """Undo `flatten_batch` on axis `prefix`."""
    if len(batch_shape) == 1:
        return x
    shape = ops.shape(x)
    return ops.reshape(x, (*shape[:prefix], *batch_shape, *shape[prefix + 1 :]))


def flatten_shared(name, x, core_rank, batch_shape):
    """A potential with no batch axes (shared: size 1) or with all of them."""
    lead = len(x.shape) - core_rank
    if lead == 0:
        return ops.expand_dims(x, 0)
    if lead != len(batch_shape):
        raise ValueError(
            f"Expected {name} with {core_rank} axes, or with those after batch axes {batch_shape}. "
            f"Received: shape of {name}={tuple(x.shape)}"
        )
    for axis, (have, want) in enumerate(zip(x.shape, batch_shape, strict=False)):
        if isinstance(have, int) and isinstance(want, int) and have not in (1, want):
            raise ValueError(
                f"Expected {name} to have the batch axes {batch_shape}, or size 1 at axis {axis}. "
                f"Received: shape of {name}={tuple(x.shape)}"
            )
    wants = [want if isinstance(want, int) else None for want in batch_shape]
    if any(have == 1 and want != 1 for have, want in zip(x.shape, wants, strict=False)):
        if all(x.shape[axis] == 1 for axis in range(lead)):
            return ops.reshape(x, (1, *ops.shape(x)[lead:]))
        x = ops.broadcast_to(x, (*batch_shape, *ops.shape(x)[lead:]))
    return flatten_batch(x, core_rank)


def batch_of(x, core_rank):
    """The user's batch axes of `x`."""
    return tuple(ops.shape(x)[: len(x.shape) - core_rank])


def check_rank(name, x, rank, letters):
    if len(x.shape) < rank:
        raise ValueError(
            f"Expected {name} of shape (..., {letters}). Received: shape of {name}={tuple(x.shape)}"
        )


def as_lengths(name, lengths, batch_shape, limit, checks, minimum=0):
    """Integer tensor (B,): given lengths, broadcast over the batch, or `limit` everywhere."""
    batch = size_of(batch_shape)
    if lengths is None:
        if isinstance(limit, int) or keras.backend.backend() == "torch":
            # A size that `torch.compile` left open is settled: sweeps are made for one size.
            return ops.full((batch,), int(limit), dtype="int32")
        return ops.broadcast_to(ops.cast(limit, "int32"), (batch,))
    tensor = ops.convert_to_tensor(lengths)
    if not keras.backend.is_int_dtype(tensor.dtype):
        hint = " (a mask is given as mask)" if "bool" in str(tensor.dtype) else ""
        raise ValueError(f"Expected integer {name}{hint}. Received: dtype of {name}={tensor.dtype}")

    def check(values):
        known = isinstance(limit, int) or limit is None
        if values.size and known:
            most = values.max() if limit is None else limit
            if values.min() < minimum or values.max() > most:
                raise ValueError(
                    f"Expected {name} between {minimum} and {limit}. "
                    f"Received: {name}={values.astype(int)}"
                )

    checks.add((lengths,), (tensor,), check)
    tensor = ops.cast(tensor, "int32")
    if not batch_shape:
        return ops.reshape(tensor, (1,))
    return ops.reshape(ops.broadcast_to(tensor, batch_shape), (batch,))


def as_temperature(temperature, batch_shape, dtype, checks):
    """None for 1, 0.0 for the hard algorithm, else a tensor of shape () or (B,)."""
    if isinstance(temperature, (int, float, np.number)) or (
        isinstance(temperature, np.ndarray) and temperature.ndim == 0
    ):
        number = float(temperature)
        if number == 1:
            return None
        if number == 0:
            return 0.0
        if not number > 0 or number == float("inf"):
            raise ValueError(
                "Expected a finite temperature >= 0 (0 is the hard algorithm). "
                f"Received: temperature={temperature}"
            )
        return ops.convert_to_tensor(number, dtype=dtype)

    def check(values):
        if not ((values > 0) & np.isfinite(values)).all():
            raise ValueError(
                "Expected finite temperatures > 0 in an array (the hard algorithm is the Python "
                f"number 0). Received: temperature={values}"
            )

    tensor = ops.cast(ops.convert_to_tensor(temperature), dtype)
    checks.add((temperature,), (tensor,), check)
    if len(tensor.shape) == 0:
        return tensor
    return ops.reshape(ops.broadcast_to(tensor, batch_shape or (1,)), (size_of(batch_shape),))


def time_mask(lengths, n):
    """Boolean (B, n): position before the length."""
    return ops.arange(n, dtype="int32")[None, :] < lengths[:, None]


def one_hot(indices, depth, dtype):
    """One-hot over a new last axis; negative indices give zeros."""
    return ops.cast(ops.expand_dims(indices, -1) == ops.arange(depth, dtype=indices.dtype), dtype)


def static_shape(x):
    return tuple(size if isinstance(size, int) else None for size in x.shape)
