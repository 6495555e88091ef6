"""The kernels of spanning trees for TPUs, interpreted on any machine.

With TPU_TESTS=all (`make test-tpu`) every law of every case; else one program.
"""

import dataclasses

import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops import dispatch, pallas_testing
from keras_struct.ops.laws import StructureLaws
from keras_struct.ops.pallas_testing import ALL, NAME, laws_of
from keras_struct.ops.spanning_tree import precision_test
from keras_struct.ops.spanning_tree.cases import CASES
from keras_struct.ops.testing import BACKEND, array, fast, float64

pytestmark = pytest.mark.skipif(BACKEND != "jax", reason="Pallas is a part of JAX")
interpreter = pallas_testing.interpreter("spanning_tree")
slow = pytest.mark.skipif(not ALL, reason="several programs; with TPU_TESTS=all")


@slow
@pytest.mark.parametrize("case", laws_of(CASES), ids=str)
class TestLaws(StructureLaws):
    pass


def readouts(implementation, arcs, lengths, single_root=True):
    def read(arcs):
        d, best = (
            ops.spanning_tree(
                arcs, None, lengths, single_root, temperature, implementation=implementation
            )
            for temperature in (0.7, 0)
        )
        return d.value(), d.marginals(), best.value()

    return map(array, fast(read)(arcs))


def check(name, *options):
    with float64():
        pairs = zip(readouts(name, *options), readouts("portable", *options), strict=True)
        for got, wanted in pairs:
            np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)


def waiting_words():
    """Numbers beyond the range of plain ones, words that wait, no trees; and lengths."""
    arcs = np.random.default_rng(0).normal(size=(7, 9, 9))
    arcs[0] *= 1000
    for word in (8, 7, 3):  # only the root is a head of the last; a chain to it
        arcs[1, word] = -np.inf
    arcs[1, 8, 8], arcs[1, 7, 8], arcs[1, 3, 7] = 1.0, 2.0, -3.0
    arcs[2, 3, :3] = arcs[2, 3, 4:] = arcs[2, 6, :6] = arcs[2, 6, 7:] = -np.inf  # both only roots
    arcs[3, 4] = -np.inf
    return arcs, np.array([9, 9, 9, 9, 5, 1, 0])


@pytest.mark.parametrize("single_root", [True, *[False] * ALL])
def test_words_that_must_wait_and_no_trees(single_root):
    """More columns than a register has."""
    check(NAME, *waiting_words(), single_root)


def test_without_races_or_fresh_memory():
    """The last word waits."""
    arcs = np.zeros((1, 2, 2))
    arcs[0, 1, 0] = -np.inf
    with pallas_testing.interpreted("spanning_tree", strict=True):
        check(NAME, arcs, np.array([2]))


@slow
def test_more_examples_than_lanes():
    arcs = np.random.default_rng(0).normal(size=(130, 3, 3))
    check(NAME, arcs, np.arange(130) % 4)


@slow
@pytest.mark.parametrize("single_root", [True, False])
@pytest.mark.parametrize(("scale", "temperature"), precision_test.SCALES)
def test_cold_and_large_in_float32(scale, temperature, single_root):
    precision_test.test_cold_and_large(scale, temperature, single_root, NAME)


@slow
@pytest.mark.parametrize("single_root", [True, False])
@pytest.mark.parametrize("temperature", [1e-6, 1e-4])
def test_ties_beyond_the_precision(temperature, single_root):
    precision_test.test_ties_beyond_the_precision(temperature, single_root, NAME)


def test_chosen_on_a_tpu():
    with ops.target("tpu", "v5e"):
        choice = ops.spanning_tree(np.zeros((1, 3, 3), "float32")).choice
    assert choice.name == NAME
    assert choice.by_portable == ("curvature", "trace", "sample", "topk")
    call = dataclasses.replace(choice.call, shapes=((1, 84, 84),), exporting=False)
    assert "enough for 83 words" in dispatch.candidates("spanning_tree")[NAME].rejects(call)
    call = dataclasses.replace(call, shapes=((1, 64, 64),), device_kind="TPU v5p")
    assert dispatch.candidates("spanning_tree")[NAME].rejects(call) is None
