"""Grammars in float32 against float64, at any temperature and size of scores."""

import numpy as np
import pytest
from keras import ops as K

from keras_struct import ops
from keras_struct.ops.testing import HAS_GRADIENTS, array, fast, float64, grad, tensor

SCALES = [(1.0, 1e-6), (1e4, 1e-6), (1e4, 1.0), (1e4, 1e2), (1.0, 1e-2)]
NAMES = ("rules", "terms", "roots")


def potentials(scale, batch=3, n=14, k=3, p=2, seed=0):
    rng = np.random.default_rng(seed)
    shapes = ((batch, k, k + p, k + p), (batch, n, p), (batch, k))
    return [(scale * rng.normal(size=shape)).astype("float32") for shape in shapes]


def readouts(x, directions, temperature, dtype, implementation="portable"):
    """Value, marginals and a curvature sweep."""

    def read(*args):
        d = ops.pcfg(*args[:3], temperature=temperature, implementation=implementation)
        curvature = d._sweeps.curvature(d._problem, d._soft[1], args[3:])
        named = d.marginals("all")
        return d.value(), *(named[name] for name in NAMES), *curvature

    found = fast(read)(*(tensor(y, dtype) for y in (*x, *directions)))
    return [array(y) for y in found]


@pytest.mark.parametrize(("scale", "temperature"), SCALES)
def test_cold_and_large(scale, temperature, implementation="portable", n=14):
    """Probabilities are right to 1e-4 of what they count: a rule is used up to N - 1 times."""
    x, directions = potentials(scale, n=n), potentials(1.0, n=n, seed=1)
    found = readouts(x, directions, temperature, "float32", implementation)
    with float64():
        exact = readouts(x, directions, temperature, "float64")
    np.testing.assert_allclose(found[0], exact[0], rtol=1e-6)
    for got, wanted in zip(found[1:], exact[1:], strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-4)


@pytest.mark.parametrize("temperature", [1e-6, 1e-4])
def test_ties_beyond_the_precision(temperature, implementation="portable", n=14):
    """Where exponents have no digits left, shares still sum to 1 and curvature is finite."""
    rng = np.random.default_rng(1)
    x = [1e4 * rng.integers(0, 2, size=y.shape).astype("float32") for y in potentials(1.0, n=n)]
    directions = potentials(1.0, n=n, seed=1)
    _, *found = readouts(x, directions, temperature, "float32", implementation)
    assert all(np.isfinite(y).all() for y in found)
    rules, terms, roots = found[:3]
    for p in (rules, terms, roots):
        assert (p >= 0).all()
    np.testing.assert_allclose(terms.sum(2), 1, rtol=1e-5)
    np.testing.assert_allclose(rules.sum((1, 2, 3)), n - 1, rtol=1e-5)
    np.testing.assert_allclose(roots.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("implementation", [None, "portable"])
def test_log_probabilities_of_large_scores(implementation):
    """The log-partition is an exact pair, of which a score leaves the small rest."""
    x = [1000 + y for y in potentials(1.0, n=20)]

    def log_prob(*args):
        return ops.pcfg(*args[:3], implementation=implementation).log_prob(args[3])

    with float64():
        d = ops.pcfg(*map(tensor, x), implementation="portable")
        events = tensor(array(d.sample(3, 4)), "int32")
        exact = array(fast(log_prob)(*map(tensor, x), events))
    found = array(fast(log_prob)(*(tensor(y, "float32") for y in x), events))
    np.testing.assert_allclose(found, exact, atol=2e-4)


@pytest.mark.skipif(not HAS_GRADIENTS, reason="the NumPy backend has no gradients")
def test_gradients_of_cold_marginals_are_finite():
    x = [tensor(y, "float32") for y in potentials(1e4, n=5)]

    def loss(*args):
        d = ops.pcfg(*args, temperature=1e-6, implementation="portable")
        return sum(K.sum(p**2) for p in d.marginals("all").values()) + K.sum(d.entropy())

    for g in fast(grad(loss))(*x):
        assert np.isfinite(array(g)).all()
