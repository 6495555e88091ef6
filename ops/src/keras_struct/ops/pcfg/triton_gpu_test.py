"""The kernels of grammars for GPUs, by Triton's interpreter on CPU tensors.

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
from keras_struct.ops.laws import StructureLaws
from keras_struct.ops.pcfg import precision_test
from keras_struct.ops.pcfg.cases import CASES
from keras_struct.ops.pcfg.gpu_plan import Plan
from keras_struct.ops.pcfg.pallas_tpu_test import _case
from keras_struct.ops.pcfg.triton_gpu import PCFGTriton
from keras_struct.ops.testing import float64
from keras_struct.ops.triton_testing import ALL, NAME, check_readouts, interpreted, laws_of

interpreter = triton_testing.interpreter("pcfg", programs=1)
slow = pytest.mark.skipif(not ALL, reason="long in the interpreter; with GPU_TESTS=all")

if ALL:

    @pytest.mark.parametrize("case", laws_of(CASES), ids=str)
    class TestLaws(StructureLaws):
        pass


def test_readouts_equal_portable():
    """Also beyond the range of plain numbers, and with symbols that a sentence has no use of."""
    check_readouts(_case([3, 2, 0], 3, 2, 1))


@slow
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("sizes", "programs"), [((2, 1), 1), ((2, 2), 2), ((4, 2), 3)])
def test_across_tiles_of_symbols(shared, sizes, programs):
    """Of symbols that are parts and of parents; and several programs for the spans of a width."""
    with interpreted("pcfg", sizes=sizes, programs=programs):
        check_readouts(_case([5, 4, 2, 1, 0], 5, 3, 2, shared))


@slow
@pytest.mark.parametrize(("k", "p"), [(9, 10), (1, 3), (5, 1)])
def test_in_the_sizes_of_a_gpu(k, p):
    with interpreted("pcfg"):
        check_readouts(_case([7, 6, 3, 4], 7, k, p))


@slow
@pytest.mark.parametrize(("scale", "temperature"), precision_test.SCALES)
def test_cold_and_large_in_float32(scale, temperature):
    precision_test.test_cold_and_large(scale, temperature, NAME, n=6)


@slow
@pytest.mark.parametrize("temperature", [1e-6, 1e-4])
def test_ties_beyond_the_precision(temperature):
    precision_test.test_ties_beyond_the_precision(temperature, NAME, n=6)


def _potentials(batch, n, k, p, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (k, k + p, k + p), (batch, n, p), (k,)
    rules, terms, roots = (torch.tensor(rng.normal(size=shape)) for shape in shapes)
    return rules, terms, roots


@slow
def test_compiled_for_batches_of_any_size():
    """One operator for each sweep, to second order."""

    def loss(rules, terms, roots):
        d = ops.pcfg(rules, terms, roots, implementation=NAME)
        return d.value().sum() + (d.marginals("terms") ** 2).sum()

    with interpreted("pcfg"):
        triton_testing.check_compiled(loss, lambda batch: _potentials(batch, 3, 2, 1))


@slow
def test_vmap_equals_a_loop():
    def loss(terms):
        return (ops.pcfg(rules, terms, roots, implementation=NAME).marginals("terms") ** 2).sum()

    rules, terms, roots = _potentials(2, 3, 2, 1)
    triton_testing.check_vmap(loss, terms[:, None])


@pytest.mark.parametrize("sweep", ["forward", *["backward"] * ALL])
def test_opcheck(sweep):
    rules, terms, roots = _potentials(2, 2, 1, 1)
    triton_testing.check_operator(ops.pcfg(rules, terms, roots, implementation=NAME), sweep)


def _every_sweep(d):
    d.marginals("all"), d.argmax(), d.sample(1, 3)
    tangents = tuple(map(torch.ones_like, d.marginals("all").values()))
    d._sweeps.curvature(d._problem, d._soft[1], tangents)


@pytest.mark.skipif(not ALL, reason="compiles for half a minute each; with GPU_TESTS=all")
@pytest.mark.parametrize(("k", "p"), [(2, 1), (30, 60)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_launch_compiles_for_a_gpu(k, p, dtype):
    with triton_testing.compiled("pcfg", programs=None) as kernels:
        rules, terms, roots = (y.to(getattr(torch, dtype)) for y in _potentials(2, 4, k, p))
        _every_sweep(ops.pcfg(rules, terms, roots, implementation=NAME))
    assert set(kernels) == {"inside", "tangent", "down", "walk"}


def test_chosen_on_a_gpu_and_says_why_not():
    rules, terms, roots = (y.numpy().astype("float32") for y in _potentials(2, 4, 2, 1))
    with interpreted("pcfg", interpreter=False), ops.target("gpu"):
        choice = ops.pcfg(rules, terms, roots).choice
    assert (choice.name, choice.by_portable) == (NAME, ("topk",))
    call = dataclasses.replace(choice.call, platform="gpu", exporting=False)
    kernel = PCFGTriton()
    assert kernel.rejects(call) is None

    def of(n, k, p):
        return {"shapes": ((1, k, k + p, k + p), (2, n, p), (1, k))}

    for facts, reason in (
        ({"backend": "jax"}, "the backend is jax"),
        ({"platform": "cpu"}, "the scores are on the cpu"),
        ({"exporting": True}, "torch.export"),
        (of(None, 2, 1), "shapes that are known"),
        (of(40_000, 2, 1), "32,767 words at most"),
        (of(20_000, 30, 60), "2^30 numbers or more"),
        (of(40, 1000, 1000), "2^30 numbers or more"),
    ):
        assert reason in kernel.rejects(dataclasses.replace(call, **facts))
    assert dispatch.choose(call).name == NAME


def test_reads_and_writes_only_its_arrays():
    """Of every sweep with GPU_TESTS=all."""
    with float64(), triton_testing.bounded("pcfg", sizes=(2, 2), programs=2):
        rules, terms, roots = _potentials(1, 3, 3, 1)
        d = ops.pcfg(rules, terms, roots, implementation=NAME)
        d.marginals("all")
        if ALL:
            _every_sweep(d)


@pytest.mark.parametrize(
    ("k", "p", "sizes"), [(1, 1, (1, 1)), (3, 2, (4, 2)), (16, 16, (16, 2)), (30, 60, (32, 2))]
)
def test_tiles_have_symbols_of_one_kind(k, p, sizes):
    assert Plan.sizes(k, p) == sizes
    plan = Plan(k, p, *sizes)
    assert plan.words % plan.tile == 0 and plan.words >= k
    assert plan.symbols % plan.tile == 0 and plan.symbols - plan.words >= p
    assert plan.phrases <= plan.words


@pytest.mark.parametrize(
    ("batch", "n", "programs"), [(1, 28, 27), (16, 28, 16), (1000, 28, 1), (4, 1, 1), (0, 5, 4)]
)
def test_programs_fill_a_device_and_have_work(batch, n, programs):
    assert Plan(30, 60, 32, 2).programs(batch, n) == programs


def test_programs_have_room_for_what_rules_get():
    assert Plan(100, 200, 32, 2).programs(8, 100) == 2
