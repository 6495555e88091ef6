"""Certificates against autodiff of all steps, whole plans, and contraction as it happens."""

import itertools

import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops.testing import BACKEND, array, fast, float64, grad, tensor
from keras_struct.ops.transport import reference, tiles
from keras_struct.ops.transport.sinkhorn_test import (
    CASES,
    DEPTH,
    EPSILON,
    LENGTHS,
    SIZES,
    WIDTH,
    inputs,
    loss,
    whole,
)

COTANGENT = np.random.default_rng(1).normal(size=(3, SIZES[0], WIDTH))
# Where everything is compiled for seconds, one case that has everything must do.
COMPILED = BACKEND in ("jax", "tensorflow")
NAMES = ("unbalanced spoke",) if COMPILED else CASES


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(tiles, "BLOCK", 4)
    monkeypatch.setattr(tiles, "WHOLE", 0)


def bias(name, tail, x, cotangent=COTANGENT, base=4):
    query, key, value = x
    return ops.sinkhorn_tail_bias(
        query,
        key,
        value,
        cotangent=cotangent,
        lengths=LENGTHS,
        epsilon=EPSILON,
        base_steps=base,
        tail_steps=tail,
        **CASES[name],
    )


@pytest.mark.skipif(
    BACKEND in ("numpy", "tensorflow"),
    reason="NumPy has no gradients; TensorFlow traces for half a minute what the next test covers",
)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tail", [2] if COMPILED else [0, 2])
def test_the_bias_is_what_the_tail_omits(name, tail):
    with float64():
        x = [tensor(a) for a in (*inputs(padding=0.0), np.asarray(EPSILON))]
        full, ours = (
            fast(grad(loss(CASES[name], mode, tail=tail)))(*x) for mode in ("unrolled", "tail")
        )
        found = bias(name, tail, x[:3], tensor(COTANGENT))
    first = int("dustbin" in CASES[name])
    for a, b, c in zip(full[:2], ours[:2], (found.query, found.key), strict=True):
        wanted = array(a) - array(b)
        assert abs(wanted).max() > 1e-6
        np.testing.assert_allclose(array(c)[:, first:], wanted, atol=1e-11)


@pytest.mark.parametrize("name", ["spoke"] if COMPILED else ["dense", "spoke"])
def test_the_bias_equals_differences_of_whole_plans(name):
    """Where the base moves and the tail's own scores stay: central differences in float64."""
    q, k, v = inputs(padding=0.0)
    rng = np.random.default_rng(2)
    dq, dk = rng.normal(size=q.shape), rng.normal(size=k.shape)
    scores, exists, options, values = whole(q, k, v, CASES[name])
    first = int("dustbin" in CASES[name])

    def moved(step):
        base = whole(q + step * dq, k + step * dk, v, CASES[name])[0]
        f, g = reference.solve(base, exists, 4, **options)
        for _ in range(2):
            f, g = reference.step(scores, exists, f, g, **options)
        output = (reference.plan(scores, exists, f, g) @ values)[:, first:]
        return (output * COTANGENT).sum()

    with float64():
        found = bias(name, 2, [tensor(x) for x in (q, k, v)])
    got = (array(found.query)[:, first:] * dq).sum() + (array(found.key)[:, first:] * dk).sum()
    wanted = (moved(1e-4) - moved(-1e-4)) / 2e-4
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_the_bias_and_its_base_cotangent_shrink_with_the_tail():
    q, k, v = inputs("float32", 0.0)
    found = [bias("dense", tail, (q, k, v)) for tail in ((0, 2) if COMPILED else (0, 1, 2, 4))]
    for name in ("query", "key", "columns"):
        sizes = [abs(array(getattr(x, name))).max() for x in found]
        assert all(a > 1.5 * b > 0 for a, b in itertools.pairwise(sizes)), sizes
    assert abs(array(found[0].rows)).max() > 0 == abs(array(found[1].rows)).max()
    none = ops.sinkhorn_tail_bias(q, k, v, COTANGENT, LENGTHS, base_steps=0)
    assert not array(none.query).any() and array(none.columns).any()


def test_a_depth_is_certified():
    q, k, v = inputs("float32", 0.0)
    options = {"lengths": LENGTHS, "base_steps": 6}
    tolerance = 0.1 if COMPILED else 1e-3
    found = ops.certified_tail_steps(q, k, v, lambda y: 2 * y, tolerance, **options)
    assert found.tail_steps is not None and 0 < found.tail_steps <= 8
    assert found.biases[-1] <= tolerance < min(found.biases[:-1])
    assert len(found.biases) == found.tail_steps + 1
    # The cotangent of a function is taken at the output of the depth that is looked at.
    output = ops.sinkhorn_tail(q, k, v, tail_steps=1, **options)
    fixed = ops.sinkhorn_tail_bias(q, k, v, 2 * output, tail_steps=1, **options)
    largest = max(abs(array(fixed.query)).max(), abs(array(fixed.key)).max())
    np.testing.assert_allclose(found.biases[1], largest, rtol=1e-4)
    none = ops.certified_tail_steps(q, k, v, COTANGENT, 1e-9, max_tail_steps=1, **options)
    assert none.tail_steps is None and len(none.biases) == 2


@pytest.mark.parametrize("weights", [(None, None), (2.0, 0.5)])
def test_a_step_contracts_as_certified(weights):
    rng = np.random.default_rng(3)
    q, k = rng.normal(size=(2, 7, DEPTH)), rng.normal(size=(2, 6, DEPTH))
    found = ops.sinkhorn_contraction(q, k, epsilon=1.5, kl_weights=weights)
    assert found.exact.shape == found.bound.shape == (2, 1)
    assert (found.exact > 0).all() and (found.exact <= found.bound).all()
    assert (found.bound < 1).all()
    scores = np.einsum("bid,bjd->bij", q, k) / (1.5 * np.sqrt(DEPTH))
    diameter = [
        max(s[i, j] + s[a, b] - s[i, b] - s[a, j] for i, j, a, b in np.ndindex(7, 6, 7, 6))
        for s in scores
    ]
    relax = np.prod([1.0 if w is None else w / (1 + w) for w in weights])
    np.testing.assert_allclose(found.exact[:, 0], relax * np.tanh(np.array(diameter) / 4) ** 2)
    options = {"relax": tuple(1.0 if w is None else w / (1 + w) for w in weights)}
    exists = np.ones(scores.shape, bool)
    for _ in range(20):
        g, h = rng.normal(size=(2, 2, 6)) * 5
        after = (reference.step(scores, exists, None, x, **options)[1] for x in (g, h))
        before, after = np.ptp(g - h, axis=1), np.ptp(np.subtract(*after), axis=1)
        assert (after <= found.exact[:, 0] * before + 1e-12).all()


def test_contraction_of_blocks_of_a_band():
    q, k, _ = inputs()
    with float64():
        found = ops.sinkhorn_contraction(
            tensor(q), tensor(k), LENGTHS, EPSILON, band_width=3, block_rows=4
        )
    assert found.exact.shape == (3, 3)
    scores = np.einsum("bid,bjd->bij", *map(np.nan_to_num, (q, k))) / (EPSILON * DEPTH**0.5)
    block = scores[0, 4:8, 4:8]  # rows 4 ... 7 all reach columns 4 ... 7 of 9
    np.testing.assert_allclose(found.bound[0, 1], np.tanh(np.ptp(block) / 2) ** 2)
    assert found.exact[2, 1] == 0 and found.bound[2, 2] == 0  # the third example has one row


@pytest.mark.parametrize("name", CASES)
def test_every_plan_is_the_last_one_rescaled(name):
    q, k, v = inputs()
    scores, exists, options, _ = whole(q, k, v, CASES[name])
    with float64():
        orbit = ops.sinkhorn_orbit(tensor(q), tensor(k), LENGTHS, EPSILON, steps=5, **CASES[name])
        rows, columns = map(array, orbit)
        last = rows[:, -1], columns[:, -1]
        plan = reference.plan(scores, exists, *last)
        f, g = np.zeros(last[0].shape), np.zeros(last[1].shape)
        for t in range(5):
            start = g
            f, g = reference.step(scores, exists, f, g, **options)
            # In one gauge, of the reference: also plans of potentials of different times.
            for other in (start, g):
                wanted = reference.plan(scores, exists, f, other)
                at = t if other is start else t + 1
                got = ops.rescaled_plan(
                    tensor(plan),
                    [tensor(x) for x in last],
                    [tensor(x) for x in (rows[:, t], columns[:, at])],
                )
                np.testing.assert_allclose(array(got), wanted, atol=1e-12)


def test_errors():
    q, k, v = inputs("float32", 0.0)
    for call, message in (
        (lambda: ops.sinkhorn_tail_bias(q, k, v, COTANGENT[:, :2]), "cotangent of shape"),
        (lambda: ops.sinkhorn_tail_bias(q, k, v[:, :2], COTANGENT), "as many values as keys"),
        (lambda: ops.sinkhorn_tail_bias(q, k, v, COTANGENT, base_steps=-1), "base_steps=-1"),
        (lambda: ops.certified_tail_steps(q, k, v, COTANGENT, 0.0), "tolerance=0.0"),
        (lambda: ops.sinkhorn_contraction(q, k, block_rows=0), "block_rows=0"),
        (lambda: ops.sinkhorn_orbit(q, k, steps=0), "steps=0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
