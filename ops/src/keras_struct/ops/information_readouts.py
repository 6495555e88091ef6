"""The readouts of a distribution in nats: entropy, divergences, the share of what is allowed."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_struct.ops import array, autodiff
from keras_struct.ops.annotations import ArrayLike, Tensor
from keras_struct.ops.exact_sum import cancelling_sum
from keras_struct.ops.numerics import INFEASIBLE, per_example
from keras_struct.ops.structure import size_of


class InformationReadouts:
    """What `Distribution` inherits; `self` is one."""

    def log_prob_of(self: Any, allowed: ArrayLike) -> Tensor:
        """Log-probability that the structure is one of those that another distribution allows.

        With some potentials at minus infinity, `allowed` is what is known of a structure where not
        all is observed: minus this is its negative log-likelihood, whatever the rest is.

        Args:
            allowed: `Distribution` over the same structure, made of the same potentials, some of
                them at minus infinity, at the same temperature.

        Returns:
            (...,), at most 0; minus infinity where nothing is allowed.

        Example:

        >>> import numpy as np
        >>> from keras_struct import ops
        >>> d = ops.categorical(np.zeros((1, 4), "float32"))
        >>> known = ops.categorical(np.array([[0.0, -np.inf, 0.0, -np.inf]], "float32"))
        >>> print(np.round(np.exp(np.array(d.log_prob_of(known))), 3))
        [0.5]
        """
        self._same_kind("log_prob_of", allowed)
        some, everything = allowed._log_partition, self._log_partition
        possible = ops.logical_and(some > INFEASIBLE, everything > INFEASIBLE)
        terms = [*allowed._pair, *(-x for x in self._pair)]
        exact = cancelling_sum(ops.stack(terms, axis=1), 1)
        return self._restore(log_share(exact, some, everything, possible))

    def entropy(self: Any) -> Tensor:
        """Entropy in nats, (...,); 0 where there is one structure or none."""
        if self._hard:
            return self._restore(ops.zeros_like(self._log_partition))
        known = "_problem", "_pair", "_log_partition", "_marginals"
        return autodiff.whole(self, "_entropy", keep=known)

    def _entropy(self: Any):
        return self._restore(self._log_loss(self._marginals))

    def cross_entropy(self: Any, other: Any) -> Tensor:
        """`-E_self[log p_other(Y)]` in nats, (...,).

        Args:
            other: `Distribution` over the same structure, with the same batch and lengths.

        Returns:
            (...,); plus infinity where `other` forbids what this one may draw.
        """
        self._same_kind("cross_entropy", other)
        marginals = self._like(other)._marginals
        impossible = 0.0
        for t, p in zip(other._problem.potentials, marginals, strict=True):
            hit = ops.logical_and(t <= INFEASIBLE, p > 0)
            impossible = impossible + per_example(ops.cast(hit, p.dtype))
        impossible = ops.logical_or(impossible > 0, other._log_partition <= INFEASIBLE)
        cross = array.where(impossible, float("inf"), other._log_loss(marginals))
        return self._restore(cross)

    def kl_divergence(self: Any, other: Any) -> Tensor:
        """`KL(self || other)` in nats, (...,), at least 0; see `cross_entropy`."""
        difference = self.cross_entropy(other) - self.entropy()
        return array.where(difference < 0, difference - ops.stop_gradient(difference), difference)

    def _log_loss(self: Any, marginals):
        """Expected `-log p(Y)` under marginals, flat (B,), at least 0; 0 where nothing exists."""
        rows = []
        for theta, p in zip(self._problem.potentials, marginals, strict=True):
            product = array.where(theta <= INFEASIBLE, ops.zeros_like(theta), theta) * p
            shape = ops.shape(product)
            rows.append(ops.reshape(product, (shape[0], size_of(shape[1:]))))
        product = rows[0] if len(rows) == 1 else ops.concatenate(rows, axis=1)
        exists = self._log_partition > INFEASIBLE
        exact = -self._less_log_partition(product)
        zeros = ops.zeros_like(exact)
        exact = array.where(ops.logical_and(exists, exact > 0), exact, zeros)
        moves = array.where(exists, self._log_partition, zeros) - ops.sum(product, axis=1)
        return ops.stop_gradient(exact) + (moves - ops.stop_gradient(moves))

    def _like(self: Any, other):
        """This distribution with every potential as wide as the other's."""
        mine, theirs = self._problem.potentials, other._problem.potentials
        if all(
            all(a == b or b == 1 for a, b in zip(x.shape[1:], y.shape[1:], strict=True))
            for x, y in zip(mine, theirs, strict=True)
        ):
            return self
        wide = object.__new__(type(self))
        potentials = tuple(
            ops.broadcast_to(x, (ops.shape(x)[0], *ops.shape(x + y)[1:]))
            for x, y in zip(mine, theirs, strict=True)
        )
        wide.__dict__.update(
            structure=self.structure,
            temperature=self.temperature,
            _choice=self._choice,
            _problem=self._problem.replace(potentials=potentials),
        )
        return wide

    def _same_kind(self: Any, readout, other):
        for d in (self, other):
            d._soft_only(readout)
        if type(self.structure) is not type(other.structure):
            raise ValueError(
                f"Expected a distribution over {self.structure.op}. "
                f"Received: other={getattr(other.structure, 'op', other)}"
            )


def log_share(exact, part, whole, possible):
    """The log of a share, `exact`, at most 0, which moves as `part - whole`; or minus infinity."""
    zeros = ops.zeros_like(exact)
    exact = array.where(ops.logical_and(possible, exact < 0), exact, zeros)
    moves = (part - ops.stop_gradient(part)) - (whole - ops.stop_gradient(whole))
    share = ops.stop_gradient(exact) + array.where(possible, moves, zeros)
    return array.where(possible, share, -float("inf"))
