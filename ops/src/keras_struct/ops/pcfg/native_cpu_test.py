"""The compiled passes against the portable ones, in both of their modes."""

import importlib.util

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
LENGTHS = np.array([8, 2, 0, 5, 8, 1])
SYMBOLS, PRETERMINALS = 3, 4
EXACT, FAST = 1, 2


def potentials(scale, shared=False, seed=0):
    """With a sparse grammar, and NaN in the padding."""
    rng = np.random.default_rng(seed)
    k, s = SYMBOLS, SYMBOLS + PRETERMINALS
    lead = () if shared else (len(LENGTHS),)
    shapes = (*lead, k, s, s), (len(LENGTHS), LENGTHS.max(), PRETERMINALS), (*lead, k)
    rules, terms, roots = (scale * rng.normal(size=shape) for shape in shapes)
    rules[..., 0, :, 2] = rules[..., 2, 3:, :] = roots[..., 1] = -np.inf
    for row, n in zip(terms, LENGTHS, strict=True):
        row[n:] = np.nan
    return rules, terms, roots


def distribution(arrays, implementation=None, **options):
    return ops.pcfg(*arrays, lengths=LENGTHS, implementation=implementation, **options)


def readouts(implementation, arrays):
    tensors = [tensor(x) for x in arrays]
    d = distribution(tensors, implementation)
    best = distribution(tensors, implementation, temperature=0)
    found = {
        "value": d.value(),
        "entropy": d.entropy(),
        "best value": best.value(),
        "score of the best": best.score(best.argmax()),
        **d.marginals("all"),
    }
    if BACKEND == "torch":  # JAX, with the same loops, would compile the portable ones for a minute
        rng = np.random.default_rng(1)
        directions = [tensor(rng.normal(size=x.shape)) for x in arrays]

        def of_marginals(*arrays):
            marginals = distribution(arrays, implementation).marginals("all").values()
            return sum((p * w).sum() for p, w in zip(marginals, directions, strict=True))

        curvature = grad(of_marginals)

        def slope(*arrays):
            every = zip(curvature(*arrays), directions, strict=True)
            return sum(K.nan_to_num(x * w).sum() for x, w in every)

        found |= enumerate(grad(slope)(*tensors))
        found |= zip(
            ("curvature of rules", "of terms", "of roots"), curvature(*tensors), strict=True
        )
    return {name: array(x) for name, x in found.items()}


@pytest.mark.parametrize(
    ("scale", "shared", "modes"),
    [(30.0, False, {FAST, EXACT}), (1.0, True, {FAST}), (1e3, False, {EXACT})][
        : 1 if BACKEND == "jax" else 3
    ],
)
def test_native_equals_portable(scale, shared, modes):
    arrays = potentials(scale, shared)
    with float64():
        got, wanted = (readouts(i, arrays) for i in ("native_cpu", "portable"))
        _, (_, found) = distribution([tensor(x) for x in arrays])._soft
    assert set(array(found)) == modes
    # The rounding of logarithms. The entropy is a difference of numbers like the value.
    values = wanted["value"][np.isfinite(wanted["value"])]
    near = 1e-10 + 100 * np.finfo("float64").eps * np.abs(values).max()
    for name in wanted:
        atol = 100 * near if name == "entropy" else near
        np.testing.assert_allclose(got[name], wanted[name], rtol=1e-9, atol=atol, err_msg=str(name))


def test_modes_meet():
    """One example just in range, one just out of it, against float64 logarithms."""
    rng = np.random.default_rng(3)
    s = SYMBOLS + PRETERMINALS
    rules = rng.normal(size=(2, SYMBOLS, s, s))
    terms, roots = rng.normal(size=(2, 8, PRETERMINALS)), rng.normal(size=(2, SYMBOLS))
    # The first symbol is worth exp(-lack) and the only root: each of its trees has one.
    lack = np.array([150.0, 170.0])[:, None, None]
    rules[:, 0] -= lack
    rules[:, :, 0], rules[:, :, :, 0], roots[:, 1:] = -np.inf, -np.inf, -np.inf
    with float64():
        d = ops.pcfg(*(tensor(x) for x in (rules, terms, roots)))
        value, marginals, (_, (_, modes)) = d.value(), d.marginals("all"), d._soft
        rules[:, 0] += lack
        same = ops.pcfg(*(tensor(x) for x in (rules, terms, roots)))
        np.testing.assert_array_equal(array(modes), [FAST, EXACT])
        wanted = array(same.value()) - lack[:, 0, 0]
        np.testing.assert_allclose(array(value), wanted, rtol=1e-13)
        for name, p in same.marginals("all").items():
            np.testing.assert_allclose(array(marginals[name]), array(p), atol=1e-11)


def test_samples_have_the_marginals():
    arrays = [tensor(x, "float32") for x in potentials(1.0)]
    d = distribution(arrays)
    assert d.choice.name == "native_cpu"
    samples = array(d.sample(0, 4000))
    alone = samples[:, :, np.arange(8), np.arange(8)]
    p = array(d.marginals("terms"))
    for a in range(PRETERMINALS):
        frequencies = (alone == SYMBOLS + a).mean(0)
        q = p[..., a]
        assert (
            np.abs(frequencies - q) < 5 * np.sqrt(np.maximum(q * (1 - q), 0) / 4000) + 1e-6
        ).all()


@pytest.mark.skipif(BACKEND == "jax", reason="memory is XLA's")
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_memory_that_holds_anything(scale, monkeypatch):
    """No cell is read before it is written."""
    full = {"float64": np.nan, "float32": np.nan, "int32": -7}
    monkeypatch.setattr(native, "_new", lambda shape, dtype: np.full(shape, full[dtype], dtype))
    d = distribution([tensor(x, "float32") for x in potentials(scale)])
    assert not np.isnan(array(d.value())).any()
    assert not any(np.isnan(array(p)).any() for p in d.marginals("all").values())


@pytest.mark.parametrize("shared", [False, True])
def test_in_parallel(shared, monkeypatch):
    arrays = [tensor(x, "float32") for x in potentials(1.0, shared)]

    def read():
        d = distribution(arrays)
        return array(d.marginals()), array(d.sample(0))

    alone = read()
    monkeypatch.setattr(native, "_threads", lambda: 3)
    monkeypatch.setattr(native, "SMALL", 0)
    for one, other in zip(read(), alone, strict=True):
        np.testing.assert_array_equal(one, other)
