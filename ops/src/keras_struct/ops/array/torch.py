"""Array primitives on PyTorch (see `array/__init__.py`)."""

import contextlib

import torch
from keras.src.backend.torch.core import device_scope, get_device
from torch import (
    concatenate,
    cumsum,
    exp,
    log,
    logsumexp,
    matmul,
    maximum,
    reshape,
    round,
    stack,
    where,
)
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

MAPS_SAMPLES = False
__all__ = [
    "MAPS_SAMPLES",
    "add_at",
    "arange",
    "argmax",
    "branches",
    "concatenate",
    "contiguous",
    "cumsum",
    "device",
    "exp",
    "exp_or_zero",
    "exporting",
    "get_row",
    "in_xla",
    "log",
    "logsumexp",
    "map_samples",
    "mapped",
    "matmul",
    "max",
    "maximum",
    "opaque",
    "pad",
    "placed",
    "platform",
    "power_of_two",
    "put_row",
    "records",
    "reshape",
    "rotate_left",
    "round",
    "scan",
    "scope",
    "shift_right",
    "stack",
    "sum",
    "take_along_axis",
    "take_rows",
    "top_k",
    "traced",
    "transpose",
    "until",
    "where",
    "words",
    "zeros_like",
]

LOG2_E = 1.4426950408889634


def exp_or_zero(x):
    return torch.exp2(x * LOG2_E)


def contiguous(x):
    return x.contiguous()


def max(x, axis, keepdims=False):
    return torch.amax(x, axis, keepdim=keepdims)


def sum(x, axis, keepdims=False):
    return torch.sum(x, axis, keepdim=keepdims)


def argmax(x, axis):
    return torch.argmax(x, axis)


def take_along_axis(x, indices, axis):
    if not exporting():
        return torch.take_along_dim(x, indices.long(), axis)
    # The former would make constants of sizes that are to stay free.
    others = [[*y.shape[:axis], *y.shape[axis + 1 :]] for y in (x, indices)]
    shape = torch.broadcast_shapes(*others)
    x, indices = (y.expand(*shape[:axis], y.shape[axis], *shape[axis:]) for y in (x, indices))
    return torch.gather(x, axis, indices.long())


def transpose(x, axes):
    return x.permute(axes)


def take_rows(x, index, axis):
    shape = [1] * x.ndim
    shape[0], shape[axis] = index.shape
    return take_along_axis(x, index.reshape(shape), axis)


def top_k(x, k):
    return torch.topk(x, k, dim=-1)


def scan(step, carry, xs, like, reverse=False):
    steps = list(zip(*(x.unbind(0) for x in xs), strict=True))
    outputs = []
    for x in reversed(steps) if reverse else steps:
        carry, output = step(carry, x)
        outputs.append(output)
    if reverse:
        outputs.reverse()
    return carry, tuple(torch.stack(column) for column in zip(*outputs, strict=True))


def until(done, step, state, most):
    for _ in range(most):
        if not traced(state[0]) and done(*state).all():
            break
        state = step(*state)
    return state


def pad(x, widths, fill):
    flat = [size for pair in reversed(widths) for size in pair]
    return torch.nn.functional.pad(x, flat, value=fill)


def put_row(table, index, row):
    if exporting():
        return table.index_copy(1, _as_index(index, table), row[:, None])
    if torch.is_grad_enabled():
        table = table.clone()
    table[:, index] = row
    return table


def get_row(table, index):
    if exporting():
        return table.index_select(1, _as_index(index, table))[:, 0]
    return table[:, index]


def _as_index(index, table):
    """One index (1,), which an exported program must not read as a number."""
    return torch.as_tensor(index, device=table.device).reshape(1).long()


def power_of_two(n):
    return torch.exp2(n.detach())


def add_at(table, index, values):
    if torch.is_grad_enabled():
        return table.scatter_add(1, index.long(), values)
    return table.scatter_add_(1, index.long(), values)


def traced(x):
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or x.device.type == "meta"
        or torch._C._functorch.is_functorch_wrapped_tensor(x)
        or isinstance(x, (FakeTensor, FunctionalTensor))
    )


def scope(arrays):
    return None if torch.is_grad_enabled() else torch.is_inference_mode_enabled()


def opaque(x):
    return isinstance(x, (FakeTensor, FunctionalTensor)) and not exporting()


def mapped(x):
    return torch._C._functorch.is_functorch_wrapped_tensor(x) and not (
        torch.jit.is_tracing() or exporting()
    )


def records():
    return torch.compiler.is_dynamo_compiling()


def branches(x):
    return not traced(x)


def in_xla():
    return False


def device(x):
    if x.device.type != "cuda":
        return x.device.type, None
    return "gpu", torch.cuda.get_device_name(x.device)


def placed(tensors):
    """Keras takes everything to its default device: that of the first of these, within this."""
    for x in tensors:
        if isinstance(x, torch.Tensor):
            if x.device.type == torch.device(get_device()).type == "cpu":
                break
            return device_scope(str(x.device))
    return contextlib.nullcontext()


def exporting():
    return torch.compiler.is_exporting()


def platform(x):
    return device(x)[0]


def arange(n):
    return torch.arange(n, dtype=torch.int32, device=get_device())


def zeros_like(x):
    return torch.zeros_like(x)


def rotate_left(x, bits):
    return (x << bits) | shift_right(x, 32 - bits)


def shift_right(x, bits):
    return (x >> bits) & ((1 << (32 - bits)) - 1)


def words(x):
    x = x.long() & 0xFFFFFFFF
    return torch.where(x >= 2**31, x - 2**32, x).int()


def map_samples(function, n):
    return torch.stack([function(i) for i in range(n)])
