"""The kernels of alignments for GPUs, interpreted on any machine, and lowered for CUDA.

With GPU_TESTS=all (`make test-gpu`) every law of every case; else the readouts of a few.
"""

import dataclasses

import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops import dispatch, pallas_testing
from keras_struct.ops.alignment import alignment_test, cases, precision_test
from keras_struct.ops.alignment.gpu_plan import Sizes
from keras_struct.ops.alignment.spec import DAMERAU
from keras_struct.ops.laws import StructureLaws
from keras_struct.ops.pallas_testing import ALL_GPU, GPU, check_readouts, laws_of, lowered_for_gpu
from keras_struct.ops.testing import BACKEND, float64, tensor

pytestmark = pytest.mark.skipif(BACKEND != "jax", reason="Pallas is a part of JAX")
interpreter = pallas_testing.interpreter("alignment", name=GPU, sizes=Sizes(lanes=4, rows=2))

if ALL_GPU:

    @pytest.mark.parametrize(
        "case",
        [
            pytest.param(case, id=f"{name}-{case.name}")
            for name, group in cases.WITHOUT_JUMPS.items()
            for case in laws_of(group, ALL_GPU, GPU)
        ],
    )
    class TestLaws(StructureLaws):
        pass


@pytest.mark.skipif(not ALL_GPU, reason="all readouts; with GPU_TESTS=all")
@pytest.mark.parametrize("times", [None, 6])
@pytest.mark.parametrize("name", cases.ACROSS_STRIPS)
def test_across_strips_and_tiles(name, times):
    with pallas_testing.interpreted("alignment", name=GPU, sizes=Sizes(4, 2, times)):
        check_readouts(cases.ACROSS_STRIPS[name], GPU)


def _check(case, readouts):
    with float64():
        got, wanted = (case.read(readouts, implementation=name) for name in (GPU, "portable"))
    for x, y in zip(got, wanted, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9)


def test_second_order_and_the_best_path_across_strips():
    def readouts(d):
        tangents = [np.cos(np.arange(np.prod(x.shape))).reshape(x.shape) for x in d._marginals]
        curvature = d._sweeps.curvature(d._problem, d._soft[1], tuple(map(tensor, tangents)))
        return *curvature, d.argmax()

    _check(cases.ACROSS_STRIPS["dtw"], readouts)


def test_first_order_and_samples_of_tiles_in_several_launches():
    with pallas_testing.interpreted("alignment", name=GPU, sizes=Sizes(4, 1, times=6)):
        _check(
            cases.ACROSS_STRIPS["overlap"],
            lambda d: (d.value(), *d.marginals("all").values(), d.sample(1, 2)),
        )


@pytest.mark.skipif(not ALL_GPU, reason="programs of many sizes; with GPU_TESTS=all")
@pytest.mark.parametrize("name", precision_test.STRUCTURES)
def test_float32_at_every_temperature(name):
    precision_test.test_marginals_at_every_temperature(name, GPU)
    precision_test.test_second_order_at_cold_temperatures(name, GPU)


@pytest.mark.skipif(not ALL_GPU, reason="two programs; with GPU_TESTS=all")
def test_ties_of_sums_that_float32_cannot_hold():
    precision_test.test_ties_of_sums_that_float32_cannot_hold(GPU)


@pytest.mark.skipif(not ALL_GPU, reason="four programs; with GPU_TESTS=all")
def test_vmap_of_a_gradient_of_the_map():
    alignment_test.test_vmap_of_a_gradient_of_the_map(GPU)


@pytest.mark.skipif(not ALL_GPU, reason="two programs; with GPU_TESTS=all")
@pytest.mark.parametrize("name", ["dtw", "smith_waterman"])
def test_more_samples_than_a_program_walks(name):
    case = cases.ACROSS_STRIPS[name]
    with float64():
        got, wanted = (
            case.read(lambda d: d.sample(1, 35), implementation=name) for name in (GPU, "portable")
        )
    np.testing.assert_array_equal(got, wanted)


def _readouts(make):
    """All readouts, by which every kernel of the family is called; the best path and a derivative,
    if not everything is tested."""
    import jax

    def run(scores, *gaps):
        def loss(scores):
            d = make(scores, *gaps)
            return ((d.marginals() ** 2).sum() if ALL_GPU else 0.0) + d.value().sum()

        d = make(scores, *gaps)
        found = d.argmax(), jax.grad(loss)(scores)
        return (*found, d.sample(1, 3)) if ALL_GPU else found

    return run


FIRST = "forward_logsumexp", "forward_max", "backward", "walk_max"
SECOND = ("tangent", "curvature", "walk_logsumexp") if ALL_GPU else ()
PATHS = "ends_logsumexp", "ends_max", "last_nodes_logsumexp", "last_nodes_max"
GAPS = [(2, 9, 1), (2, 1, 7)]
LOWERED: dict[str, tuple] = {
    "dtw": (ops.dtw, [(2, 9, 7)], ()),
    "needleman_wunsch": (ops.needleman_wunsch, [(2, 9, 7), *GAPS], ()),
    "overlap": (ops.overlap, [(2, 9, 7), (2, 9, 7), ()], PATHS),
    "smith_waterman": (ops.smith_waterman, [(2, 9, 7), *GAPS], PATHS),
    "monotonic": (ops.monotonic_alignment, [(2, 9, 7)], ()),
}


@pytest.mark.parametrize("dtype", ["float32", *["float64"] * ALL_GPU])
@pytest.mark.parametrize("times", [None, *[32] * ALL_GPU])
@pytest.mark.parametrize("name", LOWERED if ALL_GPU else ["dtw"])
def test_lowered_for_a_gpu(name, times, dtype):
    make, shapes, paths = LOWERED[name]
    arrays = [np.zeros(shape, dtype) for shape in shapes]
    sizes = Sizes(32, 2 if ALL_GPU else 1, times)
    with pallas_testing.interpreted("alignment", name=GPU, sizes=sizes):
        text = lowered_for_gpu("alignment", _readouts(make), arrays)
    for sweep in (*FIRST, *SECOND, *paths):
        assert f"keras_struct_alignment_{sweep}" in text, sweep


def test_chosen_on_a_gpu():
    scores = np.zeros((1, 3, 4), "float32")
    with pallas_testing.uninterpreted("alignment"), ops.target("gpu"):
        choice = ops.smith_waterman(scores, -1.0).choice
    assert (choice.name, choice.by_portable) == (GPU, ("topk",))


def test_says_why_not():
    from keras_struct.ops.alignment.pallas_gpu import AlignmentGPU

    call = ops.needleman_wunsch(np.zeros((1, 3, 4), "float32"), -1.0, -0.5).choice.call
    call = dataclasses.replace(call, platform="gpu", exporting=False)
    kernel = AlignmentGPU()
    assert kernel.rejects(call) is None
    gap = (1, 1, 1)
    for facts, reason in (
        ({"backend": "torch"}, "the backend is torch"),
        ({"platform": "cpu"}, "the scores are on the cpu"),
        ({"exporting": True}, "a SavedModel may run anywhere"),
        ({"shapes": ((None, 3, 4), gap, gap)}, "shapes that are known"),
        ({"shapes": ((1, 40000, 40000), gap, gap)}, "too many to count in 32 bits"),
        ({"spec": DAMERAU}, "any earlier row"),
    ):
        assert reason in kernel.rejects(dataclasses.replace(call, **facts))
    long = dataclasses.replace(call, shapes=((1, 16384, 16384), gap, gap))
    assert kernel.rejects(long) is None
    assert dispatch.choose(call).name == GPU
