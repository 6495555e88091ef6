"""The custom derivatives on JAX, in forward and reverse mode (see `autodiff/__init__.py`).

Value and marginals are `jax.custom_jvp` functions. The curvature is a primitive that is linear in
its tangents and its own transpose, so that JAX finds reverse mode by itself, under `vmap` and
`shard_map`, too. (`jax.custom_derivatives.linear_call` has no batching rule.) Every rule calls the
custom functions again, so that JAX finds their rules once more when it differentiates the rule.

Each sweep is jitted by itself: outside `jax.jit`, JAX would compile the loops anew at every call.
"""

import dataclasses
import functools
from functools import partial
from typing import Any

import jax
from jax import lax
from jax import numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def run(sweeps, name, *args, static=()):
    """`sweeps.name(*args, *static)`, compiled once for all calls with equal shapes."""
    if not getattr(sweeps, "traceable", True):
        return getattr(sweeps, name)(*args, *static)
    return _compiled(sweeps, name, static, *args)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _compiled(sweeps, name, static, *args):
    return getattr(sweeps, name)(*args, *static)


def compiled(sweep, name, *args):
    return _compiled(sweep, name, (), *args)


def whole(d, name, *args, keep=()):
    return _whole(name, d, {key: getattr(d, key) for key in keep}, *args)


@partial(jax.jit, static_argnums=0)
def _whole(name, d, known, *args):
    return getattr(d.known(known), name)(*args)


def constant(problem):
    constants = lax.stop_gradient(problem.potentials)
    return problem.replace(potentials=constants, narrow=problem.narrow)


def forward(sweeps, problem, op):
    return lax.stop_gradient(run(sweeps, "forward", constant(problem), static=(op,)))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def value(sweeps, problem, tape, log_partition):
    return log_partition


@value.defjvp
def _value_jvp(sweeps, primals, tangents):
    problem, tape, _ = primals
    moves = zip(marginals(sweeps, problem, tape), tangents[0].potentials, strict=True)
    rate = sum(jnp.sum(p * dx, axis=tuple(range(1, p.ndim))) for p, dx in moves)
    return value(sweeps, *primals), rate


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def marginals(sweeps, problem, tape):
    return run(sweeps, "backward", problem, tape)


@marginals.defjvp
def _marginals_jvp(sweeps, primals, tangents):
    problem, tape = primals
    found = marginals(sweeps, problem, tape)
    # As wide as the marginals, and under shard_map as different from device to device.
    moves = [dx + jnp.zeros_like(p) for p, dx in zip(found, tangents[0].potentials, strict=True)]
    return found, curvature(sweeps, problem, tape, moves)


def curvature(sweeps, problem, tape, tangents):
    leaves, tree = jax.tree_util.tree_flatten((problem, tape))
    count = len(problem.potentials)
    outputs = _curvature.bind(*leaves, *tangents, sweep=_Curvature(sweeps, tree, count))
    return tuple(outputs)


@dataclasses.dataclass(frozen=True)
class _Curvature:
    """The curvature sweep of flat arguments; hashable.

    Attributes:
        sweeps: The sweeps.
        tree: Structure of problem and tape, whose first leaves are the potentials.
        count: Number of potentials.
        axes: For each `jax.vmap` around, the mapped axes of the arguments.
    """

    sweeps: Any
    tree: Any
    count: int
    axes: tuple = ()

    def __call__(self, *args):
        return self._mapped(self._plain, self.axes)(*args)

    def smooth(self, *args):
        """The same by sweeps that autodiff can follow, from potentials and tangents alone."""
        return self._mapped(self._smooth, self.axes)(*args)

    def _mapped(self, function, axes):
        for axis in axes:
            function = jax.vmap(function, axis)
        return function

    def _plain(self, *args):
        problem, tape = jax.tree_util.tree_unflatten(self.tree, args[: -self.count])
        return run(self.sweeps, "curvature", problem, tape, args[-self.count :])

    def _smooth(self, *args):
        problem, _ = jax.tree_util.tree_unflatten(self.tree, args[: -self.count])
        sweeps = self.sweeps.differentiable
        _, tape = sweeps.forward(problem, "logsumexp")
        return sweeps.curvature(problem, tape, args[-self.count :])


_curvature = Primitive("keras_struct_curvature")
_curvature.multiple_results = True
_curvature.def_impl(lambda *args, sweep: jax.jit(sweep)(*args))


@_curvature.def_abstract_eval
def _curvature_shapes(*args, sweep):
    return [x.strip_weak_type() for x in args[-sweep.count :]]


mlir.register_lowering(
    _curvature, mlir.lower_fun(lambda *args, sweep: sweep(*args), multiple_results=True)
)


def _curvature_jvp(primals, tangents, *, sweep):
    count = sweep.count
    outputs = _curvature.bind(*primals, sweep=sweep)
    moves = tangents[-count:]
    parts: list[list] = [[] for _ in outputs]
    if any(type(dt) is not ad.Zero for dt in moves):
        moves = [ad.instantiate_zeros(dt) for dt in moves]
        linear = _curvature.bind(*primals[:-count], *moves, sweep=sweep)
        parts = [[x] for x in linear]
    live = [i for i in range(count) if type(tangents[i]) is not ad.Zero]
    if live:

        def third(*potentials):
            args = list(primals)
            for i, x in zip(live, potentials, strict=True):
                args[i] = x
            return tuple(sweep.smooth(*args))

        moved = jax.jvp(third, [primals[i] for i in live], [tangents[i] for i in live])[1]
        parts = [[*some, x] for some, x in zip(parts, moved, strict=True)]
    zeros = [ad.Zero(jax.typeof(x).to_tangent_aval()) for x in outputs]
    rates = [
        functools.reduce(lambda a, b: a + b, some) if some else zero
        for some, zero in zip(parts, zeros, strict=True)
    ]
    return outputs, rates


def _curvature_transpose(cotangents, *args, sweep):
    count = sweep.count
    cotangents = [ad.instantiate_zeros(ct) for ct in cotangents]
    outputs = _curvature.bind(*args[:-count], *cotangents, sweep=sweep)
    wanted = [ad.is_undefined_primal(x) for x in args[-count:]]
    pairs = zip(outputs, wanted, strict=True)
    return [None] * (len(args) - count) + [x if want else None for x, want in pairs]


def _curvature_batch(args, axes, *, sweep):
    count = sweep.count
    size = next(x.shape[axis] for x, axis in zip(args, axes, strict=True) if axis is not None)
    # Results are as wide as the tangents: these are mapped, whatever is mapped.
    moves = [
        jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(args[-count:], axes[-count:], strict=True)
    ]
    axes = (*axes[:-count], *[0] * count)
    sweep = dataclasses.replace(sweep, axes=(*sweep.axes, axes))
    outputs = _curvature.bind(*args[:-count], *moves, sweep=sweep)
    return outputs, [0] * count


ad.primitive_jvps[_curvature] = _curvature_jvp
ad.primitive_transposes[_curvature] = _curvature_transpose
batching.primitive_batchers[_curvature] = _curvature_batch


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def explicit(sweep, inputs, context):
    return compiled(sweep, "output", inputs, context)


def _explicit_bwd(sweep, residuals, cotangent):
    return compiled(sweep, "vjp", *residuals, cotangent), None


explicit.defvjp(lambda sweep, *args: (explicit(sweep, *args), args), _explicit_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def replaced(rule, d, scores):
    return run(rule, "output", d, scores)


def _replaced_bwd(rule, residuals, cotangents):
    return None, run(rule, "vjp", *residuals, cotangents)


replaced.defvjp(lambda rule, *args: (replaced(rule, *args), args), _replaced_bwd)
