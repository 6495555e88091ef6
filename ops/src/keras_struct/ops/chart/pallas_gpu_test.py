"""The kernels of charts for GPUs, interpreted on any machine, and lowered for CUDA.

With GPU_TESTS=all (`make test-gpu`) every law of every case; else one program of readouts for some.
"""

import dataclasses

import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops import pallas_testing
from keras_struct.ops.chart import precision_test
from keras_struct.ops.chart.cky.cases import CASES as CKY
from keras_struct.ops.chart.eisner.cases import CASES as EISNER
from keras_struct.ops.chart.nussinov.cases import CASES as NUSSINOV
from keras_struct.ops.chart.pallas_tpu_test import ACROSS_BLOCKS
from keras_struct.ops.laws import ReadoutLaws, StructureLaws
from keras_struct.ops.pallas_testing import ALL_GPU, GPU, check_readouts, laws_of, lowered_for_gpu
from keras_struct.ops.testing import BACKEND

pytestmark = pytest.mark.skipif(BACKEND != "jax", reason="Pallas is a part of JAX")
interpreter = pallas_testing.interpreter("chart", name=GPU, sizes=(4, 2))
Laws = StructureLaws if ALL_GPU else ReadoutLaws
CASES = {"cky": CKY, "eisner": EISNER, "nussinov": NUSSINOV}
SOME = ("nussinov-forbidden",)
SIZES = {"sizes": (32, 16)}  # of a GPU


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{name}-{case.name}")
        for name, cases in CASES.items()
        for case in laws_of(cases, ALL_GPU, GPU)
        if "splits" not in case.arrays() and (ALL_GPU or f"{name}-{case.name}" in SOME)
    ],
)
class TestLaws(Laws):  # type: ignore[misc, valid-type]
    pass


@pytest.mark.parametrize("name", ACROSS_BLOCKS if ALL_GPU else ["eisner"])
def test_readouts_equal_portable(name):
    check_readouts(ACROSS_BLOCKS[name], GPU)


@pytest.mark.skipif(not ALL_GPU, reason="a program for each; with GPU_TESTS=all")
@pytest.mark.parametrize("name", ACROSS_BLOCKS)
def test_in_the_sizes_of_a_gpu(name):
    with pallas_testing.interpreted("chart", name=GPU, **SIZES):
        check_readouts(ACROSS_BLOCKS[name], GPU)


@pytest.mark.skipif(not ALL_GPU, reason="programs of 24 words; with GPU_TESTS=all")
@pytest.mark.parametrize("name", precision_test.STRUCTURES)
@pytest.mark.parametrize(("scale", "temperature"), precision_test.SCALES)
def test_cold_and_large_in_float32(name, scale, temperature):
    with pallas_testing.interpreted("chart", name=GPU, **SIZES):
        precision_test.test_cold_and_large(name, scale, temperature, GPU)


@pytest.mark.skipif(not ALL_GPU, reason="programs of 24 words; with GPU_TESTS=all")
@pytest.mark.parametrize("name", precision_test.STRUCTURES)
def test_ties_beyond_the_precision(name):
    with pallas_testing.interpreted("chart", name=GPU, **SIZES):
        precision_test.test_ties_beyond_the_precision(name, GPU)


SWEEPS = ("forward_logsumexp", "forward_max", "backward", "curvature", "walk_logsumexp", "walk_max")


@pytest.mark.parametrize("name", ["eisner", "nussinov", *["cky"] * ALL_GPU])
@pytest.mark.parametrize("dtype", ["float32", *["float64"] * ALL_GPU])
def test_lowered_for_a_gpu(name, dtype):
    import jax

    make = getattr(ops, name)

    def readouts(x):
        def loss(x):
            return (make(x).marginals() ** 2).sum() + make(x).value().sum()

        return make(x).argmax(), make(x).sample(1, 3), jax.grad(loss)(x)

    text = lowered_for_gpu("chart", readouts, [np.zeros((2, 9, 9), dtype)])
    for sweep in SWEEPS:
        assert f"keras_struct_chart_{sweep}" in text, sweep


def test_chosen_on_a_gpu_and_says_why_not():
    from keras_struct.ops.chart.pallas_gpu import ChartGPU

    scores = np.zeros((1, 3, 3), "float32")
    with pallas_testing.uninterpreted("chart"), ops.target("gpu"):
        choice = ops.eisner(scores).choice
        assert (choice.name, choice.by_portable) == (GPU, ("topk",))
        splits = ops.cky(scores, splits=np.zeros((1, 3, 3, 3), "float32")).choice
    assert splits.name == "portable"
    assert dict(splits.rejected)[GPU] == "it has no scores of splits"
    call = dataclasses.replace(choice.call, exporting=False)
    kernel = ChartGPU()
    assert kernel.rejects(call) is None
    for facts, reason in (
        ({"backend": "torch"}, "the backend is torch"),
        ({"platform": "cpu"}, "the scores are on the cpu"),
        ({"shapes": ((1, 9000, 9000),)}, "8,192 positions at most"),
    ):
        assert reason in kernel.rejects(dataclasses.replace(call, **facts))
