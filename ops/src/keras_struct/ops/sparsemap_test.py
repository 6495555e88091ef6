"""SparseMAP by its optimality over all structures, closed forms and differences, in float64."""

import functools

import numpy as np
import pytest
from keras import ops as K

from keras_struct import ops
from keras_struct.ops import sparsemap
from keras_struct.ops.enumerated import enumeration
from keras_struct.ops.law_cases import COMPILED
from keras_struct.ops.structure_cases import Loss, smallest
from keras_struct.ops.testing import (
    HAS_GRADIENTS,
    array,
    compilers,
    directional,
    fast,
    float64,
    grad,
    tensor,
)

T = 0.7
CASES = {op: case for op, case in smallest().items() if not COMPILED or op == "linear_chain"}
every_structure = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
SOLVED = [x for x in CASES.items() if x[0] != "categorical"]  # which has a closed form
searched = pytest.mark.parametrize("case", [x for _, x in SOLVED], ids=[x for x, _ in SOLVED])
needs_gradients = pytest.mark.skipif(not HAS_GRADIENTS, reason="NumPy has no gradients")


def vertices_of(d):
    """For each potential the parts (n, B, ...) of all structures, and which there are, (n, B)."""
    listed = enumeration(d)
    most = max(map(len, listed))
    blank = np.full_like(np.asarray(max(listed, key=len)[0][0]), -1)
    events = [[o[i][0] if i < len(o) else blank for o in listed] for i in range(most)]
    exists = np.array([[i < len(o) for o in listed] for i in range(most)])
    shape = (*map(int, d.structure.batch_shape), *blank.shape)
    named = [d.parts(tensor(np.reshape(np.stack(e), shape), "int32")) for e in events]
    flat = {
        name: np.stack([array(x[name]).reshape(len(listed), -1) for x in named])
        for name in named[0]
    }
    return flat, exists


def numbers(d, arrays, names):
    """For each potential the scores of its parts at temperature T, (B or 1, n); 0 if forbidden."""
    sign = -1 if d.structure.costs else 1
    found = {}
    for name in names:
        shape = d.structure.potentials[name].shape
        x = sign * arrays[name].reshape(shape[0], -1) / T
        found[name] = np.where(np.isfinite(x), x, 0.0)
    return found


@searched
def test_optimal_over_all_structures(case):
    """Marginals are a mixture of structures, and none is better at their slope, theta - u."""
    with float64():
        d = case.distribution(temperature=T)
        vertices, exists = vertices_of(d)
        found, gap, solution = case.read(
            lambda d: (*d.sparse_marginals("all", return_gap=True), sparsemap.solved(d, 100)),
            temperature=T,
        )
    batch, some = exists.shape[1], exists.any(0)
    theta = numbers(d, case.arrays(), vertices)
    slopes, total, mixed, used = np.zeros(()), np.zeros(()), [], []
    for i, name in enumerate(vertices):
        mu = found[name].reshape(batch, -1)
        g = theta[name] - mu * (i == 0)
        slopes = slopes + np.sum(vertices[name] * g, axis=2)
        total = total + np.sum(mu * g, axis=1)
        assert (mu[~some] == 0).all()
        used.append(solution.origin[i][:, None] + solution.vertices[i])
        mixed.append(np.einsum("bk,bk...->b...", solution.weights, used[-1]))
    np.testing.assert_allclose(
        np.where(exists, slopes, -np.inf).max(0)[some], total[some], atol=1e-9
    )
    assert (abs(gap) < 1e-9).all() and solution.met.all()
    # A mixture: of structures, by weights that sum to 1, and those of the marginals.
    np.testing.assert_allclose(solution.weights.sum(1), some, atol=1e-12)
    assert (solution.weights >= 0).all()
    if d.structure.places is not None:
        return  # what is searched is in other places
    for x, name in zip(mixed, vertices, strict=True):
        np.testing.assert_allclose(found[name].reshape(-1), x.reshape(-1), atol=1e-12)
    every = np.concatenate(list(vertices.values()), axis=2)
    places = np.concatenate([x.reshape(*x.shape[:2], -1) for x in used], axis=2)
    for b, k in zip(*np.nonzero(solution.weights), strict=True):
        assert (every[exists[:, b], b] == places[b, k]).all(1).any()


@needs_gradients
@every_structure
def test_gradient(case):
    """Of all marginals by all potentials and the temperature, against differences."""
    with float64():
        loss = Loss(case, sparse=True)
        args, directions = loss.tensors()
        exact = fast(grad(loss))(*args)
        function = fast(loss)
        for i, name in enumerate([*loss.names, "temperature"]):
            only = [d if j == i else K.zeros_like(d) for j, d in enumerate(directions)]
            numeric = directional(function, args, only, step=1e-6)
            found = np.sum(array(exact[i]) * loss.directions[i])
            np.testing.assert_allclose(found, numeric, rtol=1e-6, atol=1e-7, err_msg=name)


def entmax_by_bisection(z, alpha):
    """The definition: the power of what is left above the threshold at which it sums to 1."""
    z = (alpha - 1) * z.astype("float64")
    low, high = z.max(-1, keepdims=True) - 1, z.max(-1, keepdims=True)
    for _ in range(100):
        tau = (low + high) / 2
        more = (np.maximum(z - tau, 0) ** (1 / (alpha - 1))).sum(-1, keepdims=True) > 1
        low, high = np.where(more, tau, low), np.where(more, high, tau)
    return np.maximum(z - tau, 0) ** (1 / (alpha - 1))


@pytest.mark.parametrize("alpha", [1.5, 2])
def test_categorical_is_entmax(alpha):
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(6, 7)) * [[0.1], [1], [1], [3], [1e4], [1]]
    scores[1] = 2.0  # ties
    scores[2, 3:] = -np.inf
    lengths = np.array([7, 7, 7, 7, 7, 0])
    with float64():

        def read(scores):
            d = ops.categorical(scores, lengths, temperature=T)
            return d.sparse_marginals(alpha=alpha, return_gap=True)

        found, gap = map(array, fast(read)(tensor(scores)))
    expected = entmax_by_bisection(scores[:5] / T, alpha)
    np.testing.assert_allclose(found[:5], expected, atol=1e-11)
    assert (found[5] == 0).all() and (gap == 0).all()


@needs_gradients
def test_gradients_of_entmax_to_second_order():
    weights = np.random.default_rng(4).normal(size=(2, 5))
    scores = np.random.default_rng(5).normal(size=(2, 5))
    with float64():

        def loss(scores):
            found = ops.categorical(scores).sparse_marginals(alpha=1.5)
            return K.sum(found * tensor(weights)) + K.sum(found**3)

        def norm(scores):
            return K.sum(grad(loss)(scores)[0] * tensor(weights))

        direction = tensor(weights[::-1].copy())
        for function in (loss, norm):
            exact = np.sum(array(fast(grad(function))(tensor(scores))[0]) * weights[::-1])
            numeric = directional(fast(function), [tensor(scores)], [direction])
            np.testing.assert_allclose(exact, numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.skipif(COMPILED, reason="PyTorch and NumPy test it")
def test_chain_without_transitions_is_a_product_of_sparsemaxes():
    """In float32, 40 positions of which most are shared; a mask moves them."""
    scores = np.random.default_rng(6).normal(size=(2, 40, 3)).astype("float32")
    mask = np.random.default_rng(7).random((2, 40)) < 0.7
    d = ops.linear_chain(scores, np.zeros((3, 3), "float32"), mask=mask, temperature=2.0)
    found, gap = d.sparse_marginals(return_gap=True)
    expected = entmax_by_bisection(scores / 2.0, 2) * mask[..., None]
    np.testing.assert_allclose(array(found), expected, atol=5e-4)
    assert (array(gap) < 1e-2).all()


def test_what_is_left_is_known():
    """Few steps: a warning, and a gap that bounds the squared distance."""
    scores = np.random.default_rng(8).normal(size=(1, 20, 2)).astype("float32")
    d = ops.linear_chain(scores, np.zeros((2, 2), "float32"))
    with pytest.warns(RuntimeWarning, match="after 4 steps"):
        found, gap = d.sparse_marginals(steps=4, return_gap=True)
    off = np.sum((array(found) - entmax_by_bisection(scores, 2)) ** 2)
    assert 0.05 < off <= array(gap)[0]


@pytest.mark.skipif(not compilers(), reason="`fast` compiles on JAX; nothing compiles here")
def test_compiled_equals_eager():
    """A graph of unknown sizes, and XLA: values and gradients."""
    rng = np.random.default_rng(10)
    scores, weights = (tensor(rng.normal(size=(2, 3, 2)), "float32") for _ in range(2))

    def both(scores):
        def loss(scores):
            found = ops.linear_chain(scores, np.eye(2, dtype="float32")).sparse_marginals(steps=6)
            return K.sum(found * weights)

        return loss(scores), grad(loss)(scores)[0]

    expected = both(scores)
    for label, compiled in compilers().items():
        compiled = functools.partial(compiled, static=[1]) if label == "dynamic" else compiled
        for x, y in zip(compiled(both)(scores), expected, strict=True):
            np.testing.assert_allclose(array(x), array(y), atol=1e-5, err_msg=label)


def test_limits():
    scores = np.random.default_rng(9).normal(size=(2, 4, 3)).astype("float32")
    for temperature in (0, 1e-3):
        d = ops.linear_chain(scores, np.zeros((3, 3), "float32"), temperature=temperature)
        best = array(d.parts()["unary"])
        np.testing.assert_allclose(array(d.sparse_marginals()), best, atol=1e-6)


@pytest.mark.parametrize("options", [{"alpha": 1.5}, {"steps": 1}, {"steps": 2.5}, {"name": "x"}])
def test_user_errors(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"Received: {name}={value!r}"):
        ops.subset(np.zeros((1, 3), "float32"), 2).sparse_marginals(**options)
