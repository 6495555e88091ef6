"""The fastest charts against the portable one, number by number."""

import contextlib
import importlib.util

import numpy as np
import pytest
from keras import ops as K

from keras_struct import ops
from keras_struct.ops.testing import BACKEND, array, float64, grad, tensor

pytestmark = pytest.mark.skipif(
    BACKEND != "tensorflow" and importlib.util.find_spec("numba") is None, reason="it needs Numba"
)
FAST = "graph_cpu" if BACKEND == "tensorflow" else "native_cpu"
LENGTHS = np.array([13, 1, 0, 8, 13])
STRUCTURES = {
    "cky": ops.cky,
    "nussinov": ops.nussinov,
    "many roots": lambda arcs, **options: ops.eisner(arcs, single_root=False, **options),
    "eisner": ops.eisner,
}


def scores(dtype="float64"):
    """Scores with forbidden parts, an example without any structure, and NaN in the padding."""
    rng = np.random.default_rng(0)
    x = 3 * rng.normal(size=(5, 13, 13))
    x[3, 2, 5] = x[0, 4, 4:6] = -np.inf
    x[4] = -np.inf
    for row, n in zip(x, LENGTHS, strict=True):
        row[n:], row[:, n:] = np.nan, np.nan
    return x.astype(dtype), rng.normal(size=x.shape).astype(dtype)


def precision(dtype):
    """On JAX, doubles are either real ones or pairs of uint32."""
    return float64() if dtype == "float64" else contextlib.nullcontext()


def readouts(structure, implementation, dtype="float64"):
    x, direction = scores(dtype)

    def distribution(x, temperature=0.7):
        return structure(x, lengths=LENGTHS, temperature=temperature, implementation=implementation)

    d = distribution(tensor(x, dtype))
    found = {
        "value": d.value(),
        "marginals": d.marginals(),
        "entropy": d.entropy(),
        "samples": d.sample(3, 4),
        "argmax": distribution(tensor(x, dtype), temperature=0).argmax(),
        "topk": d.topk(3).events,
    }
    if BACKEND != "numpy":
        of_map = grad(lambda x: K.sum(distribution(x).marginals() * tensor(direction, dtype)))
        found["curvature"] = of_map(tensor(x, dtype))[0]
        third = grad(lambda x: K.sum(K.nan_to_num(of_map(x)[0] * tensor(direction, dtype))))
        found["third order"] = third(tensor(x, dtype))[0]
    return {name: array(x) for name, x in found.items()}


# Where the portable chart is compiled for seconds, each structure once.
CASES = [(name, dtype) for name in STRUCTURES for dtype in ("float64", "float32")]


@pytest.mark.parametrize(("name", "dtype"), CASES[:: 3 if BACKEND in ("jax", "tensorflow") else 1])
def test_equals_portable(name, dtype):
    structure = STRUCTURES[name]
    with precision(dtype):
        got, wanted = (readouts(structure, x, dtype) for x in (FAST, "portable"))
    rtol, atol = (1e-10, 1e-10) if dtype == "float64" else (1e-7, 2e-4)
    for name in wanted:
        np.testing.assert_allclose(got[name], wanted[name], rtol=rtol, atol=atol, err_msg=name)


def test_chosen_and_exact_for_great_scores():
    x = 1e4 * np.random.default_rng(0).normal(size=(2, 40, 40)).astype("float32")
    d = ops.eisner(tensor(x, "float32"))
    assert d.choice.name == FAST
    wanted = array(ops.eisner(tensor(x, "float32"), temperature=0).marginals())
    np.testing.assert_allclose(array(d.marginals()), wanted, atol=1e-5)


def test_scores_of_splits_are_for_the_portable_chart():
    x = np.zeros((1, 4, 4), "float32")
    d = ops.cky(x, splits=np.zeros((1, 4, 4, 4), "float32"))
    assert d.choice.name == "portable"
    assert "no scores of splits" in str(d.choice)


@pytest.mark.parametrize("name", STRUCTURES)
def test_samples_of_all_implementations_are_equal(name):
    """In float32, where a rounding may rarely decide another way."""
    n, x = 400, tensor(np.random.default_rng(3).normal(size=(3, 10, 10)), "float32")
    lengths = np.array([10, 4, 0])

    def sample(implementation):
        d = STRUCTURES[name](x, lengths=lengths, implementation=implementation)
        return array(d.sample(11, n)).reshape(n * 3, -1)

    got, wanted = sample(FAST), sample("portable")
    assert np.mean((got == wanted).all(1)) >= 0.99
    assert len({event.tobytes() for event in got}) > n / 4


@pytest.mark.parametrize("name", STRUCTURES)
def test_samples_do_not_depend_on_padding(name):
    x = np.random.default_rng(3).normal(size=(2, 6, 6))
    wide = np.pad(x, [(0, 0), (0, 3), (0, 3)])
    for implementation in (FAST, "portable"):
        with float64():
            few = STRUCTURES[name](tensor(x), implementation=implementation)
            many = STRUCTURES[name](
                tensor(wide), lengths=np.array([6, 6]), implementation=implementation
            )
            events, padded = array(few.sample(5, 20)), array(many.sample(5, 20))
        padded = padded[..., :6] if padded.ndim == 3 else padded[..., :6, :6]
        np.testing.assert_array_equal(events, padded)
