"""The plan of stored scores equals that in tiles, with its gradients, and takes any mask."""

import itertools
import warnings

import numpy as np
import pytest
from keras import ops as K

from keras_struct import ops
from keras_struct.ops.array import matmul
from keras_struct.ops.testing import (
    BACKEND,
    HAS_GRADIENTS,
    array,
    compilers,
    fast,
    float64,
    grad,
    tensor,
)
from keras_struct.ops.transport import reference
from keras_struct.ops.transport.matching import has_plan

LENGTHS = np.array([5, 3]), np.array([4, 2])
RNG = np.random.default_rng(0)
QUERY, KEY, COTANGENT = RNG.normal(size=(2, 5, 3)), RNG.normal(size=(2, 4, 3)), RNG.normal(size=4)
OPTIONS: dict[str, dict] = {"balanced": {}, "unbalanced": {"kl_weights": (1.0, None)}}


def stored(name, query, key):
    scores = matmul(query, K.transpose(key, (0, 2, 1))) / 3**0.5
    return ops.sinkhorn_plan(scores, LENGTHS, 0.7, base_steps=3, **OPTIONS[name])


def tiles(name, query, key):
    eye = tensor(np.broadcast_to(np.eye(4), (2, 4, 4)))
    return ops.sinkhorn_tail(query, key, eye, LENGTHS, 0.7, base_steps=3, **OPTIONS[name])


@pytest.mark.parametrize("name", OPTIONS)
def test_equals_tiles(name):
    with float64():
        q, k = tensor(QUERY), tensor(KEY)
        np.testing.assert_allclose(array(stored(name, q, k)), array(tiles(name, q, k)), atol=1e-12)


@pytest.mark.skipif(not HAS_GRADIENTS, reason="the NumPy backend has no gradients")
def test_gradients_of_both_orders_equal_those_of_tiles():
    def first(function):
        return grad(lambda *x: K.sum(function("unbalanced", *x) * tensor(COTANGENT)))

    def second(function):
        return grad(lambda *x: sum(K.sum(g * g) for g in first(function)(*x)))

    with float64():
        x = tensor(QUERY), tensor(KEY)
        for order in (first, second):
            got, wanted = (fast(order(function))(*x) for function in (stored, tiles))
            for a, b in zip(got, wanted, strict=True):
                np.testing.assert_allclose(array(a), array(b), rtol=1e-9, atol=1e-10)


def test_any_mask_and_padding():
    scores = RNG.normal(size=(2, 5, 4))
    exists = RNG.random((2, 5, 4)) < 0.6
    exists[0, 1], exists[1, :, 0] = False, False
    exists &= reference.support_of(LENGTHS, (5, 4), None)
    f, g = reference.solve(np.where(exists, scores, 0.0), exists, 5)
    wanted = reference.plan(np.where(exists, scores, 0.0), exists, f, g)
    scores = np.where(exists, scores, -np.inf)
    scores[0, :, 3], scores[1, 3:] = scores[0, :, 3], np.nan
    with float64():
        x = tensor(scores)
        got = ops.sinkhorn_plan(x, LENGTHS, base_steps=3)
        np.testing.assert_allclose(array(got), wanted, atol=1e-12)
        if HAS_GRADIENTS:
            (slope,) = fast(grad(lambda x: K.sum(ops.sinkhorn_plan(x, LENGTHS) ** 2)))(x)
            assert np.isfinite(array(slope)).all() and not array(slope)[~exists].any()


def far(seed=0, n=25):
    """Scores for which plain steps take thousands."""
    x, y = np.random.default_rng(seed).random((2, n, 2))
    return -((x[:, None] - y) ** 2).sum(-1).astype("float32")


@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01, 0.001, 1e-6])
def test_rows_and_columns_have_mass_1_by_default(temperature):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        plan, residual = ops.sinkhorn_plan(far(), temperature=temperature, return_residual=True)
    rows, columns = array(plan).sum(1), array(plan).sum(0)
    np.testing.assert_allclose(columns, 1, atol=1e-5)
    np.testing.assert_allclose(rows, 1, atol=1e-2)
    np.testing.assert_allclose(array(residual), abs(rows - 1).max(), atol=1e-5)


def test_an_example_does_not_depend_on_its_batch():
    scores = np.stack([far(0), 30 * far(1), 0 * far(2)])
    together = array(ops.sinkhorn_plan(scores, temperature=0.05))
    for one, wanted in zip(scores, together, strict=True):
        np.testing.assert_allclose(
            array(ops.sinkhorn_plan(one, temperature=0.05)), wanted, atol=1e-5
        )


def test_masses_that_are_not_met_are_said():
    with pytest.warns(RuntimeWarning, match=r"after 20 steps \(example 1\): take more base_steps"):
        found = ops.sinkhorn_plan(
            np.stack([0 * far(), far()]), temperature=0.001, base_steps=20, return_residual=True
        )
    rows = array(found.plan).sum(2)
    np.testing.assert_allclose(array(found.residual), abs(rows - 1).max(1), rtol=1e-4, atol=1e-5)
    assert array(found.residual)[1] > 0.3
    # Two rows that share their only column.
    scores = np.zeros((3, 3), "float32")
    scores[:2, 1:] = -np.inf
    with pytest.warns(RuntimeWarning, match="no plan has these masses under this mask"):
        plan = array(ops.sinkhorn_plan(scores))
    assert np.isfinite(plan).all() and not plan[:2, 1:].any()
    np.testing.assert_allclose(plan.sum(0), 1, atol=1e-5)
    with warnings.catch_warnings():  # relaxed masses have a plan under any mask
        warnings.simplefilter("error", RuntimeWarning)
        ops.sinkhorn_plan(scores, kl_weights=(1.0, 1.0))
        ops.sinkhorn_plan(far()[:7], temperature=0.1)  # L1 != L2
        empty = array(ops.sinkhorn_plan(np.where(np.arange(3) < 1, 0 * far()[:3, :3], -np.inf)))
    np.testing.assert_allclose(empty, [[1 / 3, 0, 0]] * 3, atol=1e-5)


def test_the_residual_is_known_where_values_are_traced():
    def run(scores):
        found = ops.sinkhorn_plan(scores, temperature=0.01, return_residual=True)
        return found.plan, found.residual

    wanted = [array(x) for x in run(far())]
    how = {"tensorflow": lambda f: compilers()["xla"](f)}.get(BACKEND, fast)
    for got, value in zip(how(run)(tensor(far(), "float32")), wanted, strict=True):
        np.testing.assert_allclose(array(got), value, atol=1e-4)
    if BACKEND == "torch":
        import torch

        mapped = torch.func.vmap(run)(tensor(np.stack([far(), far()]), "float32"))
        assert array(mapped[1]).max() < 0.05
        np.testing.assert_allclose(array(mapped[0]).sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("weights", [(0.5, 2.0), (None, 1.0)])
def test_unbalanced_plans_are_the_fixed_point(weights):
    scores = 3 * RNG.normal(size=(1, 5, 4))
    exists = np.ones(scores.shape, bool)
    relax = tuple(1.0 if w is None else w / (1 + w) for w in weights)
    f, g = reference.solve(scores / 0.1, exists, 3000, relax=relax)
    with float64():
        got = ops.sinkhorn_plan(tensor(scores), None, 0.1, kl_weights=weights)
    expected = reference.plan(scores / 0.1, exists, f, g)  # masses of millions among them
    np.testing.assert_allclose(array(got), expected, rtol=1e-6, atol=2e-3)


def test_a_plan_exists_if_a_permutation_does():
    for seed in range(200):
        exists = np.random.default_rng(seed).random((4, 4)) < 0.45
        exists = exists[exists.any(1)][:, exists.any(0)]
        wanted = exists.shape[0] == exists.shape[1] and any(
            exists[range(len(order)), order].all()
            for order in map(list, itertools.permutations(range(exists.shape[0])))
        )
        assert has_plan(exists) == wanted


def test_errors():
    scores = np.zeros((2, 3, 4), "float32")
    for arguments, message in (
        ({"temperature": 0}, "temperature=0"),
        ({"tail_steps": -1}, "tail_steps=-1"),
        ({"lengths": (np.array([4, 1]), None)}, "lengths of rows"),
        ({"kl_weights": (1.0,)}, "Expected a pair"),
    ):
        with pytest.raises(ValueError, match=message):
            ops.sinkhorn_plan(scores, **arguments)
    with pytest.raises(ValueError, match="scores"):
        ops.sinkhorn_plan(scores[0, 0])
