"""The glue between sweeps and each framework's autodiff, on its own checkers and transforms."""

import keras
import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops.testing import BACKEND, HAS_GRADIENTS, array, float64, grad, tensor

pytestmark = pytest.mark.everywhere

LENGTHS = np.array([4, 2], "int32")
RNG = np.random.default_rng(0)
ARGS = (RNG.normal(size=(2, 4, 5)), RNG.normal(size=(5, 5)), np.array(0.7))
READOUTS = {
    "value": lambda d: d.value(),
    "marginals": lambda d: d.marginals(),
    "pair_marginals": lambda d: d.marginals("transitions"),
    "entropy": lambda d: d.entropy(),
}


def chain(unary, transitions, temperature, implementation="portable"):
    return ops.linear_chain(
        unary,
        transitions,
        lengths=LENGTHS,
        temperature=temperature,
        implementation=implementation,
    )


@pytest.mark.parametrize("implementation", ["portable", "parallel"])
@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.skipif(BACKEND != "torch", reason="torch's own gradcheck")
def test_gradcheck_and_gradgradcheck(readout, implementation):
    import torch

    args = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in ARGS]

    def function(unary, transitions, temperature):
        return READOUTS[readout](chain(unary, transitions, temperature, implementation))

    assert torch.autograd.gradcheck(function, args, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, args, fast_mode=True)


@pytest.mark.skipif(BACKEND != "jax", reason="JAX's own check_grads")
def test_check_grads_to_third_order():
    import jax
    from jax.test_util import check_grads

    with float64():
        args = [tensor(x) for x in ARGS]
        value = jax.jit(lambda *args: keras.ops.sum(chain(*args).value()))
        check_grads(value, args, order=3, modes=["fwd", "rev"], atol=1e-3, rtol=1e-3)


@pytest.mark.skipif(not HAS_GRADIENTS, reason="the NumPy backend has no gradients")
def test_third_derivative_equals_the_difference_of_second_ones():
    from keras_struct.ops.testing import directional, fast

    with float64():
        args = [tensor(x) for x in ARGS]
        directions = [tensor(np.cos(np.arange(x.size)).reshape(x.shape)) for x in ARGS]

        def slope(function):
            def along(*args):
                gradients = grad(function)(*args)
                return sum(keras.ops.sum(g * d) for g, d in zip(gradients, directions, strict=True))

            return along

        def value(*args):
            return keras.ops.sum(chain(*args).value())

        second, third = fast(slope(slope(value))), fast(slope(slope(slope(value))))
        np.testing.assert_allclose(
            array(third(*args)), directional(second, args, directions), rtol=1e-5
        )


@pytest.mark.skipif(not HAS_GRADIENTS, reason="the NumPy backend has no transforms")
def test_vmap_of_the_gradient():
    """The mapped axis joins the batch axis; the result is that of one call per row."""

    def loss(unary):
        d = chain(unary, tensor(ARGS[1], "float32"), 0.7)
        return keras.ops.sum(d.marginals() ** 2) + keras.ops.sum(d.entropy())

    stacked = np.stack([ARGS[0], 2 * ARGS[0], -ARGS[0]]).astype("float32")
    single = [array(grad(loss)(tensor(x, "float32"))[0]) for x in stacked]
    if BACKEND == "jax":
        import jax

        mapped = jax.vmap(jax.grad(loss))(stacked)
    elif BACKEND == "torch":
        import torch

        mapped = torch.func.vmap(torch.func.grad(loss))(torch.tensor(stacked))
    else:
        import tensorflow as tf

        mapped = tf.vectorized_map(lambda x: grad(loss)(x)[0], tf.constant(stacked))
    np.testing.assert_allclose(array(mapped), np.stack(single), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(BACKEND != "torch", reason="switches of PyTorch")
@pytest.mark.parametrize("mode", ["no_grad", "inference_mode"])
def test_what_was_read_without_gradients_is_read_again_with_them(mode):
    import torch

    unary = torch.tensor(ARGS[0], requires_grad=True)
    d = chain(unary, ARGS[1], 0.7)
    with getattr(torch, mode)():
        assert not d.value().requires_grad and not d.marginals().requires_grad
    (found,) = torch.autograd.grad(d.value().sum() + d.marginals().square().sum(), unary)
    assert torch.isfinite(found).all() and found.abs().sum() > 0


@pytest.mark.skipif(BACKEND != "numpy", reason="says what the NumPy backend is for")
def test_numpy_has_every_readout():
    d = chain(*ARGS)
    for readout in READOUTS.values():
        assert np.isfinite(readout(d)).all()
    assert d.argmax().shape == (2, 4) and d.sample(0, 3).shape == (3, 2, 4)
