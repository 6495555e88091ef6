"""The kernels of grammars for TPUs, interpreted on any machine.

With TPU_TESTS=all (`make test-tpu`) every law of every case; else one program.
"""

import dataclasses

import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops import dispatch, pallas_testing
from keras_struct.ops.law_cases import Case
from keras_struct.ops.laws import StructureLaws
from keras_struct.ops.pallas_testing import ALL, NAME, check_readouts, laws_of
from keras_struct.ops.pcfg import precision_test
from keras_struct.ops.pcfg.cases import CASES
from keras_struct.ops.testing import BACKEND, float64

pytestmark = pytest.mark.skipif(BACKEND != "jax", reason="Pallas is a part of JAX")
interpreter = pallas_testing.interpreter("pcfg", sizes=(1, 2, 1))
slow = pytest.mark.skipif(not ALL, reason="several programs; with TPU_TESTS=all")


@slow
@pytest.mark.parametrize("case", laws_of(CASES), ids=str)
class TestLaws(StructureLaws):
    pass


def _case(lengths, n, k, p, shared=False):
    """Random scores, those of the first example beyond the range of plain numbers. Phrases of the
    first symbol are right-branching; those of the last one begin with a word of the last
    preterminal, which is far below the others in the second example."""
    batch = len(lengths)
    lead = () if shared else (batch,)
    shapes = {"rules": (*lead, k, k + p, k + p), "terms": (batch, n, p), "roots": (*lead, k)}

    def potentials(rng):
        made = {key: rng.normal(size=shape) for key, shape in shapes.items()}
        made["terms"][0] *= 300
        made["terms"][1, :, -1] -= 150
        made["rules"][..., 0, 0, :] = -np.inf
        if k > 1:
            made["rules"][..., -1, :-1, :] = -np.inf
        if not shared:
            made["rules"][0] *= 300
        return made

    def build(potentials, **options):
        return ops.pcfg(**potentials, lengths=np.array(lengths, "int32"), **options)

    return Case("", build, potentials)


@pytest.mark.parametrize("shared", [True, *[False] * ALL])
def test_across_tiles_of_symbols(shared):
    """Of symbols that are left parts, of pairs and of parents; and parents beside a tile."""
    check_readouts(_case([5, 4, 2, 1, 0], 5, 3, 2, shared))


@slow
@pytest.mark.parametrize(("k", "p"), [(9, 10), (1, 3), (5, 1)])
def test_in_the_sizes_of_a_tpu(k, p):
    with pallas_testing.interpreted("pcfg"):
        check_readouts(_case([7, 6, 3, 4], 7, k, p))


def test_without_races_or_fresh_memory():
    """Of every kernel with TPU_TESTS=all."""
    case = _case([3, 0], 3, 1, 1)
    with pallas_testing.interpreted("pcfg", strict=True, sizes=(1, 1, 1)):
        if ALL:
            check_readouts(case)
        with float64():
            got, wanted = (
                case.read(lambda d: (d.marginals("all"), d.sample(1)), implementation=name)
                for name in (NAME, "portable")
            )
    for name, p in wanted[0].items():
        np.testing.assert_allclose(got[0][name], p, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(got[1], wanted[1])


@slow
def test_more_examples_than_lanes_and_samples_than_fit():
    case = _case([4, *(n % 4 for n in range(129))], 4, 2, 1)
    check_readouts(case)
    with float64():
        got, wanted = (
            case.read(lambda d: d.sample(1, 19), implementation=name) for name in (NAME, "portable")
        )
    np.testing.assert_array_equal(got, wanted)


@slow
@pytest.mark.parametrize(("scale", "temperature"), precision_test.SCALES)
def test_cold_and_large_in_float32(scale, temperature):
    precision_test.test_cold_and_large(scale, temperature, NAME)


@slow
@pytest.mark.parametrize("temperature", [1e-6, 1e-4])
def test_ties_beyond_the_precision(temperature):
    precision_test.test_ties_beyond_the_precision(temperature, NAME)


def _grammar(n, k, p):
    shapes = (1, k, k + p, k + p), (1, n, p), (1, k)
    return ops.pcfg(*(np.zeros(shape, "float32") for shape in shapes))


def test_chosen_on_a_tpu():
    with ops.target("tpu", "v5e"):
        choice = _grammar(4, 2, 1).choice
    assert (choice.name, choice.by_portable) == (NAME, ("topk",))


def test_says_why_not():
    with ops.target("tpu", "v5e"):
        call = _grammar(4, 2, 1).choice.call
    call = dataclasses.replace(call, exporting=False)
    kernel = dispatch.candidates("pcfg")[NAME]

    def reason(n, k, p, kind="v5e"):
        shapes = ((1, k, k + p, k + p), (128, n, p), (1, k))
        return kernel.rejects(dataclasses.replace(call, shapes=shapes, device_kind=kind))

    assert reason(29, 20, 20) is None and reason(60, 10, 10) is None
    assert "MB of VMEM, of which there are 58" in reason(29, 20, 20, "TPU v5p")
    assert "too few for so many rules" in reason(40, 30, 60)
