"""Compiles the Pallas kernels for GPUs by the real compilers, as `gpu_compile.py` does Triton's.

    python ci/gpu_pallas.py [--update] [--chips sm_80 sm_90 sm_100] [--only WORD]

JAX lowers a program for CUDA on any machine; the Triton code of its kernels is taken on the way and
compiled by Triton, without a GPU. Figures are pinned in `gpu_figures.json`, too.
"""

import functools
import json
import os
import re
import sys
import tempfile
import types
from typing import Any

import gpu_compile
import pinned

STEPS, BATCH = 256, 8


def kernels_of(function, shapes, dtype):
    """Triton code and number of warps of every kernel in a function of arrays, by name."""
    import jax
    from jax._src.pallas.triton import lowering

    from keras_struct import ops

    modules, lower = {}, lowering.lower_jaxpr_to_triton_module

    def kept(*arguments, **options):
        found = lower(*arguments, **options)
        code = found.module.operation.get_asm(enable_debug_info=False)
        (name,) = re.findall(r"tt\.func public @(\w+)", code)
        modules[name] = code
        return found

    lowering.lower_jaxpr_to_triton_module = kept
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    try:
        with ops.target("gpu"):
            traced = jax.jit(function).trace(*arrays)
            text = traced.lower(lowering_platforms=("cuda",)).as_text()
    finally:
        lowering.lower_jaxpr_to_triton_module = lower
    calls = re.finditer(r'name = "(\w+)".*?num_stages = (\d+).*?num_warps = (\d+)', text)
    return {m[1]: (modules[m[1]], int(m[3]), int(m[2])) for m in calls}


def compile_one(code, warps, stages, chip):
    import triton
    from triton.backends.compiler import GPUTarget

    with tempfile.NamedTemporaryFile("w", suffix=".ttir") as file:
        file.write(code)
        file.flush()
        target = GPUTarget("cuda", gpu_compile.CHIPS[chip], 32)
        options = {"num_warps": warps, "num_stages": stages}
        return triton.compile(file.name, target=target, options=options)


def readouts(make):
    """What calls every kernel of a structure."""

    def run(*arrays):
        import jax

        def loss(*arrays):
            d = make(*arrays)
            return (d.marginals() ** 2).sum() + d.value().sum()

        d = make(*arrays)
        return d.argmax(), d.sample(1, 3), jax.grad(loss)(*arrays)

    return run


def attention(query, key, value):
    """The gradient of attention by transport."""
    import jax

    from keras_struct import ops

    def loss(query, key, value):
        return (ops.sinkhorn_tail(query, key, value, tail_steps=2).astype("float32") ** 2).sum()

    return jax.grad(loss, (0, 1, 2))(query, key, value)


def chain(scores, rows, cells):
    """Bytes of memory for each cell of a step, with so many numbers of scores and of messages."""
    moved = {
        "forward": 4 * scores + 8 * rows,
        "walk": 4 * scores + 8 * rows,
        "backward": 8 * scores + 8 * rows,
        "tangent": 8 * scores + 12 * rows,
        "curvature": 12 * scores + 12 * rows,
    }
    return {sweep: n / cells for sweep, n in moved.items()}


def chart(triangles, products, n):
    """Bytes for each cut: a chart goes through memory once for each sweep."""
    cuts = products * n / 3  # of a span
    moved = {
        "forward": 8 * triangles,
        "walk": 16 * cuts,
        "backward": 8 * triangles + 4 * products,
        "curvature": 12 * triangles + 8 * products,
    }
    return {sweep: n / cuts for sweep, n in moved.items()}


def programs():
    """Name, function, shapes, dtype, cells that a program does in a turn of its loop (links or ways
    of a step; cuts; pairs), bytes of memory for each by the beginning of a kernel's name, chips."""
    import numpy as np

    from keras_struct import ops

    shapes: Any
    every, one = tuple(gpu_compile.CHIPS), ("sm_90",)
    for k, chips in ((16, every), (32, one)):
        cells = k * k
        shapes = (BATCH, STEPS, k), (k, k)
        run = readouts(ops.linear_chain)
        yield f"linear_chain K={k}", run, shapes, "float32", cells, chain(k, k, cells), chips
    shapes, run = ((BATCH, STEPS, 8, 8), (8, 8)), readouts(ops.semi_markov)
    yield "semi_markov K=8, D=8", run, shapes, "float32", 128, chain(64, 8, 128), one
    labels = np.arange(1, 64, dtype="int32") + np.zeros((BATCH, 1), "int32")
    run = readouts(functools.partial(ops.ctc, labels=labels))
    shapes = ((BATCH, STEPS, 64),)
    yield "ctc S=127", run, shapes, "float32", 3 * 127, chain(512, 128, 3 * 127), one
    run = readouts(functools.partial(ops.subset, k=63))
    yield "subset k=63", run, ((BATCH, STEPS),), "float32", 2 * 64, chain(2, 64, 128), one
    for name, triangles, products in (("cky", 2, 1), ("eisner", 7, 3), ("nussinov", 3, 1)):
        run, shapes = readouts(getattr(ops, name)), ((BATCH, 63, 63),)
        yield name, run, shapes, "float32", 512, chart(triangles, products, 63), one
    for dtype, pairs in (("bfloat16", 128 * 64), ("float32", 64 * 32)):
        moved = {"": 2 * 64 * 4 / 4096}
        yield f"sinkhorn_tail {dtype}", attention, ((1, 4096, 64),) * 3, dtype, pairs, moved, one


def main():
    arguments = pinned.parser(__doc__, gpu_compile.CHIPS).parse_args()
    file = pinned.Pinned(gpu_compile.FIGURES, arguments.update, gpu_compile.LIBRARIES)
    worse = []
    for program, function, shapes, dtype, cells, moved, chips in programs():
        if arguments.only not in program:
            continue
        for kernel, (code, warps, stages) in kernels_of(function, shapes, dtype).items():
            sweep = kernel.removeprefix("keras_struct_").split("_", 1)[1]
            name = f"Pallas, {program}: {sweep}"
            size = next(n for start, n in moved.items() if sweep.startswith(start))
            for chip in (x for x in chips if x in arguments.chips):
                compiled = compile_one(code, warps, stages, chip)
                share = 1 if sweep.startswith("walk") else cells / (32 * warps)
                facts = types.SimpleNamespace(warps=warps, cells=share, bytes=round(size, 3))
                found = gpu_compile.figures(
                    compiled.asm["cubin"], compiled.metadata.shared, facts, chip
                )
                print(f"{chip} {name}: {json.dumps(found)}", file=sys.stderr, flush=True)
                before = file.replaces(chip, name, found)
                worse += gpu_compile.differences(f"{chip} {name}", found, before)
    return file.report(worse)


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "jax")
    sys.exit(main())
