"""The laws for Pallas kernels, interpreted on any machine.

A test module of a kernel reads

    interpreter = pallas_testing.interpreter("alignment", rows=8, times=16)

    @pytest.mark.parametrize("case", pallas_testing.laws_of(CASES), ids=str)
    class TestNeedlemanWunsch(StructureLaws): ...

With TPU_TESTS=all, `laws_of` lists every case (`make test-tpu`); else the core cases.
"""

import contextlib
import dataclasses
import os

import pytest

from keras_struct.ops import dispatch

ALL = os.environ.get("TPU_TESTS") == "all"
NAME = "pallas_tpu"


@contextlib.contextmanager
def interpreted(family, strict=False, **attributes):
    """Within this context the kernel of a family runs interpreted, see `PallasTPU.interpreted`; a
    strict interpreter may find no race."""
    import jax

    names = list(dispatch.candidates(family))
    after = names[names.index(NAME) + 1]
    kernel = dispatch.candidates(family)[NAME]
    copy = kernel.interpreted(strict=strict, **attributes)
    wide = jax.config.jax_enable_x64
    # Not as a context: the interpreter calls back from other threads.
    jax.config.update("jax_enable_x64", True)
    dispatch.register_implementation(family, NAME, copy, before=after)
    try:
        yield copy
        if strict:
            assert not races_found(), "two grid steps or copies touched the same memory"
    finally:
        jax.config.update("jax_enable_x64", wide)
        dispatch.register_implementation(family, NAME, kernel, before=after)


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


def laws_of(cases, every=ALL):
    """Cases through the kernel: all of them, or the core ones."""
    return [dataclasses.replace(case, implementation=NAME) for case in cases if every or case.core]


def check_readouts(case):
    """Assert that all readouts equal those of `portable`, in float64: samples and paths, too."""
    case.check_same(NAME, rtol=1e-9, atol=1e-9)
