"""The compiled elimination against the portable one and the reference, number by number."""

import contextlib
import importlib.util
import itertools

import numpy as np
import pytest
from keras import ops as K

from keras_struct import ops
from keras_struct.ops import native
from keras_struct.ops.testing import BACKEND, array, fast, float64, grad, tensor

pytestmark = pytest.mark.skipif(
    BACKEND == "tensorflow" or importlib.util.find_spec("numba") is None,
    reason="native_cpu runs on JAX, PyTorch and NumPy, with Numba",
)
EXACT, FAST = 1, 2
LENGTHS = np.array([9, 1, 0, 6, 9, 9, 2])


def scores(scale, dtype="float64"):
    """Scores with forbidden arcs, words that must come last, no tree at all, NaN in the padding."""
    rng = np.random.default_rng(0)
    x = scale * rng.normal(size=(7, 9, 9))
    x[0, 4, 5:] = x[3, 2, 5] = -np.inf
    x[4] = -np.inf
    for word in (8, 7, 3):  # only the root is a head of the last; a chain to it
        x[5, word] = -np.inf
    x[5, 8, 8], x[5, 7, 8], x[5, 3, 7] = 1.0, 2.0, -3.0
    for row, n in zip(x, LENGTHS, strict=True):
        row[n:], row[:, n:] = np.nan, np.nan
    return x.astype(dtype)


def weights(shape, dtype):
    return tensor(np.random.default_rng(1).normal(size=tuple(shape)), dtype)


def readouts(implementation, x, single_root, labels):
    dtype = x.dtype.name

    def distribution(x, temperature=0.7):
        return ops.spanning_tree(
            x,
            labels=labels,
            lengths=LENGTHS,
            single_root=single_root,
            temperature=temperature,
            implementation=implementation,
        )

    d, best = distribution(tensor(x, dtype)), distribution(tensor(x, dtype), temperature=0)
    found = {
        "value": d.value(),
        "marginals": d.marginals(),
        "entropy": d.entropy(),
        "best value": best.value(),
        "argmax": best.argmax(),
        "topk": d.topk(3).events,
    }
    if BACKEND != "numpy":

        def of_map(x):
            marginals = distribution(x).marginals("all").values()
            return sum((p * weights(p.shape, dtype)).sum() for p in marginals)

        def slope(x):
            return K.nan_to_num(grad(of_map)(x)[0] * weights(x.shape, dtype)).sum()

        found["curvature"] = grad(of_map)(tensor(x, dtype))[0]
        found["third order"] = grad(slope)(tensor(x, dtype))[0]
    return {name: array(x) for name, x in found.items()}


def agree(x, single_root, labels=None, rtol=1e-10, atol=1e-10):
    with float64() if x.dtype == "float64" else contextlib.nullcontext():
        got, wanted = (readouts(i, x, single_root, labels) for i in ("native_cpu", "portable"))
    # The entropy is a difference of numbers like the value, and has their rounding.
    values = wanted["value"][np.isfinite(wanted["value"])]
    rounding = {"entropy": 4 * np.finfo(x.dtype).eps * np.abs(values).max()}
    for name in wanted:
        near = atol + rounding.get(name, 0)
        np.testing.assert_allclose(got[name], wanted[name], rtol=rtol, atol=near, err_msg=name)


def test_modes():
    """Plain numbers where all arcs are in range, numbers with an exponent where they are not; on
    both sides of the border, and where only a path of small arcs reaches a word."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(4, 9, 9))
    x[:, 4] -= np.array([0.0, 150.0, 170.0, 0.0])[:, None] * (np.arange(9) != 2)  # but for one head
    x[3, 5:, :5] -= 100.0
    x[3, 5:, range(5, 9)] = x[3, 7, 6] = -np.inf
    with float64():
        for single_root in (True, False)[: 1 if BACKEND == "jax" else 2]:
            distributions = [
                ops.spanning_tree(tensor(x), single_root=single_root, implementation=name)
                for name in ("native_cpu", "portable")
            ]
            (values, marginals), (wanted_values, wanted) = (
                (array(d.value()), array(d.marginals())) for d in distributions
            )
            np.testing.assert_allclose(values, wanted_values, rtol=1e-12)
            np.testing.assert_allclose(marginals, wanted, atol=1e-11)
            modes = array(distributions[0]._soft[1][0])
            np.testing.assert_array_equal(modes[:3], [FAST, FAST, EXACT])


# On JAX, where the portable elimination is compiled for seconds, only some.
CASES = list(itertools.product((True, False), (1.0, 1e3), ("float64", "float32")))


@pytest.mark.compiles_long
@pytest.mark.parametrize(("single_root", "scale", "dtype"), CASES)
def test_native_equals_portable(single_root, scale, dtype):
    rtol, atol = (1e-10, 1e-10) if dtype == "float64" else (1e-6, 1e-4)
    agree(scores(scale, dtype), single_root, rtol=rtol, atol=atol)


@pytest.mark.compiles_long
@pytest.mark.parametrize("single_root", [True, False])
def test_labelled_native_equals_portable(single_root):
    labels = np.random.default_rng(1).normal(size=(9, 9, 3))
    agree(scores(1.0), single_root, labels)


def test_chosen_and_exact_for_great_scores():
    """Float32 scores up to 4e4: the best tree has all the mass."""
    x = 1e4 * np.random.default_rng(0).normal(size=(2, 40, 40)).astype("float32")
    d = ops.spanning_tree(tensor(x, "float32"))
    assert d.choice.name == "native_cpu"
    wanted = array(ops.spanning_tree(tensor(x, "float32"), temperature=0).marginals())
    np.testing.assert_allclose(array(d.marginals()), wanted, atol=1e-5)


@pytest.mark.parametrize("single_root", [True, False])
def test_samples_have_the_marginals_where_words_change_places(single_root):
    x = scores(1.0, "float32")[5:6]
    d = ops.spanning_tree(tensor(x, "float32"), single_root=single_root)
    samples = array(d.sample(0, 4000))[:, 0]
    frequencies = (samples[..., None] == np.arange(9)).mean(0)
    p = array(d.marginals())[0]
    assert (np.abs(frequencies - p) < 5 * np.sqrt(p * (1 - p) / 4000) + 1e-9).all()


@pytest.mark.parametrize("single_root", [True, False])
def test_samples_are_those_of_portable(single_root):
    """Words come back in one order, with noise by their numbers, also where they change places."""
    x = scores(1.0)[[0, 3, 5]]
    options = {"lengths": LENGTHS[[0, 3, 5]], "single_root": single_root}

    def samples(implementation):
        def draw(x):
            return ops.spanning_tree(x, implementation=implementation, **options).sample(3, 300)

        return array(fast(draw)(tensor(x)))

    with float64():
        mine, theirs = samples("native_cpu"), samples("portable")
    equal = (mine == theirs).all(2)
    assert equal.mean() > 0.999
    assert (mine[0] != mine[1]).any()


def test_in_parallel(monkeypatch):
    x = tensor(np.random.default_rng(0).normal(size=(19, 12, 12)), "float32")
    lengths = np.arange(19) % 13

    def read():
        d = ops.spanning_tree(x, lengths=lengths)
        return array(d.marginals()), array(d.sample(0))

    alone = read()
    monkeypatch.setattr(native, "_threads", lambda: 3)
    monkeypatch.setattr(native, "SMALL", 0)
    for one, other in zip(read(), alone, strict=True):
        np.testing.assert_array_equal(one, other)
