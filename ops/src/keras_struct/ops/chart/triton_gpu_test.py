"""The kernels of charts for GPUs, by Triton's interpreter on CPU tensors.

With GPU_TESTS=all (`make test-gpu`) every law of every case; else the readouts of one.
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
from keras_struct.ops.chart import precision_test
from keras_struct.ops.chart.cky.cases import CASES as CKY
from keras_struct.ops.chart.eisner import projective_trees
from keras_struct.ops.chart.eisner.cases import CASES as EISNER
from keras_struct.ops.chart.nussinov.cases import CASES as NUSSINOV
from keras_struct.ops.chart.pallas_tpu_test import ACROSS_BLOCKS, _case
from keras_struct.ops.chart.triton_gpu import ChartTriton
from keras_struct.ops.chart.triton_plan import Plan, warps_for
from keras_struct.ops.laws import StructureLaws
from keras_struct.ops.testing import array, float64
from keras_struct.ops.triton_testing import ALL, NAME, check_readouts, interpreted, laws_of

interpreter = triton_testing.interpreter("chart", sizes=(8, 4), warps=1)
CASES = {"cky": CKY, "eisner": EISNER, "nussinov": NUSSINOV}

if ALL:

    @pytest.mark.parametrize(
        "case",
        [
            pytest.param(case, id=f"{name}-{case.name}")
            for name, cases in CASES.items()
            for case in laws_of(cases)
            if "splits" not in case.arrays()
        ],
    )
    class TestLaws(StructureLaws):
        pass


LENGTHS = np.array([5, 2, 1, 0], "int32")
SHORT = {
    "cky": _case(ops.cky, (4, 5, 5), LENGTHS),
    "eisner": _case(ops.eisner, (4, 5, 5), LENGTHS),
    "nussinov": _case(ops.nussinov, (4, 5, 5), LENGTHS, min_loop=1),
}


@pytest.mark.parametrize("name", SHORT if ALL else ["nussinov"])
def test_readouts_equal_portable(name):
    check_readouts(SHORT[name])


@pytest.mark.skipif(not ALL, reason="a minute in the interpreter; with GPU_TESTS=all")
@pytest.mark.parametrize("name", ACROSS_BLOCKS)
def test_across_blocks_of_starts_and_cuts(name):
    with interpreted("chart", sizes=(4, 4), warps=1):
        check_readouts(ACROSS_BLOCKS[name])


@pytest.mark.skipif(not ALL, reason="a minute in the interpreter; with GPU_TESTS=all")
@pytest.mark.parametrize("name", precision_test.STRUCTURES)
@pytest.mark.parametrize(("scale", "temperature"), precision_test.SCALES)
def test_cold_and_large_in_float32(name, scale, temperature):
    with interpreted("chart"):
        precision_test.test_cold_and_large(name, scale, temperature, NAME)


@pytest.mark.skipif(not ALL, reason="a minute in the interpreter; with GPU_TESTS=all")
@pytest.mark.parametrize("name", precision_test.STRUCTURES)
def test_ties_beyond_the_precision(name):
    with interpreted("chart"):
        precision_test.test_ties_beyond_the_precision(name, NAME)


@pytest.mark.parametrize("height", [1.0, 1e3, 1e20])
def test_best_cut_far_from_those_looked_at(height):
    """The exponent of a sum is that of its first, middle or last term, whatever the others are."""
    spans = np.zeros((1, 6, 6))
    spans[0, 0, 1] = spans[0, 2, 5] = height  # cut at 2 of 6
    with float64():
        found, wanted = (
            ops.cky(torch.tensor(spans), implementation=name) for name in (NAME, "portable")
        )
        np.testing.assert_allclose(array(found.value()), array(wanted.value()), rtol=1e-12)
        np.testing.assert_allclose(array(found.marginals()), array(wanted.marginals()), atol=1e-12)


def test_compiled_for_batches_of_any_size():
    """One operator for each sweep, to second order."""

    def loss(spans):
        d = ops.cky(spans, implementation=NAME)
        return d.value().sum() + (d.marginals() ** 2).sum()

    rng = np.random.default_rng(0)
    triton_testing.check_compiled(loss, lambda n: [torch.tensor(rng.normal(size=(n, 2, 2)))])


@pytest.mark.skipif(not ALL, reason="seconds in the interpreter; with GPU_TESTS=all")
def test_vmap_equals_a_loop():
    def loss(spans):
        return (ops.cky(spans, implementation=NAME).marginals() ** 2).sum()

    spans = torch.tensor(np.random.default_rng(0).normal(size=(2, 1, 4, 4)))
    triton_testing.check_vmap(loss, spans)


@pytest.mark.parametrize("sweep", ["forward", *["backward"] * ALL])
def test_opcheck(sweep):
    d = ops.cky(np.zeros((2, 2, 2), "float32"), implementation=NAME)
    triton_testing.check_operator(d, sweep)


def _every_sweep(d):
    d.marginals("all"), d.argmax(), d.sample(1, 3)
    d._sweeps.curvature(d._problem, d._soft[1], tuple(map(torch.ones_like, d._marginals)))


@pytest.mark.skipif(not ALL, reason="compiles for half a minute each; with GPU_TESTS=all")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_launch_compiles_for_a_gpu(name, dtype):
    with triton_testing.compiled("chart") as kernels:
        scores = torch.zeros(2, 40, 40, dtype=getattr(torch, dtype))
        d = getattr(ops, name)(scores, implementation=NAME)
        _every_sweep(d)
    assert set(kernels) == {"forward", "tangent", "down", "walk"}


def test_chosen_on_a_gpu_and_says_why_not():
    scores = np.zeros((1, 3, 3), "float32")
    with interpreted("chart", interpreter=False), ops.target("gpu"):
        choice = ops.eisner(scores).choice
        assert (choice.name, choice.by_portable) == (NAME, ("topk",))
        splits = ops.cky(scores, splits=np.zeros((1, 3, 3, 3), "float32")).choice
    assert splits.name == "portable"
    assert dict(splits.rejected)[NAME] == "it has no scores of splits"
    call = dataclasses.replace(choice.call, platform="gpu", exporting=False)
    kernel = ChartTriton()
    assert kernel.rejects(call) is None
    for facts, reason in (
        ({"backend": "jax"}, "the backend is jax"),
        ({"platform": "cpu"}, "the scores are on the cpu"),
        ({"exporting": True}, "torch.export"),
        ({"shapes": ((1, None, None),)}, "shapes that are known"),
        ({"shapes": ((1, 9000, 9000),)}, "8,192 positions at most"),
    ):
        assert reason in kernel.rejects(dataclasses.replace(call, **facts))
    assert dispatch.choose(call).name == NAME


@pytest.mark.parametrize("name", CASES if ALL else ["cky"])
def test_reads_and_writes_only_its_arrays(name):
    scores = torch.tensor(np.random.default_rng(0).normal(size=(1, 16, 16)))
    with float64(), triton_testing.bounded("chart", sizes=(32, 4), warps=1):
        d = getattr(ops, name)(scores, implementation=NAME)
        d.marginals("all")
        if ALL:
            _every_sweep(d)


@pytest.mark.parametrize(
    ("batch", "n", "warps"), [(4096, 64, 1), (256, 64, 4), (8, 20, 1), (8, 512, 16), (512, 512, 4)]
)
def test_warps_fill_a_device_and_have_work(batch, n, warps):
    assert warps_for(batch, n) == warps


def test_equal_tables_are_one():
    sizes = {
        name: Plan(case.call().spec.chart, 32, 16, 112).table_count
        for name, case in (("cky", CKY[0]), ("nussinov", NUSSINOV[0]), ("eisner", EISNER[0]))
    }
    assert sizes == {"cky": 2, "nussinov": 4, "eisner": 12}
    every = Plan(projective_trees(single_root=False), 32, 16, 112)
    assert every.table_count == 10  # complete spans to the right are left and right parts alike
