"""Spanning trees on a TPU: value and marginals by the Pallas kernels of `tpu_sweeps.py`.

A block of examples has its whole elimination in VMEM. Curvature and traces are left to `portable`.
"""

import functools
import math

from keras_struct.ops.pallas import Total, rounded
from keras_struct.ops.pallas_tpu import (
    LANES,
    MEGABYTE,
    SPARE,
    SUBLANES,
    PallasTPU,
    blocks_of,
    numbers_of_block,
    of_block,
    off_lanes,
    on_lanes,
    room,
)
from keras_struct.ops.scaled import EMPTY, Scaled
from keras_struct.ops.spanning_tree.portable import log_partition, to_arcs, weights


class SpanningTreeTPU(PallasTPU):
    def rejects(self, call):
        reason = super().rejects(call)
        if reason is not None:
            return reason
        size, most = megabytes(call.shapes[0][1]), room(call.device_kind)
        if size > most:
            return (
                f"its shares of arcs would take {size:.0f} MB of VMEM, of which there are {most}: "
                f"enough for {longest(most)} words"
            )
        return None

    def forward(self, problem, op):
        from keras_struct.ops.spanning_tree import tpu_sweeps

        (arcs,), (lengths,) = problem.potentials, problem.context
        single = problem.spec.single_root
        kernel = functools.partial(tpu_sweeps.forward, arcs.shape[1], single, op)
        peaks, found = self._run(kernel, f"forward_{op}", arcs, lengths)
        total = log_partition(peaks, Scaled(found[:, 0], found[:, 1]))
        return total, Total(total[0])

    def backward(self, problem, tape):
        from jax import numpy as jnp

        from keras_struct.ops.spanning_tree import tpu_sweeps

        (arcs,), (lengths,) = problem.potentials, problem.context
        n = arcs.shape[1]
        kernel = functools.partial(tpu_sweeps.backward, n, problem.spec.single_root)
        _, found = self._run(kernel, "backward", arcs, tape.existing(lengths))
        p = found.reshape(found.shape[0], n, -1)
        return (to_arcs(jnp.concatenate([p[:, :, 1 : n + 1], p[:, :, :1]], 2)),)

    def _run(self, kernel, name, arcs, lengths):
        """The largest scores of rows (B, N), and what the kernel gives, (B, ...)."""
        import jax
        from jax import numpy as jnp

        batch, n = arcs.shape[:2]
        blocks = blocks_of(batch)

        def array(*shape, dtype=arcs.dtype):
            return jax.ShapeDtypeStruct(shape, dtype)

        matrix, peaks = weights(arcs)
        width = width_of(n)

        def lines(x, fill):
            x = jnp.concatenate([x[:, :, n:], x[:, :, :n]], 2)
            x = jnp.pad(x, [(0, 0), (0, 0), (0, width - n - 1)], constant_values=fill)
            return on_lanes(x.reshape(batch, n * width), batch, fill)

        lengths = on_lanes(jnp.clip(lengths, 0, n).astype("int32")[:, None], batch)
        inputs = {
            "limits": numbers_of_block(lengths.max(2)),
            "lengths": of_block(lengths, 1),
            "weights": of_block(jnp.stack([lines(matrix.m, 0.0), lines(matrix.e, EMPTY)], 1), 1),
        }
        pivots = {"pivots": (2, n, LANES)}
        left: dict[str, tuple] = {"m": (n * width, LANES)}
        scratch: dict[str, tuple] = {"e": (n * width, LANES), "out": (2, width, LANES)}
        if name == "backward":
            outputs = left
            scratch |= pivots | _kept(n) | {"zeros": (width, LANES)}
        else:
            outputs = pivots
            scratch |= left
        made = {key: array(*shape) for key, shape in scratch.items()}
        found = self.call_by_name(
            kernel,
            f"keras_struct_spanning_tree_{name}",
            (blocks,),
            inputs,
            {key: of_block(array(blocks, *shape), 1) for key, shape in outputs.items()},
            {**made, "swaps": array(n, LANES, dtype="int32")},
            memory=round((megabytes(n) + SPARE) * MEGABYTE),
        )
        (key,) = outputs
        return peaks, off_lanes(found[key], batch)


def width_of(n):
    """Numbers of a line."""
    return rounded(n + 1, SUBLANES)


def kept_width(k):
    """Numbers that are kept of a line when place k is eliminated: root and places before k."""
    return (k + SUBLANES) & -SUBLANES


def _kept(n):
    """Shapes of what backward keeps of all steps."""
    width = width_of(n)
    shares = sum(k * kept_width(k) for k in range(n)) + width
    return {"share": (shares, LANES), "choice": (n * width, LANES)}


def megabytes(n):
    """What the backward sweep takes of VMEM."""
    matrices = 4 * n * width_of(n) * LANES  # weights, and what is left of them
    return 4 * (matrices + sum(map(math.prod, _kept(n).values()))) / MEGABYTE


def longest(most):
    """How many words fit."""
    n = 0
    while megabytes(n + 1) <= most:
        n += 1
    return n
