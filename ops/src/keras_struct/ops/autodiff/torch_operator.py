"""Each sweep as one operator of the graphs that `torch.compile` makes.

The operator `keras_struct::sweep` takes a key, which stands for everything about the sweep that is
no tensor, and tensors. A loop over time is so one node, however long it is, and a sweep that needs
concrete values runs when the program does.
"""

import dataclasses
import uuid
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from keras_struct.ops import array
from keras_struct.ops.autodiff.leaves import collect, parts, restored, tree_of
from keras_struct.ops.noise import Noise
from keras_struct.ops.problem import Problem


def sweep(sweeps, name, args, static=()):
    """`sweeps.name(*args, *static)`: while `torch.compile` traces, by the operator, and under
    `torch.func.vmap` where sweeps need values."""
    tensors: list[torch.Tensor] = []
    tree = _flatten(args, tensors)
    hidden = not getattr(sweeps, "traceable", True) and any(map(array.mapped, tensors))
    if not hidden and not any(map(array.opaque, tensors)):
        return getattr(sweeps, name)(*args, *static)
    key = _key(_Call(sweeps, name, static, tree))
    outputs = torch.ops.keras_struct.sweep(key, tensors)
    return _unflatten(_structures[key], iter(outputs))


@dataclasses.dataclass(frozen=True)
class _Call:
    """All about a call but its tensors.

    Attributes:
        sweeps: The sweeps.
        name: Name of a method.
        static: Last arguments, hashable.
        tree: The other arguments without their tensors.
    """

    sweeps: Any
    name: str
    static: tuple
    tree: tuple

    @property
    def of_this_size(self):
        """Whether it is for one size of the batch only (see `_of_this_size`)."""
        return any(branch[0] == "distribution" for branch in self.tree[2:])

    def __call__(self, tensors):
        """The tensors of the result, and its tree."""
        args = _unflatten(self.tree, iter(tensors))
        found: list[torch.Tensor] = []
        with torch.no_grad():
            result = getattr(self.sweeps, self.name)(*args, *self.static)
        tree = _flatten(result, found)
        return found, tree


# Keys are this process's own: what compilers keep on disk must not match those of another one.
_PROCESS = uuid.uuid4().hex
_keys: dict[_Call, str] = {}
_calls: dict[str, _Call] = {}
_structures: dict[str, tuple] = {}  # the trees of the last results
_results: dict[tuple, tuple] = {}  # shapes and tree of a result, by those of the arguments


def _key(call):
    if call not in _keys:
        key = f"{call.name} {len(_keys)} {_PROCESS}"
        _keys[call] = key
        _calls[key] = call
    return _keys[call]


@torch.library.custom_op(
    "keras_struct::sweep", mutates_args=(), schema="(str key, Tensor[] tensors) -> Tensor[]"
)
def _operator(key, tensors):
    outputs, _structures[key] = _calls[key](tensors)
    # An operator returns fresh memory, laid out as its shape says.
    taken = {x.untyped_storage().data_ptr() for x in tensors}
    fresh = []
    for x in outputs:
        x = x.contiguous()
        x = x.clone() if x.untyped_storage().data_ptr() in taken else x
        taken.add(x.untyped_storage().data_ptr())
        fresh.append(x)
    return fresh


@_operator.register_fake
def _fake(key, tensors):
    known = all(isinstance(n, int) for x in tensors for n in x.shape)
    if not (known or _calls[key].of_this_size):
        outputs, _structures[key] = _calls[key](tensors)
        return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in outputs]
    facts = key, tuple((tuple(map(int, x.shape)), x.dtype, x.device) for x in tensors)
    if facts not in _results:
        # Running it once on zeros takes less time than its loops on values that are not there.
        with _disable_current_modes():
            zeros = [torch.zeros(shape, dtype=dtype, device=at) for shape, dtype, at in facts[1]]
            outputs, tree = _calls[key](zeros)
            _results[facts] = [(tuple(x.shape), x.dtype, x.device) for x in outputs], tree
    shapes, _structures[key] = _results[facts]
    return [torch.empty(shape, dtype=dtype, device=at) for shape, dtype, at in shapes]


@_operator.register_vmap
def _mapped(info, in_dims, key, tensors):
    """What has no derivative, such as the best path, is done for one after the other."""
    rows = []
    for i in range(info.batch_size):
        each = zip(tensors, in_dims[1], strict=True)
        rows.append(_operator(key, [x if d is None else x.select(d, i) for x, d in each]))
    found = [torch.stack(column) for column in zip(*rows, strict=True)]
    return found, [0] * len(found)


_NODES = (Problem, Noise)
_distributions: tuple[Any, ...] = ()


def register(distribution):
    """Have the class as an argument of sweeps."""
    global _distributions
    _distributions = (distribution,)


def _flatten(x, tensors):
    """A hashable tree; its tensors are appended to a list."""
    if isinstance(x, torch.Tensor):
        tensors.append(x)
        return ("tensor",)
    if isinstance(x, _distributions):
        leaves: list = []
        collect(tree_of(parts(x)), parts(x), leaves)
        tree = _of_this_size(tree_of(parts(x)))
        tensors += map(torch.as_tensor, leaves)
        return ("distribution", type(x), type(x.structure), tree)
    if isinstance(x, _NODES):
        values = [getattr(x, field.name) for field in dataclasses.fields(x)]
        return ("node", type(x), *(_flatten(y, tensors) for y in values))
    if isinstance(x, (tuple, list)):
        return ("sequence", type(x), *(_flatten(y, tensors) for y in x))
    return ("static", x)


def _of_this_size(tree):
    """A tree whose sizes are numbers: the program is compiled for each size of the batch."""
    if isinstance(tree, torch.SymInt):
        return int(tree)
    return tuple(map(_of_this_size, tree)) if isinstance(tree, tuple) else tree


def _unflatten(tree, tensors):
    kind, *rest = tree
    if kind == "tensor":
        return next(tensors)
    if kind == "static":
        return rest[0]
    if kind == "distribution":
        return restored(rest[0], rest[1], rest[2], tensors)
    values = [_unflatten(y, tensors) for y in rest[1:]]
    named = kind == "node" or hasattr(rest[0], "_fields")
    return rest[0](*values) if named else rest[0](values)
