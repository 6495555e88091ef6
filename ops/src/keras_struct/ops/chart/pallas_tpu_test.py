"""The kernels of charts for TPUs, interpreted on any machine.

With TPU_TESTS=all (`make test-tpu`) every law of every case; else one program of readouts for some.
"""

import dataclasses

import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops import dispatch, pallas_testing
from keras_struct.ops.chart import precision_test
from keras_struct.ops.chart.cky.cases import CASES as CKY
from keras_struct.ops.chart.eisner.cases import CASES as EISNER
from keras_struct.ops.chart.nussinov.cases import CASES as NUSSINOV
from keras_struct.ops.law_cases import Case
from keras_struct.ops.laws import ReadoutLaws, StructureLaws
from keras_struct.ops.pallas_testing import ALL, NAME, check_readouts, laws_of
from keras_struct.ops.testing import BACKEND, float64

pytestmark = pytest.mark.skipif(BACKEND != "jax", reason="Pallas is a part of JAX")
interpreter = pallas_testing.interpreter("chart", sizes=(8, 2))
Laws = StructureLaws if ALL else ReadoutLaws
CASES = {"cky": CKY, "eisner": EISNER, "nussinov": NUSSINOV}
SOME = ("nussinov-forbidden",)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{name}-{case.name}")
        for name, cases in CASES.items()
        for case in laws_of(cases)
        if "splits" not in case.arrays() and (ALL or f"{name}-{case.name}" in SOME)
    ],
)
class TestLaws(Laws):  # type: ignore[misc, valid-type]
    pass


def _case(function, shape, lengths, **options):
    """A case of random scores, those of the first example beyond the range of plain numbers."""

    def potentials(rng):
        scores = rng.normal(size=shape)
        scores[0] *= 1000
        return {"scores": scores}

    def build(potentials, **more):
        return function(potentials["scores"], lengths=lengths, **options, **more)

    return Case("", build, potentials)


LENGTHS = np.array([11, 9, 1, 0], "int32")
ACROSS_BLOCKS = {
    "cky": _case(ops.cky, (4, 11, 11), LENGTHS),
    "eisner": _case(ops.eisner, (4, 11, 11), LENGTHS),
    "eisner_of_many_roots": _case(ops.eisner, (4, 11, 11), LENGTHS, single_root=False),
    "nussinov": _case(ops.nussinov, (4, 11, 11), LENGTHS, min_loop=1),
}


@pytest.mark.parametrize("name", ACROSS_BLOCKS if ALL else ["eisner"])
def test_across_blocks_of_starts_and_cuts(name):
    check_readouts(ACROSS_BLOCKS[name])


@pytest.mark.skipif(not ALL, reason="a program for each; with TPU_TESTS=all")
@pytest.mark.parametrize("name", ACROSS_BLOCKS)
def test_in_the_sizes_of_a_tpu(name):
    with pallas_testing.interpreted("chart"):
        check_readouts(ACROSS_BLOCKS[name])


@pytest.mark.parametrize("name", ["cky", *["eisner", "nussinov"] * ALL])
def test_without_races_or_fresh_memory(name):
    case = _case(getattr(ops, name), (2, 2, 2), np.array([2, 0], "int32"))
    with pallas_testing.interpreted("chart", strict=True, sizes=(8, 1)):
        check_readouts(case)


@pytest.mark.skipif(not ALL, reason="a program; with TPU_TESTS=all")
def test_more_examples_than_lanes_and_samples_than_fit():
    case = _case(ops.cky, (130, 3, 3), np.arange(130, dtype="int32") % 4)
    check_readouts(case)
    with float64():
        got, wanted = (
            case.read(lambda d: d.sample(1, 19), implementation=name) for name in (NAME, "portable")
        )
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.skipif(not ALL, reason="programs of 24 words; with TPU_TESTS=all")
@pytest.mark.parametrize("name", precision_test.STRUCTURES)
@pytest.mark.parametrize(("scale", "temperature"), precision_test.SCALES)
def test_cold_and_large_in_float32(name, scale, temperature):
    precision_test.test_cold_and_large(name, scale, temperature, NAME)


@pytest.mark.skipif(not ALL, reason="programs of 24 words; with TPU_TESTS=all")
@pytest.mark.parametrize("name", precision_test.STRUCTURES)
def test_ties_beyond_the_precision(name):
    precision_test.test_ties_beyond_the_precision(name, NAME)


def test_chosen_on_a_tpu():
    with ops.target("tpu", "v5e"):
        choice = ops.cky(np.zeros((1, 3, 3), "float32")).choice
    assert (choice.name, choice.by_portable) == (NAME, ("topk",))


def test_says_why_not():
    from keras_struct.ops.chart.pallas_tpu import ChartTPU

    call = ops.cky(np.zeros((1, 3, 3), "float32")).choice.call
    call = dataclasses.replace(call, platform="tpu", device_kind="v5e", exporting=False)
    splits = next(case for case in CKY if "splits" in case.arrays()).call()
    splits = dataclasses.replace(splits, platform="tpu", exporting=False)
    long = dataclasses.replace(call, shapes=((1, 160, 160),))
    kernel = ChartTPU()
    assert kernel.rejects(call) is None and kernel.rejects(long) is None
    assert "no scores of splits" in kernel.rejects(splits)
    assert "the backend is torch" in kernel.rejects(dataclasses.replace(call, backend="torch"))
    for kind in ("TPU v5p", "TPU v4", None):
        elsewhere = dataclasses.replace(long, device_kind=kind)
        assert "MB of VMEM" in kernel.rejects(elsewhere)
        assert dispatch.choose(elsewhere).name == "portable"
