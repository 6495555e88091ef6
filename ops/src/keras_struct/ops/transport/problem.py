"""The checked arguments of a transport problem, without padding, with a flat batch."""

import math

import keras
import numpy as np
from keras import ops

from keras_struct.ops import array, dispatch
from keras_struct.ops.numerics import compute_dtype
from keras_struct.ops.structure import (
    as_potential,
    batch_of,
    check_rank,
    flatten_batch,
    restore_batch,
)
from keras_struct.ops.transport.half_steps import HalfSteps
from keras_struct.ops.transport.places import Places
from keras_struct.ops.transport.tiles import Support
from keras_struct.ops.validation import Checks

SUPPORTS = ("spoke", "block")
# Rounding of a score that leaves its weight without a digit.
LARGEST_ROUNDING = 0.1


class Problem:
    """Checked arguments, with a flat batch, in the dtype of the arithmetic.

    Attributes:
        choice: `dispatch.Choice`, which implementation and why.
        half: `HalfSteps`.
        scale: Of the features of the rows, 1 / (epsilon sqrt(D)).
        sides: Features of the rows, over epsilon sqrt(D), and of the columns; log-masses of both;
            lengths of both. Places that are masked out are gone, and those left moved together.
        places: `Places` of the queries and of the keys.
        batch_shape: The user's batch axes.
    """

    def __init__(
        self,
        op,
        query,
        key,
        lengths=None,
        mask=None,
        epsilon=1.0,
        band_width=None,
        masses=None,
        kl_weights=(None, None),
        dustbin=None,
        implementation=None,
        value=None,
    ):
        query, key = as_potential("query", query), as_potential("key", key)
        check_rank("query", query, 2, "L1, D")
        check_rank("key", key, 2, "L2, D")
        self.batch_shape, depth = batch_of(query, 2), query.shape[-1]
        if key.shape[-1] != depth or tuple(key.shape[:-2]) != tuple(query.shape[:-2]):
            raise ValueError(
                "Expected queries and keys of equal size and batch axes. Received: shapes of "
                f"query={tuple(query.shape)}, key={tuple(key.shape)}"
            )
        if band_width is not None:
            check_count("band_width", band_width, 0)
        relax = relaxations(kl_weights)
        self.checks = Checks()
        self.dtype, self.dustbin = compute_dtype(query.dtype), dustbin
        self.scale = 1.0 / (self._epsilon(epsilon) * math.sqrt(depth))
        names, sides = ("query", "key"), (query, key)
        self.places = tuple(
            Places(name, ops.shape(x)[-2], n, kept, self.batch_shape, self.checks)
            for name, x, n, kept in zip(
                names, sides, pair("lengths", lengths), pair("mask", mask), strict=True
            )
        )
        counts = [places.lengths for places in self.places]
        log_masses = [
            self._log_masses(name, x, places)
            for name, x, places in zip(names, pair("masses", masses), self.places, strict=True)
        ]
        rows, columns = (
            places.features(ops.cast(flatten_batch(x, 2), self.dtype))
            for x, places in zip(sides, self.places, strict=True)
        )
        spokes = False
        if dustbin is not None:
            if dustbin.support not in SUPPORTS:
                raise ValueError(
                    f"Expected a support among {SUPPORTS}. "
                    f"Received: dustbin.support={dustbin.support!r}"
                )
            spokes = dustbin.support == "spoke"
            band_width = band_width if spokes else None
            rows, columns = self._before(dustbin.query, rows), self._before(dustbin.key, columns)
            counts = [n + 1 for n in counts]
            capacities = pair("dustbin.capacities", dustbin.capacities)
            log_masses = [
                ops.concatenate([self._log_capacity(c) + ops.zeros_like(x[:, :1]), x], axis=1)
                for c, x in zip(capacities, log_masses, strict=True)
            ]
        rows = rows * self.scale
        check_rounding(rows, columns, self.checks)
        self.checks.run()
        options = {"band_width": band_width, "spokes": spokes, "relax": relax}
        call = dispatch.call_of(op, "transport", (rows, columns), options=options)
        self.choice = dispatch.choose(call, implementation)
        half = _in_bfloat16(query, key, value, dustbin)
        sums = self.choice.implementation(Support(band_width, spokes), half)
        self.half = HalfSteps(sums, relax)
        self.sides = rows, columns, tuple(log_masses), tuple(counts)

    def values(self, value):
        """Values without padding, behind that of the dustbin."""
        value = self.places[1].features(ops.cast(flatten_batch(value, 2), self.dtype))
        if self.dustbin is None:
            return value
        if self.dustbin.value is None:
            return ops.pad(value, ((0, 0), (1, 0), (0, 0)))
        return self._before(self.dustbin.value, value)

    def cotangent(self, cotangent, size):
        """(..., L1, V), without padding, with zeros for the dustbin."""
        cotangent = as_potential("cotangent", cotangent)
        wanted = (*self.batch_shape, self.places[0].size, size)
        if tuple(cotangent.shape) != tuple(wanted):
            raise ValueError(
                f"Expected a cotangent of shape {wanted}. Received: shape={tuple(cotangent.shape)}"
            )
        cotangent = ops.cast(flatten_batch(cotangent, 2), self.dtype)
        cotangent = self.places[0].features(cotangent)
        return array.pad(cotangent, [(0, 0), (int(self.dustbin is not None), 0), (0, 0)], 0)

    def restore(self, side, x):
        """What the places of a side got (B, L, ...), in the user's shape, 0 where masked."""
        x = self.places[side].restore(x, first=int(self.dustbin is not None))
        return restore_batch(x, self.batch_shape)

    def _epsilon(self, epsilon):
        """() or (B, 1, 1)."""
        if isinstance(epsilon, (int, float)):
            if not 0 < epsilon < float("inf"):
                raise ValueError(f"Expected a finite epsilon > 0. Received: epsilon={epsilon}")
            return ops.convert_to_tensor(epsilon, dtype=self.dtype)
        given, epsilon = epsilon, ops.cast(ops.convert_to_tensor(epsilon), self.dtype)
        self._check_positive("a finite epsilon", "epsilon", given, epsilon)
        if len(epsilon.shape):
            epsilon = flatten_batch(ops.broadcast_to(epsilon, self.batch_shape), 0)[:, None, None]
        return epsilon

    def _before(self, token, x):
        """A token (D,) or (..., D) in front of the others."""
        token = ops.convert_to_tensor(token, dtype=self.dtype)
        size = x.shape[-1]
        if token.shape[-1] != size:
            raise ValueError(
                f"Expected features of size {size} for the dustbin. "
                f"Received: shape={tuple(token.shape)}"
            )
        if len(token.shape) > 1:
            token = flatten_batch(token, 1)[:, None]
        return ops.concatenate([ops.zeros_like(x[:, :1]) + token, x], axis=1)

    def _log_capacity(self, capacity):
        if isinstance(capacity, (int, float)):
            if not 0 < capacity < float("inf"):
                raise ValueError(f"Expected finite capacities > 0. Received: {capacity}")
            return math.log(capacity)
        given, capacity = capacity, ops.convert_to_tensor(capacity, dtype=self.dtype)
        self._check_positive("finite capacities", "capacities", given, capacity)
        capacity = ops.broadcast_to(ops.stop_gradient(capacity), self.batch_shape)
        return array.log(flatten_batch(capacity, 0)[:, None])

    def _log_masses(self, name, mass, places):
        shape = *self.batch_shape, places.size
        if mass is None:
            return places.features(flatten_batch(ops.zeros(shape, dtype=self.dtype), 1))
        mass = ops.cast(as_potential(f"masses of {name}", mass), self.dtype)
        mass = flatten_batch(ops.broadcast_to(ops.stop_gradient(mass), shape), 1)
        mass = places.features(mass, padding=1.0)
        self._check_positive("masses", f"masses of {name}", mass, mass)
        return array.log(mass)

    def _check_positive(self, expected, name, given, tensor):
        def check(values):
            if not ((values > 0) & (values < np.inf)).all():
                raise ValueError(f"Expected {expected} > 0. Received: {name}={values}")

        self.checks.add((given,), (tensor,), check)


def check_rounding(rows, columns, checks):
    """An error where scores are so large that their weights are all rounding."""
    norms = [array.max(array.sum(x * x, 2), 1) for x in (rows, columns)]
    dtype = keras.backend.standardize_dtype(rows.dtype)
    limit = LARGEST_ROUNDING / float(np.finfo(dtype).epsneg)

    def check(values):
        largest = float(values.max(initial=0.0)) ** 0.5
        if largest > limit:
            raise ValueError(
                f"Expected features whose products, over epsilon sqrt(D), are at most {limit:.3g}: "
                f"above, {dtype} cannot tell one weight from another (float64 can, or a larger "
                f"epsilon). Received: norms of query and key with a product of {largest:.3g}"
            )

    product = ops.stop_gradient(norms[0] * norms[1])
    checks.add((product,), (product,), check)


def _in_bfloat16(query, key, value, dustbin):
    """Whether all features, and values where there are any, are in bfloat16."""
    arrays = [query, key, value, *(dustbin[:3] if dustbin is not None else ())]
    return all(
        keras.backend.standardize_dtype(getattr(x, "dtype", "float32")) == "bfloat16"
        for x in arrays
        if x is not None
    )


def values_for_keys(value, key):
    """The values as a tensor, one for each key, or an error."""
    value, key = as_potential("value", value), as_potential("key", key)
    check_rank("value", value, 2, "L2, V")
    if tuple(value.shape[:-1]) != tuple(key.shape[:-1]):
        raise ValueError(
            f"Expected as many values as keys. Received: shapes of key={tuple(key.shape)}, "
            f"value={tuple(value.shape)}"
        )
    return value


def pair(name, x):
    x = (None, None) if x is None else tuple(x)
    if len(x) != 2:
        raise ValueError(f"Expected a pair. Received: {name}={x}")
    return x


def relaxations(kl_weights):
    """`relax` of `HalfSteps`."""
    return tuple(map(_relaxation, pair("kl_weights", kl_weights)))


def _relaxation(weight):
    if weight is None:
        return 1.0
    if not isinstance(weight, (int, float)) or not 0 < weight < float("inf"):
        raise ValueError(f"Expected finite kl_weights > 0, or None. Received: {weight!r}")
    return weight / (1.0 + weight)


def checked_schedule(schedule):
    for factor, steps in schedule:
        check_count("steps of the schedule", steps, 1)
        if not 0 < factor < float("inf"):
            raise ValueError(f"Expected factors > 0. Received: schedule={schedule}")
    return tuple(schedule)


def check_count(name, value, least):
    if not isinstance(value, int) or value < least:
        raise ValueError(f"Expected an integer >= {least}. Received: {name}={value}")
