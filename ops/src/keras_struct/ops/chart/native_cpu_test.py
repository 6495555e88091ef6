"""The loops that Numba compiles: their memory, their slopes, and inside programs of JAX."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops import native
from keras_struct.ops.chart.chart_test import LENGTHS, STRUCTURES, scores
from keras_struct.ops.testing import BACKEND, array, tensor

pytestmark = pytest.mark.skipif(
    BACKEND == "tensorflow" or importlib.util.find_spec("numba") is None,
    reason="native_cpu runs on JAX, PyTorch and NumPy, with Numba",
)


@pytest.mark.skipif(BACKEND == "jax", reason="memory is XLA's")
def test_memory_that_holds_anything(monkeypatch):
    """No cell is read before it is written."""
    monkeypatch.setattr(native, "_new", lambda shape, dtype: np.full(shape, np.nan, dtype))
    x, _ = scores("float32")
    for structure in STRUCTURES.values():
        d = structure(x, lengths=LENGTHS)
        assert not np.isnan(array(d.value())).any()
        assert not np.isnan(array(d.marginals())).any()


@pytest.mark.compiles_long
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
    spec = STRUCTURES[name](tensor(np.zeros((1, 5, 5)), "float32")).structure.spec
    numbers = tensor(np.arange(25).reshape(1, 5, 5), "float32")
    wanted, _ = spec.by_width((numbers,))
    for places, x in zip(spec.places(5), wanted, strict=True):
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
