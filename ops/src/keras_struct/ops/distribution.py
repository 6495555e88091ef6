"""The generic, lazy distribution over the objects of a structure.

    p_T(Y) = exp(<theta, phi(Y)> / T) / Z        V_T = T log Z        P = dV_T/dtheta = E[phi(Y)]

The sweeps run at temperature 1 on `theta / T`; everything here is derived from them once, for every
structure and framework.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_struct.ops import array, autodiff, dispatch
from keras_struct.ops.annotations import ArrayLike, Tensor
from keras_struct.ops.exact_sum import cancelling_sum, halves
from keras_struct.ops.information_readouts import InformationReadouts, log_share
from keras_struct.ops.labels import with_labels
from keras_struct.ops.noise import Noise, key_of
from keras_struct.ops.numerics import INFEASIBLE, scale_rows
from keras_struct.ops.once import Once
from keras_struct.ops.optimum_readouts import OptimumReadouts
from keras_struct.ops.structure import as_temperature, restore_batch, size_of


class TopK(NamedTuple):
    """The k best structures, best first.

    Attributes:
        scores: (k, ...) their scores `<theta, phi(Y)>`; minus infinity where fewer than k exist.
        events: (k, ..., event axes) the structures; -1 where fewer than k exist.
    """

    scores: Any
    events: Any


class Distribution(InformationReadouts, OptimumReadouts):
    """A log-linear distribution over the objects of a structure, at one temperature.

    Made by the public functions, such as `ops.linear_chain`. Nothing is computed before a readout
    asks for it; the forward sweep runs once and serves all readouts. Every readout is
    differentiable with respect to potentials and temperature, twice (NumPy backend: no gradients),
    except the discrete ones (`argmax`, `sample`, the events of `topk`).

    At `temperature=0` the distribution is the point mass on the best structure: `value` is its
    score, `marginals` its indicator, `entropy` 0.
    """

    _choice: Any = None  # before it is made
    _narrow: str | None = None  # of `Problem`; not known of what JAX made from leaves
    _static: Any = None  # if JAX made this one from leaves: what it was (see `autodiff/pytree.py`)

    def __init__(
        self, structure: Any, temperature: ArrayLike = 1.0, implementation: str | None = None
    ) -> None:
        self.structure = structure
        self.temperature = as_temperature(
            temperature, structure.batch_shape, structure.compute, structure.checks
        )
        structure.checks.run()
        given = structure.as_given and (self.temperature is None or self._hard)
        if given and keras.backend.standardize_dtype(structure.dtype) == "bfloat16":
            self._narrow = "bfloat16"
        self._choice = dispatch.choose(
            dispatch.call_of(
                structure.op,
                structure.family,
                self._problem.potentials,
                structure.spec,
                structure.options(),
            ),
            implementation,
        )

    @property
    def choice(self) -> dispatch.Choice:
        """The `Choice` of implementation, with its reasons (see `ops.explain`)."""
        return self._choice

    # Lazy sweeps -----------------------------------------------------------------------------

    @property
    def _hard(self):
        return isinstance(self.temperature, float)

    @Once
    def _problem(self):
        return autodiff.whole(self, "_prepared").replace(narrow=self._narrow)

    def _prepared(self):
        return self.structure.problem(self._scores())

    def _scores(self):
        if self._static is not None:
            self._static.check(self)
        return self.structure.scores(None if self._hard else self.temperature)

    @functools.cached_property
    def _sweeps(self):
        return with_labels(self._choice.sweeps(), self.structure.labels)

    @Once
    def _soft(self):
        """The log-partition, a pair whose sum is exact, and the tape."""
        return autodiff.forward(self._sweeps, self._problem, "logsumexp")

    @Once
    def _pair(self):
        """The log-partition as a pair (B,) whose sum is exact."""
        return self._soft[0]

    @Once
    def _max(self):
        return autodiff.forward(self._sweeps, self._problem, "max")

    @Once
    def _log_partition(self):
        """(B,), very negative where no structure exists."""
        if self._hard:
            exists = self._max[0][0] > INFEASIBLE
            score = self._score(self._best)
            return array.where(exists, score, ops.full_like(score, 2 * INFEASIBLE))
        (high, low), tape = self._soft
        return autodiff.value(self._sweeps, self._problem, tape, high + low)

    @Once
    def _best(self):
        """Compact best event, flat batch."""
        (best, _), tape = self._max
        event = autodiff.run(self._sweeps, "trace", autodiff.constant(self._problem), tape)
        return autodiff.whole(self, "_possible", best, event)

    def _possible(self, best, event):
        return _keep(best > INFEASIBLE, event)

    @Once
    def _marginals(self):
        """Canonical marginals, per example."""
        if self._hard:
            exists = ops.cast(self._log_partition > INFEASIBLE, self.structure.compute)
            indicator = self.structure.parts(self._best, self.structure.context)
            return tuple(ops.stop_gradient(scale_rows(exists, x)) for x in indicator)
        return autodiff.marginals(self._sweeps, self._problem, self._soft[1])

    # Readouts --------------------------------------------------------------------------------

    def value(self) -> Tensor:
        """Soft maximum `T log sum_Y exp(<theta, phi(Y)> / T)` (costs: soft minimum).

        Returns:
            (...,) float32 or float64; minus infinity (costs: plus infinity) where no structure
            exists.
        """
        return autodiff.whole(self, "_value", keep=("_log_partition",))

    def _value(self):
        value = self._finite(self._log_partition, self._times_temperature)
        return self._restore(-value if self.structure.costs else value)

    def log_partition(self) -> Tensor:
        """`log sum_Y exp(<theta, phi(Y)> / T)`, (...,)."""
        self._soft_only("log_partition")
        return self._restore(self._finite(self._log_partition))

    def marginals(self, name: str | None = None) -> Any:
        """Expected use of every part, the gradient of `value`.

        Args:
            name: Name of a potential, None for the primary one, or `"all"` for a dict of all.

        Returns:
            Tensor in the shape in which the potential was given, per example where the batch
            shared it; values in [0, 1] (counts where one potential serves many parts).
        """
        return self._chosen(autodiff.whole(self, "_all_as_given", self._marginals), name)

    def jacobian(self, name: str, of: str | None = None) -> Tensor:
        """Derivative of the marginals with respect to a parameter, as a map.

        For a parameter that is one number per example, such as a gap score, this is the map
        `dP / d eta`; for a larger potential, the derivative when all its entries move together.
        One curvature sweep; it is not differentiable itself, but works on the NumPy backend.

        Args:
            name: Name of a potential, or `"temperature"`.
            of: Name of the potential whose marginals move; None for the primary one.

        Returns:
            Tensor in the shape of `marginals(of)`, with the dtype of the value.
        """
        self._soft_only("jacobian")
        structure, problem = self.structure, autodiff.constant(self._problem)
        theta = problem.potentials
        if name == "temperature":
            tangents = [array.where(x <= INFEASIBLE, ops.zeros_like(x), -x) for x in theta]
        elif name in structure.potentials:
            still = {key: ops.zeros_like(x) for key, x in structure.potentials.items()}
            unit = ops.ones_like(still[name])
            moved = structure.fold({**still, name: -unit if structure.costs else unit})
            tangents = [a - b for a, b in zip(moved, structure.fold(still), strict=True)]
            tangents = [
                array.where(x <= INFEASIBLE, ops.zeros_like(x), dx)
                for x, dx in zip(theta, tangents, strict=True)
            ]
        else:
            raise ValueError(
                f"Expected 'temperature' or a potential among {list(structure.potentials)}. "
                f"Received: name={name!r}"
            )
        if self.temperature is not None:
            scale = ops.reshape(ops.stop_gradient(self.temperature), (-1,))
            tangents = [scale_rows(1 / scale, x) for x in tangents]
        wide = tuple(
            ops.broadcast_to(x, ops.shape(p))
            for x, p in zip(tangents, self._marginals, strict=True)
        )
        hessian = autodiff.run(self._sweeps, "curvature", problem, self._soft[1], wide)
        named = self._named(hessian)
        of = next(iter(structure.potentials)) if of is None else of
        if of not in named:
            raise ValueError(f"Expected a potential among {list(named)}. Received: of={of!r}")
        return self._restore(named[of])

    def argmax(self) -> Tensor:
        """The best structure, as an event (see the structure's docstring); one of them at ties."""
        return autodiff.whole(self, "_restored_event", self._best)

    def sample(self, seed: Any, n: int | None = None) -> Tensor:
        """Exact, independent samples, the same from every implementation.

        Args:
            seed: Integer, `keras.random.SeedGenerator`, key of `jax.random`, or an integer tensor
                () or (2,), which may be traced.
            n: Number of samples; None for one, without a sample axis.

        Returns:
            Integer events (..., event axes), or (n, ..., event axes).
        """
        count = 1 if n is None else n
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"Expected a positive number of samples. Received: n={n}")
        key = key_of(seed)
        if self._hard:
            best = self.argmax()
            return best if n is None else ops.stack([best] * n)
        (high, _), tape = self._soft
        noise = autodiff.run(Noise, "of", key, high, static=(count,))
        events = autodiff.run(self._sweeps, "sample", autodiff.constant(self._problem), tape, noise)
        events = autodiff.whole(self, "_drawn", high, events)
        return events[0] if n is None else events

    def _drawn(self, high, events):
        return self._restored_event(_keep(high > INFEASIBLE, events, 1), 1)

    def topk(self, k: int) -> TopK:
        """The k best structures with their scores (differentiable).

        Args:
            k: Number of structures, at least 1.

        Returns:
            `TopK(scores, events)`: (k, ...) and (k, ..., event axes).
        """
        if not isinstance(k, int) or k < 1:
            raise ValueError(f"Expected a positive integer. Received: k={k}")
        problem = autodiff.constant(self._problem)
        events, exists = autodiff.run(self._sweeps, "topk", problem, static=(k,))
        return TopK(*autodiff.whole(self, "_ranked", events, exists, keep=("_problem",)))

    def _ranked(self, events, exists):
        scores = self._score(events, events.shape[0])
        scores = array.where(exists, scores, ops.full_like(scores, 2 * INFEASIBLE))
        scores = self._finite(scores, self._times_temperature)
        if self.structure.costs:
            scores = -scores
        return self._restore(scores, prefix=1), self._restored_event(_keep(exists, events, 1), 1)

    def score(self, event: ArrayLike) -> Tensor:
        """`<theta, phi(Y)>` of events: (...,) for (..., event axes), (n, ...) for (n, ...)."""
        return autodiff.whole(self, "_score_of", _as_event(event), keep=("_problem",))

    def _score_of(self, event):
        event, count = self._flat_event(event)
        score = self._finite(self._score(event, count), self._times_temperature)
        score = -score if self.structure.costs else score
        return self._restore(score, prefix=0 if count is None else 1)

    def log_prob(self, event: ArrayLike) -> Tensor:
        """Log-probability of events.

        Args:
            event: Integer tensor (..., event axes) or (n, ..., event axes); what it holds in the
                padding is ignored.

        Returns:
            (...,) or (n, ...), at most 0; minus infinity for an impossible event.
        """
        self._soft_only("log_prob")
        known = "_problem", "_pair", "_log_partition"
        return autodiff.whole(self, "_log_prob", _as_event(event), keep=known)

    def _log_prob(self, event):
        event, count = self._flat_event(event)
        score, log_partition = self._score(event, count), self._log_partition
        possible = ops.logical_and(score > INFEASIBLE, log_partition > INFEASIBLE)
        exact = self._less_log_partition(self._products(event, count))
        log_prob = log_share(exact, score, log_partition, possible)
        return self._restore(log_prob, prefix=0 if count is None else 1)

    def parts(self, event: ArrayLike | None = None) -> Any:
        """Indicator of an event: how often it uses each part, by name of potential.

        Args:
            event: Integer tensor (..., event axes); None for the best structure.
        """
        if event is None:
            return self._by_name(autodiff.whole(self, "_parts", self._best))
        return self._by_name(autodiff.whole(self, "_parts_of", _as_event(event)))

    def _parts_of(self, event):
        return self._parts(self._flat_event(event)[0])

    def _parts(self, event):
        return self._all_as_given(self.structure.parts(event, self.structure.context))

    # Details ---------------------------------------------------------------------------------

    def known(self, values: Any) -> Any:
        """This distribution, knowing some of its lazy attributes, by name."""
        for name, value in values.items():
            vars(Distribution)[name].keep(self, value)
        return self

    def _all_as_given(self, canonical):
        """One array for each potential, in their order, which JAX would not keep in a dict."""
        return self._placed_as_given(self.structure.unfold(canonical))

    def _placed_as_given(self, named):
        named = self._placed(named)
        return tuple(self._as_given(named[name]) for name in self.structure.potentials)

    def _by_name(self, arrays):
        return dict(zip(self.structure.potentials, arrays, strict=True))

    def _chosen(self, arrays, name):
        """One of the arrays by the name of its potential, the first, or a dict of all."""
        named = self._by_name(arrays)
        if name == "all":
            return named
        name = next(iter(named)) if name is None else name
        if name not in named:
            raise ValueError(f"Expected a potential among {list(named)}. Received: name={name!r}")
        return named[name]

    def _restored_event(self, event, prefix=0):
        return self._restore(self._as_given_event(event, prefix), prefix)

    def _named(self, canonical):
        """Named marginals, every position where it was given."""
        return self._placed(self.structure.unfold(canonical))

    def _placed(self, named):
        structure = self.structure
        if structure.places is None:
            return named
        return {key: structure.scattered(key, x) for key, x in named.items()}

    def _as_given_event(self, event, prefix=0):
        """Events (B, ...), or (n, B, ...) with prefix 1, in positions as given."""
        places = self.structure.places
        if places is None:
            return event
        if not prefix:
            return self.structure.restore(event, places)
        return array.map_samples(lambda i: self.structure.restore(event[i], places), event.shape[0])

    def _products(self, event, count):
        """Potentials of the parts of an event, times how often it has them, as one array of numbers
        without rounding errors: (B, P) or (n, B, P)."""
        structure = self.structure
        flat = event if count is None else ops.reshape(event, (-1, *ops.shape(event)[2:]))
        context = tuple(_tile(x, 1 if count is None else count) for x in structure.context)
        rows = []
        for theta, x in zip(self._problem.potentials, structure.parts(flat, context), strict=True):
            x = _untile(x, 1 if count is None else count)
            for half in halves(theta):
                product = half[None] * x
                shape = ops.shape(product)
                rows.append(ops.reshape(product, (*shape[:2], size_of(shape[2:]))))
        product = ops.concatenate(rows, axis=2)
        return product[0] if count is None else product

    def _less_log_partition(self, products):
        """Sum of products (B, P) or (n, B, P) minus the log-partition.

        Both are large sums that cancel: the sum of all terms and of the exact pair does not lose
        what is left of them.
        """
        ends = [-x[:, None] for x in self._pair]
        if len(products.shape) == 3:
            ends = [ops.broadcast_to(x[None], (*ops.shape(products)[:2], 1)) for x in ends]
        return cancelling_sum(ops.concatenate([products, *ends], axis=-1), len(products.shape) - 1)

    def _score(self, event, count=None):
        """Sum of canonical potentials of an event, flat: (B,) or (count, B)."""
        structure = self.structure
        flat = event if count is None else ops.reshape(event, (-1, *ops.shape(event)[2:]))
        context = tuple(_tile(x, 1 if count is None else count) for x in structure.context)
        total = ops.sum(self._products(event, count), axis=-1)
        possible = structure.possible(flat, context)
        possible = possible if count is None else _untile(possible, count)
        return array.where(possible, total, ops.full_like(total, 2 * INFEASIBLE))

    def _flat_event(self, event):
        """Flat event and the number of events per example (None: no such axis)."""
        batch_rank = len(self.structure.batch_shape)
        extra = len(event.shape) - batch_rank - self.structure.event_rank
        if extra not in (0, 1):
            raise ValueError(
                f"Expected an event with {self.structure.event_rank} axes after the batch axes "
                f"{self.structure.batch_shape}, and at most one axis before them. "
                f"Received: shape of event={tuple(event.shape)}"
            )
        shape = ops.shape(event)
        core = shape[extra + batch_rank :]
        batch = size_of(self.structure.batch_shape)
        event = ops.reshape(event, (*shape[:extra], batch, *core))
        places = self.structure.places
        if places is not None and extra:
            given = event
            event = array.map_samples(
                lambda i: self.structure.compacted(given[i], places), shape[0]
            )
        elif places is not None:
            event = self.structure.compacted(event, places)
        return event, (shape[0] if extra else None)

    def _times_temperature(self, x):
        return x if self.temperature is None or self._hard else x * self.temperature

    def _finite(self, x, transform=lambda x: x):
        """`transform(x)`, minus infinity where no structure exists."""
        exists = x > INFEASIBLE
        x = transform(array.where(exists, x, ops.zeros_like(x)))
        return array.where(exists, x, ops.full_like(x, -float("inf")))

    def _restore(self, x, prefix=0):
        if self.structure.batch_shape:
            return restore_batch(x, self.structure.batch_shape, prefix)
        return x[:, 0] if prefix else x[0]

    def _as_given(self, x):
        return ops.cast(self._restore(x), self.structure.dtype)

    def _soft_only(self, readout):
        if self._hard:
            raise ValueError(f"Expected temperature > 0 for {readout}. Received: temperature=0")


def _placed(readout):
    """A readout whose tensors are made where the scores are."""

    @functools.wraps(readout)
    def wrapper(self, *args, **kwargs):
        with array.placed(self._problem.potentials):
            return readout(self, *args, **kwargs)

    return wrapper


if keras.backend.backend() == "torch":
    for _class in (Distribution, InformationReadouts, OptimumReadouts):
        for _name, _readout in list(vars(_class).items()):
            if callable(_readout) and not _name.startswith("_"):
                setattr(_class, _name, _placed(_readout))


def _as_event(event):
    return ops.cast(ops.convert_to_tensor(event), "int32")


def _keep(exists, event, prefix=0):
    """The event where a structure exists, else -1 everywhere."""
    if len(exists.shape) == 1 and prefix:
        exists = exists[None]
    more = [1] * (len(event.shape) - len(exists.shape))
    return array.where(ops.reshape(exists, (*ops.shape(exists), *more)), event, -1)


def _tile(x, n):
    """Repeat the batch axis n times; the repetition is the slower index."""
    return x if isinstance(n, int) and n == 1 else ops.concatenate([x] * n, axis=0)


def _untile(x, n):
    shape = ops.shape(x)
    return ops.reshape(x, (n, shape[0] // n, *shape[1:]))


if keras.backend.backend() == "jax":
    from keras_struct.ops.autodiff import pytree

    pytree.register(Distribution)
elif keras.backend.backend() == "torch":
    from keras_struct.ops.autodiff import torch_operator

    torch_operator.register(Distribution)
