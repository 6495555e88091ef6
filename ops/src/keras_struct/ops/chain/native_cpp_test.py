"""The C++ kernels of chains: the border of their range, tags that fill no vector, threads."""

import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops import cpp, native
from keras_struct.ops.chain import exactness_test
from keras_struct.ops.chain.native_cpp import EXACT, IMPOSSIBLE, SCALED, BestTape, Tape
from keras_struct.ops.testing import BACKEND, array, float64, tensor

pytestmark = [
    pytest.mark.skipif(BACKEND == "tensorflow", reason="native_cpu has no TensorFlow"),
    pytest.mark.skipif(
        cpp.library("chain") is None,
        reason="the C++ kernels are not compiled for this processor (python build.py does it)",
    ),
]
SCALES = np.array([1, 5, 300, 1e4, 1e7, 1, 1, 1, 1, 1])
# Name: number of tags, and the axes of transitions before the last two.
SHAPES = {
    "two_tags": (2, ()),
    "shared": (17, ()),
    "each": (5, (10,)),
    "over_time": (3, (10, 11)),
    "many_tags": (70, ()),
}
SOME = list(SHAPES)[1:2] if BACKEND == "jax" else list(SHAPES)  # JAX compiles each for seconds


def potentials(name, dtype="float32"):
    """Ten examples: growing scores, then -inf in many places, everywhere at a position, masks of
    length 0 and 1, and with holes."""
    tags, axes = SHAPES[name]
    rng = np.random.default_rng(0)
    unary = rng.normal(size=(10, 12, tags)) * SCALES[:, None, None]
    transitions = rng.normal(size=(*axes, tags, tags))
    if axes:
        transitions *= SCALES[(...,) + (None,) * (transitions.ndim - 1)]
        transitions[5][..., np.tri(tags, k=-1) > 0] = -np.inf  # tags only move up
    unary[5, 0, 1:], unary[5, -1, :-1] = -np.inf, -np.inf
    unary[6, 3] = -np.inf
    mask = np.ones((10, 12), bool)
    mask[7], mask[8] = False, np.arange(12) == 4
    mask[9, 3:6] = False
    unary[~mask] = np.nan
    return unary.astype("float32").astype(dtype), transitions.astype("float32").astype(dtype), mask


def results(name, dtype, **options):
    """Value, marginals, products of the Hessian with fixed tangents, tape."""
    unary, transitions, mask = potentials(name, dtype)
    d = ops.linear_chain(tensor(unary, dtype), tensor(transitions, dtype), mask=mask, **options)
    marginals = {key: array(x) for key, x in d.marginals("all").items()}
    rng = np.random.default_rng(2)
    tangents = [tensor(rng.normal(size=x.shape), dtype) for x in d._marginals]
    products = d._sweeps.curvature(d._problem, d._soft[1], tuple(tangents))
    return array(d.value()), marginals, [array(x) for x in products], d._soft[1]


@pytest.mark.parametrize("name", SOME)
def test_both_sides_of_the_range(name):
    value, marginals, products, tape = results(name, "float32")
    assert isinstance(tape, Tape)
    kinds = [int(x) for x in array(tape.kinds)]
    cold = SCALED if name in ("two_tags", "shared", "many_tags") else EXACT
    one, few = [SCALED], [kinds[5]]
    assert kinds == 2 * one + [cold, cold, EXACT] + few + [IMPOSSIBLE] + 3 * one
    with float64():
        exact = results(name, "float64", implementation="portable")
    np.testing.assert_allclose(value, exact[0], rtol=1e-6, atol=1e-5)
    for key, x in marginals.items():
        np.testing.assert_allclose(x, exact[1][key], rtol=1e-5, atol=1e-5, err_msg=key)
    unary, _, mask = potentials(name)
    assert (marginals["unary"][np.isneginf(unary) | ~mask[..., None]] == 0).all()
    for x, y in zip(products, exact[2], strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4 * np.abs(y).max())


@pytest.mark.parametrize("name", SOME)
def test_best_sequences(name):
    def best(dtype, **options):
        unary, transitions, mask = potentials(name, dtype)
        unary, transitions = tensor(unary, dtype), tensor(transitions, dtype)
        return ops.linear_chain(unary, transitions, mask=mask, temperature=0, **options)

    d = best("float32")
    value, tags = array(d.value()), array(d.argmax())
    assert isinstance(d._max[1], BestTape)
    with float64():
        exact = best("float64", implementation="portable")
        np.testing.assert_allclose(value, array(exact.value()), rtol=1e-6)
        wanted = array(exact.argmax())
    some = np.isfinite(value)
    np.testing.assert_array_equal(tags[some], wanted[some])


def test_threads_agree(monkeypatch):
    alone = results("shared", "float32")
    monkeypatch.setattr(native, "SMALL", 0)
    monkeypatch.setattr(cpp, "threads", lambda: 3)  # one example at a time, as there are few
    together = results("shared", "float32")
    np.testing.assert_allclose(together[0], alone[0], rtol=1e-6)
    for key, x in alone[1].items():
        np.testing.assert_allclose(together[1][key], x, atol=1e-6)
    for x, y in zip(together[2], alone[2], strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def test_probabilities_do_not_fade_along_a_chain():
    rng = np.random.default_rng(1)
    unary = (3 * rng.normal(size=(1, 5000, 9))).astype("float32")
    transitions = (3 * rng.normal(size=(9, 9))).astype("float32")
    d = ops.linear_chain(tensor(unary, "float32"), tensor(transitions, "float32"))
    with float64():
        exact = ops.linear_chain(tensor(unary), tensor(transitions))
        wanted, entropy = array(exact.marginals()), array(exact.entropy())
    np.testing.assert_allclose(array(d.marginals()), wanted, atol=4e-6)
    np.testing.assert_allclose(array(d.entropy()), entropy, atol=8 * array(d.value())[0] * 2.0**-23)


@pytest.mark.skipif(BACKEND == "jax", reason="JAX compiles each for seconds")
@pytest.mark.parametrize("name", ["log_space", "scaled", "over_time", "left_to_right"])
def test_float32_equals_float64(name):
    exactness_test.test_float32_equals_float64(name, "native_cpu")
