"""The kernels of transport for GPUs, interpreted on any machine, and lowered for CUDA.

With GPU_TESTS=all (`make test-gpu`) every case and support; else those that have most.
"""

import dataclasses
from typing import Any

import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops import dispatch, pallas_testing
from keras_struct.ops.pallas_testing import ALL_GPU, GPU, lowered_for_gpu
from keras_struct.ops.testing import BACKEND, array
from keras_struct.ops.transport import sinkhorn_test
from keras_struct.ops.transport.pallas_gpu import Tile, TransportGPU
from keras_struct.ops.transport.pallas_tpu_test import SHAPE, arrays, check_passes, passes
from keras_struct.ops.transport.problem import Problem
from keras_struct.ops.transport.tiled import Tiled
from keras_struct.ops.transport.tiles import Support

pytestmark = pytest.mark.skipif(BACKEND != "jax", reason="Pallas is a part of JAX")
SMALL: dict[str, Any] = {"tile": Tile(32, 16, 16, 1, 1), "least": 1}
interpreter = pallas_testing.interpreter("transport", name=GPU, **SMALL)


@pytest.fixture(autouse=True)
def requested(interpreter):
    with ops.use(GPU):
        yield


@pytest.mark.parametrize("name", sinkhorn_test.CASES if ALL_GPU else ["unbalanced spoke"])
@pytest.mark.parametrize("tail", [0, 2] if ALL_GPU else [2])
def test_equals_whole_plans(name, tail):
    sinkhorn_test.test_equals_whole_plans(name, tail)


@pytest.mark.skipif(not ALL_GPU, reason="two programs; with GPU_TESTS=all")
@pytest.mark.parametrize("name", sinkhorn_test.CASES)
def test_adjoint_equals_autodiff_of_the_surrogate(name, monkeypatch):
    sinkhorn_test.test_adjoint_equals_autodiff_of_the_surrogate(name, "float64", 2, monkeypatch)


@pytest.mark.skipif(not ALL_GPU, reason="compiled for a minute; with GPU_TESTS=all")
@pytest.mark.parametrize("name", ["dense", "unbalanced spoke"])
def test_second_order_equals_autodiff(name, monkeypatch):
    sinkhorn_test.test_second_order_equals_autodiff(name, monkeypatch)


SUPPORTS: dict[str, tuple[Support, dict]] = {
    "dense": (Support(None), {}),
    "columns divided": (Support(None), {"least": 200}),
    "one block": (Support(None), {"tile": Tile(512, 512, 64, 1, 1)}),
    "spokes": (Support(20, spokes=True), {}),
    "band": (Support(100), {}),
}


@pytest.mark.parametrize("name", SUPPORTS if ALL_GPU else ["columns divided"])
def test_equals_tiles(name):
    support, more = SUPPORTS[name]
    kernels = TransportGPU().interpreted(**{**SMALL, **more})
    check_passes(support, 1e-12, shape=SHAPE, kernels=kernels)


FAR = (0.0, 300.0, -300.0) if ALL_GPU else (300.0,)


@pytest.mark.parametrize("far", FAR)
def test_sums_that_are_not_near_what_was_expected(far):
    """Where a float would not hold them, they are summed anew; some examples only."""
    import jax

    sizes, lengths = (140, 9), (np.array([140, 0]), np.array([9, 9]))
    x, lengths = arrays(sizes, lengths, "float32")
    expected = np.full((2, 140), 3.0, "float32")
    expected[:, 5] += far
    sums = (TransportGPU().interpreted(**SMALL)(Support(None)), Tiled(Support(None)))
    got, wanted = (
        jax.jit(lambda *a, s=s: s.log_sums(0, a[:2], a[2], lengths, expected))(*x[:2], x[3])
        for s in sums
    )
    np.testing.assert_allclose(array(got)[:1], array(wanted)[:1], atol=1e-5)


DIGITS = [(True, 16, 4e-3), (False, 70, 1e-5)]


@pytest.mark.parametrize(("half", "depth", "tolerance"), DIGITS if ALL_GPU else DIGITS[:1])
def test_digits(half, depth, tolerance):
    """From bfloat16, products have the digits that these had; of many features, too."""
    import jax
    from jax import numpy as jnp

    x, lengths = arrays((130, 20), ((130,), (20,)), "float32", depth=depth)
    if half:
        x = [jnp.asarray(a).astype("bfloat16").astype("float32") for a in x]
        x[0] = x[0] / 3.0
    run = [
        jax.jit(passes(s, lengths)[0])
        for s in (TransportGPU().interpreted(**SMALL)(Support(None), half), Tiled(Support(None)))
    ]
    got, wanted = run[0](*x), run[1](*(array(a).astype("float64") for a in x))
    for i, (a, b) in enumerate(zip(got, wanted, strict=True)):
        limit = tolerance if i > 1 else 1e-5
        assert abs(array(a) - array(b)).max() < limit * abs(array(b)).max(), i


KERNELS = ("log_sums_near", "sums", "products", "modulated")


@pytest.mark.parametrize("dtype", ["float32", *["bfloat16", "float64"] * ALL_GPU])
@pytest.mark.parametrize("band", [None, *[20] * ALL_GPU])
def test_lowered_for_a_gpu(dtype, band):
    import jax
    from jax import numpy as jnp

    def gradient(q, k, v):
        def loss(q, k, v):
            return (ops.sinkhorn_tail(q, k, v, band_width=band, tail_steps=2) ** 2).sum()

        return jax.grad(loss, (0, 1, 2))(q, k, v)

    x = jnp.zeros((2, 300, 70), dtype)
    text = lowered_for_gpu("transport", gradient, [x, x, x])
    for name in KERNELS:
        assert f"keras_struct_transport_{name}" in text, name


def test_chosen_on_a_gpu():
    x = np.zeros((1, 2048, 4), "float32")
    with pallas_testing.uninterpreted("transport"), ops.use("tiled"), ops.target("gpu"):
        call = Problem("sinkhorn_tail", x, x).choice.call
        assert dispatch.choose(call, GPU).name == GPU
    kernels = TransportGPU()
    assert kernels.avoids(call) is None
    small = dataclasses.replace(call, shapes=((9, 64, 4), (9, 64, 4)))
    assert "plans of 9 x 64 x 64 pairs stay in the cache" in kernels.avoids(small)
    band = dataclasses.replace(small, options=(("band_width", 3),))
    assert kernels.avoids(band) is None


def test_says_why_not():
    x = np.zeros((1, 300, 4), "float32")
    call = Problem("sinkhorn_tail", x, x).choice.call
    call = dataclasses.replace(call, platform="gpu", exporting=False)
    kernels = TransportGPU()
    assert kernels.rejects(call) is None
    for facts, reason in (
        ({"backend": "torch"}, "the backend is torch"),
        ({"platform": "tpu"}, "the scores are on the tpu"),
        ({"shapes": ((1, None, 4), (1, 300, 4))}, "shapes that are known"),
        ({"shapes": ((1, 300, 1024), (1, 300, 1024))}, "at most 512 features"),
    ):
        assert reason in kernels.rejects(dataclasses.replace(call, **facts))
