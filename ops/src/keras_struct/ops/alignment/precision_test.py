"""Single precision, cold temperatures and large scores, against float64 of the same numbers."""

import importlib.util

import numpy as np
import pytest
from keras import ops as K

from keras_struct import ops
from keras_struct.ops.testing import BACKEND, HAS_GRADIENTS, array, fast, float64, grad, tensor

NUMBA = BACKEND != "tensorflow" and importlib.util.find_spec("numba") is not None
IMPLEMENTATIONS = ["portable", "checkpointed", *["native_cpu"] * NUMBA]
GAPS = {"gap_open": -50.0, "gap_extend": -7.0}
STRUCTURES = {
    "dtw": (ops.dtw, {}),
    "needleman_wunsch": (ops.needleman_wunsch, GAPS),
    "smith_waterman": (ops.smith_waterman, GAPS),
    "overlap": (ops.overlap, GAPS),
    "saigo_vert": (ops.saigo_vert, GAPS),
    "monotonic_alignment": (ops.monotonic_alignment, {}),
    "levenshtein": (ops.levenshtein, {"deletion": 40.0, "insertion": 60.0}),
    "lcs": (ops.lcs, {}),
}
COMPILED = BACKEND in ("jax", "tensorflow")
SOME = ["dtw", "smith_waterman"] if COMPILED else list(STRUCTURES)


def squared_distances(rows, columns, scale, name):
    rng = np.random.default_rng(1)
    x, y = (scale * rng.normal(size=(n, 3)) for n in (rows, columns))
    costs = ((x[:, None] - y) ** 2).sum(-1).astype("float32")
    return costs if name in ("dtw", "levenshtein") else np.median(costs) - costs


def over_temperature(name, scores, temperature):
    """The structure at temperature 1 with the float32 potentials that sweeps see, in float64."""
    function, options = STRUCTURES[name]
    wide = {key: np.float64(np.float32(x) / temperature) for key, x in options.items()}
    return lambda **more: function(tensor((scores / temperature).astype("float64")), **wide, **more)


def at_temperature(name, scores, temperature, implementation):
    function, options = STRUCTURES[name]
    warmth = tensor(np.array([temperature]), "float32")
    return function(
        tensor(scores, "float32"), **options, temperature=warmth, implementation=implementation
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", SOME)
def test_marginals_at_every_temperature(name, implementation):
    """Within 1e-4 of float64, from 1e-6 to 1e3, for scores of hundreds and of 1e5."""
    columns = 20 if name == "monotonic_alignment" else 26
    temperatures = (1e-6, 1e-2, 1.0) if COMPILED else (1e-6, 1e-4, 1e-2, 1.0, 30.0, 1e3)
    for scale in (10, 200):
        scores = squared_distances(30, columns, scale, name)[None]
        for temperature in map(np.float32, temperatures):
            p = array(at_temperature(name, scores, temperature, implementation).marginals())
            with float64():
                wide = over_temperature(name, scores, temperature)
                expected = array(wide(implementation="portable").marginals())
            assert np.isfinite(p).all()
            np.testing.assert_allclose(p, expected, atol=1e-4, err_msg=f"{scale} {temperature}")


@pytest.mark.compiles_long
@pytest.mark.skipif(not HAS_GRADIENTS, reason="the NumPy backend has no gradients")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", SOME)
def test_second_order_at_cold_temperatures(name, implementation):
    """Finite, and equal to float64 relative to the size of the gradient."""
    columns = 20 if name == "monotonic_alignment" else 26
    weights = np.random.default_rng(2).normal(size=(1, 30, columns))
    for temperature in map(np.float32, (1e-6, 1.0, 100.0)):
        scores = squared_distances(30, columns, 10, name)[None]

        def loss(scores, dtype, implementation, temperature=temperature):
            function, options = STRUCTURES[name]
            given = {key: np.float32(x) / temperature for key, x in options.items()}
            given = {key: tensor(x, dtype) for key, x in given.items()}
            d = function(scores, **given, implementation=implementation)
            return K.sum(d.marginals() * tensor(weights, dtype))

        over = scores / temperature
        found = fast(grad(lambda x: loss(x, "float32", implementation)))(tensor(over, "float32"))
        with float64():
            exact = fast(grad(lambda x: loss(x, "float64", "portable")))(tensor(over, "float64"))
        found, exact = array(found[0]), array(exact[0])
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, exact, atol=1e-4 * max(1.0, abs(exact).max()))


def test_the_map_approaches_the_best_path():
    """Soft-DTW of 30 x 25 points: as many cells as the best path has, at every low temperature."""
    costs = tensor(squared_distances(30, 25, 10, "dtw"), "float32")
    best = array(ops.dtw(costs, temperature=0).marginals())
    distance = [
        abs(
            array(ops.dtw(costs, temperature=t, implementation="portable").marginals()) - best
        ).sum()
        for t in (100.0, 1.0, 1e-2, 1e-4, 1e-6)
    ]
    assert sorted(distance, reverse=True) == distance and distance[-1] == 0


def test_a_damerau_distance_in_the_cold():
    rng = np.random.default_rng(3)
    first, second = rng.integers(0, 3, 20), rng.integers(0, 3, 18)
    costs = 100 * (first[:, None] != second).astype("float32") + rng.random((20, 18)) * 10
    sources = ops.transposition_sources(first, second)

    def marginals(temperature, dtype):
        over = {
            key: tensor(np.float32(x) / temperature, dtype)
            for key, x in (("deletion", 90.0), ("insertion", 80.0), ("transposition", 70.0))
        }
        scores = costs.astype("float32") / temperature
        return array(ops.damerau(tensor(scores, dtype), sources, **over).marginals())

    for temperature in map(np.float32, (1e-6, 1.0, 100.0)):
        with float64():
            exact = marginals(temperature, "float64")
        np.testing.assert_allclose(marginals(temperature, "float32"), exact, atol=1e-4)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_ties_of_sums_that_float32_cannot_hold(implementation):
    """A substitution of 8,000 or a deletion and an insertion of 4,000, near ties of path after
    path: what decides is below the last digit of their sums."""
    rng = np.random.default_rng(4)
    costs = (8000 + rng.random((1, 40, 35))).astype("float32")
    given = {
        "deletion": (4000 + rng.random((1, 40))).astype("float32"),
        "insertion": (4000 + rng.random((1, 35))).astype("float32"),
    }

    def marginals(dtype, implementation):
        wide = {key: tensor(x, dtype) for key, x in given.items()}
        d = ops.levenshtein(tensor(costs, dtype), **wide, implementation=implementation)
        return array(d.marginals())

    with float64():
        expected = marginals("float64", "portable")
    found = marginals("float32", implementation)
    np.testing.assert_allclose(found, expected, atol=2e-6)
