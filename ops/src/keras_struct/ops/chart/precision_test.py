"""The portable chart in float32 against float64, at any temperature and size of scores."""

import numpy as np
import pytest

from keras_struct.ops.chart.chart_test import STRUCTURES
from keras_struct.ops.testing import array, fast, float64, tensor

SCALES = [(1.0, 1e-6), (1e4, 1e-6), (1e4, 1.0), (1e4, 1e2), (1.0, 1e-2)]


def readouts(structure, x, direction, temperature, dtype, implementation):
    """Value, marginals and a curvature sweep."""

    def read(x, direction):
        d = structure(x, temperature=temperature, implementation=implementation)
        tangents = (direction,)
        return d.value(), d.marginals(), d._sweeps.curvature(d._problem, d._soft[1], tangents)[0]

    return [array(y) for y in fast(read)(tensor(x, dtype), tensor(direction, dtype))]


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize(("scale", "temperature"), SCALES)
def test_cold_and_large(name, scale, temperature, implementation="portable"):
    rng = np.random.default_rng(0)
    x = (scale * rng.normal(size=(3, 24, 24))).astype("float32")
    direction = rng.normal(size=x.shape).astype("float32")
    value, marginals, curvature = readouts(
        STRUCTURES[name], x, direction, temperature, "float32", implementation
    )
    with float64():
        exact = readouts(STRUCTURES[name], x, direction, temperature, "float64", "portable")
    np.testing.assert_allclose(value, exact[0], rtol=1e-6)
    np.testing.assert_allclose(marginals, exact[1], atol=1e-4)
    np.testing.assert_allclose(curvature, exact[2], atol=1e-4)


@pytest.mark.parametrize("name", STRUCTURES)
def test_ties_beyond_the_precision(name, implementation="portable"):
    """Where exponents have no digits left, shares still sum to 1 and curvature is finite."""
    rng = np.random.default_rng(1)
    x = 1e4 * rng.integers(0, 2, size=(3, 24, 24)).astype("float32")
    direction = rng.normal(size=x.shape).astype("float32")
    _, marginals, curvature = readouts(
        STRUCTURES[name], x, direction, 1e-6, "float32", implementation
    )
    assert np.isfinite(curvature).all()
    assert (marginals >= 0).all()
    if name == "cky":
        np.testing.assert_allclose(marginals.sum((1, 2)), 2 * 24 - 1, rtol=1e-5)
    elif name == "nussinov":
        both = np.triu(marginals) + np.triu(marginals, 1).swapaxes(1, 2)
        np.testing.assert_allclose(both.sum(2), 1, rtol=1e-5)
    else:
        np.testing.assert_allclose(marginals.sum(2), 1, rtol=1e-5)


@pytest.mark.parametrize("name", STRUCTURES)
def test_log_probabilities_of_large_scores(name):
    """The log-partition is an exact pair, of which a score leaves the small rest."""
    rng = np.random.default_rng(2)
    x = (1000 + rng.normal(size=(2, 30, 30))).astype("float32")
    for implementation in (None, "portable"):

        def log_prob(x, events, implementation=implementation):
            return STRUCTURES[name](x, implementation=implementation).log_prob(events)

        with float64():
            events = array(STRUCTURES[name](tensor(x), implementation="portable").sample(3, 4))
            exact = array(fast(log_prob)(tensor(x), tensor(events, "int32")))
        found = array(fast(log_prob)(tensor(x, "float32"), tensor(events, "int32")))
        np.testing.assert_allclose(found, exact, atol=2e-4)
