"""Function transformations of JAX and PyTorch on every structure: forward mode, vmap, compilers.

Forward and reverse mode are two ways to the same number; where one is checked against the
difference of values, the other follows.
"""

import keras
import numpy as np
import pytest
from keras import ops as K

from keras_struct.ops.array import where
from keras_struct.ops.structure_cases import smallest
from keras_struct.ops.testing import BACKEND, array, directional, float64, grad, tensor

pytestmark = pytest.mark.skipif(
    BACKEND not in ("jax", "torch"), reason="this framework has no such transformations"
)
CASES = smallest()
every_structure = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


class Loss:
    """Weighted sum of value and marginals of a case, as a function of all its potentials.

    Attributes:
        args: Its arguments, potentials and temperature, as NumPy arrays.
        directions: One random direction for each.
    """

    def __init__(self, case, marginals=True):
        self.case, self.exists = case, case.exists()
        self.names, rng = list(case.arrays()), np.random.default_rng(5)
        self.args = [*case.arrays().values(), np.array(0.7)]
        self.directions = [rng.normal(size=x.shape) for x in self.args]
        self.marginals, self.rng = marginals, rng
        shapes = {
            k: x.shape for k, x in case.distribution(dtype="float32").marginals("all").items()
        }
        self.weights = {k: rng.normal(size=tuple(shape)) for k, shape in shapes.items()}
        self.rows = rng.normal(size=self.exists.shape)

    def __call__(self, *args):
        d = self.case.make(dict(zip(self.names, args[:-1], strict=True)), temperature=args[-1])
        dtype = args[0].dtype
        value = where(tensor(self.exists, "bool"), d.value(), 0.0)
        total = K.sum(value * tensor(self.rows, dtype))
        if self.marginals:
            for name, x in d.marginals("all").items():
                total = total + K.sum(x * tensor(self.weights[name], dtype))
        return total

    def tensors(self):
        return tuple(map(tensor, self.args)), tuple(map(tensor, self.directions))


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
