"""The laws for Pallas kernels, interpreted on any machine.

A test module of a kernel reads

    interpreter = pallas_testing.interpreter("alignment", rows=8, times=16)

    @pytest.mark.parametrize("case", pallas_testing.laws_of(CASES), ids=str)
    class TestNeedlemanWunsch(StructureLaws): ...

With TPU_TESTS=all, `laws_of` lists every case (`make test-tpu`); else the core cases. Kernels for
GPUs are tested in the same way by `name=GPU`, with GPU_TESTS=all.
"""

import contextlib
import dataclasses
import os

import pytest

from keras_struct import ops
from keras_struct.ops import dispatch
from keras_struct.ops.testing import implemented_by

ALL = os.environ.get("TPU_TESTS") == "all"
NAME = "pallas_tpu"
ALL_GPU = os.environ.get("GPU_TESTS") == "all"
GPU = "pallas_gpu"


@contextlib.contextmanager
def interpreted(family, strict=False, name=NAME, **attributes):
    """Within this context the kernel of a family runs interpreted, see `PallasTPU.interpreted`; a
    strict interpreter, of TPUs only, may find no race."""
    import jax

    kernel = dispatch.candidates(family)[name]
    copy = kernel.interpreted(**({"strict": True} if strict else {}), **attributes)
    wide = jax.config.jax_enable_x64
    # Not as a context: the interpreter calls back from other threads.
    jax.config.update("jax_enable_x64", True)
    try:
        with implemented_by(family, name, copy):
            yield copy
        if strict:
            assert not races_found(), "two grid steps or copies touched the same memory"
    finally:
        jax.config.update("jax_enable_x64", wide)


def uninterpreted(family):
    """Within this context the kernel of a family for GPUs is as it was before `interpreted`."""
    return interpreted(family, name=GPU, interpreter=None)


def lowered_for_gpu(family, function, arrays):
    """The program of a function, made for GPUs of NVIDIA, on any machine."""
    import jax

    with uninterpreted(family), ops.target("gpu"):
        lowered = jax.jit(function).trace(*arrays).lower(lowering_platforms=("cuda",))
    return lowered.as_text()


def races_found():
    """Whether the strict interpreter has found any since this process began."""
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call

    found = interpret_pallas_call.races
    return found is not None and found.races_found


def interpreter(family, **attributes):
    """A fixture: every test of the module runs within `interpreted`."""

    @pytest.fixture(autouse=True, scope="module")
    def run():
        with interpreted(family, **attributes):
            yield

    return run


def laws_of(cases, every=ALL, name=NAME):
    """Cases through the kernel: all of them, or the core ones."""
    return [dataclasses.replace(case, implementation=name) for case in cases if every or case.core]


def check_readouts(case, name=NAME):
    """Assert that all readouts equal those of `portable`, in float64: samples and paths, too."""
    case.check_same(name, rtol=1e-9, atol=1e-9)
