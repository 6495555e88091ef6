"""The three custom gradients on PyTorch (see `autodiff/__init__.py`).

Under `torch.func.vmap` the mapped axis is folded into the batch axis, which every sweep has.
"""

import torch

from keras_struct.ops.numerics import reduce_to, scale_rows


@torch.no_grad()
def run(sweeps, name, *args, static=()):
    return getattr(sweeps, name)(*args, *static)


def forward(sweeps, potentials, context, op):
    sizes = (len(potentials), len(context))
    detached = [x.detach() for x in potentials]
    log_partition, *tape = _Forward.apply(sweeps, op, sizes, *detached, *context)
    return log_partition, tuple(tape)


def value(sweeps, potentials, context, tape, log_partition):
    sizes = (len(potentials), len(context), len(tape))
    return _Value.apply(sweeps, sizes, *potentials, *context, *tape, log_partition)


def marginals(sweeps, potentials, context, tape):
    sizes = (len(potentials), len(context), len(tape))
    return _Marginals.apply(sweeps, sizes, *potentials, *context, *tape)


def _curvature(sweeps, potentials, context, tape, tangents):
    sizes = (len(potentials), len(context), len(tape), len(tangents))
    return _Curvature.apply(sweeps, sizes, *potentials, *context, *tape, *tangents)


class _Sweep(torch.autograd.Function):
    """Inputs: static arguments, of which the last is `sizes`, then the groups of tensors."""

    static = 2

    @staticmethod
    def split(sizes, tensors):
        groups = []
        for size in sizes:
            groups.append(tuple(tensors[:size]))
            tensors = tensors[size:]
        return groups

    @classmethod
    def setup_context(cls, ctx, inputs, output):
        ctx.sweeps, ctx.sizes = inputs[0], inputs[cls.static - 1]
        ctx.save_for_backward(*inputs[cls.static :])

    @classmethod
    def vmap(cls, info, in_dims, *inputs):
        tensors = [
            x.unsqueeze(0).expand(info.batch_size, *x.shape) if d is None else x.movedim(d, 0)
            for x, d in zip(inputs[cls.static :], in_dims[cls.static :], strict=True)
        ]
        batch = max(x.shape[1] for x in tensors)
        folded = [x.expand(-1, batch, *x.shape[2:]).flatten(0, 1) for x in tensors]
        outputs = cls.apply(*inputs[: cls.static], *folded)
        unfold = (info.batch_size, batch)
        if isinstance(outputs, torch.Tensor):
            return outputs.unflatten(0, unfold), 0
        return tuple(x.unflatten(0, unfold) for x in outputs), (0,) * len(outputs)


class _Forward(_Sweep):
    static = 3

    @staticmethod
    def forward(sweeps, op, sizes, *tensors):
        potentials, context = _Sweep.split(sizes, tensors)
        log_partition, tape = sweeps.forward(potentials, context, op)
        return log_partition, *tape

    @classmethod
    def setup_context(cls, ctx, inputs, output):
        ctx.mark_non_differentiable(*output)


class _Value(_Sweep):
    @staticmethod
    def forward(sweeps, sizes, *tensors):
        return tensors[-1].clone()

    @staticmethod
    def backward(ctx, g):
        potentials, context, tape = _Sweep.split(ctx.sizes, ctx.saved_tensors)
        p = marginals(ctx.sweeps, potentials, context, tape)
        grads = tuple(
            reduce_to(scale_rows(g, x), theta) for x, theta in zip(p, potentials, strict=True)
        )
        return (None, None, *grads, *([None] * (len(context) + len(tape) + 1)))


class _Marginals(_Sweep):
    @staticmethod
    def forward(sweeps, sizes, *tensors):
        return sweeps.backward(*_Sweep.split(sizes, tensors))

    @staticmethod
    def backward(ctx, *tangents):
        potentials, context, tape = _Sweep.split(ctx.sizes, ctx.saved_tensors)
        hessian = _curvature(ctx.sweeps, potentials, context, tape, tangents)
        grads = tuple(reduce_to(x, theta) for x, theta in zip(hessian, potentials, strict=True))
        return (None, None, *grads, *([None] * (len(context) + len(tape))))


class _Curvature(_Sweep):
    @staticmethod
    def forward(sweeps, sizes, *tensors):
        return sweeps.curvature(*_Sweep.split(sizes, tensors))

    @staticmethod
    def backward(ctx, *g):
        potentials, context, tape, tangents = _Sweep.split(ctx.sizes, ctx.saved_tensors)
        onward = torch.is_grad_enabled()
        with torch.enable_grad():
            inputs = tuple(
                x.clone() if x.requires_grad else x.detach().requires_grad_() for x in potentials
            )
            sweeps = ctx.sweeps.differentiable
            _, fresh = sweeps.forward(inputs, context, "logsumexp")
            hessian = sweeps.curvature(inputs, context, fresh, tangents)
            grads = torch.autograd.grad(
                hessian, inputs, g, create_graph=onward, allow_unused=True, materialize_grads=True
            )
        back = _curvature(ctx.sweeps, potentials, context, tape, g)
        return (None, None, *grads, *([None] * (len(context) + len(tape))), *back)


def compiled(sweep, name, *args):
    return getattr(sweep, name)(*args)


def explicit(sweep, inputs, context):
    return _Explicit.apply(sweep, len(inputs), *inputs, *context)


class _Explicit(torch.autograd.Function):
    @staticmethod
    def forward(sweep, count, *tensors):
        return sweep.output(tensors[:count], tensors[count:])

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.sweep, ctx.count = inputs[:2]
        ctx.save_for_backward(*inputs[2:])

    @staticmethod
    def backward(ctx, g):
        tensors = ctx.saved_tensors
        grads = ctx.sweep.vjp(tensors[: ctx.count], tensors[ctx.count :], g)
        return (None, None, *grads, *([None] * (len(tensors) - ctx.count)))
