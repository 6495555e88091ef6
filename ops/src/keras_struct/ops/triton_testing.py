"""The laws for Triton kernels, by Triton's interpreter on CPU tensors.

A test module of a kernel reads

    if triton_testing.MISSING:
        pytest.skip(triton_testing.MISSING, allow_module_level=True)

    interpreter = triton_testing.interpreter("alignment", sizes=Sizes(4, 2))

With GPU_TESTS=all (`make test-gpu`) every law of every case; else a few cases, for the interpreter
takes some 40 µs for each operation.
"""

import contextlib
import dataclasses
import importlib.util
import os

import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops import dispatch
from keras_struct.ops.testing import BACKEND, array, float64, implemented_by
from keras_struct.ops.triton import kernels, options

ALL = os.environ.get("GPU_TESTS") == "all"
NAME = "triton_gpu"


# Why a module cannot be tested here, or nothing.
MISSING = ""
if BACKEND != "torch":
    MISSING = "Triton kernels are for PyTorch"
elif importlib.util.find_spec("triton") is None:
    MISSING = "Triton is not installed (it exists for Linux)"


def interpreted(family, **attributes):
    """Within this context the kernel of a family runs interpreted, see `TritonGPU.interpreted`."""
    kernel = dispatch.candidates(family)[NAME].interpreted(**attributes)
    return implemented_by(family, NAME, kernel)


@contextlib.contextmanager
def compiled(family, **attributes):
    """Within this context the kernels of a family are compiled for a GPU (sm_90) as they are
    called, and not run; yields their names. There need not be a GPU."""
    from triton.runtime import driver

    names = []

    def launch(module, name, grid, *arguments, warps=4, stages=1, **constants):
        kernel = getattr(kernels(f"keras_struct.ops.{module}"), name)
        binary = kernel.warmup(*arguments, grid=grid, **constants, **options(warps, stages))
        assert binary.asm["cubin"]
        names.append(name)

    active = driver._active
    driver.set_active(_Driver())
    try:
        attributes |= {"interpreter": False, "launch": launch}
        with interpreted(family, **attributes), ops.target("gpu"):
            yield names
    finally:
        driver._active = active


@contextlib.contextmanager
def bounded(family, **attributes):
    """As `interpreted`; no kernel may read or write beside its arrays."""
    import torch
    from triton.runtime.interpreter import interpreter_builder as builder

    kernel = dispatch.candidates(family)[NAME].interpreted(**attributes)
    ranges: list[tuple[int, int]] = []

    def launch(module, name, grid, *arguments, **more):
        flat = [x for y in arguments for x in (y if isinstance(y, tuple) else (y,))]
        arrays = [x for x in flat if isinstance(x, torch.Tensor)]
        ranges[:] = [(x.data_ptr(), x.data_ptr() + x.nbytes) for x in arrays]
        kernel.launch(module, name, grid, *arguments, **more)

    def checked(function):
        def run(pointers, *rest):
            mask = rest[0 if function == builder_load else 1]
            places = pointers.data[mask.data]
            within = [(places >= first) & (places < end) for first, end in ranges]
            assert np.all(np.any(within, 0)), "an access beside all arrays"
            return function(pointers, *rest)

        return run

    builder_load, builder_store = builder.create_masked_load, builder.create_masked_store
    builder.create_masked_load = checked(builder_load)
    builder.create_masked_store = checked(builder_store)
    try:
        with interpreted(family, launch=launch, **attributes):
            yield
    finally:
        builder.create_masked_load, builder.create_masked_store = builder_load, builder_store


class _Driver:
    """What Triton asks of a GPU before it compiles for it."""

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=0):
        return 0


def interpreter(family, **attributes):
    """A fixture: every test of the module runs within `interpreted`."""

    @pytest.fixture(autouse=True, scope="module")
    def run():
        with interpreted(family, **attributes):
            yield

    return run


def laws_of(cases):
    """Cases through the kernel: all of them, or none."""
    return [dataclasses.replace(case, implementation=NAME) for case in cases if ALL]


def check_readouts(case):
    """Assert that all readouts equal those of `portable`, in float64: samples and paths, too."""
    case.check_same(NAME, rtol=1e-9, atol=1e-9)


def check_compiled(loss, make):
    """Assert that `torch.compile` takes a function of tensors as one graph, with its gradients, for
    batches of any size; `make(batch)` gives its arguments."""
    import torch

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch in (2, 3):
        args = [x.requires_grad_() for x in make(batch)]
        results = [(y, *torch.autograd.grad(y, args)) for y in (compiled(*args), loss(*args))]
        for found, wanted in zip(*results, strict=True):
            np.testing.assert_allclose(array(found), array(wanted), rtol=1e-9)


def check_vmap(loss, rows):
    """Assert that the gradients of a function at each of the rows are the same by `vmap`."""
    import torch

    with float64():
        found = torch.func.vmap(torch.func.grad(loss))(rows)
        wanted = torch.stack([torch.func.grad(loss)(x) for x in rows])
    np.testing.assert_allclose(array(found), array(wanted), rtol=1e-9)


def check_operator(d, sweep):
    """Assert that `torch.library.opcheck` passes for a sweep of a distribution."""
    import torch

    from keras_struct.ops.autodiff import torch_operator

    args = (d._problem,) if sweep == "forward" else (d._problem, d._soft[1])
    static = ("logsumexp",) if sweep == "forward" else ()
    tensors: list = []
    tree = torch_operator._flatten(args, tensors)
    key = torch_operator._key(torch_operator._Call(d._sweeps, sweep, static, tree))
    torch.library.opcheck(torch.ops.keras_struct.sweep, (key, tensors))
