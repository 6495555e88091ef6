"""The kernels of transport for GPUs, by Triton's interpreter on CPU tensors.

With GPU_TESTS=all (`make test-gpu`) every case and support; else those that have most.
"""

import dataclasses

import numpy as np
import pytest

from keras_struct.ops import triton_testing

if triton_testing.MISSING:
    pytest.skip(triton_testing.MISSING, allow_module_level=True)

import torch

from keras_struct import ops
from keras_struct.ops import dispatch
from keras_struct.ops.testing import array, implemented_by
from keras_struct.ops.transport import sinkhorn_test, triton_passes
from keras_struct.ops.transport.gpu_plan import Tile
from keras_struct.ops.transport.pallas_tpu_test import arrays
from keras_struct.ops.transport.problem import Problem
from keras_struct.ops.transport.tiled import Tiled
from keras_struct.ops.transport.tiles import Support
from keras_struct.ops.transport.triton_gpu import TransportTriton
from keras_struct.ops.triton_testing import ALL, NAME

SMALL = {"tile": Tile(32, 16, 16, 1, 1), "least": 1}
interpreter = triton_testing.interpreter("transport", **SMALL)


@pytest.fixture(autouse=True)
def requested(interpreter):
    with ops.use(NAME):
        yield


@pytest.mark.parametrize("name", sinkhorn_test.CASES if ALL else ["unbalanced spoke"])
@pytest.mark.parametrize("tail", [0, 2] if ALL else [2])
def test_equals_whole_plans(name, tail):
    sinkhorn_test.test_equals_whole_plans(name, tail)


@pytest.mark.skipif(not ALL, reason="seconds in the interpreter; with GPU_TESTS=all")
@pytest.mark.parametrize("name", sinkhorn_test.CASES)
def test_adjoint_equals_autodiff_of_the_surrogate(name, monkeypatch):
    sinkhorn_test.test_adjoint_equals_autodiff_of_the_surrogate(name, "float64", 2, monkeypatch)


@pytest.mark.skipif(not ALL, reason="a minute in the interpreter; with GPU_TESTS=all")
@pytest.mark.parametrize("name", ["dense", "unbalanced spoke"])
def test_second_order_equals_autodiff(name, monkeypatch):
    sinkhorn_test.test_second_order_equals_autodiff(name, monkeypatch)


# Lengths 0, 1 and those of whole blocks; several blocks and tiles.
SHAPE = (40, 24), ((40, 1, 0, 32), (17, 24, 2, 0))
SUPPORTS: dict[str, tuple[Support, dict]] = {
    "dense": (Support(None), {}),
    "columns divided": (Support(None), {"least": 40}),
    "one block": (Support(None), {"tile": Tile(128, 64, 64, 1, 1)}),
    "spokes": (Support(9, spokes=True), {}),
    "band": (Support(5), {}),
}


def values_of(sums, lengths, x, y, f, g, left, right, values):
    """All sums of an implementation; log-sums without those behind a length, which mean nothing."""
    plan, near = sums.plan(x, y, (f, g), lengths), (0.5 * f, 0.5 * g)
    there = [
        torch.arange(z.shape[1])[None] < n[:, None] for z, n in zip((x, y), lengths, strict=True)
    ]
    return (
        sums.log_sums(0, (x, y), g, lengths, near[0]) * there[0],
        sums.log_sums(1, (x, y), f, lengths, near[1]) * there[1],
        plan.times(values),
        plan.times(values[..., :1]),
        plan.transposed_times(left),
        *plan.modulated(left, right),
    )


def check_passes(support, tolerance, depth=5, half=False, **more):
    """Values and derivatives equal those of tiles in float64."""
    lengths: tuple = SHAPE[1]
    if support.spokes:  # the first place is always there
        lengths = tuple(np.maximum(n, 1) for n in lengths)
    dtype = "float64" if tolerance < 1e-9 else "float32"
    given, lengths = arrays(SHAPE[0], lengths, dtype, depth=depth)
    given = [torch.tensor(x) for x in given]
    given[0] = given[0] * 5 / depth
    if half:
        given = [x.bfloat16().to(x.dtype) for x in given]
        given[0] = given[0] / 3.0
    lengths = tuple(map(torch.tensor, lengths))
    kernels = TransportTriton().interpreted(**{**SMALL, **more})
    found = []
    for sums, kind in ((kernels(support, half), dtype), (Tiled(support), "float64")):
        x = [a.to(getattr(torch, kind)).requires_grad_() for a in given]
        got = values_of(sums, lengths, *x)
        slopes = [
            torch.tensor(np.random.default_rng(i).normal(size=a.shape), dtype=a.dtype)
            for i, a in enumerate(got)
        ]
        found.append([*got, *torch.autograd.grad(got, x, slopes)])
    for i, (a, b) in enumerate(zip(*map(lambda x: map(array, x), found), strict=True)):
        limit = min(tolerance, 3e-5) if i < 2 else tolerance
        np.testing.assert_allclose(a, b, atol=limit * max(1.0, abs(b).max()), err_msg=str(i))


@pytest.mark.parametrize("name", SUPPORTS if ALL else ["columns divided"])
def test_equals_tiles(name):
    support, more = SUPPORTS[name]
    check_passes(support, 1e-12, **more)


DIGITS = {"float32": (2e-6, 5, False), "bfloat16": (2e-2, 20, True), "deep": (2e-6, 150, False)}


@pytest.mark.parametrize("name", DIGITS if ALL else ["float32", "bfloat16"])
def test_digits(name):
    """Of parts of features, factors, plans and values."""
    tolerance, depth, half = DIGITS[name]
    check_passes(Support(None), tolerance, depth, half, tile=Tile(128, 64, 64, 1, 1))


@pytest.mark.parametrize("factor", [1e-4, 1.0, 300.0])
def test_parts_of_features_have_their_digits(factor):
    """Whatever the sizes of both sides are."""
    rng = np.random.default_rng(0)
    raw = [rng.normal(size=(2, 9, 20)) * factor, rng.normal(size=(2, 7, 20)) / factor]
    raw = [torch.tensor(x, dtype=torch.float32) for x in raw]
    x, y = triton_passes.laid_out(TransportTriton()(Support(None)), raw)
    found = sum(x[a].double() @ y[b].double().mT for a, b in ((0, 0), (1, 2), (2, 1)))
    wanted = raw[0].double() @ raw[1].double().mT
    assert abs(found - wanted).max() < 2e-6
    assert abs(x[0].double() @ y[0].double().mT - wanted).max() > 1e-4


@pytest.mark.parametrize("far", (0.0, 300.0, -300.0) if ALL else (300.0,))
def test_sums_that_are_not_near_what_was_expected(far):
    """Where a float would not hold them, they are summed anew; some blocks only."""
    x, lengths = arrays((70, 9), ((70, 0), (9, 9)), "float32")
    expected = np.full((2, 70), 3.0, "float32")
    expected[:, 5] += far
    x, lengths = [torch.tensor(a) for a in x], tuple(map(torch.tensor, lengths))
    got, wanted = (
        s.log_sums(0, x[:2], x[3], lengths, torch.tensor(expected))
        for s in (TransportTriton().interpreted(**SMALL)(Support(None)), Tiled(Support(None)))
    )
    np.testing.assert_allclose(array(got)[:1], array(wanted)[:1], atol=1e-5)


def operators(half=False):
    """Arguments of both operators."""
    kernels = TransportTriton().interpreted(**{**SMALL, "tile": Tile(64, 64, 64, 1, 1)})
    sums = kernels(Support(None), half)
    x, lengths = arrays((20, 9), ((20, 3), (9, 1)), "float32")
    x, y, f, g, left, right, values = (torch.tensor(a) for a in x)
    lengths = tuple(map(torch.tensor, lengths))
    laid = [list(parts) for parts in triton_passes.laid_out(sums, (x, y))]
    start = triton_passes._key(sums), x, y, *laid
    yield triton_passes._log_sums_operator, (*start, g, 0.5 * f, *lengths)
    yield triton_passes._products_operator, (*start, f, g, values, [left], [right], *lengths)


@pytest.mark.skipif(not ALL, reason="15 s; with GPU_TESTS=all")
@pytest.mark.parametrize("half", [False, True])
def test_operators_are_what_pytorch_takes_them_for(half):
    for operator, arguments in operators(half):
        torch.library.opcheck(operator, arguments)


def test_fake_results_equal_real_ones():
    for operator, arguments in operators():
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


def attention(query, key, value, **options):
    options = {"base_steps": 1, "tail_steps": 1, "implementation": NAME, **options}
    return ops.sinkhorn_tail(query, key, value, **options)


def test_vmap_equals_a_loop():
    """Of a gradient, over other axes than the first one, beside an argument that stays."""
    rng = np.random.default_rng(0)
    query, key, value = (
        torch.tensor(rng.normal(size=s)) for s in ((2, 3, 7, 4), (2, 5, 4, 3), (2, 5, 2))
    )

    def loss(query, key):
        return (attention(query, key, value) ** 2).sum()

    first = torch.func.grad(loss, (0, 1))
    found = torch.func.vmap(first, (1, 3))(query, key)
    rows = [first(query[:, i], key[..., i]) for i in range(3)]
    for a, b in zip(found, zip(*rows, strict=True), strict=True):
        np.testing.assert_allclose(array(a), array(torch.stack(b)), rtol=1e-9, atol=1e-12)
    choice = []

    def chosen(query):
        choice.append(Problem("sinkhorn", query, query, implementation=NAME).choice.name)
        return query

    torch.func.vmap(chosen)(query)
    assert choice == [NAME]


def test_autocast_changes_nothing():
    x = torch.tensor(np.random.default_rng(0).normal(size=(1, 9, 4)), dtype=torch.float32)
    for name in (NAME, "tiled", "stored"):
        wanted = attention(x, x, x, implementation=name)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            np.testing.assert_array_equal(attention(x, x, x, implementation=name), wanted)


@pytest.mark.skipif(not ALL, reason="half a minute; with GPU_TESTS=all")
@pytest.mark.parametrize("options", [{}, {"band_width": 3}], ids=str)
def test_compiled_for_sizes_of_any_kind(options):
    """Without a graph break, with gradients."""

    def loss(query, key, value):
        return (attention(query, key, value, **options) ** 2).sum()

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    rng = np.random.default_rng(0)
    for batch, n, m in ((2, 9, 7), (3, 12, 5)):
        shapes = (batch, n, 4), (batch, m, 4), (batch, m, 2)
        x = [torch.tensor(rng.normal(size=s)).requires_grad_() for s in shapes]
        found, wanted = (torch.autograd.grad(f(*x), x) for f in (compiled, loss))
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(array(a), array(b), rtol=1e-9, atol=1e-12)


@pytest.mark.skipif(not ALL, reason="Triton compiles ten kernels; with GPU_TESTS=all")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("band", [None, 20])
def test_every_launch_compiles_for_a_gpu(dtype, band):
    x = torch.zeros((2, 70, 20), dtype=getattr(torch, dtype), requires_grad=True)
    with triton_testing.compiled("transport", tile=None) as kernels:
        (attention(x, x, x, band_width=band).float() ** 2).sum().backward()
    assert set(kernels) == {"log_sums", "weighted_sums", "products"}


def test_chosen_on_a_gpu():
    x, kernels = np.zeros((1, 2048, 4), "float32"), TransportTriton()
    with ops.target("gpu"), implemented_by("transport", NAME, kernels):
        call = Problem("sinkhorn_tail", x, x).choice.call
    names = list(dispatch.candidates("transport"))
    assert names.index(NAME) < names.index("stored")
    assert kernels.rejects(call) is None and kernels.avoids(call) is None
    small = dataclasses.replace(call, shapes=((9, 64, 4), (9, 64, 4)))
    assert "plans of 9 x 64 x 64 pairs stay in the cache" in kernels.avoids(small)
    for facts in (
        {"options": (("band_width", 3),)},
        {"shapes": ((None, 64, 4), (None, None, 4))},
    ):
        assert kernels.avoids(dataclasses.replace(small, **facts)) is None


def test_says_why_not():
    x = np.zeros((1, 300, 4), "float32")
    call = Problem("sinkhorn_tail", x, x).choice.call
    call = dataclasses.replace(call, platform="gpu")
    kernels = TransportTriton()
    assert kernels.rejects(call) is None
    for facts, reason in (
        ({"backend": "jax"}, "the backend is jax"),
        ({"platform": "cpu"}, "the scores are on the cpu"),
        ({"exporting": True}, "torch.export"),
        ({"traced": True}, "torch.jit"),
        ({"shapes": ((1, 300, None), (1, 300, None))}, "shapes that are known"),
        ({"shapes": ((1, 300, 1024), (1, 300, 1024))}, "at most 512 features"),
    ):
        assert reason in kernels.rejects(dataclasses.replace(call, **facts))
