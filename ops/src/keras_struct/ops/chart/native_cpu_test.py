"""The compiled loops against the portable chart, number by number."""

import contextlib
import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
from keras import ops as K

from keras_struct import ops
from keras_struct.ops import native
from keras_struct.ops.testing import BACKEND, array, float64, grad, tensor

pytestmark = pytest.mark.skipif(
    BACKEND == "tensorflow" or importlib.util.find_spec("numba") is None,
    reason="native_cpu runs on JAX, PyTorch and NumPy, with Numba",
)
LENGTHS = np.array([13, 1, 0, 8, 13])
STRUCTURES = {
    "cky": ops.cky,
    "nussinov": ops.nussinov,
    "eisner": ops.eisner,
    "single root": lambda arcs, **options: ops.eisner(arcs, single_root=True, **options),
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
        of_map = grad(lambda x: (distribution(x).marginals() * tensor(direction, dtype)).sum())
        found["curvature"] = of_map(tensor(x, dtype))[0]
        third = grad(lambda x: K.nan_to_num(of_map(x)[0] * tensor(direction, dtype)).sum())
        found["third order"] = third(tensor(x, dtype))[0]
    return {name: array(x) for name, x in found.items()}


# On JAX, where the portable chart is compiled for seconds, each structure once.
CASES = [(name, dtype) for name in STRUCTURES for dtype in ("float64", "float32")]


@pytest.mark.parametrize(("name", "dtype"), CASES[:: 3 if BACKEND == "jax" else 1])
def test_native_equals_portable(name, dtype):
    structure = STRUCTURES[name]
    with precision(dtype):
        got, wanted = (readouts(structure, x, dtype) for x in ("native_cpu", "portable"))
    rtol, atol = (1e-10, 1e-10) if dtype == "float64" else (1e-7, 2e-4)
    for name in wanted:
        np.testing.assert_allclose(got[name], wanted[name], rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.skipif(BACKEND == "jax", reason="memory is XLA's")
def test_memory_that_holds_anything(monkeypatch):
    """No cell is read before it is written."""
    monkeypatch.setattr(native, "_new", lambda shape, dtype: np.full(shape, np.nan, dtype))
    x, _ = scores("float32")
    for structure in STRUCTURES.values():
        d = structure(x, lengths=LENGTHS)
        assert not np.isnan(array(d.value())).any()
        assert not np.isnan(array(d.marginals())).any()


def test_slopes_and_where_none_fits():
    """Scores up to 150 change the slope at many widths; those up to 300 are left to logarithms."""
    for scale in (1.0, 20.0, 150.0, 300.0):
        rng = np.random.default_rng(1)
        x = tensor(scale * rng.uniform(-1, 1, size=(3, 24, 24)), "float32")
        shifted = tensor(scale * rng.uniform(0.9, 1, size=(3, 24, 24)), "float32")
        for structure in STRUCTURES.values():
            for potentials in (x, shifted, -shifted):
                got, wanted = (
                    structure(potentials, implementation=i) for i in ("native_cpu", "portable")
                )
                np.testing.assert_allclose(array(got.value()), array(wanted.value()), rtol=2e-6)
                np.testing.assert_allclose(
                    array(got.marginals()),
                    array(wanted.marginals()),
                    atol=1e-4 * max(1, scale / 50),
                )


def test_chosen_and_exact_for_great_scores():
    x = 1e4 * np.random.default_rng(0).normal(size=(2, 40, 40)).astype("float32")
    d = ops.eisner(tensor(x, "float32"))
    assert d.choice.name == "native_cpu"
    wanted = array(ops.eisner(tensor(x, "float32"), temperature=0).marginals())
    np.testing.assert_allclose(array(d.marginals()), wanted, atol=1e-5)


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX")
def test_inside_programs_of_jax():
    """Under `jit` and nested `vmap`, where shared and mapped arguments meet."""
    import jax

    x, _ = scores("float32")
    lengths = np.minimum(LENGTHS, 9)

    def marginals(x, lengths):
        return ops.cky(x, lengths=lengths).marginals()

    wanted = array(marginals(x[:, :9, :9], lengths))
    np.testing.assert_array_equal(array(jax.jit(marginals)(x[:, :9, :9], lengths)), wanted)
    one_by_one = jax.vmap(jax.vmap(marginals))(x[None, :, :9, :9], lengths[None])[0]
    np.testing.assert_array_equal(array(one_by_one), wanted)
    shared = jax.vmap(marginals, (None, 0))(x[0, :9, :9], np.array([9, 4]))
    for found, n in zip(array(shared), (9, 4), strict=True):
        np.testing.assert_array_equal(found, array(marginals(x[0, :9, :9], n)))


ONE_CORE = """
import os
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
import jax, numpy
from keras_struct import ops
x = numpy.ones((3, 9, 9), "float32")
print(jax.jit(lambda x: ops.cky(x).value())(x), jax.jit(lambda x: ops.spanning_tree(x).value())(x))
"""


@pytest.mark.skipif(BACKEND != "jax" or not hasattr(os, "sched_setaffinity"), reason="of JAX")
def test_on_one_core():
    """Where the only thread of XLA is that which waits for the call."""
    subprocess.run([sys.executable, "-c", ONE_CORE], check=True, timeout=240)


@pytest.mark.parametrize("name", STRUCTURES)
def test_places_are_those_of_the_portable_chart(name):
    sweeps = STRUCTURES[name](tensor(np.zeros((1, 5, 5)), "float32"))._sweeps
    numbers = tensor(np.arange(25).reshape(1, 5, 5), "float32")
    wanted, _ = sweeps.by_width((numbers,))
    for places, x in zip(sweeps.places(5), wanted, strict=True):
        np.testing.assert_array_equal(places, np.maximum(array(x)[0], -1))


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX")
def test_programs_to_be_saved_are_portable():
    tf = pytest.importorskip("tensorflow")
    from jax.experimental import jax2tf

    choices = []

    def value(x):
        d = ops.cky(x)
        choices.append(d.choice)
        return d.value()

    x = scores("float32")[0][:1]
    saved = tf.function(jax2tf.convert(value))
    np.testing.assert_allclose(saved(x).numpy(), array(value(x)), rtol=1e-6)
    assert [choice.name for choice in choices] == ["portable", "native_cpu"]
    assert "no other process could load" in str(choices[0])


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX")
def test_an_error_inside_programs_of_jax_is_raised(monkeypatch):
    from keras_struct.ops.chart import native_cpu

    monkeypatch.setattr(native_cpu, "_plan", lambda *_: 1 / 0)
    with pytest.raises(Exception, match="division by zero"):
        array(ops.nussinov(np.zeros((3, 7, 7), "float32")).value())


def test_in_parallel(monkeypatch):
    x = tensor(np.random.default_rng(0).normal(size=(19, 12, 12)), "float32")
    lengths = np.arange(19) % 13

    def marginals():
        return array(ops.cky(x, lengths=lengths).marginals())

    alone = marginals()
    monkeypatch.setattr(native, "_threads", lambda: 3)
    monkeypatch.setattr(native, "SMALL", 0)
    np.testing.assert_array_equal(marginals(), alone)


def test_scores_of_splits_are_for_the_portable_chart():
    x = np.zeros((1, 4, 4), "float32")
    d = ops.cky(x, splits=np.zeros((1, 4, 4, 4), "float32"))
    assert d.choice.name == "portable"
    assert "no scores of splits" in str(d.choice)
