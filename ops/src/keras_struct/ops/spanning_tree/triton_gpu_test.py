"""The kernels of spanning trees for GPUs, by Triton's interpreter on CPU tensors.

With GPU_TESTS=all (`make test-gpu`) every law of every case; else some readouts.
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
from keras_struct.ops.laws import StructureLaws
from keras_struct.ops.spanning_tree import precision_test
from keras_struct.ops.spanning_tree.cases import CASES
from keras_struct.ops.spanning_tree.gpu_plan import warps_for
from keras_struct.ops.spanning_tree.pallas_tpu_test import check, waiting_words
from keras_struct.ops.spanning_tree.triton_gpu import SpanningTreeTriton
from keras_struct.ops.testing import float64
from keras_struct.ops.triton_testing import ALL, NAME, interpreted, laws_of

interpreter = triton_testing.interpreter("spanning_tree")

if ALL:

    @pytest.mark.parametrize("case", laws_of(CASES), ids=str)
    class TestLaws(StructureLaws):
        pass


@pytest.mark.parametrize("single_root", [True, *[False] * ALL])
def test_words_that_must_wait_and_no_trees(single_root):
    with interpreted("spanning_tree", lines=4):
        check(NAME, *waiting_words(), single_root)


@pytest.mark.skipif(not ALL, reason="a minute in the interpreter; with GPU_TESTS=all")
@pytest.mark.parametrize("single_root", [True, False])
@pytest.mark.parametrize(("scale", "temperature"), precision_test.SCALES)
def test_cold_and_large_in_float32(scale, temperature, single_root):
    precision_test.test_cold_and_large(scale, temperature, single_root, NAME)


@pytest.mark.skipif(not ALL, reason="a minute in the interpreter; with GPU_TESTS=all")
@pytest.mark.parametrize("single_root", [True, False])
@pytest.mark.parametrize("temperature", [1e-6, 1e-4])
def test_ties_beyond_the_precision(temperature, single_root):
    precision_test.test_ties_beyond_the_precision(temperature, single_root, NAME)


def test_compiled_for_batches_of_any_size():
    """One operator for each sweep, to second order."""

    def loss(arcs):
        d = ops.spanning_tree(arcs, implementation=NAME)
        return d.value().sum() + (d.marginals() ** 2).sum()

    rng = np.random.default_rng(0)
    triton_testing.check_compiled(loss, lambda n: [torch.tensor(rng.normal(size=(n, 2, 2)))])


@pytest.mark.skipif(not ALL, reason="seconds in the interpreter; with GPU_TESTS=all")
def test_vmap_equals_a_loop():
    def loss(arcs):
        return (ops.spanning_tree(arcs, implementation=NAME).marginals() ** 2).sum()

    arcs = torch.tensor(np.random.default_rng(0).normal(size=(2, 1, 4, 4)))
    triton_testing.check_vmap(loss, arcs)


@pytest.mark.parametrize("sweep", ["forward", *["backward"] * ALL])
def test_opcheck(sweep):
    d = ops.spanning_tree(np.zeros((2, 2, 2), "float32"), implementation=NAME)
    triton_testing.check_operator(d, sweep)


@pytest.mark.skipif(not ALL, reason="compiles for half a minute each; with GPU_TESTS=all")
@pytest.mark.parametrize("single_root", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_launch_compiles_for_a_gpu(single_root, dtype):
    with triton_testing.compiled("spanning_tree") as kernels:
        arcs = torch.zeros(2, 40, 40, dtype=getattr(torch, dtype))
        for temperature in (1, 0):
            d = ops.spanning_tree(arcs, None, None, single_root, temperature, implementation=NAME)
            d.value(), d.marginals()
    assert kernels == ["weigh", "forward", "weigh", "backward", "weigh", "forward"]


def test_chosen_on_a_gpu_and_says_why_not():
    arcs = np.zeros((1, 3, 3), "float32")
    with interpreted("spanning_tree", interpreter=False), ops.target("gpu"):
        choice = ops.spanning_tree(arcs).choice
    assert choice.name == NAME
    assert choice.by_portable == ("curvature", "trace", "sample", "topk")
    call = dataclasses.replace(choice.call, platform="gpu", exporting=False)
    kernel = SpanningTreeTriton()
    assert kernel.rejects(call) is None
    for facts, reason in (
        ({"backend": "jax"}, "the backend is jax"),
        ({"platform": "cpu"}, "the scores are on the cpu"),
        ({"exporting": True}, "torch.export"),
        ({"shapes": ((1, None, None),)}, "shapes that are known"),
        ({"shapes": ((1, 1025, 1025),)}, "1,024 words at most"),
    ):
        assert reason in kernel.rejects(dataclasses.replace(call, **facts))
    assert dispatch.choose(call).name == NAME


def test_reads_and_writes_only_its_arrays():
    """A last block of lines that is not full, and a place that changes with another."""
    arcs = torch.tensor(np.random.default_rng(0).normal(size=(1, 5, 5)))
    arcs[0, 4, :4] = -np.inf
    with float64(), triton_testing.bounded("spanning_tree", lines=2):
        ops.spanning_tree(arcs, implementation=NAME).marginals()


@pytest.mark.parametrize(("batch", "n", "warps"), [(4096, 64, 1), (256, 64, 8), (8, 20, 2)])
def test_warps_fill_a_device_and_have_work(batch, n, warps):
    assert warps_for(batch, n) == warps
