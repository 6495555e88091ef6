"""The custom derivatives on PyTorch, in forward and reverse mode (see `autodiff/__init__.py`).

Under `torch.func.vmap` the mapped axis is folded into the batch axis, which every sweep has. Under
`torch.compile` each sweep is one operator of the graph (see `autodiff/torch_operator.py`).
"""

import functools
import warnings

import keras
import torch
from torch.autograd import forward_ad

from keras_struct.ops import array
from keras_struct.ops.autodiff import torch_operator
from keras_struct.ops.numerics import per_example, reduce_to, scale_rows


@torch.no_grad()
def run(sweeps, name, *args, static=()):
    return torch_operator.sweep(sweeps, name, args, static)


def whole(d, name, *args, keep=()):
    return getattr(d, name)(*args)


def constant(problem):
    return problem.replace(potentials=tuple(x.detach() for x in problem.potentials))


def forward(sweeps, problem, op):
    leaves = _Leaves((constant(problem),))
    outputs = _applied(_Forward, sweeps, leaves, op, *leaves.tensors)
    return leaves.result(outputs)


def value(sweeps, problem, tape, log_partition):
    leaves = _Leaves((problem, tape, log_partition))
    return _applied(_Value, sweeps, leaves, *leaves.tensors)


def marginals(sweeps, problem, tape):
    leaves = _Leaves((problem, tape))
    return _applied(_Marginals, sweeps, leaves, *leaves.tensors)


def _curvature(sweeps, problem, tape, tangents):
    leaves = _Leaves((problem, tape, tuple(tangents)))
    return _applied(_Curvature, sweeps, leaves, *leaves.tensors)


def _applied(function, *inputs):
    """`apply`; the plain operations where `torch.jit.trace` records them without gradients.

    A call into Python would stand in the trace as such, and could not be saved.
    """
    if not torch.jit.is_tracing():
        return function.apply(*inputs)
    if not torch.is_grad_enabled():
        return function.forward(*inputs)
    warnings.warn(
        "Expected torch.jit.trace within torch.no_grad(), since a trace that keeps explicit "
        "derivatives cannot be saved. Received: torch.is_grad_enabled()=True",
        stacklevel=2,
    )
    return function.apply(*inputs)


def _there(backward):
    """A derivative whose tensors are made where the saved ones are."""

    @functools.wraps(backward)
    def wrapper(ctx, *cotangents):
        with array.placed(ctx.saved_tensors):
            return backward(ctx, *cotangents)

    return wrapper


class _Leaves:
    """The tensors of a problem and what goes with it, flat and back.

    Attributes:
        tensors: Potentials, context, then all others.
        structure: The same without tensors.
    """

    def __init__(self, groups):
        problem, *rest = groups
        self.problem = problem.replace(potentials=(), context=())
        self.counts = len(problem.potentials), len(problem.context)
        self.rest = rest
        self.tensors = (*problem.potentials, *problem.context, *keras.tree.flatten(rest))
        self.rest = keras.tree.map_structure(lambda x: 0, rest)
        self.outputs = None

    def groups(self, tensors):
        """(problem, *rest) of other tensors."""
        potentials, context = self.counts
        problem = self.problem.replace(
            potentials=tuple(tensors[:potentials]),
            context=tuple(tensors[potentials : potentials + context]),
        )
        return problem, *keras.tree.pack_sequence_as(self.rest, tensors[potentials + context :])

    def flat(self, result):
        """The tensors of a result, whose structure is kept for `result`."""
        self.outputs = keras.tree.map_structure(lambda x: 0, result)
        return tuple(keras.tree.flatten(result))

    def result(self, tensors):
        return keras.tree.pack_sequence_as(self.outputs, list(tensors))

    def gradients(self, of_potentials):
        """One for each tensor: only potentials have any."""
        others = len(self.tensors) - self.counts[0]
        return (*of_potentials, *([None] * others))


class _Sweep(torch.autograd.Function):
    """Inputs: sweeps, leaves, further static arguments, then the tensors."""

    static = 2

    @classmethod
    def setup_context(cls, ctx, inputs, output):
        ctx.sweeps, ctx.leaves = inputs[:2]
        tensors = inputs[cls.static :]
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @classmethod
    def vmap(cls, info, in_dims, *inputs):
        sweeps, leaves = inputs[:2]
        axes = leaves_axes(sweeps, leaves, len(inputs) - cls.static)
        folded = _fold(info.batch_size, inputs[cls.static :], in_dims[cls.static :], axes)
        outputs = cls.apply(*inputs[: cls.static], *folded)
        single = isinstance(outputs, torch.Tensor)
        outputs = (outputs,) if single else outputs
        axes = cls.output_axes(sweeps, outputs)
        split = [
            x.unflatten(axis, (info.batch_size, x.shape[axis] // info.batch_size))
            for x, axis in zip(outputs, axes, strict=True)
        ]
        return (split[0], axes[0]) if single else (tuple(split), tuple(axes))

    @classmethod
    def output_axes(cls, sweeps, outputs):
        return [0] * len(outputs)


def leaves_axes(sweeps, leaves, count):
    """The batch axis of every tensor; those of a tape are the implementation's own."""
    problem = sum(leaves.counts)
    tape = len(keras.tree.flatten(leaves.rest[0])) if leaves.rest else 0
    return [0] * problem + [sweeps.batch_axis] * tape + [0] * (count - problem - tape)


def _fold(size, tensors, dims, axes):
    """Tensors whose mapped axis is part of their batch axis."""
    wide = []
    for x, dim, axis in zip(tensors, dims, axes, strict=True):
        x = x.unsqueeze(axis) if dim is None else x.movedim(dim, axis)
        shape = list(x.shape)
        shape[axis] = size
        wide.append(x.expand(shape))
    batch = max(x.shape[axis + 1] for x, axis in zip(wide, axes, strict=True))
    folded = []
    for x, axis in zip(wide, axes, strict=True):
        shape = list(x.shape)
        shape[axis + 1] = batch
        folded.append(x.expand(shape).flatten(axis, axis + 1))
    return folded


def _onward(jvp):
    """A `jvp(ctx, saved, *tangents)` as PyTorch wants it, whose result has tangents of its own.

    PyTorch calls it with forward mode off, so what it computes would be a constant to a
    `torch.func.jvp` around this one. With forward mode on, the saved tensors must lose their
    tangents of this level, which `tangents` are; those of levels around stay.
    """

    @functools.wraps(jvp)
    def wrapper(ctx, _sweeps, _leaves, *tangents):
        with forward_ad._set_fwd_grad_enabled(True):
            saved = tuple(forward_ad.unpack_dual(x).primal for x in ctx.saved_tensors)
            return jvp(ctx, saved, *tangents)

    return wrapper


class _Forward(_Sweep):
    static = 3

    @staticmethod
    def forward(sweeps, leaves, op, *tensors):
        (problem,) = leaves.groups(tensors)
        return leaves.flat(torch_operator.sweep(sweeps, "forward", (problem,), (op,)))

    @classmethod
    def setup_context(cls, ctx, inputs, output):
        ctx.mark_non_differentiable(*output)

    @classmethod
    def output_axes(cls, sweeps, outputs):
        return [0, 0] + [sweeps.batch_axis] * (len(outputs) - 2)

    @staticmethod
    def jvp(ctx, *tangents):
        return None


class _Value(_Sweep):
    @staticmethod
    def forward(sweeps, leaves, *tensors):
        return tensors[-1].clone()

    @staticmethod
    @_there
    def backward(ctx, g):
        problem, tape, _ = ctx.leaves.groups(ctx.saved_tensors)
        p = marginals(ctx.sweeps, problem, tape)
        grads = tuple(
            reduce_to(scale_rows(g, x), theta)
            for x, theta in zip(p, problem.potentials, strict=True)
        )
        return (None, None, *ctx.leaves.gradients(grads))

    @staticmethod
    @_onward
    def jvp(ctx, saved, *tangents):
        problem, tape, _ = ctx.leaves.groups(saved)
        p = marginals(ctx.sweeps, problem, tape)
        moves = zip(p, tangents, strict=False)
        return sum(per_example(x * dx) for x, dx in moves if dx is not None)


class _Marginals(_Sweep):
    @staticmethod
    def forward(sweeps, leaves, *tensors):
        return torch_operator.sweep(sweeps, "backward", leaves.groups(tensors))

    @staticmethod
    @_there
    def backward(ctx, *tangents):
        problem, tape = ctx.leaves.groups(ctx.saved_tensors)
        hessian = _curvature(ctx.sweeps, problem, tape, tangents)
        grads = tuple(
            reduce_to(x, theta) for x, theta in zip(hessian, problem.potentials, strict=True)
        )
        return (None, None, *ctx.leaves.gradients(grads))

    @staticmethod
    @_onward
    def jvp(ctx, saved, *tangents):
        problem, tape = ctx.leaves.groups(saved)
        found = marginals(ctx.sweeps, problem, tape)
        moves = [
            torch.zeros_like(p) if dx is None else dx.expand_as(p)
            for p, dx in zip(found, tangents, strict=False)
        ]
        return _curvature(ctx.sweeps, problem, tape, moves)


class _Curvature(_Sweep):
    @staticmethod
    def forward(sweeps, leaves, *tensors):
        return torch_operator.sweep(sweeps, "curvature", leaves.groups(tensors))

    @staticmethod
    @_there
    def backward(ctx, *g):
        problem, tape, tangents = ctx.leaves.groups(ctx.saved_tensors)

        def third(*potentials):
            return _smooth_curvature(ctx.sweeps, problem.replace(potentials=potentials), tangents)

        grads = torch.func.vjp(third, *problem.potentials)[1](tuple(g))
        back = _curvature(ctx.sweeps, problem, tape, g)
        grads = ctx.leaves.gradients(grads)
        return (None, None, *grads[: len(grads) - len(back)], *back)

    @staticmethod
    @_onward
    def jvp(ctx, saved, *rates):
        problem, tape, tangents = ctx.leaves.groups(saved)
        count = len(tangents)
        moves = [
            torch.zeros_like(x) if dx is None else dx
            for x, dx in zip(tangents, rates[-count:], strict=True)
        ]
        linear = _curvature(ctx.sweeps, problem, tape, moves)
        if all(dx is None for dx in rates[:count]):
            return linear

        def third(*potentials):
            return _smooth_curvature(ctx.sweeps, problem.replace(potentials=potentials), tangents)

        directions = tuple(
            torch.zeros_like(x) if dx is None else dx
            for x, dx in zip(problem.potentials, rates[:count], strict=True)
        )
        _, moved = torch.func.jvp(third, problem.potentials, directions)
        return tuple(a + b for a, b in zip(linear, moved, strict=True))


def _smooth_curvature(sweeps, problem, tangents):
    """The curvature by sweeps that autograd can follow."""
    smooth = sweeps.differentiable
    _, tape = smooth.forward(problem, "logsumexp")
    return smooth.curvature(problem, tape, tangents)


def compiled(sweep, name, *args):
    with _exact(args):
        return getattr(sweep, name)(*args)


def _exact(args):
    """Without `torch.autocast`, which would take half of the digits from products of matrices."""
    first = next(x for x in keras.tree.flatten(args) if isinstance(x, torch.Tensor))
    return torch.autocast(first.device.type, enabled=False)


def explicit(sweep, inputs, context):
    return _applied(_Explicit, sweep, len(inputs), *inputs, *context)


class _Explicit(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(sweep, count, *tensors):
        with _exact(tensors):
            return sweep.output(tensors[:count], tensors[count:])

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.sweep, ctx.count = inputs[:2]
        ctx.save_for_backward(*inputs[2:])

    @staticmethod
    @_there
    def backward(ctx, g):
        tensors = ctx.saved_tensors
        with _exact(tensors):
            grads = ctx.sweep.vjp(tensors[: ctx.count], tensors[ctx.count :], g)
        return (None, None, *grads, *([None] * (len(tensors) - ctx.count)))


def replaced(rule, d, scores):
    return _applied(_Replaced, rule, d, *scores)


class _Replaced(torch.autograd.Function):
    @staticmethod
    def forward(rule, d, *scores):
        return run(rule, "output", d, scores)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.rule, ctx.d = inputs[:2]
        ctx.save_for_backward(*inputs[2:])

    @staticmethod
    @_there
    def backward(ctx, *cotangents):
        return (None, None, *run(ctx.rule, "vjp", ctx.d, ctx.saved_tensors, cotangents))
