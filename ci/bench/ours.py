"""Our side of a task on the active Keras backend: compiled under JAX and TensorFlow, else eager."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from ci.bench.problem import CURVATURE, DECODE, GRADIENT, VALUE, Inputs, Job, Problem


def job(problem: Problem, task: str, inputs: Inputs) -> Job:
    """The `Job` of a task; `NotImplementedError` for gradients of marginals under NumPy."""
    if keras.backend.backend() == "numpy":
        return _numpy_job(problem, task, inputs)
    if task == DECODE:
        return compiled_job(lambda x: {"event": problem.distribution(**x).argmax()}, inputs)
    if task == VALUE:
        return compiled_job(lambda x: {"value": problem.distribution(**x).value()}, inputs)
    if task == GRADIENT:

        def value(x: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            value = problem.distribution(**x).value()
            return keras.ops.sum(value), {"value": value}

        return gradient_job(value, inputs, problem.potentials)
    direction = keras.ops.convert_to_tensor(curvature_direction(problem, inputs))

    def projected(x: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return keras.ops.sum(problem.distribution(**x).marginals() * direction), {}

    return gradient_job(projected, inputs, problem.potentials)


def curvature_direction(problem: Problem, inputs: Inputs) -> np.ndarray:
    """What the primary marginals are multiplied by before their gradient is taken."""
    primary = inputs[problem.potentials[0]]
    return np.random.default_rng(1).normal(size=primary.shape).astype(primary.dtype)


def compiled_job(function: Callable[[dict[str, Any]], Any], inputs: Inputs) -> Job:
    """`function(inputs)`, a dict of tensors."""
    backend = keras.backend.backend()
    tensors = {name: keras.ops.convert_to_tensor(x) for name, x in inputs.items()}
    if backend == "jax":
        import jax

        step = jax.jit(function)
        return Job(lambda: jax.block_until_ready(step(tensors)), _to_numpy)
    if backend == "tensorflow":
        import tensorflow as tf

        function = tf.function(function)
    return Job(lambda: function(tensors), _to_numpy)


def gradient_job(
    loss: Callable[[dict[str, Any]], tuple[Any, dict[str, Any]]],
    inputs: Inputs,
    names: tuple[str, ...],
) -> Job:
    """`loss(inputs)` returns (scalar, outputs); the job returns outputs and gradients by name."""
    tensors = {name: keras.ops.convert_to_tensor(x) for name, x in inputs.items()}
    differentiate = {"jax": _jax_gradient, "tensorflow": _tensorflow_gradient}
    run = differentiate.get(keras.backend.backend(), _torch_gradient)(loss, tensors, names)

    def read(result: Any) -> Inputs:
        gradients, outputs = result
        return {**_to_numpy(outputs), **_gradient_names(_to_numpy(gradients))}

    return Job(run, read)


def _jax_gradient(loss: Any, tensors: dict[str, Any], names: tuple[str, ...]) -> Any:
    import jax

    def split_loss(leaves: dict[str, Any], rest: dict[str, Any]) -> Any:
        return loss({**leaves, **rest})

    step = jax.jit(jax.grad(split_loss, has_aux=True))
    leaves = {name: tensors[name] for name in names}
    rest = {name: x for name, x in tensors.items() if name not in names}
    return lambda: jax.block_until_ready(step(leaves, rest))


def _tensorflow_gradient(loss: Any, tensors: dict[str, Any], names: tuple[str, ...]) -> Any:
    import tensorflow as tf

    @tf.function
    def step(tensors: dict[str, Any]) -> Any:
        leaves = {name: tensors[name] for name in names}
        with tf.GradientTape() as tape:
            tape.watch(leaves)
            scalar, outputs = loss(tensors)
        return tape.gradient(scalar, leaves), outputs

    return lambda: step(tensors)


def _torch_gradient(loss: Any, tensors: dict[str, Any], names: tuple[str, ...]) -> Any:
    import torch

    leaves = {name: tensors[name].requires_grad_() for name in names}

    def step() -> Any:
        scalar, outputs = loss(tensors)
        gradients = torch.autograd.grad(scalar, list(leaves.values()))
        return dict(zip(leaves, gradients, strict=True)), outputs

    return step


def _numpy_job(problem: Problem, task: str, inputs: Inputs) -> Job:
    """The value and its marginals instead of automatic gradients."""
    if task == CURVATURE:
        raise NotImplementedError("the NumPy backend has no gradients of marginals")
    if task == DECODE:
        return Job(lambda: problem.distribution(**inputs).argmax(), lambda tags: {"event": tags})
    if task == VALUE:
        return Job(lambda: problem.distribution(**inputs).value(), lambda x: {"value": x})
    return marginals_job(problem, inputs)


def marginals_job(problem: Problem, inputs: Inputs) -> Job:
    """Value and gradients without automatic differentiation."""

    def run() -> Any:
        d = problem.distribution(**inputs)
        return {"value": d.value()}, d.marginals("all")

    def read(result: Any) -> Inputs:
        value, marginals = (_to_numpy(x) for x in result)
        return {**value, **_gradient_names(problem.gradients(marginals, inputs))}

    return Job(run, read)


def _to_numpy(tensors: dict[str, Any]) -> Inputs:
    return {name: keras.ops.convert_to_numpy(x) for name, x in tensors.items()}


def _gradient_names(gradients: Inputs) -> Inputs:
    return {f"gradient of {name}": x for name, x in gradients.items()}
