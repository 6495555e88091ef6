"""Elimination in float32 against float64, at any temperature and size of scores."""

import numpy as np
import pytest
from keras import ops as K

from keras_struct import ops
from keras_struct.ops.testing import HAS_GRADIENTS, array, fast, float64, grad, tensor

SCALES = [(1.0, 1e-6), (1e4, 1e-6), (1e4, 1.0), (1e4, 1e2), (1.0, 1e-2)]
SHAPE = (3, 24, 24)


def readouts(x, direction, temperature, single_root, dtype, implementation):
    """Value, marginals and a curvature sweep."""

    def read(x, direction):
        d = ops.spanning_tree(
            x, temperature=temperature, single_root=single_root, implementation=implementation
        )
        curvature = d._sweeps.curvature(d._problem, d._soft[1], (direction,))[0]
        return d.value(), d.marginals(), curvature

    return [array(y) for y in fast(read)(tensor(x, dtype), tensor(direction, dtype))]


@pytest.mark.parametrize("single_root", [True, False])
@pytest.mark.parametrize(("scale", "temperature"), SCALES)
def test_cold_and_large(scale, temperature, single_root, implementation="portable"):
    rng = np.random.default_rng(0)
    x = (scale * rng.normal(size=SHAPE)).astype("float32")
    direction = rng.normal(size=SHAPE).astype("float32")
    options = (x, direction, temperature, single_root)
    value, marginals, curvature = readouts(*options, "float32", implementation)
    with float64():
        exact = readouts(*options, "float64", "portable")
    np.testing.assert_allclose(value, exact[0], rtol=1e-6)
    np.testing.assert_allclose(marginals, exact[1], atol=1e-4)
    np.testing.assert_allclose(curvature, exact[2], atol=1e-4)


@pytest.mark.parametrize("single_root", [True, False])
@pytest.mark.parametrize("temperature", [1e-6, 1e-4])
def test_ties_beyond_the_precision(temperature, single_root, implementation="portable"):
    """Where exponents have no digits left, heads still sum to 1 and curvature is finite."""
    rng = np.random.default_rng(1)
    x = 1e4 * rng.integers(0, 2, size=SHAPE).astype("float32")
    direction = rng.normal(size=SHAPE).astype("float32")
    options = (x, direction, temperature, single_root)
    _, marginals, curvature = readouts(*options, "float32", implementation)
    assert np.isfinite(curvature).all()
    assert (marginals >= 0).all()
    np.testing.assert_allclose(marginals.sum(2), 1, rtol=1e-5)


@pytest.mark.parametrize("implementation", [None, "portable"])
def test_log_probabilities_of_large_scores(implementation):
    """The log-partition is an exact pair, of which a score leaves the small rest."""
    rng = np.random.default_rng(2)
    x = (1000 + rng.normal(size=(2, 30, 30))).astype("float32")

    def log_prob(x, events):
        return ops.spanning_tree(x, implementation=implementation).log_prob(events)

    with float64():
        d = ops.spanning_tree(tensor(x), implementation="portable")
        events = tensor(array(d.sample(3, 4)), "int32")
        exact = array(fast(log_prob)(tensor(x), events))
    found = array(fast(log_prob)(tensor(x, "float32"), events))
    np.testing.assert_allclose(found, exact, atol=2e-4)


@pytest.mark.skipif(not HAS_GRADIENTS, reason="the NumPy backend has no gradients")
def test_gradients_of_cold_marginals_are_finite():
    rng = np.random.default_rng(3)
    for x in (rng.normal(size=(2, 8, 8)), rng.integers(0, 2, size=(2, 8, 8))):

        def loss(x):
            d = ops.spanning_tree(x, temperature=1e-6, implementation="portable")
            return K.sum(d.marginals() ** 2) + K.sum(d.entropy())

        (g,) = fast(grad(loss))(tensor(1e4 * x, "float32"))
        assert np.isfinite(array(g)).all()
