"""Function transformations of JAX and PyTorch on every structure: forward mode, vmap, compilers.

Forward and reverse mode are two ways to the same number; where one is checked against the
difference of values, the other follows.
"""

import keras
import numpy as np
import pytest
from keras import ops as K

from keras_struct import ops
from keras_struct.ops import autodiff, dispatch
from keras_struct.ops.array import where
from keras_struct.ops.chart.portable import ChartPortable
from keras_struct.ops.numerics import per_example
from keras_struct.ops.structure_cases import Loss, every_structure
from keras_struct.ops.testing import BACKEND, array, directional, float64, grad, tensor

pytestmark = pytest.mark.skipif(
    BACKEND not in ("jax", "torch"), reason="this framework has no such transformations"
)


def forward_mode(function, args, directions):
    """Derivative along the directions."""
    if BACKEND == "jax":
        import jax

        return jax.jvp(function, args, directions)[1]
    import torch

    return torch.func.jvp(function, args, directions)[1]


def compiled(function):
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    return function


def reverse_mode(function, args, directions):
    """The same, from the gradient."""
    return along(gradients(function)(*args), directions)


def gradients(function):
    """Of a scalar function by all arguments, under any transformation."""

    def gradient(*args):
        if BACKEND == "jax":
            import jax

            return jax.grad(function, tuple(range(len(args))))(*args)
        import torch

        return torch.func.grad(function, tuple(range(len(args))))(*args)

    return gradient


def vmap(function, axes):
    if BACKEND == "jax":
        import jax

        return jax.vmap(function, axes)
    import torch

    return torch.func.vmap(function, axes)


def along(gradients, directions):
    return sum(K.sum(g * dx) for g, dx in zip(gradients, directions, strict=True))


@every_structure
def test_forward_mode_equals_reverse_mode_and_the_difference(case):
    with float64():
        loss = Loss(case)
        args, directions = loss.tensors()
        forward = compiled(lambda *args: forward_mode(loss, args, directions))(*args)
        numeric = directional(compiled(loss), args, directions)
        reverse = compiled(lambda *args: along(grad(loss)(*args), directions))(*args)
        np.testing.assert_allclose(array(reverse), numeric, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(array(forward), array(reverse), rtol=1e-9)


ORDERS = {
    f"{outer.__name__} over {inner.__name__}": (outer, inner)
    for outer in (forward_mode, reverse_mode)
    for inner in (forward_mode, reverse_mode)
}


@every_structure
def test_second_derivatives_in_all_orders_of_modes(case):
    """Of the value along a direction, at temperature 1: all are the curvature sweep."""
    with float64():
        loss = Loss(case, marginals=False)
        potentials, directions = (x[:-1] for x in loss.tensors())

        def value(*potentials):
            return loss(*potentials, 1.0)

        def second(outer, inner, potentials):
            def slope(*potentials):
                return inner(value, potentials, directions)

            return outer(slope, potentials, directions)

        def every(*potentials):
            found = [second(*order, potentials) for order in ORDERS.values()]
            return [*found, _by_the_curvature(loss, potentials, directions)]

        *found, expected = map(array, compiled(every)(*potentials))
        assert abs(expected) > 1e-6
        for name, x in zip(ORDERS, found, strict=True):
            np.testing.assert_allclose(x, expected, rtol=1e-9, err_msg=name)


def _by_the_curvature(loss, potentials, directions):
    """The second derivative of the value along directions by one sweep."""

    def distribution(*potentials):
        return loss.case.make(dict(zip(loss.names, potentials, strict=True)), temperature=1.0)

    def canonical(*potentials):
        return distribution(*potentials)._problem.potentials

    d = distribution(*potentials)
    moves = forward_mode(canonical, potentials, directions)
    wide = tuple(dx + K.zeros_like(p) for dx, p in zip(moves, d._marginals, strict=True))
    hessian = autodiff.run(d._sweeps, "curvature", d._problem, d._soft[1], wide)
    rows = sum(per_example(h * dx) for h, dx in zip(hessian, wide, strict=True))
    total = K.sum(K.reshape(loss.rows, (-1,)) * where(K.reshape(loss.exists, (-1,)), rows, 0.0))
    return -total if d.structure.costs else total


@every_structure
def test_vmap_equals_a_loop(case):
    """Over the second axis of one potential and the temperature, beside others that stay."""
    with float64():
        loss = Loss(case)
        (first, *rest, _), _ = loss.tensors()
        stack = K.stack([first, 0.5 * first, 2 * first], axis=1)
        temperatures = tensor([0.7, 1.0, 2.0])

        def readouts(first, temperature):
            args = first, *rest, temperature
            d = case.make(dict(zip(loss.names, args[:-1], strict=True)), temperature=temperature)
            return d.value(), *d.marginals("all").values(), *gradients(loss)(*args)

        mapped = vmap(readouts, (1, 0))
        single = compiled(readouts)
        rows = [single(stack[:, i], temperatures[i]) for i in range(3)]
        for found, *each in zip(compiled(mapped)(stack, temperatures), *rows, strict=True):
            expected = np.stack([array(x) for x in each])
            np.testing.assert_allclose(array(found), expected, rtol=1e-9, atol=1e-11)


class BatchSecond(ChartPortable):
    """The portable chart with the batch on the second axis of its tape."""

    batch_axis = 1

    def forward(self, problem, op):
        log_partition, tape = super().forward(problem, op)
        return log_partition, _moved(tape, 0, 1)

    def backward(self, problem, tape):
        return super().backward(problem, _moved(tape, 1, 0))

    def curvature(self, problem, tape, tangents):
        return super().curvature(problem, _moved(tape, 1, 0), tangents)


def _moved(tape, source, target):
    return keras.tree.map_structure(lambda x: K.moveaxis(x, source, target), tape)


def test_vmap_of_labels_around_tapes_with_another_batch_axis(monkeypatch):
    entries = {**dispatch.candidates("chart"), "batch_second": BatchSecond()}
    monkeypatch.setitem(dispatch._registry, "chart", entries)
    rng = np.random.default_rng(0)
    arcs, labels = rng.normal(size=(4, 2, 3, 3)), rng.normal(size=(4, 2, 3, 3, 2))

    def readouts(arcs, labels):
        def loss(labels):
            d = ops.eisner(arcs, labels, implementation="batch_second")
            return K.sum(d.value()) + K.sum(d.marginals("labels") ** 2)

        return gradients(loss)(labels)[0]

    with float64():
        args = tensor(arcs), tensor(labels)
        found, single = compiled(vmap(readouts, (0, 0)))(*args), compiled(readouts)
        rows = [array(single(args[0][i], args[1][i])) for i in range(4)]
        np.testing.assert_allclose(array(found), np.stack(rows), rtol=1e-9)
