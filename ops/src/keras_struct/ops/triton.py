"""What every Triton kernel for NVIDIA GPUs needs: when it may run, and how it is launched.

A kernel file (`triton_*.py` of an engine) imports Triton and is imported where it runs. On a GPU
Triton compiles a kernel; `interpreted` is the same kernel for tests on CPU tensors.

Under `torch.compile` a sweep is one operator (see `autodiff/torch_operator.py`), whose results are
allocated as ever where tensors have no values, and only the launches are left out. Under
`torch.func` a sweep is a function with a rule, which folds a mapped axis into the batch.
"""

import contextlib
import copy
import dataclasses
import functools
import importlib
import importlib.util
import sys
import types

from keras_struct.ops.implementation import Implementation

# Modules of kernels and of what they call, in the order in which they import each other.
KERNELS = (
    "keras_struct.ops.triton_math",
    "keras_struct.ops.triton_scaled",
    "keras_struct.ops.alignment.triton_strip",
    "keras_struct.ops.alignment.triton_sweeps",
    "keras_struct.ops.alignment.triton_paths",
    "keras_struct.ops.chain.triton_step",
    "keras_struct.ops.chain.triton_tiles",
    "keras_struct.ops.chain.triton_sweeps",
    "keras_struct.ops.chain.triton_paths",
    "keras_struct.ops.chart.triton_chart",
    "keras_struct.ops.chart.triton_sweeps",
    "keras_struct.ops.chart.triton_paths",
    "keras_struct.ops.pcfg.triton_pairs",
    "keras_struct.ops.pcfg.triton_sweeps",
    "keras_struct.ops.pcfg.triton_paths",
    "keras_struct.ops.spanning_tree.triton_sweeps",
    "keras_struct.ops.transport.triton_tiles",
)


class TritonGPU(Implementation):
    """Sweeps by Triton kernels, for PyTorch.

    Attributes:
        interpreter: Whether Triton's interpreter runs the kernels, on CPU tensors.
        free_axes: First axes whose sizes need not be known.
    """

    interpreter = False
    free_axes = 1
    traceable = False

    def rejects(self, call):
        if call.backend != "torch":
            return f"it is written in Triton, for PyTorch, and the backend is {call.backend}"
        if not self.interpreter and call.platform != "gpu":
            return f"it runs on a GPU, and the scores are on the {call.platform}"
        if not _installed():
            return "Triton is not installed (pip install triton)"
        if call.exporting or (call.traced and not (call.opaque or call.mapped)):
            return "it needs tensors with values (no torch.export, torch.jit)"
        if any(size is None for shape in call.shapes for size in shape[self.free_axes :]):
            return "it needs shapes that are known" + ", but for the batch" * (self.free_axes == 1)
        return None

    def interpreted(self, **attributes):
        """A copy that Triton's interpreter runs, on CPU tensors.

        Args:
            **attributes: Attributes of the copy, such as smaller tiles.
        """
        other = copy.copy(self)
        other.interpreter = True
        for name, value in attributes.items():
            setattr(other, name, value)
        return other

    def launch(self, module, name, grid, *arguments, warps=4, stages=1, **constants):
        """Run a kernel on the device of its first tensor.

        Args:
            module: Its module, without the package.
            name: Its name.
            grid: Numbers of programs.
            *arguments: Its tensors (or tuples of them) and numbers.
            warps: Warps of a program.
            stages: How many turns of its loops are fetched ahead; 1 where loops store anything.
            **constants: What it is compiled for.
        """
        import torch
        from torch._subclasses.fake_tensor import FakeTensor

        first = arguments[0][0] if isinstance(arguments[0], tuple) else arguments[0]
        if isinstance(first, FakeTensor) or 0 in grid:
            return
        kernel = getattr(kernels(f"keras_struct.ops.{module}", self.interpreter), name)
        device = torch.cuda.device(first.device) if first.is_cuda else contextlib.nullcontext()
        with device:
            kernel[grid](*arguments, **constants, **options(warps, stages))


def options(warps, stages=1):
    """How kernels are compiled: with one stage nothing is read before what an earlier turn of a
    loop has stored; sums of products may be fused, since no exact sum has a product."""
    return {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}


def keys_of(draws, like, count):
    """Words of the keys of samples, (B, n, 2), for an example like those of `like`; zeros without
    draws."""
    import torch

    batch = like.shape[0]
    if draws is None:
        return like.new_zeros((batch, count, 2), dtype=torch.int32)
    return torch.stack(draws.key, 2).expand(batch, count, 2).contiguous()


@functools.cache
def _installed():
    return importlib.util.find_spec("triton") is not None


@functools.cache
def kernels(name, interpreted=False):
    """A module of kernels, compiled or interpreted: Triton decides it where a kernel is defined."""
    return _interpreted()[name] if interpreted else importlib.import_module(name)


@functools.cache
def _interpreted():
    """The kernels of all modules once more, interpreted with each other."""
    import triton
    from triton.runtime.interpreter import interpreter_builder

    # Else each sum of integers is three, to look for an overflow.
    checks = dataclasses.replace(interpreter_builder.options, sanitize_overflow=False)
    interpreter_builder.options = checks
    compiled = {name: sys.modules.pop(name, None) for name in KERNELS}
    before = triton.knobs.runtime.interpret
    triton.knobs.runtime.interpret = True
    try:
        modules = {name: importlib.import_module(name) for name in KERNELS}
    finally:
        triton.knobs.runtime.interpret = before
        for name, module in compiled.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module
    return {name: _called_directly(module) for name, module in modules.items()}


def _called_directly(module):
    """The interpreted functions of a module, which from now on call each other as Python does:
    Triton's interpreter would prepare itself anew at each call."""
    from triton.runtime.interpreter import InterpretedFunction

    found = {key: x for key, x in vars(module).items() if isinstance(x, InterpretedFunction)}
    for key, function in found.items():
        setattr(module, key, function.rewrite())
    return types.SimpleNamespace(**found)
