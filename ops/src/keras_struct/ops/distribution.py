"""The generic, lazy distribution over the objects of a structure.

    p_T(Y) = exp(<theta, phi(Y)> / T) / Z        V_T = T log Z        P = dV_T/dtheta = E[phi(Y)]

The sweeps run at temperature 1 on `theta / T`; everything here is derived from them once, for every
structure and framework.
"""

import functools
from typing import NamedTuple

import keras
from keras import ops

from keras_struct.ops import array, autodiff, dispatch
from keras_struct.ops.numerics import (
    INFEASIBLE,
    gumbel_noise,
    inner,
    no_noise,
    per_example,
    scale_rows,
)
from keras_struct.ops.structure import make_call, restore_batch


class TopK(NamedTuple):
    """The k best structures, best first.

    Attributes:
        scores: (k, ...) their scores `<theta, phi(Y)>`; minus infinity where fewer than k exist.
        events: (k, ..., event axes) the structures.
    """

    scores: object
    events: object


class Distribution:
    """A log-linear distribution over the objects of a structure, at one temperature.

    Made by the public functions, such as `ops.linear_chain`. Nothing is computed before a readout
    asks for it; the forward sweep runs once and serves all readouts. Every readout is
    differentiable with respect to potentials and temperature, twice (NumPy backend: no gradients),
    except the discrete ones (`argmax`, `sample`, the events of `topk`).

    At `temperature=0` the distribution is the point mass on the best structure: `value` is its
    score, `marginals` its indicator, `entropy` 0.
    """

    def __init__(self, structure, temperature=None, implementation=None):
        self.structure = structure
        self.temperature = temperature
        self._hard = isinstance(temperature, float)
        scale = None if self._hard else temperature
        self._theta = structure.fold(structure.clean_potentials(scale))
        self._choice = dispatch.choose(make_call(structure, self._theta), implementation)
        self._sweeps = self._choice.sweeps()

    @property
    def choice(self):
        """The `Choice` of implementation, with its reasons (see `ops.explain`)."""
        return self._choice

    # Lazy sweeps -----------------------------------------------------------------------------

    @functools.cached_property
    def _soft(self):
        return autodiff.forward(self._sweeps, self._theta, self.structure.context, "logsumexp")

    @functools.cached_property
    def _max(self):
        return autodiff.forward(self._sweeps, self._theta, self.structure.context, "max")

    @functools.cached_property
    def _log_partition(self):
        """(B,), very negative where no structure exists."""
        if self._hard:
            exists = self._max[0] > INFEASIBLE
            score = self._score(self._best)
            return array.where(exists, score, ops.full_like(score, 2 * INFEASIBLE))
        log_partition, tape = self._soft
        return autodiff.value(
            self._sweeps, self._theta, self.structure.context, tape, log_partition
        )

    @functools.cached_property
    def _best(self):
        """Compact best event, flat batch."""
        best, tape = self._max
        theta = tuple(ops.stop_gradient(x) for x in self._theta)
        noise = no_noise(keras.backend.standardize_dtype(theta[0].dtype))
        event = autodiff.run(
            self._sweeps, "trace", theta, self.structure.context, tape, static=(noise,)
        )
        return _keep(best > INFEASIBLE, event)

    @functools.cached_property
    def _marginals(self):
        """Canonical marginals, per example."""
        if self._hard:
            exists = ops.cast(self._log_partition > INFEASIBLE, self._theta[0].dtype)
            indicator = self.structure.parts(self._best, self.structure.context)
            return tuple(ops.stop_gradient(scale_rows(exists, x)) for x in indicator)
        _, tape = self._soft
        return autodiff.marginals(self._sweeps, self._theta, self.structure.context, tape)

    # Readouts --------------------------------------------------------------------------------

    def value(self):
        """Soft maximum `T log sum_Y exp(<theta, phi(Y)> / T)` (costs: soft minimum).

        Returns:
            (...,) float32 or float64; minus infinity (costs: plus infinity) where no structure
            exists.
        """
        value = self._finite(self._log_partition, lambda x: self._times_temperature(x))
        return self._restore(-value if self.structure.costs else value)

    def log_partition(self):
        """`log sum_Y exp(<theta, phi(Y)> / T)`, (...,)."""
        self._soft_only("log_partition")
        return self._restore(self._finite(self._log_partition))

    def marginals(self, name=None):
        """Expected use of every part, the gradient of `value`.

        Args:
            name: Name of a potential, None for the primary one, or `"all"` for a dict of all.

        Returns:
            Tensor in the shape in which the potential was given, per example where the batch
            shared it; values in [0, 1] (counts where one potential serves many parts).
        """
        named = self.structure.unfold(self._marginals)
        if name == "all":
            return {key: self._as_given(x) for key, x in named.items()}
        if name is None:
            name = next(iter(self.structure.potentials))
        if name not in named:
            raise ValueError(f"Expected a potential among {list(named)}. Received: name={name!r}")
        return self._as_given(named[name])

    def jacobian(self, name, of=None):
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
        structure = self.structure
        theta = tuple(ops.stop_gradient(x) for x in self._theta)
        if name == "temperature":
            tangents = [array.where(x <= INFEASIBLE, ops.zeros_like(x), -x) for x in theta]
        elif name in structure.potentials:
            still = {key: ops.zeros_like(x) for key, x in structure.potentials.items()}
            unit = ops.ones_like(still[name])
            moved = structure.fold({**still, name: -unit if structure.costs else unit})
            tangents = [a - b for a, b in zip(moved, structure.fold(still), strict=True)]
        else:
            raise ValueError(
                f"Expected 'temperature' or a potential among {list(structure.potentials)}. "
                f"Received: name={name!r}"
            )
        if self.temperature is not None:
            scale = ops.reshape(ops.stop_gradient(self.temperature), (-1,))
            tangents = [scale_rows(1 / scale, x) for x in tangents]
        wide = [
            ops.broadcast_to(x, ops.shape(p))
            for x, p in zip(tangents, self._marginals, strict=True)
        ]
        hessian = autodiff.run(
            self._sweeps, "curvature", theta, structure.context, self._soft[1], tuple(wide)
        )
        named = structure.unfold(hessian)
        of = next(iter(structure.potentials)) if of is None else of
        if of not in named:
            raise ValueError(f"Expected a potential among {list(named)}. Received: of={of!r}")
        return self._restore(named[of])

    def argmax(self):
        """The best structure, as an event (see the structure's docstring); one of them at ties."""
        return self._restore(self._best)

    def sample(self, seed, n=None):
        """Exact, independent samples.

        Args:
            seed: Integer or `keras.random.SeedGenerator`.
            n: Number of samples; None for one, without a sample axis.

        Returns:
            Integer events (..., event axes), or (n, ..., event axes).
        """
        if self._hard:
            best = self.argmax()
            return best if n is None else ops.stack([best] * n)
        if not isinstance(seed, (int, keras.random.SeedGenerator)):
            raise ValueError(f"Expected an integer or a SeedGenerator. Received: seed={seed}")
        count = 1 if n is None else n
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"Expected a positive number of samples. Received: n={n}")
        dtype = self._theta[0].dtype
        single = self._batch() == 1
        theta = tuple(  # size 1: shared by the batch, unless the batch has size 1
            _tile(ops.stop_gradient(x), count) if single or x.shape[0] != 1 else x
            for x in self._theta
        )
        context, tape = (
            tuple(_tile(x, count) for x in group)
            for group in (self.structure.context, self._soft[1])
        )
        events = self._sweeps.trace(theta, context, tape, gumbel_noise(seed, dtype))
        events = _keep(_tile(self._soft[0] > INFEASIBLE, count), events)
        if n is None:
            return self._restore(events)
        return self._restore(_untile(events, n), prefix=1)

    def topk(self, k):
        """The k best structures with their scores (differentiable).

        Args:
            k: Number of structures, at least 1.

        Returns:
            `TopK(scores, events)`: (k, ...) and (k, ..., event axes).
        """
        if not isinstance(k, int) or k < 1:
            raise ValueError(f"Expected a positive integer. Received: k={k}")
        theta = tuple(ops.stop_gradient(x) for x in self._theta)
        events, exists = autodiff.run(
            self._sweeps, "topk", theta, self.structure.context, static=(k,)
        )
        scores = self._score(events, k)
        scores = array.where(exists, scores, ops.full_like(scores, 2 * INFEASIBLE))
        scores = self._finite(scores, self._times_temperature)
        if self.structure.costs:
            scores = -scores
        return TopK(self._restore(scores, prefix=1), self._restore(events, prefix=1))

    def score(self, event):
        """`<theta, phi(Y)>` of events: (...,) for (..., event axes), (n, ...) for (n, ...)."""
        event, count = self._flat_event(event)
        score = self._finite(self._score(event, count), self._times_temperature)
        score = -score if self.structure.costs else score
        return self._restore(score, prefix=0 if count is None else 1)

    def log_prob(self, event):
        """Log-probability of events.

        Args:
            event: Integer tensor (..., event axes) or (n, ..., event axes); what it holds in the
                padding is ignored.

        Returns:
            (...,) or (n, ...), at most 0; minus infinity for an impossible event.
        """
        self._soft_only("log_prob")
        event, count = self._flat_event(event)
        score, log_partition = self._score(event, count), self._log_partition
        possible = ops.logical_and(score > INFEASIBLE, log_partition > INFEASIBLE)
        log_prob = array.where(possible, score, 0.0) - array.where(possible, log_partition, 0.0)
        log_prob = array.where(possible, log_prob, -float("inf"))
        return self._restore(log_prob, prefix=0 if count is None else 1)

    def entropy(self):
        """Entropy in nats, (...,); 0 where there is one structure or none."""
        if self._hard:
            return self._restore(ops.zeros_like(self._log_partition))
        exists = self._log_partition > INFEASIBLE
        entropy = array.where(exists, self._log_partition, 0.0) - inner(
            self._theta, self._marginals
        )
        return self._restore(entropy)

    def cross_entropy(self, other):
        """`-E_self[log p_other(Y)]` in nats, (...,).

        Args:
            other: `Distribution` over the same structure, with the same batch and lengths.

        Returns:
            (...,); plus infinity where `other` forbids what this one may draw.
        """
        for d in (self, other):
            d._soft_only("cross_entropy")
        if type(self.structure) is not type(other.structure):
            raise ValueError(
                f"Expected a distribution over {self.structure.op}. "
                f"Received: other={getattr(other.structure, 'op', other)}"
            )
        marginals = self._like(other)._marginals
        theta = other._theta
        impossible = 0.0
        for t, p in zip(theta, marginals, strict=True):
            hit = ops.logical_and(t <= INFEASIBLE, p > 0)
            impossible = impossible + per_example(ops.cast(hit, p.dtype))
        impossible = ops.logical_or(impossible > 0, other._log_partition <= INFEASIBLE)
        cross = array.where(impossible, 0.0, other._log_partition) - inner(theta, marginals)
        return self._restore(array.where(impossible, float("inf"), cross))

    def kl_divergence(self, other):
        """`KL(self || other)` in nats, (...,), at least 0; see `cross_entropy`."""
        return self.cross_entropy(other) - self.entropy()

    def parts(self, event=None):
        """Indicator of an event: how often it uses each part, by name of potential.

        Args:
            event: Integer tensor (..., event axes); None for the best structure.
        """
        event = self._best if event is None else self._flat_event(event)[0]
        named = self.structure.unfold(self.structure.parts(event, self.structure.context))
        return {key: self._as_given(x) for key, x in named.items()}

    # Details ---------------------------------------------------------------------------------

    def _score(self, event, count=None):
        """Sum of canonical potentials of an event, flat: (B,) or (count, B)."""
        structure = self.structure
        n = 1 if count is None else count
        flat = event if count is None else ops.reshape(event, (-1, *ops.shape(event)[2:]))
        context = tuple(_tile(x, n) for x in structure.context)
        total = 0.0
        for theta, x in zip(self._theta, structure.parts(flat, context), strict=True):
            product = theta[None] * _untile(x, n)
            total = total + ops.sum(product, axis=tuple(range(2, len(product.shape))))
        possible = _untile(structure.possible(flat, context), n)
        total = array.where(possible, total, ops.full_like(total, 2 * INFEASIBLE))
        return total[0] if count is None else total

    def _like(self, other):
        """This distribution with every potential as wide as the other's."""
        if all(
            all(a == b or b == 1 for a, b in zip(x.shape[1:], y.shape[1:], strict=True))
            for x, y in zip(self._theta, other._theta, strict=True)
        ):
            return self
        wide = Distribution.__new__(Distribution)
        wide.__dict__.update(
            structure=self.structure,
            temperature=self.temperature,
            _hard=self._hard,
            _choice=self._choice,
            _sweeps=self._sweeps,
            _theta=tuple(
                ops.broadcast_to(x, (ops.shape(x)[0], *ops.shape(x + y)[1:]))
                for x, y in zip(self._theta, other._theta, strict=True)
            ),
        )
        return wide

    def _flat_event(self, event):
        """Flat event and the number of events per example (None: no such axis)."""
        event = ops.cast(ops.convert_to_tensor(event), "int32")
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
        event = ops.reshape(event, (*shape[:extra], self._batch(), *core))
        return event, (shape[0] if extra else None)

    def _batch(self):
        batch = 1
        for size in self.structure.batch_shape:
            batch = batch * size
        return batch

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


def _keep(exists, event):
    """The event where a structure exists, else -1 everywhere."""
    return array.where(ops.reshape(exists, (-1,) + (1,) * (len(event.shape) - 1)), event, -1)


def _tile(x, n):
    """Repeat the batch axis n times; the repetition is the slower index."""
    return x if n == 1 else ops.concatenate([x] * n, axis=0)


def _untile(x, n):
    shape = ops.shape(x)
    return ops.reshape(x, (n, -1, *shape[1:]))
