"""The arrays in the attributes of a distribution, and a hashable tree of all else."""

import keras
import numpy as np


def parts(d):
    """The attributes of its structure, and its temperature."""
    return {name: x for name, x in vars(d.structure).items() if name != "checks"}, d.temperature


def tree_of(x):
    """A hashable tree that says where arrays are; dicts keep their order (see `marginals`)."""
    if isinstance(x, dict):
        return ("dict", *((key, tree_of(y)) for key, y in x.items()))
    if isinstance(x, (tuple, list)):
        return ("sequence", type(x), *map(tree_of, x))
    if isinstance(x, np.ndarray) or keras.ops.is_tensor(x):
        return ("leaf", x.ndim)
    return ("static", x)


def collect(tree, x, leaves):
    """Append what stands where a tree has leaves."""
    kind, *rest = tree
    if kind == "leaf":
        leaves.append(x)
    elif kind == "dict":
        for key, branch in rest:
            collect(branch, x[key], leaves)
    elif kind == "sequence":
        for branch, y in zip(rest[1:], x, strict=True):
            collect(branch, y, leaves)


def ranks(tree):
    """Numbers of axes of all leaves."""
    kind, *rest = tree
    if kind == "leaf":
        return rest
    branches = [y for _, y in rest] if kind == "dict" else rest[1:]
    return [n for branch in branches for n in ranks(branch)]


def restored(distribution, structure, tree, leaves):
    """A distribution, of classes, whose `parts` are a tree with other leaves; without a choice."""
    d, d_structure = object.__new__(distribution), object.__new__(structure)
    attributes, d.temperature = _filled(tree, leaves)
    vars(d_structure).update(attributes)
    d.structure = d_structure
    return d


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
