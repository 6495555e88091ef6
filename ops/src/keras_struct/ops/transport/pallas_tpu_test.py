"""The kernels of transport for TPUs, interpreted on any machine.

With TPU_TESTS=all (`make test-tpu`) every case and support; else those that have most.
"""

import dataclasses

import numpy as np
import pytest
from keras import ops as K

from keras_struct import ops
from keras_struct.ops import dispatch, pallas_testing
from keras_struct.ops.pallas_testing import ALL, NAME
from keras_struct.ops.testing import BACKEND, array
from keras_struct.ops.transport import extremes_test, sinkhorn_test
from keras_struct.ops.transport.pallas_tpu import TransportTPU
from keras_struct.ops.transport.problem import Problem
from keras_struct.ops.transport.tiled import Tiled
from keras_struct.ops.transport.tiles import Support

pytestmark = pytest.mark.skipif(BACKEND != "jax", reason="Pallas is a part of JAX")
SMALL = {"sizes": ((128, 128),), "band_rows": 256}
interpreter = pallas_testing.interpreter("transport", **SMALL)


@pytest.fixture(autouse=True)
def requested(interpreter):
    with ops.use(NAME):
        yield


@pytest.mark.parametrize("name", sinkhorn_test.CASES if ALL else ["unbalanced spoke"])
@pytest.mark.parametrize("tail", [0, 2] if ALL else [2])
def test_equals_whole_plans(name, tail):
    sinkhorn_test.test_equals_whole_plans(name, tail)


@pytest.mark.skipif(not ALL, reason="two programs; with TPU_TESTS=all")
@pytest.mark.parametrize("name", sinkhorn_test.CASES)
def test_adjoint_equals_autodiff_of_the_surrogate(name, monkeypatch):
    sinkhorn_test.test_adjoint_equals_autodiff_of_the_surrogate(name, "float64", 2, monkeypatch)


@pytest.mark.skipif(not ALL, reason="compiled for a minute; with TPU_TESTS=all")
@pytest.mark.parametrize("name", ["dense", "unbalanced spoke"])
def test_second_order_equals_autodiff(name, monkeypatch):
    sinkhorn_test.test_second_order_equals_autodiff(name, monkeypatch)


# More than one block, tile and chunk; lengths 0 and 1, and those of whole blocks.
SHAPE = (300, 500), ((300, 1, 0, 256), (500, 384, 2, 0))
TWO_CHUNKS = 2 * 128 * 3 * 128 * 8  # bytes of 384 columns
SUPPORTS = {
    "dense": (Support(None), {}),
    "chunks": (Support(None), {"chunk": TWO_CHUNKS}),
    "spokes": (Support(20, spokes=True), {}),
    "band": (Support(100), {"band_rows": 128}),
    "wide band of chunks": (Support(200), {"chunk": TWO_CHUNKS // 3}),
}


def arrays(sizes, lengths, dtype, depth=5, seed=0):
    rng = np.random.default_rng(seed)
    there = [np.arange(n) < np.array(m)[:, None] for n, m in zip(sizes, lengths, strict=True)]
    batch = len(lengths[0])
    features = [
        rng.normal(size=(batch, n, depth)) * some[..., None]
        for n, some in zip(sizes, there, strict=True)
    ]
    potentials = [rng.normal(size=(batch, n)) for n in sizes]
    factors = [rng.normal(size=(batch, n, 4)) for n in sizes]
    values = rng.normal(size=(batch, sizes[1], 3))
    cast = [np.asarray(x, dtype) for x in (*features, *potentials, *factors, values)]
    return cast, tuple(np.array(n, "int32") for n in lengths)


def passes(sums, lengths):
    """All sums of an implementation, and their derivatives, as one function of arrays."""
    import jax

    def values(x, y, f, g, left, right, values):
        plan, near = sums.plan(x, y, (f, g), lengths), (0.5 * f, 0.5 * g)
        return (
            sums.log_sums(0, (x, y), g, lengths, near[0]),
            sums.log_sums(1, (x, y), f, lengths, near[1]),
            plan.times(values),
            plan.times(values[..., :1]),
            plan.transposed_times(left),
            *plan.modulated(left, right),
        )

    def run(cotangents, *arrays):
        found, back = jax.vjp(values, *arrays)
        return found, back(cotangents)

    return values, run


def check_passes(
    support, tolerance, dtype="float64", strict=False, shape=SHAPE, kernels=None, **more
):
    """Values and derivatives equal those of tiles; the strict interpreter has no derivatives."""
    import jax
    from jax import numpy as jnp

    sizes, lengths = shape
    if support.spokes:  # the first place is always there
        lengths = tuple(np.maximum(n, 1) for n in lengths)
    x, lengths = arrays(sizes, lengths, dtype)
    if kernels is None:
        kernels = TransportTPU().interpreted(strict=strict, **{**SMALL, **more})
    (own, derived), (other, wanted) = (
        passes(s, lengths) for s in (kernels(support), Tiled(support))
    )
    given, there = [], [np.arange(n) < m[:, None] for n, m in zip(sizes, lengths, strict=True)]
    for side, s in zip((0, 1, 0, 0, 1, 0, 1), jax.eval_shape(other, *x), strict=True):
        g = np.random.default_rng(side).normal(size=s.shape)
        given.append(jnp.asarray((g.T * there[side].T).T, dtype))
    if strict:
        got, expected = own(*x), other(*x)
    else:
        got = jax.jit(derived)(tuple(given), *x)
        expected = jax.jit(wanted)(tuple(given), *x)
    pairs = zip(*map(jax.tree_util.tree_leaves, (got, expected)), strict=True)
    for i, (a, b) in enumerate(pairs):
        a, b = array(a), array(b)
        if i < 2:  # log-sums, which mean nothing behind a length
            a, b = a * there[i], b * there[i]
        np.testing.assert_allclose(a, b, atol=tolerance * max(1.0, abs(b).max()), err_msg=str(i))


@pytest.mark.parametrize("name", SUPPORTS if ALL else ["dense"])
def test_equals_tiles(name):
    support, more = SUPPORTS[name]
    check_passes(support, 1e-12, **more)


def test_supports_are_cut_in_all_ways():
    """Windows that follow the rows, whole columns and chunks of them."""
    from keras_struct.ops.transport.tpu_passes import cut

    found = {}
    for name, (support, more) in SUPPORTS.items():
        kernels = TransportTPU().interpreted(**{**SMALL, **more})
        tilings = cut(kernels, support.band_width, SHAPE[0], 128 * 8).tilings
        found[name] = [(t.windowed, t.chunks) for t in tilings]
    assert found == {
        "dense": [(False, 1)] * 2,
        "chunks": [(False, 2), (False, 1)],
        "spokes": [(True, 1)] * 2,
        "band": [(True, 1)] * 2,
        "wide band of chunks": [(False, 4), (False, 3)],
    }


@pytest.mark.parametrize("band", [None, *[1] * ALL])
def test_without_races_or_fresh_memory(band):
    check_passes(Support(band), 1e-12, strict=True, shape=((3, 2), ((3,), (2,))))


FAR = (0.0, 300.0, -300.0) if ALL else (300.0,)


@pytest.mark.parametrize("far", FAR)
def test_sums_that_are_not_near_what_was_expected(far):
    """Where a float would not hold them, they are summed anew; some examples only."""
    import jax

    sizes, lengths = (140, 9), (np.array([140, 0]), np.array([9, 9]))
    x, lengths = arrays(sizes, lengths, "float32")
    expected = np.full((2, 140), 3.0, "float32")
    expected[:, 5] += far
    sums = (TransportTPU().interpreted(**SMALL)(Support(None)), Tiled(Support(None)))
    got, wanted = (
        jax.jit(lambda *a, s=s: s.log_sums(0, a[:2], a[2], lengths, expected))(*x[:2], x[3])
        for s in sums
    )
    np.testing.assert_allclose(array(got)[:1], array(wanted)[:1], atol=1e-5)


@pytest.mark.parametrize(("half", "tolerance"), [(False, 1e-5), (True, 4e-3)])
def test_digits(half, tolerance):
    """Products of parts of 8 bits have those of float32; from bfloat16, those that these had."""
    import jax
    from jax import numpy as jnp

    x, lengths = arrays((130, 20), ((130,), (20,)), "float32", depth=16)
    if half:
        x = [jnp.asarray(a).astype("bfloat16").astype("float32") for a in x]
        x[0] = x[0] / 3.0
    run = [
        jax.jit(passes(s, lengths)[0])
        for s in (TransportTPU().interpreted(**SMALL)(Support(None), half), Tiled(Support(None)))
    ]
    got, wanted = run[0](*x), run[1](*(array(a).astype("float64") for a in x))
    for i, (a, b) in enumerate(zip(got, wanted, strict=True)):
        limit = tolerance if i > 1 else 1e-5
        assert abs(array(a) - array(b)).max() < limit * abs(array(b)).max(), i


@pytest.mark.skipif(not ALL, reason="four programs; with TPU_TESTS=all")
@pytest.mark.parametrize("name", sorted(sinkhorn_test.STEEP))
def test_steep_scores(name):
    """As `stored` and `tiled`, over many steps."""
    q, k, _ = sinkhorn_test.inputs(padding=0.0)
    q = q * sinkhorn_test.STEEP[name]
    found = [
        [array(x) for x in ops.sinkhorn(q, k, sinkhorn_test.LENGTHS, steps=27, implementation=i)]
        for i in (NAME, "tiled")
    ]
    for got, wanted in zip(*found, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9)


def test_half_precision_is_that_of_the_inputs():
    x = [K.cast(a, "bfloat16") for a in extremes_test.inputs((2,), 9, 9)]
    assert Problem("sinkhorn", *x[:2]).half.sums.half
    assert not Problem("sinkhorn", x[0], K.cast(x[1], "float32")).half.sums.half
    if not ALL:
        return
    single = [K.cast(a, "float32") for a in x]
    got, wanted = (extremes_test.attend(a, epsilon=0.5, tail_steps=1) for a in (x, single))
    assert got.dtype == x[2].dtype
    np.testing.assert_allclose(array(got), array(wanted), rtol=0.02, atol=0.01)


@pytest.mark.skipif(not ALL, reason="three programs; with TPU_TESTS=all")
def test_vmap_of_a_gradient():
    import jax
    from jax import numpy as jnp

    x = [jnp.asarray(a) for a in extremes_test.inputs((3, 2), 9, 7)]

    def gradient(*x):
        def loss(*x):
            return jnp.sum(extremes_test.attend(x, band_width=3, base_steps=3) ** 2)

        return jax.grad(loss, (0, 1, 2))(*x)

    got = jax.jit(jax.vmap(gradient))(*x)
    for i in range(3):
        for a, b in zip(got, jax.jit(gradient)(*(y[i] for y in x)), strict=True):
            np.testing.assert_allclose(array(a[i]), array(b), atol=1e-5)


def test_chosen_on_a_tpu():
    x = np.zeros((1, 300, 4), "float32")
    with ops.use("tiled"), ops.target("tpu"):
        call = Problem("sinkhorn_tail", x, x).choice.call
    assert dispatch.choose(call).name == NAME
    small = dataclasses.replace(call, shapes=((9, 64, 4), (9, 64, 4)))
    assert "a plan of 64 x 64 pairs is read" in TransportTPU().avoids(small)
    band = dataclasses.replace(small, options=(("band_width", 3),))
    assert TransportTPU().avoids(band) is None


def test_says_why_not():
    x = np.zeros((1, 300, 4), "float32")
    call = Problem("sinkhorn_tail", x, x).choice.call
    call = dataclasses.replace(call, platform="tpu", exporting=False)
    kernels = TransportTPU()
    assert kernels.rejects(call) is None
    for facts, reason in (
        ({"backend": "torch"}, "the backend is torch"),
        ({"platform": "gpu"}, "the scores are on the gpu"),
        ({"dtype": "float64"}, "no float64"),
        ({"exporting": True}, "a SavedModel may run anywhere"),
        ({"shapes": ((1, None, 4), (1, 300, 4))}, "shapes that are known"),
        ({"shapes": ((1, 300, 4096), (1, 300, 4096))}, "at most 2,048 features"),
    ):
        assert reason in kernels.rejects(dataclasses.replace(call, **facts))
