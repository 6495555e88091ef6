"""The kernels of grammars for GPUs, interpreted on any machine, and lowered for CUDA.

With GPU_TESTS=all (`make test-gpu`) every law of every case; else one program.
"""

import dataclasses

import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops import pallas_testing
from keras_struct.ops.laws import StructureLaws
from keras_struct.ops.pallas_testing import ALL_GPU, GPU, check_readouts, laws_of, lowered_for_gpu
from keras_struct.ops.pcfg import precision_test
from keras_struct.ops.pcfg.cases import CASES
from keras_struct.ops.pcfg.pallas_gpu import PCFGGPU
from keras_struct.ops.pcfg.pallas_tpu_test import _case
from keras_struct.ops.testing import BACKEND, float64

pytestmark = pytest.mark.skipif(BACKEND != "jax", reason="Pallas is a part of JAX")
interpreter = pallas_testing.interpreter("pcfg", name=GPU, programs=1)
slow = pytest.mark.skipif(not ALL_GPU, reason="several programs; with GPU_TESTS=all")


@slow
@pytest.mark.parametrize("case", laws_of(CASES, name=GPU), ids=str)
class TestLaws(StructureLaws):
    pass


@pytest.mark.parametrize(("programs", "every"), [(2, False), *[(1, True), (3, True)] * ALL_GPU])
def test_across_tiles_of_symbols(programs, every):
    """Of symbols that are parts and of parents; and several programs for the spans of a width."""
    case = _case([5, 4, 2, 1, 0], 5, 3, 2, shared=programs == 2)
    with pallas_testing.interpreted("pcfg", name=GPU, sizes=(2, 1), programs=programs):
        if every:
            check_readouts(case, GPU)
        with float64():
            got, wanted = (
                case.read(lambda d: (d.value(), d.marginals("all")), implementation=name)
                for name in (GPU, "portable")
            )
    np.testing.assert_allclose(got[0], wanted[0], rtol=1e-9)
    for name, p in wanted[1].items():
        np.testing.assert_allclose(got[1][name], p, rtol=1e-9, atol=1e-9)


@slow
@pytest.mark.parametrize(("k", "p"), [(9, 10), (1, 3), (5, 1)])
def test_in_the_sizes_of_a_gpu(k, p):
    with pallas_testing.interpreted("pcfg", name=GPU):
        check_readouts(_case([7, 6, 3, 4], 7, k, p), GPU)


@slow
@pytest.mark.parametrize("programs", [1, 2])
@pytest.mark.parametrize(("scale", "temperature"), precision_test.SCALES)
def test_cold_and_large_in_float32(scale, temperature, programs):
    with pallas_testing.interpreted("pcfg", name=GPU, sizes=(2, 2), programs=programs):
        precision_test.test_cold_and_large(scale, temperature, GPU, n=6)


@slow
@pytest.mark.parametrize("temperature", [1e-6, 1e-4])
def test_ties_beyond_the_precision(temperature):
    precision_test.test_ties_beyond_the_precision(temperature, GPU, n=6)


def _potentials(n, k, p, dtype="float32"):
    shapes = (k, k + p, k + p), (2, n, p), (k,)
    return [np.zeros(shape, dtype) for shape in shapes]


@pytest.mark.parametrize("programs", [None, *[1] * ALL_GPU])
@pytest.mark.parametrize("dtype", ["float32", *["float64"] * ALL_GPU])
def test_lowered_for_a_gpu(dtype, programs):
    """Second derivatives with GPU_TESTS=all."""
    import jax

    def loss(*x):
        return (ops.pcfg(*x).marginals("rules") ** 2).sum()

    def readouts(rules, terms, roots):
        found = (jax.grad(loss) if ALL_GPU else loss)(rules, terms, roots)
        return found, ops.pcfg(rules, terms, roots, temperature=0).value()

    with pallas_testing.interpreted("pcfg", name=GPU, programs=programs):
        text = lowered_for_gpu("pcfg", readouts, _potentials(4, 2, 1, dtype))
    sweeps = "inside_logsumexp", "inside_max", "backward"
    for sweep in (*sweeps, *["tangent", "curvature"] * ALL_GPU):
        assert f"keras_struct_pcfg_{sweep}" in text, sweep


def test_chosen_on_a_gpu_and_says_why_not():
    with pallas_testing.uninterpreted("pcfg"), ops.target("gpu"):
        choice = ops.pcfg(*_potentials(4, 2, 1)).choice
    assert (choice.name, choice.by_portable) == (GPU, ("trace", "sample", "topk"))
    call = dataclasses.replace(choice.call, exporting=False)
    kernel = PCFGGPU()
    assert kernel.rejects(call) is None

    def of(n, k, p):
        return {"shapes": ((1, k, k + p, k + p), (2, n, p), (1, k))}

    for facts, reason in (
        ({"backend": "torch"}, "the backend is torch"),
        ({"platform": "cpu"}, "the scores are on the cpu"),
        (of(None, 2, 1), "shapes that are known"),
        (of(40_000, 2, 1), "32,767 words at most"),
        (of(20_000, 30, 60), "2^30 numbers or more"),
        (of(40, 1000, 1000), "2^30 numbers or more"),
    ):
        assert reason in kernel.rejects(dataclasses.replace(call, **facts))
