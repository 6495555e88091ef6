"""The plan of stored scores equals that in tiles, with its gradients, and takes any mask."""

import numpy as np
import pytest
from keras import ops as K

from keras_struct import ops
from keras_struct.ops.array import matmul
from keras_struct.ops.testing import HAS_GRADIENTS, array, fast, float64, grad, tensor
from keras_struct.ops.transport import reference

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
