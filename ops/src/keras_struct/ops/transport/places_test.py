"""Under any mask, transport is that of the places that are left, wherever they stand."""

import numpy as np
import pytest
from keras import ops as K

from keras_struct import ops
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

L1, L2, DEPTH, WIDTH, EPSILON = 9, 8, 3, 2, 0.7
RNG = np.random.default_rng(5)
ROWS = np.array([[0, 0, 1, 1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 0, 1, 1, 0]], bool)
COLUMNS = np.array([[1, 1, 0, 1, 1, 0, 1, 1], [0, 1, 1, 1, 1, 1, 1, 0]], bool)
QUERY, KEY = RNG.normal(size=(2, L1, DEPTH)), RNG.normal(size=(2, L2, DEPTH))
VALUE, MASSES = RNG.normal(size=(2, L2, WIDTH)), RNG.uniform(0.5, 2, (2, L1))
TOKENS = RNG.normal(size=(3, DEPTH))
OPTIONS: dict[str, dict] = {
    "dense": {},
    "band": {"band_width": 2},
    "spoke": {"band_width": 2, "dustbin": ops.Dustbin(TOKENS[0], TOKENS[1], TOKENS[2, :WIDTH])},
}
COMPILED = BACKEND in ("jax", "tensorflow")
NAMES = ("spoke",) if COMPILED else tuple(OPTIONS)


def holes(x, there):
    """NaN in what is masked out: it must not matter."""
    return np.where(there[..., None], x, np.nan)


def attend(x, **options):
    query, key, value = x
    return ops.sinkhorn_tail(query, key, value, **options)


def solve(x, **options):
    query, key = x[:2]
    return ops.sinkhorn(query, key, **options)


def tail(x, masses, name, **more):
    return attend(x, epsilon=EPSILON, base_steps=6, masses=(masses, None), **OPTIONS[name], **more)


def without(example, *arrays):
    """One example of the rows and of the columns, without what is masked out."""
    there = ROWS[example], COLUMNS[example]
    return [x[example][there[side]][None] for side, x in arrays]


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_problem_without_masked_places(name):
    with float64():
        x = [tensor(holes(QUERY, ROWS)), *(tensor(holes(x, COLUMNS)) for x in (KEY, VALUE))]
        masses = tensor(np.where(ROWS, MASSES, np.nan))
        got = array(tail(x, masses, name, mask=(ROWS, COLUMNS)))
        potentials = solve(x, epsilon=EPSILON, mask=(ROWS, COLUMNS), **OPTIONS[name])
        first = int("dustbin" in OPTIONS[name])
        for b in range(2):
            less = [tensor(a) for a in without(b, (0, QUERY), (1, KEY), (1, VALUE), (0, MASSES))]
            np.testing.assert_allclose(
                got[b][ROWS[b]], array(tail(less[:3], less[3], name))[0], atol=1e-12
            )
            wanted = solve(less, epsilon=EPSILON, **OPTIONS[name])
            for a, w, there in zip(potentials, wanted, (ROWS, COLUMNS), strict=False):
                a, there = array(a)[b], np.append(np.ones(first, bool), there[b])
                np.testing.assert_allclose(a[there], array(w)[0], atol=1e-11)
                assert not a[~there].any()
            np.testing.assert_allclose(
                array(potentials.residual)[b], array(wanted.residual)[0], atol=1e-10
            )
    assert not got[~ROWS].any()


@pytest.mark.skipif(not HAS_GRADIENTS, reason="the NumPy backend has no gradients")
def test_gradients_equal_those_without_masked_places():
    weights = RNG.normal(size=(2, L1, WIDTH))
    with float64():
        x = [tensor(a) for a in (holes(QUERY, ROWS), holes(KEY, COLUMNS), holes(VALUE, COLUMNS))]

        def loss(*x):
            output = tail(x, tensor(MASSES), "band", mask=(ROWS, COLUMNS))
            return K.sum(output * tensor(weights))

        got = [array(g) for g in fast(grad(loss))(*x)]
        for b in range(1 if COMPILED else 2):
            *less, masses, w = (
                tensor(a)
                for a in without(b, (0, QUERY), (1, KEY), (1, VALUE), (0, MASSES), (0, weights))
            )
            wanted = fast(grad(lambda *x, m=masses, w=w: K.sum(tail(x, m, "band") * w)))(*less)
            for a, c, there in zip(got, wanted, (ROWS, COLUMNS, COLUMNS), strict=True):
                np.testing.assert_allclose(a[b][there[b]], array(c)[0], atol=1e-11)
    for a, there in zip(got, (ROWS, COLUMNS, COLUMNS), strict=True):
        assert not a[~there].any()


def test_lengths_and_masks_are_one_thing():
    lengths = np.array([6, 9]), np.array([8, 3])
    masks = [np.arange(n) < m[:, None] for n, m in zip((L1, L2), lengths, strict=True)]
    x = [a.astype("float32") for a in (QUERY, KEY, VALUE)]
    wanted = array(attend(x, lengths=lengths, band_width=2))
    np.testing.assert_array_equal(array(attend(x, band_width=2, mask=masks)), wanted)
    # Both at once: what is there for both.
    both = attend(x, lengths=(lengths[0], None), band_width=2, mask=(None, masks[1]))
    np.testing.assert_array_equal(array(both), wanted)


def test_a_mask_is_shared_by_heads_and_may_leave_nothing():
    x = [np.stack([a, a[:, ::-1]], 1).astype("float32") for a in (QUERY, KEY, VALUE)]
    mask = ROWS[:, None], np.zeros((2, 1, L2), bool)
    output = array(attend(x, mask=(mask[0], None)))
    assert output.shape == (2, 2, L1, WIDTH) and np.isfinite(output).all()
    assert not output[:, 1][~ROWS].any() and output[:, 1][ROWS].all()
    for width in (None, 2):
        assert not array(attend(x, mask=mask, band_width=width)).any()
    scores = np.ones((2, 2, L1, L2), "float32")
    assert not array(ops.sinkhorn_plan(scores, mask=mask)).any()


def test_plan_equals_that_without_masked_rows_and_columns():
    scores = RNG.normal(size=(2, L1, L2))
    there = ROWS[:, :, None] & COLUMNS[:, None]
    with float64():
        got = ops.sinkhorn_plan(
            tensor(np.where(there, scores, np.nan)),
            temperature=0.3,
            mask=(ROWS, COLUMNS),
            return_residual=True,
        )
        for b in range(2):
            less = tensor(scores[b][ROWS[b]][:, COLUMNS[b]])
            wanted = ops.sinkhorn_plan(less, temperature=0.3, return_residual=True)
            mine = array(got.plan)[b]
            np.testing.assert_allclose(mine[ROWS[b]][:, COLUMNS[b]], array(wanted.plan), atol=1e-12)
            np.testing.assert_allclose(array(got.residual)[b], array(wanted.residual), atol=1e-12)
            assert not mine[~there[b]].any()


def test_certificates_are_of_the_places_that_are_left():
    cotangent = RNG.normal(size=(2, L1, WIDTH))
    few: dict = {"epsilon": EPSILON, "band_width": 2}
    options: dict = {**few, "base_steps": 4}
    with float64():
        x = [tensor(a) for a in (holes(QUERY, ROWS), holes(KEY, COLUMNS), holes(VALUE, COLUMNS))]
        given = tensor(holes(cotangent, ROWS))
        mask = ROWS, COLUMNS
        found = ops.sinkhorn_tail_bias(x[0], x[1], x[2], given, mask=mask, **options)
        orbit = ops.sinkhorn_orbit(x[0], x[1], steps=3, mask=mask, **few)
        less = [tensor(a) for a in without(1, (0, QUERY), (1, KEY), (1, VALUE), (0, cotangent))]
        q, k, v, w = less
        bias = ops.sinkhorn_tail_bias(q, k, v, w, **options)
        short = ops.sinkhorn_orbit(q, k, steps=3, **few)
    rows = [np.swapaxes(array(x.rows), 1, 2) for x in (orbit, short)]
    sides = zip((found.query, found.key, found.columns), bias[:2] + bias[3:], strict=True)
    pairs = [[array(x) for x in side] for side in sides] + [rows]
    for (a, b), there in zip(pairs, (ROWS, COLUMNS, COLUMNS, ROWS), strict=True):
        np.testing.assert_allclose(a[1][there[1]], b[0], atol=1e-11)
        assert a[1][there[1]].any() and not a[1][~there[1]].any()


@pytest.mark.parametrize("how", compilers())
def test_compiles_with_unknown_sizes(how):
    x = [a.astype("float32") for a in (QUERY, KEY, VALUE)]

    def run(query, key, value, rows, columns):
        return ops.sinkhorn_tail(
            query, key, value, band_width=2, base_steps=3, mask=(rows, columns)
        )

    wanted = array(run(x[0], x[1], x[2], ROWS, COLUMNS))
    tensors = [*(tensor(a, "float32") for a in x), tensor(ROWS, "bool"), tensor(COLUMNS, "bool")]
    static = ([1, 1, 1, 0, 0],) if how == "dynamic" else ()
    np.testing.assert_allclose(array(compilers()[how](run, *static)(*tensors)), wanted, atol=1e-5)


def test_errors():
    x = [a.astype("float32") for a in (QUERY, KEY, VALUE)]
    for mask, message in (
        ((ROWS.astype("int32"), None), "boolean mask of query"),
        ((None, COLUMNS[:, :3]), "mask of key of shape"),
        ((ROWS,), "Expected a pair"),
    ):
        with pytest.raises(ValueError, match=message):
            attend(x, mask=mask)
