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
from collections.abc import Callable
from typing import Any, NamedTuple

import gpu_compile
import pinned

STEPS, BATCH = 256, 8
EVERY, ONE = tuple(gpu_compile.CHIPS), ("sm_90",)
BY_THREADS = "walk", "ends", "last_nodes"  # kernels in which a thread does a node in a turn


class Program(NamedTuple):
    """What is compiled.

    Attributes:
        name: Of the program.
        function: Of arrays.
        shapes, dtype: Of the arrays.
        cells: What a program does in a turn of its loop: nodes, links or ways of a step, cuts,
            pairs.
        bytes: Of memory for each of them, by the beginning of a kernel's name.
        chips: Where it is compiled.
        sweeps: Beginnings of the names of the kernels that are, all if empty.
    """

    name: str
    function: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    cells: int
    bytes: dict[str, float]
    chips: tuple[str, ...]
    sweeps: tuple[str, ...] = ()


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


def trees(arcs):
    """What calls every kernel of spanning trees."""
    from keras_struct import ops

    return ops.spanning_tree(arcs).marginals(), ops.spanning_tree(arcs, temperature=0).value()


def grammar(rules, terms, roots):
    """What calls every kernel of grammars."""
    import jax

    from keras_struct import ops

    def loss(*arrays):
        return (ops.pcfg(*arrays).marginals("rules") ** 2).sum()

    best = ops.pcfg(rules, terms, roots, temperature=0).value()
    return best, jax.grad(loss, (0, 1, 2))(rules, terms, roots)


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


def alignments():
    """At sizes of batches from which on strips are cut in another way."""
    from keras_struct import ops
    from keras_struct.ops.alignment import spec
    from keras_struct.ops.alignment.gpu_plan import Sizes

    some = "forward_logsumexp", "backward"

    def program(name, make, lattice, shapes, chips=ONE, sweeps=some):
        sizes = Sizes.of(lattice, *shapes[0])
        scores = sum(shape == shapes[0] for shape in shapes)
        message = 8 * lattice.states
        moved = {
            "forward": 4 * scores + message,
            "backward": 8 * scores + message,
            "tangent": 8 * scores + message / 2,
            "curvature": 12 * scores + 1.5 * message,
            "ends": 8,
            "last_nodes": 8,
            "walk": 4 + 12 * len(lattice.moves),
        }
        cells = sizes.lanes * sizes.rows
        return Program(name, readouts(make), shapes, "float32", cells, moved, chips, sweeps)

    linear = spec.alignment("global", affine=False, adjacent="any")
    affine = spec.alignment("global", affine=True, adjacent="any")
    local = spec.alignment("local", affine=True, adjacent="any")
    scores, gap, make = (1024, 255, 255), (1024,), ops.needleman_wunsch
    yield program("linear", make, linear, (scores, gap), EVERY, ())
    yield program("linear, a block a pair", make, linear, ((256, 511, 255), (256,)))
    yield program("linear, tiles", make, linear, ((8, 4095, 511), (8,)))
    yield program("affine", make, affine, (scores, gap, gap))
    more = (*some, "ends", "last_nodes", "walk")
    yield program("affine, local", ops.smith_waterman, local, (scores, gap, gap), ONE, more)
    yield program("dtw", ops.dtw, spec.DTW, (scores,))
    yield program("monotonic", ops.monotonic_alignment, spec.MONOTONIC, (scores,))
    yield program("osa", osa, spec.edit(swaps=True), (scores, scores, gap, gap))


def osa(costs, transposition, deletion, insertion):
    from keras_struct import ops

    return ops.osa(costs, transposition > 0, deletion, insertion, transposition)


def chains():
    """A way into a state, or a link, is what is counted as a cell."""
    import numpy as np

    from keras_struct import ops

    def program(name, make, shapes, cells, scores, rows, chips=EVERY, sweeps=()):
        moved = chain(scores, rows, max(cells, rows * rows) if sweeps else cells)
        return Program(name, readouts(make), shapes, "float32", cells, moved, chips, sweeps)

    for k in (16, 32):
        shapes: Any = (BATCH, STEPS, k), (k, k)
        yield program(f"linear_chain K={k}", ops.linear_chain, shapes, k * k, k, k)
    shapes = (BATCH, STEPS, 128), (128, 128)
    tiles = 16 * 32 * 8  # links of a tile, 16 of a thread
    many = "linear_chain K=128", ops.linear_chain, shapes, tiles, 128, 128
    yield program(*many, sweeps=("forward", "backward", "tangent", "walk"))
    yield program(*many, ("sm_80", "sm_90"), ("curvature",))  # sm_100 spills two registers
    shapes = (BATCH, STEPS, 8, 8), (8, 8)
    yield program("semi_markov K=8, D=8", ops.semi_markov, shapes, 128, 64, 8)
    labels = np.arange(1, 64, dtype="int32") + np.zeros((BATCH, 1), "int32")
    make = functools.partial(ops.ctc, labels=labels)
    yield program("ctc S=127", make, ((BATCH, STEPS, 64),), 3 * 127, 512, 128)
    make = functools.partial(ops.subset, k=63)
    yield program("subset k=63", make, ((BATCH, STEPS),), 2 * 64, 2, 64)


def grammars():
    """Of as many words as in `gpu_programs.py`; a rule of a span is what is counted as a cell."""
    from keras_struct.ops.pcfg.gpu_plan import Plan

    none_spills = "inside", "tangent"  # of 90 symbols; the others spill 2 and 10 registers
    for k, p, chips, sweeps in ((16, 16, EVERY, ()), (30, 60, ONE, none_spills)):
        s, (tile, parents) = k + p, Plan.sizes(k, p)
        of_span = 8 * (s + k) / (k * s**2)  # rules that the batch shares stay in caches
        moved = {"inside": of_span, "tangent": of_span + 4, "backward": of_span + 8}
        moved["curvature"] = of_span + 12
        name = f"pcfg K=P={k}" if k == p else f"pcfg K={k}, P={p}"
        shapes = (k, s, s), (16, 28, p), (k,)
        cells = parents * tile**2
        yield Program(name, grammar, shapes, "float32", cells, moved, chips, sweeps)


def programs():
    from keras_struct import ops

    yield from alignments()
    yield from chains()
    for name, triangles, products in (("cky", 2, 1), ("eisner", 7, 3), ("nussinov", 3, 1)):
        run, moved = readouts(getattr(ops, name)), chart(triangles, products, 63)
        yield Program(name, run, ((BATCH, 63, 63),), "float32", 512, moved, EVERY)
    # As in `gpu_programs.py`; weights come from XLA.
    moved = {"forward": 24 / 64, "backward": 8 + 32 / 64}
    yield Program("spanning_tree", trees, ((256, 64, 64),), "float32", 64 * 32, moved, EVERY)
    yield from grammars()
    tokens, moved = (1, 4096, 64), {"": 2 * 64 * 4 / 4096}
    newer = "sm_90", "sm_100"  # sm_80 spills a few registers
    for dtype, pairs in (("bfloat16", 128 * 64), ("float32", 64 * 32)):
        name, shapes = f"sinkhorn_tail {dtype}", (tokens,) * 3
        yield Program(name, attention, shapes, dtype, pairs, moved, newer)


def main():
    arguments = pinned.parser(__doc__, gpu_compile.CHIPS).parse_args()
    file = pinned.Pinned(gpu_compile.FIGURES, arguments.update, gpu_compile.LIBRARIES)
    worse = []
    for program in programs():
        if arguments.only not in program.name:
            continue
        kernels = kernels_of(program.function, program.shapes, program.dtype)
        for kernel, (code, warps, stages) in kernels.items():
            sweep = re.sub("^keras_struct_(spanning_tree|[a-z]+)_", "", kernel)
            if not sweep.startswith(program.sweeps or ("",)):
                continue
            name = f"Pallas, {program.name}: {sweep}"
            size = next(n for start, n in program.bytes.items() if sweep.startswith(start))
            cells = 1 if sweep.startswith(BY_THREADS) else program.cells / (32 * warps)
            facts = types.SimpleNamespace(warps=warps, cells=cells, bytes=round(size, 3))
            for chip in (x for x in program.chips if x in arguments.chips):
                compiled = compile_one(code, warps, stages, chip)
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
