"""A `Distribution` as a pytree of JAX: its arrays are leaves, everything else is static.

It is returned from `jax.jit` and carried by `jax.lax.scan`. Readouts that were made before are not
taken along.
"""

from typing import Any

import jax
import numpy as np

from keras_struct.ops.structure import Structure


class _Static:
    """Static attributes; equal if their values are."""

    def __init__(self, kind, values):
        self.kind, self.values = kind, values

    def __eq__(self, other):
        return self.kind is other.kind and self.values == other.values

    def __hash__(self):
        return hash((self.kind, tuple(sorted(self.values))))


def register(distribution):
    """Registers the class, and what it holds."""

    def flatten(d):
        arrays, static = _split(d.structure)
        hard = isinstance(d.temperature, float)
        temperature = None if hard else d.temperature
        return (arrays, temperature), (static, hard, d.choice)

    def unflatten(aux, children):
        (static, hard, choice), (arrays, temperature) = aux, children
        d = object.__new__(distribution)
        structure = object.__new__(static.kind)
        structure.__dict__.update(static.values)
        structure.__dict__.update(arrays)
        d.structure, d.temperature, d._choice = structure, 0.0 if hard else temperature, choice
        return d

    jax.tree_util.register_pytree_node(distribution, flatten, unflatten)


def _split(structure: Structure):
    arrays: dict[str, Any] = {}
    static: dict[str, Any] = {}
    for name, x in structure.__dict__.items():
        if name == "checks":
            continue
        leaves = jax.tree_util.tree_leaves(x)
        dynamic = any(isinstance(y, (jax.Array, np.ndarray)) for y in leaves)
        (arrays if dynamic else static)[name] = x
    return arrays, _Static(type(structure), static)
