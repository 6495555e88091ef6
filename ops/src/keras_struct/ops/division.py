"""Sequences that are divided over devices: where their parts lie, on JAX.

An array (B, N, ...) that is divided has N / D neighbouring positions on each of D devices, which
are an axis of a mesh. What a structure has to tell its neighbours is in `chain/linear_chain/
divided.py` and `transport/divided.py`; everything else is said here.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras

_current: contextvars.ContextVar[Division | None] = contextvars.ContextVar(
    "keras_struct_division", default=None
)
UNDIVIDED = "no sequence is divided (see `ops.divided`)"


@dataclasses.dataclass(frozen=True)
class Division:
    """Axes of a mesh that divide sequences and batches.

    Attributes:
        mesh: `jax.sharding.Mesh`.
        sequence: Name of the axis that divides positions.
        batch: Names of the axes that divide examples.
    """

    mesh: Any
    sequence: str
    batch: tuple[str, ...]

    @property
    def parts(self):
        return self.mesh.shape[self.sequence]

    def rejects(self, batch, positions, least):
        """None, or why a batch of sequences cannot be divided, with `least` positions a part."""
        groups = math.prod(self.mesh.shape[axis] for axis in self.batch)
        if batch is None or positions is None:
            return "it needs sizes that are known"
        if positions % self.parts or positions < least * self.parts:
            return (
                f"{positions} positions are not {self.parts} equal parts of {least} or more (pad "
                "them, and say the lengths)"
            )
        if batch % groups:
            return f"{batch} examples, heads among them, are not {groups} equal parts"
        return None

    def run(self, function, inputs, outputs):
        """`function` on the parts of every device; see `spec` for the axes of `inputs` and
        `outputs`, each of which may be a tree."""
        import jax

        return jax.shard_map(
            function, mesh=self.mesh, in_specs=inputs, out_specs=outputs, check_vma=False
        )

    def spec(self, x=None):
        """Where an array (B, ...) lies whose examples are divided, unless all share one."""
        from jax.sharding import PartitionSpec

        shared = x is not None and x.shape[0] == 1
        return PartitionSpec() if shared or not self.batch else PartitionSpec(self.batch)

    def sequence_spec(self, x=None):
        """The same of an array (B, N, ...) whose positions are divided, too."""
        from jax.sharding import PartitionSpec

        shared = x is not None and x.shape[0] == 1
        return PartitionSpec(None if shared or not self.batch else self.batch, self.sequence)

    def own_spec(self):
        """Where an array lies whose first axis counts the devices."""
        from jax.sharding import PartitionSpec

        return PartitionSpec((*self.batch, self.sequence))

    def index(self):
        """The number of this part, within `run`."""
        import jax

        return jax.lax.axis_index(self.sequence)

    def neighbours(self, x, width, fill):
        """`x` (B, n, ...) with `width` positions of the parts before and behind, or `fill`."""
        import jax
        from jax import numpy as jnp

        def from_part(x, step):
            pairs = [(i, i + step) for i in range(self.parts) if 0 <= i + step < self.parts]
            got = jax.lax.ppermute(x, self.sequence, pairs)
            end = 0 if step > 0 else self.parts - 1
            return jnp.where(self.index() == end, jnp.full_like(got, fill), got)

        before, behind = from_part(x[:, x.shape[1] - width :], 1), from_part(x[:, :width], -1)
        return jnp.concatenate([before, x, behind], axis=1)


def current():
    """The `Division` that holds here, or None."""
    return _current.get()


@contextlib.contextmanager
def divided(mesh: Any, sequence: str, batch: str | Sequence[str] = ()) -> Iterator[None]:
    """Within this context, long sequences are divided over devices, on JAX.

    A `linear_chain` is then parallel in time: each device multiplies the K x K transfers of its
    part of the positions, the products go to all devices, and each makes the marginals of its own
    part. The band of `sinkhorn` and `sinkhorn_tail` needs from its neighbours the keys and
    potentials of half its width. Both are equal to one device, to rounding, with their gradients.
    What cannot be divided so (see `ops.explain`) is computed as ever, and the compiler then moves
    whole sequences between devices.

    Args:
        mesh: `jax.sharding.Mesh` or `keras.distribution.DeviceMesh`.
        sequence: Name of its axis over which positions are divided. Their number must be a multiple
            of its size; what is too short is padded, with `lengths`.
        batch: Name or names of the axes over which examples are divided.

    Raises:
        NotImplementedError: On another backend.
        ValueError: If the mesh has no such axis.

    Example:

    >>> import jax, keras, numpy as np
    >>> from keras_struct import ops
    >>> mesh = jax.sharding.Mesh(np.array(jax.devices()), ("time",))
    >>> unary = np.zeros((1, 64, 3), "float32")
    >>> with ops.divided(mesh, sequence="time"):
    ...     d = ops.linear_chain(unary, np.zeros((3, 3), "float32"))
    >>> d.choice.name, round(float(d.log_partition()[0]), 2)  # log of 3^64
    ('divided', 70.31)

    Source: Särkkä and García-Fernández (2021), Temporal parallelization of Bayesian smoothers (a
    product of transfers for each part).
    """
    if keras.backend.backend() != "jax":
        raise NotImplementedError(
            "Expected the JAX backend: others do not divide a sequence. "
            f"Received: backend={keras.backend.backend()!r}"
        )
    mesh = getattr(mesh, "backend_mesh", mesh)
    axes = (batch,) if isinstance(batch, str) else tuple(batch)
    for name, axis in (("sequence", sequence), *(("batch", axis) for axis in axes)):
        if axis not in mesh.shape:
            names = tuple(mesh.shape)
            raise ValueError(f"Expected an axis of the mesh, of {names}. Received: {name}={axis!r}")
    token = _current.set(Division(mesh, sequence, axes))
    try:
        yield
    finally:
        _current.reset(token)
