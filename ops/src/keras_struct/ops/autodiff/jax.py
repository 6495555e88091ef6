"""The three custom gradients on JAX (see `autodiff/__init__.py`).

Every forward rule calls its own custom-gradient function again instead of the raw sweep, so that
JAX finds the custom rule once more when it differentiates the rule itself.

Each sweep is jitted by itself: outside `jax.jit`, JAX would compile the loops anew at every call.
"""

from functools import partial

import jax
from jax import lax

from keras_struct.ops.numerics import reduce_to, scale_rows


def run(sweeps, name, *args, static=()):
    """`sweeps.name(*args, *static)`, compiled once for all calls with equal shapes."""
    if not sweeps.traceable:
        return getattr(sweeps, name)(*args, *static)
    return _compiled(sweeps, name, static, *args)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _compiled(sweeps, name, static, *args):
    return getattr(sweeps, name)(*args, *static)


def compiled(sweep, name, *args):
    return _compiled(sweep, name, (), *args)


def forward(sweeps, potentials, context, op):
    potentials = lax.stop_gradient(potentials)
    return lax.stop_gradient(run(sweeps, "forward", potentials, context, static=(op,)))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def value(sweeps, potentials, context, tape, log_partition):
    return log_partition


def _value_fwd(sweeps, potentials, context, tape, log_partition):
    return value(sweeps, potentials, context, tape, log_partition), (potentials, context, tape)


def _value_bwd(sweeps, residuals, g):
    potentials, context, tape = residuals
    p = marginals(sweeps, potentials, context, tape)
    grads = tuple(
        reduce_to(scale_rows(g, x), theta) for x, theta in zip(p, potentials, strict=True)
    )
    return grads, None, None, None


value.defvjp(_value_fwd, _value_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def marginals(sweeps, potentials, context, tape):
    return run(sweeps, "backward", potentials, context, tape)


def _marginals_fwd(sweeps, potentials, context, tape):
    return marginals(sweeps, potentials, context, tape), (potentials, context, tape)


def _marginals_bwd(sweeps, residuals, tangents):
    potentials, context, tape = residuals
    hessian = _curvature(sweeps, potentials, context, tape, tangents)
    grads = tuple(reduce_to(x, theta) for x, theta in zip(hessian, potentials, strict=True))
    return grads, None, None


marginals.defvjp(_marginals_fwd, _marginals_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _curvature(sweeps, potentials, context, tape, tangents):
    return run(sweeps, "curvature", potentials, context, tape, tangents)


def _curvature_fwd(sweeps, potentials, context, tape, tangents):
    residuals = (potentials, context, tape, tangents)
    return _curvature(sweeps, potentials, context, tape, tangents), residuals


def _curvature_bwd(sweeps, residuals, g):
    potentials, context, tape, tangents = residuals

    def third(potentials):
        smooth = sweeps.differentiable
        _, tape = smooth.forward(potentials, context, "logsumexp")
        return smooth.curvature(potentials, context, tape, tangents)

    (grads,) = jax.vjp(third, potentials)[1](g)
    return grads, None, None, _curvature(sweeps, potentials, context, tape, g)


_curvature.defvjp(_curvature_fwd, _curvature_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def explicit(sweep, inputs, context):
    return compiled(sweep, "output", inputs, context)


def _explicit_bwd(sweep, residuals, cotangent):
    return compiled(sweep, "vjp", *residuals, cotangent), None


explicit.defvjp(lambda sweep, *args: (explicit(sweep, *args), args), _explicit_bwd)
