"""The programs that `tpu_compile.py` compiles for TPUs: public calls, whose kernels it reads.

A family of kernels adds its programs here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from keras_struct import ops


class Program(NamedTuple):
    """A function of arrays of public calls.

    Attributes:
        name: Unique name.
        shapes: Shapes of its float32 arguments.
        run: The function.
        registers: Registers of 1,024 cells that one step of the inner loops treats.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    run: Callable[..., Any]
    registers: int


def _map(function):
    """Value and marginals, and the gradient of a function of the marginals, by their curvature."""
    import jax
    from jax import numpy as jnp

    def loss(*arrays):
        d = function(*arrays)
        return jnp.sum(d.marginals() ** 2)

    return lambda *arrays: (function(*arrays).value(), jax.grad(loss)(*arrays))


def _paths(function):
    def run(*arrays):
        d = function(*arrays)
        return d.argmax(), d.sample(0, 2)

    return run


def _alignments():
    size = (128, 511, 512)
    ragged = np.arange(128, dtype="int32") * 4, np.arange(128, dtype="int32")[::-1] * 4
    structures = {
        "needleman_wunsch": lambda s: ops.needleman_wunsch(s, gap_open=-1.0),
        "needleman_wunsch_affine": lambda s: ops.needleman_wunsch(s, -1.0, -0.5),
        "smith_waterman": lambda s: ops.smith_waterman(s, gap_open=-1.0),
        "smith_waterman_affine": lambda s: ops.smith_waterman(s, -1.0, -0.5, lengths=ragged),
        "overlap": lambda s: ops.overlap(s, -1.0, -0.5),
        "dtw": ops.dtw,
        "monotonic_alignment": ops.monotonic_alignment,
        "osa": lambda s: ops.osa(s, np.ones(size, bool), 1.0, 1.0, 1.0),
    }
    made = []
    for name, function in structures.items():
        made.append(Program(f"{name} map", (size,), _map(function), 8))
        made.append(Program(f"{name} paths", (size,), _paths(function), 8))
    long = (8, 8192, 8192)
    affine = structures["needleman_wunsch_affine"]
    made.append(Program("needleman_wunsch_affine long", (long,), _map(affine), 8))
    return made


def programs():
    return _alignments()
