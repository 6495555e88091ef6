"""The kernels of spanning trees for GPUs, interpreted on any machine, and lowered for CUDA.

With GPU_TESTS=all (`make test-gpu`) every law of every case; else one program.
"""

import dataclasses

import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops import pallas_testing
from keras_struct.ops.laws import StructureLaws
from keras_struct.ops.pallas_testing import ALL_GPU, GPU, laws_of, lowered_for_gpu
from keras_struct.ops.spanning_tree import precision_test
from keras_struct.ops.spanning_tree.cases import CASES
from keras_struct.ops.spanning_tree.pallas_gpu import SpanningTreeGPU
from keras_struct.ops.spanning_tree.pallas_tpu_test import check, waiting_words
from keras_struct.ops.testing import BACKEND

pytestmark = pytest.mark.skipif(BACKEND != "jax", reason="Pallas is a part of JAX")
interpreter = pallas_testing.interpreter("spanning_tree", name=GPU)
slow = pytest.mark.skipif(not ALL_GPU, reason="several programs; with GPU_TESTS=all")


@slow
@pytest.mark.parametrize("case", laws_of(CASES, name=GPU), ids=str)
class TestLaws(StructureLaws):
    pass


@pytest.mark.parametrize("single_root", [True, *[False] * ALL_GPU])
def test_words_that_must_wait_and_no_trees(single_root):
    """Several blocks of lines, of which the last one is not full."""
    with pallas_testing.interpreted("spanning_tree", name=GPU, lines=4):
        check(GPU, *waiting_words(), single_root)


@slow
@pytest.mark.parametrize("single_root", [True, False])
@pytest.mark.parametrize(("scale", "temperature"), precision_test.SCALES)
def test_cold_and_large_in_float32(scale, temperature, single_root):
    precision_test.test_cold_and_large(scale, temperature, single_root, GPU)


@slow
@pytest.mark.parametrize("single_root", [True, False])
@pytest.mark.parametrize("temperature", [1e-6, 1e-4])
def test_ties_beyond_the_precision(temperature, single_root):
    precision_test.test_ties_beyond_the_precision(temperature, single_root, GPU)


@pytest.mark.parametrize("dtype", ["float32", *["float64"] * ALL_GPU])
def test_lowered_for_a_gpu(dtype):
    def readouts(x):
        best = ops.spanning_tree(x, temperature=0)
        return ops.spanning_tree(x).marginals(), best.value()

    text = lowered_for_gpu("spanning_tree", readouts, [np.zeros((2, 9, 9), dtype)])
    for sweep in ("forward_logsumexp", "forward_max", "backward"):
        assert f"keras_struct_spanning_tree_{sweep}" in text, sweep


def test_chosen_on_a_gpu_and_says_why_not():
    with pallas_testing.uninterpreted("spanning_tree"), ops.target("gpu"):
        choice = ops.spanning_tree(np.zeros((1, 3, 3), "float32")).choice
    assert choice.name == GPU
    assert choice.by_portable == ("curvature", "trace", "sample", "topk")
    kernel = SpanningTreeGPU()
    assert kernel.rejects(dataclasses.replace(choice.call, exporting=False)) is None
    for facts, reason in (
        ({"backend": "torch"}, "the backend is torch"),
        ({"shapes": ((None, 3, 3),)}, "shapes that are known"),
        ({"shapes": ((1, 1025, 1025),)}, "1,024 words at most"),
    ):
        call = dataclasses.replace(choice.call, exporting=False, **facts)
        assert reason in kernel.rejects(call)
