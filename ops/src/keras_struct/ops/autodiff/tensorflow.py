"""The custom gradients on TensorFlow (see `autodiff/__init__.py`).

AutoGraph, which a user's `tf.function` applies to all that it calls, finds nothing to convert in
sweeps and takes longer to look for it than they take to be traced.
"""

import functools

import keras
import tensorflow as tf
from tensorflow.autograph.experimental import do_not_convert

from keras_struct.ops.numerics import reduce_to, scale_rows


@do_not_convert
def run(sweeps, name, *args, static=()):
    return getattr(sweeps, name)(*args, *static)


def whole(d, name, *args, keep=()):
    return getattr(d, name)(*args)


def constant(problem):
    return problem.replace(potentials=_stop(problem.potentials))


@do_not_convert
def forward(sweeps, problem, op):
    return keras.tree.map_structure(tf.stop_gradient, sweeps.forward(constant(problem), op))


@do_not_convert
def value(sweeps, problem, tape, log_partition):
    @tf.custom_gradient
    def attach(*potentials):
        def grad(g):
            p = marginals(sweeps, problem.replace(potentials=potentials), tape)
            return [
                reduce_to(scale_rows(g, x), theta) for x, theta in zip(p, potentials, strict=True)
            ]

        return tf.identity(log_partition), grad

    return attach(*problem.potentials)


@do_not_convert
def marginals(sweeps, problem, tape):
    @tf.custom_gradient
    def attach(*potentials):
        here = problem.replace(potentials=potentials)

        def grad(*tangents):
            hessian = _curvature(sweeps, here, tape, tangents)
            return [reduce_to(x, theta) for x, theta in zip(hessian, potentials, strict=True)]

        return _stop(sweeps.backward(constant(here), tape)), grad

    return _sequence(attach(*problem.potentials))


def _curvature(sweeps, problem, tape, tangents):
    count = len(problem.potentials)

    @tf.custom_gradient
    def attach(*inputs):
        potentials, tangents = inputs[:count], inputs[count:]
        here = problem.replace(potentials=potentials)

        def grad(*g):
            with tf.GradientTape() as third:
                third.watch(potentials)
                smooth = sweeps.differentiable
                _, fresh = smooth.forward(here, "logsumexp")
                hessian = smooth.curvature(here, fresh, tangents)
            grads = third.gradient(
                hessian, potentials, g, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
            return [*grads, *_curvature(sweeps, here, tape, g)]

        return _stop(sweeps.curvature(constant(here), tape, _stop(tangents))), grad

    return _sequence(attach(*problem.potentials, *tangents))


def compiled(sweep, name, *args):
    return _graph(sweep, name)(*args)


@functools.lru_cache(maxsize=64)
def _graph(sweep, name):
    """A loop of small operations takes many times as long outside of a graph."""
    return tf.function(getattr(sweep, name), autograph=False)


@do_not_convert
def explicit(sweep, inputs, context):
    @tf.custom_gradient
    def attach(*inputs):
        def grad(g):
            return list(compiled(sweep, "vjp", inputs, context, g))

        return tf.stop_gradient(compiled(sweep, "output", _stop(inputs), context)), grad

    return attach(*inputs)


@do_not_convert
def replaced(rule, d, scores):
    @tf.custom_gradient
    def attach(*scores):
        def grad(*cotangents):
            return list(run(rule, "vjp", d, _stop(scores), cotangents))

        return _stop(run(rule, "output", d, _stop(scores))), grad

    return _sequence(attach(*scores))


def _stop(tensors):
    return tuple(tf.stop_gradient(x) for x in tensors)


def _sequence(outputs):
    return tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs,)
