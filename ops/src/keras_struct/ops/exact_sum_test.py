import math

import numpy as np
import pytest
from keras import ops as K

from keras_struct.ops.exact_sum import add_pairs, cancelling_sum, exact_sum, two_sum
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE
from keras_struct.ops.testing import HAS_GRADIENTS, array, fast, float64, grad, tensor

pytestmark = pytest.mark.everywhere


def _exact(pair):
    high, low = (array(x).tolist() for x in pair)
    return [math.fsum(parts) for parts in zip(high, low, strict=True)]


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 20.0, 1e8, 1e25])
def test_keeps_the_digits_of_long_sums(scale):
    rng = np.random.default_rng(0)
    x = (scale * (1 + rng.random((3, 2001)))).astype("float32")
    x[1] *= rng.choice([-1, 1], 2001)
    x[2, 1:] *= 1e-6
    pair = fast(lambda x: exact_sum(x, 1))(tensor(x, "float32"))
    for row, got in zip(x.tolist(), _exact(pair), strict=True):
        largest = max(map(abs, row))
        assert abs(got - math.fsum(row)) <= 2e-9 * 2001 * largest


def test_what_remains_of_a_long_sum_is_exact():
    x = np.full((1, 2000), 20.3, "float32")
    high, low = exact_sum(tensor(x, "float32"), 1)
    rest = array((high - 40600.0) + low)
    assert abs(rest[0] - (2000 * float(np.float32(20.3)) - 40600.0)) < 1e-6


def test_what_is_left_of_numbers_that_cancel():
    rng = np.random.default_rng(2)
    x = (1e10 * rng.normal(size=(4, 300))).astype("float32")
    x = np.concatenate([x, -x[:, ::-1], rng.normal(size=(4, 3)).astype("float32")], axis=1)
    x = rng.permuted(x, axis=1)
    found = fast(lambda x: cancelling_sum(x, 1))(tensor(x, "float32"))
    np.testing.assert_allclose(array(found), [math.fsum(row) for row in x.tolist()], rtol=2e-3)


def test_zeros_forbidden_entries_and_axes():
    x = np.zeros((4, 3, 2), "float32")
    x[1, 0, 0], x[1, 1, 1] = FORBIDDEN, 5.0
    x[2] = FORBIDDEN
    x[3] = [[1e4, 1e-3], [-1e4, 1e-3], [0, 0]]
    high, low = (array(x) for x in exact_sum(tensor(x, "float32"), (1, 2)))
    assert high[0] == low[0] == 0
    assert high[1] + low[1] < INFEASIBLE and high[2] + low[2] < INFEASIBLE
    np.testing.assert_allclose(high[3] + low[3], 2 * float(np.float32(1e-3)), rtol=1e-6)
    high, low = exact_sum(tensor(x[:0], "float32"), (1, 2))
    assert tuple(high.shape) == tuple(low.shape) == (0,)
    high, low = exact_sum(tensor(np.zeros((2, 0)), "float32"), 1)
    assert array(high).tolist() == array(low).tolist() == [0, 0]


def test_double_precision():
    with float64():
        x = np.random.default_rng(1).normal(size=(2, 1000)) * 1e6
        pair = exact_sum(tensor(x), 1)
        for row, got in zip(x.tolist(), _exact(pair), strict=True):
            assert abs(got - math.fsum(row)) < 1e-11


def test_pairs_add_without_loss():
    x, y = tensor([1e8, 3.0, -1e4], "float32"), tensor([0.3, 1e8, 1e4 + 0.125], "float32")
    pair = fast(two_sum)(x, y)
    expected = [a + b for a, b in zip(array(x).tolist(), array(y).tolist(), strict=True)]
    assert _exact(pair) == expected
    twice = fast(lambda x, y: add_pairs(two_sum(x, y), two_sum(x, y)))(x, y)
    assert _exact(twice) == [2 * z for z in expected]


@pytest.mark.skipif(not HAS_GRADIENTS, reason="the NumPy backend has no gradients")
def test_gradient_is_that_of_the_sum():
    weights = tensor([1.0, -2.0], "float32")
    function = fast(grad(lambda x: K.sum(weights * sum(exact_sum(x, 1)))))
    x = tensor(np.array([[1e4, -3.0, 0.5], [0.0, 0.0, 0.0]]), "float32")
    np.testing.assert_array_equal(array(function(x)[0]), [[1, 1, 1], [-2, -2, -2]])
