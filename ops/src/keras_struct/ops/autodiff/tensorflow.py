"""The three custom gradients on TensorFlow (see `autodiff/__init__.py`).

AutoGraph, which a user's `tf.function` applies to all that it calls, finds nothing to convert in
sweeps and takes longer to look for it than they take to be traced.
"""

import functools

import tensorflow as tf
from tensorflow.autograph.experimental import do_not_convert

from keras_struct.ops.numerics import reduce_to, scale_rows


@do_not_convert
def run(sweeps, name, *args, static=()):
    return getattr(sweeps, name)(*args, *static)


@do_not_convert
def forward(sweeps, potentials, context, op):
    log_partition, tape = sweeps.forward(_stop(potentials), context, op)
    return tf.stop_gradient(log_partition), _stop(tape)


@do_not_convert
def value(sweeps, potentials, context, tape, log_partition):
    @tf.custom_gradient
    def attach(*potentials):
        def grad(g):
            p = marginals(sweeps, potentials, context, tape)
            return [
                reduce_to(scale_rows(g, x), theta) for x, theta in zip(p, potentials, strict=True)
            ]

        return tf.identity(log_partition), grad

    return attach(*potentials)


@do_not_convert
def marginals(sweeps, potentials, context, tape):
    @tf.custom_gradient
    def attach(*potentials):
        def grad(*tangents):
            hessian = _curvature(sweeps, potentials, context, tape, tangents)
            return [reduce_to(x, theta) for x, theta in zip(hessian, potentials, strict=True)]

        return _stop(sweeps.backward(_stop(potentials), context, tape)), grad

    return _sequence(attach(*potentials))


def _curvature(sweeps, potentials, context, tape, tangents):
    count = len(potentials)

    @tf.custom_gradient
    def attach(*inputs):
        potentials, tangents = inputs[:count], inputs[count:]

        def grad(*g):
            with tf.GradientTape() as third:
                third.watch(potentials)
                smooth = sweeps.differentiable
                _, fresh = smooth.forward(potentials, context, "logsumexp")
                hessian = smooth.curvature(potentials, context, fresh, tangents)
            grads = third.gradient(
                hessian, potentials, g, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
            return [*grads, *_curvature(sweeps, potentials, context, tape, g)]

        hessian = sweeps.curvature(_stop(potentials), context, tape, _stop(tangents))
        return _stop(hessian), grad

    return _sequence(attach(*potentials, *tangents))


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


def _stop(tensors):
    return tuple(tf.stop_gradient(x) for x in tensors)


def _sequence(outputs):
    return tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs,)
