"""A `Distribution` as a pytree of JAX: its arrays are leaves, everything else is static.

What is a leaf is decided once, when a distribution that a public function made is flattened. What
JAX makes of it keeps the decision, whatever stands for the arrays then: tracers, shapes, shardings,
None. So the tree is the same outside of a transformation as inside. Readouts that were made before
are not taken along.
"""

import dataclasses
from typing import Any

import jax

from keras_struct.ops.autodiff.leaves import collect, parts, ranks, restored, tree_of


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
        collect(self.tree, parts(d), found)
        return found

    def check(self, d):
        """An error if arrays have other axes than they had."""
        for x, n in zip(self.leaves(d), ranks(self.tree), strict=True):
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
            static = _Static(type(d.structure), tree_of(parts(d)), used, choice)
            d._static = None if choice is None else static
        return static.leaves(d), static

    def unflatten(static, leaves):
        d = restored(distribution, static.kind, static.tree, iter(leaves))
        d._choice, d._static = static.choice, static
        return d

    jax.tree_util.register_pytree_node(distribution, flatten, unflatten)
