"""A `Distribution` as a pytree of JAX: its arrays are leaves, everything else is static.

What is a leaf is decided once, when a distribution that a public function made is flattened. What
JAX makes of it keeps the decision, whatever stands for the arrays then: tracers, shapes, shardings,
None. So the tree is the same outside of a transformation as inside. Readouts that were made before
are not taken along.
"""

import dataclasses
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class _Static:
    """All of a distribution but its arrays.

    Attributes:
        kind: Class of its structure.
        tree: The attributes of the structure and the temperature, as a hashable tree.
        implementation: (family, name), what matters of the choice for a result; None before there
            is one.
        choice: The choice, whose reasons differ between eager and traced calls.
    """

    kind: type
    tree: tuple
    implementation: tuple | None
    choice: Any = dataclasses.field(compare=False)

    def leaves(self, d):
        """What stands for the arrays of a distribution."""
        found: list = []
        _collect(self.tree, _parts(d), found)
        return found

    def check(self, d):
        """An error if arrays have other axes than they had."""
        for x, n in zip(self.leaves(d), _ranks(self.tree), strict=True):
            if len(x.shape) != n:
                raise ValueError(
                    "Expected a distribution without further axes: one that jax.vmap or "
                    "jax.lax.scan has stacked is read inside of them. Received: an array of shape "
                    f"{tuple(x.shape)} that had {n} axes"
                )


def register(distribution):
    """Registers the class, and what it holds."""

    def flatten(d):
        static = d._static
        if static is None:
            choice = d.choice
            used = None if choice is None else (choice.call.family, choice.name)
            static = _Static(type(d.structure), _tree(_parts(d)), used, choice)
            d._static = None if choice is None else static
        return static.leaves(d), static

    def unflatten(static, leaves):
        d = object.__new__(distribution)
        structure = object.__new__(static.kind)
        attributes, d.temperature = _filled(static.tree, iter(leaves))
        vars(structure).update(attributes)
        d.structure, d._choice, d._static = structure, static.choice, static
        return d

    jax.tree_util.register_pytree_node(distribution, flatten, unflatten)


def _parts(d):
    return {name: x for name, x in vars(d.structure).items() if name != "checks"}, d.temperature


def _tree(x):
    """A hashable tree that says where arrays are; dicts keep their order (see `marginals`)."""
    if isinstance(x, dict):
        return ("dict", *((key, _tree(y)) for key, y in x.items()))
    if isinstance(x, (tuple, list)):
        return ("sequence", type(x), *map(_tree, x))
    if isinstance(x, (jax.Array, np.ndarray)):
        return ("leaf", x.ndim)
    return ("static", x)


def _collect(tree, x, leaves):
    """Append what stands where a tree has leaves."""
    kind, *rest = tree
    if kind == "leaf":
        leaves.append(x)
    elif kind == "dict":
        for key, branch in rest:
            _collect(branch, x[key], leaves)
    elif kind == "sequence":
        for branch, y in zip(rest[1:], x, strict=True):
            _collect(branch, y, leaves)


def _ranks(tree):
    """Numbers of axes of all leaves."""
    kind, *rest = tree
    if kind == "leaf":
        return rest
    branches = [y for _, y in rest] if kind == "dict" else rest[1:]
    return [n for branch in branches for n in _ranks(branch)]


def _filled(tree, leaves):
    kind, *rest = tree
    if kind == "leaf":
        return next(leaves)
    if kind == "dict":
        return {key: _filled(branch, leaves) for key, branch in rest}
    if kind == "sequence":
        values = [_filled(branch, leaves) for branch in rest[1:]]
        return rest[0](*values) if hasattr(rest[0], "_fields") else rest[0](values)
    return rest[0]
