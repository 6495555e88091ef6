"""Function transformations of JAX and PyTorch on every structure: forward mode, vmap, compilers.

Forward and reverse mode are two ways to the same number; where one is checked against the
difference of values, the other follows.
"""

import numpy as np
import pytest
from keras import ops as K

from keras_struct.ops.structure_cases import Loss, every_structure
from keras_struct.ops.testing import BACKEND, array, directional, float64, grad

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
