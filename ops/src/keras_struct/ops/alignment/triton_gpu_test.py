"""The kernels of alignments for GPUs, by Triton's interpreter on CPU tensors.

With GPU_TESTS=all (`make test-gpu`) every law of every case; else the readouts of a few.
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
from keras_struct.ops.alignment import cases, precision_test
from keras_struct.ops.alignment.gpu_plan import Sizes
from keras_struct.ops.alignment.spec import DAMERAU, DTW, alignment
from keras_struct.ops.alignment.triton_gpu import AlignmentTriton
from keras_struct.ops.laws import StructureLaws
from keras_struct.ops.triton_testing import ALL, NAME, check_readouts, interpreted, laws_of

interpreter = triton_testing.interpreter("alignment", sizes=Sizes(lanes=4, rows=2))

if ALL:

    @pytest.mark.parametrize(
        "case",
        [
            pytest.param(case, id=f"{name}-{case.name}")
            for name, group in cases.WITHOUT_JUMPS.items()
            for case in laws_of(group)
        ],
    )
    class TestLaws(StructureLaws):
        pass


USUAL = ("osa", "smith_waterman")


@pytest.mark.parametrize("name", cases.ACROSS_STRIPS if ALL else USUAL)
def test_across_strips(name):
    check_readouts(cases.ACROSS_STRIPS[name])


@pytest.mark.parametrize("name", cases.ACROSS_STRIPS if ALL else ["needleman_wunsch"])
def test_tiles_in_several_launches(name):
    with interpreted("alignment", sizes=Sizes(lanes=4, rows=2, times=6)):
        check_readouts(cases.ACROSS_STRIPS[name])


@pytest.mark.skipif(not ALL, reason="minutes in the interpreter; with GPU_TESTS=all")
@pytest.mark.parametrize("name", precision_test.STRUCTURES)
def test_float32_at_every_temperature(name):
    precision_test.test_marginals_at_every_temperature(name, NAME)
    precision_test.test_second_order_at_cold_temperatures(name, NAME)


def test_ties_of_sums_that_float32_cannot_hold():
    precision_test.test_ties_of_sums_that_float32_cannot_hold(NAME)


@pytest.mark.parametrize("sizes", [None, Sizes(lanes=4, rows=2, times=6)])
def test_both_sides_of_the_range_of_whole_numbers(sizes):
    """All paths of a pair have about the same score, so each digit of a sum decides."""
    rng = np.random.default_rng(0)
    skip = np.array([0.0, -3e5, 5e5, 7e6, 1e7, 1e9])[:, None, None]  # in range: the first three
    scores = (2 * skip + rng.normal(size=(6, 4, 3))).astype("float32")
    gap = skip.astype("float32")
    scores[0, 1, 1] = -np.inf

    def readouts(implementation, dtype):
        x = torch.tensor(scores, dtype=dtype), torch.tensor(gap, dtype=dtype)
        d = ops.needleman_wunsch(*x, implementation=implementation)
        return d.value().numpy(), d.marginals().numpy()

    with interpreted("alignment", sizes=sizes):
        value, marginals = readouts(NAME, torch.float32)
    exact_value, exact = readouts("portable", torch.float64)
    np.testing.assert_allclose(value, exact_value, rtol=2e-7, atol=1e-6)
    np.testing.assert_allclose(marginals, exact, atol=2e-6)


def test_compiled_for_batches_of_any_size():
    """One operator for each sweep, whose results are known without running it."""

    def loss(costs):
        return ops.dtw(costs, temperature=0.7, implementation=NAME).value().sum()

    rng = np.random.default_rng(0)
    triton_testing.check_compiled(loss, lambda n: [torch.tensor(rng.normal(size=(n, 2, 2)))])


@pytest.mark.parametrize("sweep", ["forward", "backward"])
def test_opcheck(sweep):
    d = ops.dtw(np.zeros((2, 3, 2), "float32"), implementation=NAME)
    triton_testing.check_operator(d, sweep)


def _every_sweep(d):
    x = d.marginals("all")
    d._sweeps.curvature(d._problem, d._soft[1], tuple(map(torch.ones_like, d._marginals)))
    return x, d.value(), d.argmax(), d.sample(1, 3)


@pytest.mark.parametrize("sizes", [None, Sizes(lanes=64, rows=2, times=64)] if ALL else [None])
def test_every_launch_compiles_for_a_gpu(sizes):
    gaps = torch.tensor(-1.0), torch.zeros(2, 1, 40)
    with triton_testing.compiled("alignment", sizes=sizes) as kernels:
        _every_sweep(ops.smith_waterman(torch.zeros(2, 150, 40), *gaps))
    assert set(kernels) == {"forward", "backward", "ends", "last_nodes", "walk"}


def test_chosen_on_a_gpu():
    scores = np.zeros((1, 3, 4), "float32")
    with interpreted("alignment", interpreter=False), ops.target("gpu"):
        choice = ops.smith_waterman(scores, -1.0).choice
    assert (choice.name, choice.by_portable) == (NAME, ("topk",))


def test_says_why_not():
    call = ops.needleman_wunsch(np.zeros((1, 3, 4), "float32"), -1.0, -0.5).choice.call
    call = dataclasses.replace(call, platform="gpu")
    kernel = AlignmentTriton()
    assert kernel.rejects(call) is None
    gap = (1, 1, 1)
    for facts, reason in (
        ({"backend": "jax"}, "the backend is jax"),
        ({"platform": "cpu"}, "the scores are on the cpu"),
        ({"exporting": True}, "torch.export"),
        ({"traced": True}, "needs tensors with values"),
        ({"shapes": ((1, None, 4), gap, gap)}, "shapes that are known"),
        ({"spec": DAMERAU}, "any earlier row"),
    ):
        assert reason in kernel.rejects(dataclasses.replace(call, **facts))
    unknown = dataclasses.replace(call, shapes=((None, 3, 4), gap, gap), traced=True, opaque=True)
    assert kernel.rejects(unknown) is None
    assert dispatch.choose(dataclasses.replace(call, platform="gpu")).name == NAME


@pytest.mark.parametrize("spec", [DTW, alignment("global", affine=True, adjacent="any")])
@pytest.mark.parametrize("batch", [1, 200, 4000])
@pytest.mark.parametrize("rows", [1, 40, 512, 5000])
def test_strips_hold_every_row_and_little_more(spec, batch, rows):
    sizes = Sizes.of(spec, batch, rows, 300)
    strips = -(-(rows + 1) // (sizes.lanes * sizes.rows))
    assert sizes.lanes * sizes.rows * strips < rows + 1 + sizes.lanes * strips
    assert sizes.rows <= 8 // spec.states
    assert (sizes.lanes == 32) == (batch == 4000 or rows == 40 or rows == 1)
    assert sizes.times is None or sizes.times >= sizes.lanes
    assert (sizes.times is not None) == (batch == 1 and rows == 5000)
