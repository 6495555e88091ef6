"""The kernels of chains for GPUs, by Triton's interpreter on CPU tensors.

With GPU_TESTS=all (`make test-gpu`) every law of every case; else the readouts of a few.
"""

import dataclasses
import functools

import numpy as np
import pytest

from keras_struct.ops import triton_testing

if triton_testing.MISSING:
    pytest.skip(triton_testing.MISSING, allow_module_level=True)

import torch
from torch._dynamo.testing import CompileCounterWithBackend

from keras_struct import ops
from keras_struct.ops import dispatch
from keras_struct.ops.chain import exactness_test
from keras_struct.ops.chain.ctc.cases import CASES as CTC
from keras_struct.ops.chain.linear_chain.cases import CASES as LINEAR_CHAIN
from keras_struct.ops.chain.pallas_tpu_test import ACROSS_TILES, SHORT, _case
from keras_struct.ops.chain.semi_markov.cases import CASES as SEMI_MARKOV
from keras_struct.ops.chain.subset.cases import CASES as SUBSET
from keras_struct.ops.chain.triton_gpu import ChainTriton
from keras_struct.ops.laws import StructureLaws
from keras_struct.ops.testing import array
from keras_struct.ops.triton_testing import ALL, NAME, check_readouts, interpreted, laws_of

interpreter = triton_testing.interpreter("chain")
CASES = {"linear_chain": LINEAR_CHAIN, "semi_markov": SEMI_MARKOV, "ctc": CTC, "subset": SUBSET}

if ALL:

    @pytest.mark.parametrize(
        "case",
        [
            pytest.param(case, id=f"{name}-{case.name}")
            for name, cases in CASES.items()
            for case in laws_of(cases)
        ],
    )
    class TestLaws(StructureLaws):
        pass


LENGTHS = np.array([4, 2, 1, 0], "int32")
LABELS = np.array([[1, 2, 2, 1]] * 4)
RAGGED = {
    "linear_chain": _case(
        ops.linear_chain,
        {"unary": (4, 4, 3), "transitions": (3, 3), "start": (3,)},
        scales=(1, 300, 1, 1),
        lengths=LENGTHS,
    ),
    "each": _case(ops.linear_chain, {"unary": (2, 4, 5), "transitions": (2, 5, 5)}),
    "over_time": _case(ops.linear_chain, {"unary": (2, 4, 3), "transitions": (2, 3, 3, 3)}),
    "semi_markov": _case(
        ops.semi_markov, {"segments": (4, 4, 3, 3), "transitions": (3, 3)}, lengths=LENGTHS
    ),
    "ctc": _case(
        functools.partial(ops.ctc, labels=LABELS),
        {"log_probs": (4, 7, 3)},
        lengths=(None, np.array([4, 3, 1, 0], "int32")),
    ),
    "subset": _case(
        functools.partial(ops.subset, k=np.array([3, 0, 1, 0])), {"scores": (4, 4)}, lengths=LENGTHS
    ),
}


@pytest.mark.parametrize("name", RAGGED)
def test_readouts_equal_portable(name):
    check_readouts(RAGGED[name])


@pytest.mark.parametrize("name", [*["linear_chain", "over_time"], *["each", "semi_markov"] * ALL])
def test_links_in_tiles(name):
    """As those of more than 64 tags."""
    with interpreted("chain", block=2):
        check_readouts(RAGGED[name])


@pytest.mark.skipif(not ALL, reason="up to 600 steps; with GPU_TESTS=all")
@pytest.mark.parametrize("name", ["log_space", "over_time", "left_to_right", "semi_markov"])
def test_links_in_tiles_in_float32(name, monkeypatch):
    with interpreted("chain", block=2):
        test_float32_equals_float64(name, monkeypatch)


@pytest.mark.skipif(not ALL, reason="minutes in the interpreter; with GPU_TESTS=all")
@pytest.mark.parametrize("name", ACROSS_TILES)
def test_longer_ones_equal_portable(name):
    check_readouts(ACROSS_TILES[name])


@pytest.mark.skipif(not ALL, reason="up to 600 steps; with GPU_TESTS=all")
@pytest.mark.parametrize(
    "name", ["log_space", "scaled", "over_time", "left_to_right", "semi_markov", "ctc", "subset"]
)
def test_float32_equals_float64(name, monkeypatch):
    if name in SHORT:
        case = (*SHORT[name], *exactness_test.CASES[name][2:])
        monkeypatch.setitem(exactness_test.CASES, name, case)
    exactness_test.test_float32_equals_float64(name, NAME)


def test_compiled_for_batches_of_any_size():
    """Without a graph break, to second order, in one program."""

    def loss(unary, transitions):
        d = ops.linear_chain(unary, transitions, implementation=NAME)
        return d.value().sum() + (d.marginals() ** 2).sum()

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(loss, fullgraph=True, backend=counter)
    rng = np.random.default_rng(0)
    transitions = torch.tensor(rng.normal(size=(2, 2)))
    for batch in (2, 3):
        unary = torch.tensor(rng.normal(size=(batch, 3, 2)), requires_grad=True)
        torch._dynamo.mark_dynamic(unary, 0)
        found, wanted = (
            torch.autograd.grad(f(unary, transitions), unary)[0] for f in (compiled, loss)
        )
        np.testing.assert_allclose(array(found), array(wanted), rtol=1e-9)
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", RAGGED if ALL else ["semi_markov"])
@pytest.mark.parametrize("block", [None, *[2] * ALL])
def test_every_launch_compiles_for_a_gpu(name, block):
    with triton_testing.compiled("chain", block=block) as kernels:
        d = RAGGED[name].distribution(dtype="float32", implementation=NAME)
        d.marginals("all"), d.argmax(), d.sample(1, 3)
        d._sweeps.curvature(d._problem, d._soft[1], tuple(map(torch.ones_like, d._marginals)))
    assert set(kernels) == {"forward", "tangent", "backward", "walk"}


def test_says_why_not():
    call = ops.linear_chain(np.zeros((1, 4, 3), "float32"), np.zeros((3, 3), "float32")).choice.call
    call = dataclasses.replace(call, platform="gpu")
    kernel = ChainTriton()
    assert kernel.rejects(call) is None and kernel.avoids(call) is None
    table = (1, 1, 300, 300)
    for facts, reason in (
        ({"platform": "cpu"}, "the scores are on the cpu"),
        ({"exporting": True}, "torch.export"),
        ({"shapes": ((1, 4, 300), table)}, "more than 256 tags"),
        ({"shapes": ((1, None, 3), (1, 1, 3, 3))}, "shapes that are known"),
    ):
        assert reason in kernel.rejects(dataclasses.replace(call, **facts))
    long = dataclasses.replace(call, shapes=((1, 4096, 3), (1, 1, 3, 3)))
    assert "in 12 levels" in kernel.avoids(long)
    many = dataclasses.replace(call, shapes=((1024, 4, 200), (1, 1, 200, 200)))
    assert kernel.rejects(many) is None and "large matrices" in kernel.avoids(many)
    few = dataclasses.replace(call, shapes=((32, 4, 200), (1, 1, 200, 200)))
    assert kernel.rejects(few) is kernel.avoids(few) is None
    softmax = ops.categorical(np.zeros((1, 4), "float32")).choice.call
    assert "which PyTorch has" in kernel.rejects(softmax)
    names = list(dispatch.candidates("chain"))
    assert names.index(NAME) < names.index("parallel")


def test_vmap_equals_a_loop():
    """Of readouts with and without a derivative, and of a gradient."""
    unary = torch.tensor(np.random.default_rng(0).normal(size=(2, 2, 4, 3)))
    transitions = torch.tensor(np.random.default_rng(1).normal(size=(3, 3)))

    def readouts(unary):
        d = ops.linear_chain(unary, transitions, implementation=NAME)
        return d.value(), d.marginals(), d.argmax(), d.sample(1, 2), d.topk(2).scores

    def loss(unary):
        d = ops.linear_chain(unary, transitions, implementation=NAME)
        return d.value().sum() + (d.marginals() ** 2).sum()

    found = torch.func.vmap(readouts, 2)(unary.movedim(0, 2))
    found += (torch.func.vmap(torch.func.grad(loss))(unary),)
    rows = [(*readouts(x), torch.func.grad(loss)(x)) for x in unary]
    for a, b in zip(found, zip(*rows, strict=True), strict=True):
        np.testing.assert_allclose(array(a), array(torch.stack(b)), rtol=1e-9)
