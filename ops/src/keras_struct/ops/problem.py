"""What a sweep is asked: a structure as static data, its canonical potentials, their context."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """One batch of log-linear models at temperature 1; on JAX a pytree.

    Attributes:
        spec: The structure as static, hashable data, such as the moves of an alignment.
        potentials: Canonical potentials, the batch axis first (size 1 where the batch shares one).
            Prepared: float32 or float64, over the temperature, padding filled, all finite (see
            `numerics.FORBIDDEN`).
        context: Arrays without gradient, the batch axis first, such as lengths.
        labels: None; or "arcs" or "spans", which carry one label each: then the first potential has
            an axis of labels at its end (see `labels`). Implementations never see labels.
        narrow: None, or "bfloat16" if this holds every number of the first potential, but
            `FORBIDDEN`, which may be rounded.
    """

    spec: Any
    potentials: tuple
    context: tuple
    labels: str | None = None
    narrow: str | None = None

    def replace(self, **changes: Any) -> Problem:
        """A copy with changes; of other potentials nothing is known to be narrow."""
        if "potentials" in changes:
            changes.setdefault("narrow", None)
        return dataclasses.replace(self, **changes)


if keras.backend.backend() == "jax":
    import jax

    jax.tree_util.register_dataclass(
        Problem, data_fields=["potentials", "context"], meta_fields=["spec", "labels", "narrow"]
    )
