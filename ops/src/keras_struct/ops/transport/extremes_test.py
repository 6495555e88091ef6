"""Empty batches and sequences, half precision, cold temperatures and large scores."""

import numpy as np
import pytest
from keras import ops as K

from keras_struct import ops
from keras_struct.ops.testing import BACKEND, HAS_GRADIENTS, array, fast, float64, grad, tensor
from keras_struct.ops.transport import reference

COMPILED = BACKEND in ("jax", "tensorflow")
WIDTHS = (None,) if COMPILED else (None, 2)
IMPLEMENTATIONS = ("stored", "tiled")


def inputs(batch, rows, columns, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (*batch, rows, 3), (*batch, columns, 3), (*batch, columns, 2)
    return [rng.normal(size=shape).astype("float32") for shape in shapes]


def attend(x, **options):
    query, key, value = x
    return ops.sinkhorn_tail(query, key, value, **options)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("batch", "rows", "columns"), [((0,), 4, 3), ((2,), 0, 3), ((2,), 4, 0), ((2, 0), 4, 3)]
)
def test_nothing(batch, rows, columns, width):
    x = inputs(batch, rows, columns)
    for dustbin in (None, ops.Dustbin(np.ones(3), np.ones(3))):
        first = int(dustbin is not None)
        options = {"band_width": width, "dustbin": dustbin, "epsilon": np.ones(batch, "float32")}
        output = attend(x, **options)
        assert tuple(output.shape) == (*batch, rows, 2)
        assert not array(output).any()
        mask = np.ones((*batch, rows), bool), np.ones((*batch, columns), bool)
        found = ops.sinkhorn(x[0], x[1], mask=mask, **options)
        assert tuple(found.rows.shape) == (*batch, rows + first)
        assert tuple(found.columns.shape) == (*batch, columns + first)
        assert tuple(found.residual.shape) == batch
        assert all(np.isfinite(array(part)).all() for part in found)
    for more in ({}, {"base_steps": 3}):
        plan, residual = ops.sinkhorn_plan(
            np.zeros((*batch, rows, columns), "float32"), return_residual=True, **more
        )
        assert tuple(plan.shape) == (*batch, rows, columns)
        assert tuple(residual.shape) == batch and not array(residual).any()


@pytest.mark.skipif(not HAS_GRADIENTS, reason="the NumPy backend has no gradients")
def test_gradients_of_nothing():
    for batch, rows, columns in (((0,), 4, 3), ((2,), 4, 0)):
        x = [tensor(a, "float32") for a in inputs(batch, rows, columns)]
        slopes = fast(grad(lambda *x: K.sum(attend(x, base_steps=2))))(*x)
        assert all(tuple(s.shape) == tuple(a.shape) for s, a in zip(slopes, x, strict=True))
        assert not any(array(s).any() for s in slopes)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_half_precision_is_that_of_the_inputs_alone(dtype, name):
    half = [tensor(a, dtype) for a in inputs((2,), 9, 9)]
    single = [K.cast(a, "float32") for a in half]
    got = attend(half, epsilon=0.5, implementation=name)
    wanted = attend(single, epsilon=0.5, implementation=name)
    assert got.dtype == half[2].dtype
    np.testing.assert_array_equal(array(got), array(K.cast(wanted, dtype)))
    scores = K.matmul(half[0], K.transpose(half[1], (0, 2, 1)))
    plan = ops.sinkhorn_plan(scores, temperature=0.5)
    assert plan.dtype == scores.dtype
    wanted = K.cast(ops.sinkhorn_plan(K.cast(scores, "float32"), temperature=0.5), dtype)
    np.testing.assert_array_equal(array(plan), array(wanted))


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_scores_of_ten_thousand(name):
    """In float32: as whole plans in float64, but for the rounding of such a score."""
    q, k, _ = (x.astype("float64") for x in inputs((1,), 8, 8))
    q *= 1e4 / abs(np.einsum("bid,bjd->bij", q, k) / 3**0.5).max()
    scores = np.einsum("bid,bjd->bij", q, k) / 3**0.5
    exists = np.ones(scores.shape, bool)
    f, g = reference.solve(scores, exists, 22)
    wanted = reference.plan(scores, exists, f, g)
    single = [tensor(x, "float32") for x in (q, k, np.eye(8)[None])]
    got = array(attend(single, implementation=name))
    np.testing.assert_allclose(got, wanted, atol=0.02)
    with float64():
        exact = attend(map(tensor, (q, k, np.eye(8)[None])), implementation=name)
        np.testing.assert_allclose(array(exact), wanted, atol=1e-8)


def test_an_epsilon_at_which_rounding_decides_is_an_error():
    x = inputs((1,), 8, 8)
    with pytest.raises(ValueError, match="float64 can"):
        attend(x, epsilon=1e-8)
    with pytest.raises(ValueError, match="float64 can"):
        ops.sinkhorn(x[0] * 1e20, x[1] * 1e20)
    # In the padding, anything may stand.
    x[0][:, 6:], x[1][:, 6:] = 1e30, 1e30
    lengths = np.array([6]), np.array([6])
    assert np.isfinite(array(attend(x, lengths=lengths, epsilon=1e-5))).all()
    with float64():
        y = [tensor(a) for a in inputs((1,), 8, 8)]
        assert np.isfinite(array(attend(y, epsilon=1e-8))).all()
    for epsilon in (np.float32(0), np.array([-1.0]), np.array([np.inf]), float("nan")):
        with pytest.raises(ValueError, match="finite epsilon > 0"):
            attend(x, epsilon=epsilon)


def assigned(scores):
    optimize = pytest.importorskip("scipy.optimize")
    plan = np.zeros_like(scores)
    for p, s in zip(plan, scores, strict=True):
        p[optimize.linear_sum_assignment(s, maximize=True)] = 1.0
    return plan


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_a_cold_plan_is_the_assignment(scale):
    scores = scale * np.random.default_rng(2).normal(size=(3, 7, 7)).astype("float32")
    wanted = assigned(scores)
    for temperature in (1e-4, 1e-6):
        plan = ops.sinkhorn_plan(scores, temperature=temperature, return_residual=True)
        np.testing.assert_allclose(array(plan.plan), wanted, atol=1e-3)
        assert (array(plan.residual) < 1e-3).all()
    if HAS_GRADIENTS:
        cold = fast(grad(lambda x: K.sum(ops.sinkhorn_plan(x, temperature=1e-6) ** 2)))
        (slope,) = cold(tensor(scores, "float32"))
        assert np.isfinite(array(slope)).all()
