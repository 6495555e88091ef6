"""What tests need from each framework: float64 tensors, gradients, compilation."""

import contextlib
import doctest
import importlib
import os
import pkgutil

import keras
import numpy as np

BACKEND = keras.backend.backend()
HAS_GRADIENTS = BACKEND != "numpy"
# `make test-every` runs what `make test` leaves out for its time: on JAX and TensorFlow two thirds
# of the cases that are not core cases, and SavedModels of layers on the backends whose `.keras`
# files TensorFlow exports, as it does its own.
EVERY_CASE = "EVERY_CASE" in os.environ
EXPORTS = EVERY_CASE or BACKEND == "tensorflow"
# Where the child process that exports for other backends is tried, for a quarter of a minute each.
EXPORTS_BY_CHILD = EXPORTS or BACKEND == "jax"
# The environment of a process of plain TensorFlow, which loads Keras with some models.
PLAIN_TENSORFLOW = {**os.environ, "KERAS_BACKEND": "tensorflow"}


def tried(checks):
    """Of the checks of `layers.check_layer` those for this backend: TensorFlow tries SavedModels,
    and in `make test` fresh processes load models on TensorFlow and NumPy only."""
    fresh = EVERY_CASE or BACKEND in ("tensorflow", "numpy")
    left_out = {"saved_model": not EXPORTS, "reload": not fresh}
    return [check for check in checks if not left_out.get(check)]


@contextlib.contextmanager
def implemented_by(family, name, implementation):
    """Within this context an implementation stands in the place of the one of its name."""
    from keras_struct.ops import dispatch

    found = dispatch.candidates(family)
    names = list(found)
    before = names[names.index(name) + 1]
    dispatch.register_implementation(family, name, implementation, before=before)
    try:
        yield implementation
    finally:
        dispatch.register_implementation(family, name, found[name], before=before)


@contextlib.contextmanager
def float64():
    """Within this context float64 tensors exist (JAX has them off by default)."""
    if BACKEND != "jax":
        yield
        return
    import jax

    with jax.enable_x64(True):
        yield


def tensor(x, dtype="float64"):
    return keras.ops.convert_to_tensor(x, dtype=dtype)


def array(x):
    """NumPy array of any tensor, half precisions as float32."""
    if getattr(x, "dtype", None) is not None:
        half = keras.backend.standardize_dtype(x.dtype) in ("bfloat16", "float16")
        x = keras.ops.cast(x, "float32") if half else x
    return keras.ops.convert_to_numpy(keras.ops.stop_gradient(x) if HAS_GRADIENTS else x)


def grad(function):
    """Gradients of a scalar function with respect to all its arguments (nests to higher orders)."""
    if BACKEND == "jax":
        import jax

        return lambda *args: jax.grad(function, tuple(range(len(args))))(*args)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def gradient(*args):
            with tf.GradientTape() as tape:
                tape.watch(args)
                y = function(*args)
            return tape.gradient(y, args, unconnected_gradients=tf.UnconnectedGradients.ZERO)

        return gradient
    if BACKEND == "torch":
        import torch

        def gradient(*args):
            args = tuple(x if x.requires_grad else x.detach().requires_grad_() for x in args)
            return torch.autograd.grad(
                function(*args), args, create_graph=True, materialize_grads=True
            )

        return gradient
    raise NotImplementedError("the NumPy backend has no gradients")


def fast(function):
    """`jax.jit` on JAX, where every eager loop is compiled anew; the function itself elsewhere."""
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    return function


def compilers():
    """Named ways to compile a function of tensors, where `fast` does not compile already."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def dynamic(function, static):
            def compiled(*args):
                specs = []
                for x, known in zip(args, static, strict=True):
                    free = len(x.shape) - known
                    specs.append(tf.TensorSpec([None] * free + list(x.shape[free:]), x.dtype))
                return tf.function(function, input_signature=specs)(*args)

            return compiled

        return {
            "dynamic": dynamic,
            "xla": lambda f: tf.function(f, jit_compile=True),
        }
    return {}


def directional(function, args, directions, step=1e-5):
    """Central difference of a scalar function along the given directions, in float64."""
    forward = function(*[x + step * d for x, d in zip(args, directions, strict=True)])
    backward = function(*[x - step * d for x, d in zip(args, directions, strict=True)])
    return (np.float64(array(forward)) - np.float64(array(backward))) / (2 * step)


def modules_of(package):
    """Names of the modules of a package, without its tests."""
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return [f"{package.__name__}.{name}" for name in names if not name.endswith("_test")]


def run_examples(name):
    """Run the examples of the docstrings of a module; those that train need gradients."""
    module = importlib.import_module(name)
    tests = doctest.DocTestFinder().find(module)
    skip_without_fit("".join(example.source for test in tests for example in test.examples))
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0


def skip_without_fit(examples):
    import pytest

    if ".fit(" in examples and not HAS_GRADIENTS:
        pytest.skip("the NumPy backend has no fit")
