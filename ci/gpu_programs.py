"""The kernels that `gpu_compile.py` compiles: what each is called with, and what it must move."""

import dataclasses
from typing import Any

from keras_struct.ops.alignment import spec as alignments
from keras_struct.ops.alignment.gpu_plan import PATHS, TIMES, Form, Plan, Sizes
from keras_struct.ops.chain.triton_gpu import Plan as ChainPlan
from keras_struct.ops.chart.cky import TREES
from keras_struct.ops.chart.eisner import projective_trees
from keras_struct.ops.chart.nussinov import PAIRINGS
from keras_struct.ops.chart.triton_gpu import MOST_CUTS, ChartTriton
from keras_struct.ops.chart.triton_plan import Plan as ChartPlan
from keras_struct.ops.gpu import power, warps_for
from keras_struct.ops.pcfg.triton_gpu import Plan as GrammarPlan
from keras_struct.ops.spanning_tree.gpu_plan import Plan as TreePlan
from keras_struct.ops.spanning_tree.gpu_plan import lines_of, width_of
from keras_struct.ops.transport.triton_gpu import PARTS, tile_for
from keras_struct.ops.transport.triton_gpu import Plan as TransportPlan

NUMBERS = "*fp32"


@dataclasses.dataclass(frozen=True)
class Program:
    """One kernel, for one structure and size.

    Attributes:
        name: Of the program.
        module: Of the kernel, in `keras_struct.ops`.
        kernel: Name of the kernel.
        signature: Types of its arguments by name, as Triton writes them.
        constants: What it is compiled for.
        warps: Warps of a program.
        cells: Cells of a lattice (or what else is counted) that one thread does in the hottest
            loop.
        bytes: Bytes that a cell must read and write in the GPU's memory.
        chips: Where it is compiled.
        products: Multiplications on tensor cores for each cell, in units of those of float16.
        stages: See `TritonGPU.launch`.
        aligned: Whether Triton is told that arrays begin at whole 16 bytes, as it is on a GPU.
    """

    name: str
    module: str
    kernel: str
    signature: dict[str, Any]
    constants: dict[str, Any]
    warps: int
    cells: float
    bytes: float
    chips: tuple[str, ...] = ("sm_90",)
    products: float = 0.0
    stages: int = 1
    aligned: bool = False


def programs():
    return [*_alignments(), *_chains(), *_charts(), *_grammars(), *_trees(), *_transport()]


def _grammars():
    every = ("sm_80", "sm_90", "sm_100")
    for kernel in ("forward", "maximum", "backward", "tangent", "curvature", "walk", "best"):
        yield _grammar("pcfg K=P=16", 16, 16, kernel, every)
        yield _grammar("pcfg K=30, P=60", 30, 60, kernel)


def _grammar(name, k, p, kernel, chips=("sm_90",), n=28):
    """A sweep of grammars; what is counted as a cell is a rule, of which a span has K S^2."""
    tile, parents = GrammarPlan.sizes(k, p)
    plan = GrammarPlan(k, p, tile, parents, shared=True, approximate=True)
    sweeps = {
        "inside": ("parts", "sums", "pairs", "rules", "lengths"),
        "tangent": ("parts", "sums", "pairs", "rules", "rates", "drules", "lengths"),
        "down": (
            "parts", "sums", "pairs", "rules", "rates", "drules", "starts", "dstarts", "got",
            "dgot", "out", "lengths",
        ),
        "walk": (
            "parts", "sums", "pairs", "rules", "lengths", "roots", "keys", "pending", "event",
        ),
    }  # fmt: skip
    entries = {"forward": "inside", "maximum": "inside", "backward": "down", "curvature": "down"}
    entries["best"] = "walk"
    entry = entries.get(kernel, kernel)
    whole = "lengths", "roots", "keys", "pending", "event"
    walks = entry == "walk"
    constants: dict[str, Any] = {"PLAN": plan}
    if entry == "inside":
        constants["HARD"] = kernel == "maximum"
    if entry == "down":
        constants["RATE"] = kernel == "curvature"
    if walks:
        constants |= {"NOISY": kernel == "walk", "BLOCK": power(n)}
    numbers = ("n",) if walks else ("n", "first", "last")
    signature = {x: "*i32" if x in whole else NUMBERS for x in sweeps[entry]}
    # Of a span its symbols, and what each rule of a sentence gets; rules that the batch shares stay
    # in caches.
    of_span = 8 * (plan.s + plan.k) / (plan.k * plan.s**2)
    moved = {"tangent": 4.0, "down": 12.0 if kernel == "curvature" else 8.0}
    return Program(
        f"{name}: {kernel}",
        "pcfg.triton_paths" if walks else "pcfg.triton_sweeps",
        entry,
        {**signature, **dict.fromkeys(numbers, "i32")},
        constants,
        plan.warps,
        plan.block * (1 if walks else plan.parents) / (32 * plan.warps),
        round(of_span + moved.get(entry, 0.0), 3),
        chips,
        aligned=True,
    )


def _charts():
    every = ("sm_80", "sm_90", "sm_100")
    kernels = ("forward", "maximum", "backward", "tangent", "curvature", "walk", "best")
    for kernel in kernels:
        yield _chart("cky", TREES, kernel, every)
    for kernel in kernels[:-1]:
        yield _chart("eisner", projective_trees(True), kernel)
        yield _chart("nussinov", PAIRINGS, kernel)


def _chart(name, spec, kernel, chips=("sm_90",), n=63):
    """A sweep of charts of n words; a cut is what is counted as a cell."""
    starts, cuts = ChartTriton.sizes
    walks = kernel in ("walk", "best")
    warps = 1 if walks else 4
    stride = ChartPlan.stride_of(n, cuts)
    plan = ChartPlan(spec, starts * warps, cuts, stride, approximate=True)
    sweeps = {
        "forward": ("tables", "products", "whole", "scores", "lengths"),
        "tangent": ("tables", "products", "tscores", "lengths", "rates", "drates"),
        "down": (
            "tables", "products", "lengths", "rates", "drates", "ratios", "dratios", "wrapped",
            "out",
        ),
        "walk": ("tables", "products", "lengths", "keys", "pending", "used"),
    }  # fmt: skip
    entries = {"maximum": "forward", "backward": "down", "curvature": "down", "best": "walk"}
    entry = entries.get(kernel, kernel)
    whole = "lengths", "keys", "pending", "used"
    constants: dict[str, Any] = {"PLAN": plan}
    if entry == "forward":
        constants["HARD"] = kernel == "maximum"
    if entry == "down":
        constants["RATE"] = kernel == "curvature"
    if walks:
        constants |= {"NOISY": kernel == "walk", "BLOCK": min(MOST_CUTS, power(n + 1))}
    cells = constants["BLOCK"] / 32 if walks else starts * 2 * cuts / 32
    # For each span, of which every table and every product has one number.
    tables, products, of_span = plan.table_count, plan.product_count, plan.product_count * n / 3
    moved = {
        "forward": 8 * tables + 8 * products,
        "tangent": 12 * tables + 12 * products,
        "backward": 8 * tables + 24 * products,
        "curvature": 12 * tables + 36 * products,
    }
    moved["maximum"], moved["walk"] = moved["forward"], 16 * of_span
    moved["best"] = moved["walk"]
    return Program(
        f"{name}: {kernel}",
        "chart.triton_paths" if walks else "chart.triton_sweeps",
        entry,
        {
            **{array: "*i32" if array in whole else NUMBERS for array in sweeps[entry]},
            "n": "i32",
        },
        constants,
        warps,
        cells,
        round(moved[kernel] / of_span, 3),
        chips,
        aligned=True,
    )


def _trees():
    for kernel in ("weigh", "forward", "maximum", "backward"):
        yield _tree(kernel)


def _tree(kernel, n=64, warps=8):
    """The elimination of n words; an arc at a step is what is counted as a cell."""
    plan = TreePlan(width_of(n), lines_of(n, warps), single_root=True, approximate=True)
    names = {
        "weigh": ("scores", "lengths", "matrix", "peaks"),
        "forward": ("lengths", "matrix", "pivots"),
        "backward": (
            "lengths", "matrix", "pivots", "swaps", "choice", "shares", "probability",
        ),
    }  # fmt: skip
    entry = {"maximum": "forward"}.get(kernel, kernel)
    whole = "lengths", "swaps"
    constants: dict[str, Any] = {"PLAN": plan}
    if entry == "forward":
        constants["HARD"] = kernel == "maximum"
    # Weights are read once for N^3 / 3 arcs; backward writes the share of each, and reads it again.
    moved = {"weigh": 12, "forward": 24 / n, "backward": 8 + 36 / n}
    return Program(
        f"spanning_tree: {kernel}",
        "spanning_tree.triton_sweeps",
        entry,
        {name: "*i32" if name in whole else NUMBERS for name in names[entry]} | {"n": "i32"},
        constants,
        warps,
        plan.lines * plan.width / (32 * warps),
        round(moved[entry], 3),
        ("sm_80", "sm_90", "sm_100"),
        aligned=True,
    )


def _transport():
    every = ("sm_80", "sm_90", "sm_100")
    for numbers in ("bfloat16", "float32"):
        yield _pass(numbers, "log_sums", every)
        yield _pass(numbers, "log_sums", band=True)
        yield _pass(numbers, "weighted_sums")
        yield _pass(numbers, "products", every)
        yield _pass(numbers, "modulated")


def _pass(numbers, kernel, chips=("sm_90",), band=False):
    """A pass over a plan of 64 features and values; a pair is what is counted as a cell."""
    wide, number, depth = numbers == "float64", "*fp64" if numbers == "float64" else NUMBERS, 64
    tile = tile_for(numbers, depth, kernel in ("products", "modulated"), kernel == "modulated")
    facts: dict[str, Any] = {"banded": band, "approximate": not wide}
    parts = {
        "bfloat16": (("*bf16", "*bf16"), ("*bf16",)),
        "float32": ((NUMBERS, "*fp16", "*fp16"),) * 2,
        "float64": (("*fp64",),) * 2,
    }[numbers]
    factors = (("*bf16",) * PARTS[numbers][0],) * (kernel == "modulated")
    values = ("*bf16",) * PARTS[numbers][1]
    inputs: dict[str, Any] = {
        "log_sums": {"g": number, "expected": number},
        "weighted_sums": dict.fromkeys(("f", "g", "weights"), number),
        "products": {"f": number, "g": number, "left": factors, "right": factors, "values": values},
    }
    entry = "products" if kernel == "modulated" else kernel
    if entry == "products":
        facts |= {"values": depth, "factors": (depth,) * len(factors)}
    signature = {"x": parts[0], "y": parts[1], **inputs[entry]}
    signature |= dict.fromkeys(("ours", "theirs"), "*i32") | {"out": number}
    signature |= dict.fromkeys(("size", "other", "tiles", "band"), "i32")
    plan = TransportPlan.of(numbers, tile, depth, tuple(map(len, parts)), **facts)
    constants = {"PLAN": plan} | ({"NEAR": True} if entry == "log_sums" else {})
    # Of features, of factors, of values; TF32 takes twice the time of float16.
    features, factor, value = {"bfloat16": (2, 3, 1), "float32": (4, 6, 6)}.get(numbers, (0, 0, 0))
    count = features + (entry == "products") * value + (kernel == "modulated") * factor
    return Program(
        f"sinkhorn_tail {numbers}{', band' * band}: {kernel}",
        "transport.triton_tiles",
        entry,
        signature,
        constants,
        tile.warps,
        tile.rows * tile.columns / (32 * tile.warps),
        0.125,
        chips,
        depth * count,
        tile.stages,
        aligned=True,
    )


def _chains():
    every = ("sm_80", "sm_90", "sm_100")
    linear = {"terms": 1, "links": "shared", "alike": False}
    segments = {"terms": 8, "links": "shared", "alike": False}
    moves = {"terms": 3, "links": None, "alike": False}
    for kernel in ("forward", "backward"):
        yield _chain("linear_chain K=32", 32, linear, kernel, every)
        yield _chain("linear_chain K=8", 8, linear, kernel)
        yield _chain("linear_chain K=64", 64, linear, kernel)
        yield _chain("semi_markov K=16, D=8", 16, segments, kernel)
        yield _chain("ctc S=256", 256, moves, kernel)
        yield _chain("subset k=64", 65, {**moves, "terms": 2, "alike": True}, kernel)
    for kernel in ("maximum", "tangent", "curvature", "walk"):
        yield _chain("linear_chain K=32", 32, linear, kernel)
    yield _chain("linear_chain K=64", 64, linear, "curvature")
    for kernel in ("forward", "maximum", "backward", "tangent", "curvature"):
        yield _chain("linear_chain K=128", 128, linear, kernel, every)
    for kernel in ("forward", "backward", "curvature"):
        yield _chain("linear_chain K=256", 256, linear, kernel)


def _chain(name, states, facts, kernel, chips=("sm_90",)):
    """A sweep of chains; a way into a state, or a link, is what is counted as a cell."""
    plan = ChainPlan(states=states, steps=512, approximate=True, **facts)
    sizes = {
        "forward": ("tape", "ends"),
        "tangent": ("tape", "tscores", "tlinks", "dtape", "gained", "work", "tends"),
        "walk": ("tape", "last", "keys", "states", "spans"),
        "backward": (
            "tape", "final", "tscores", "tlinks", "dtape", "gained", "work", "dfinal", "ring",
            "dscores", "dlinks",
        ),
    }  # fmt: skip
    entry = {"maximum": "forward", "curvature": "backward"}.get(kernel, kernel)
    whole = "lengths", "last", "keys", "states", "spans"
    names = "scores", "links", "lengths", *sizes[entry]
    constants: dict[str, Any] = {"PLAN": plan}
    if entry in ("forward", "walk"):
        constants["HARD"] = kernel == "maximum"
    if entry == "backward":
        constants["RATE"] = kernel == "curvature"
    if entry == "walk":
        constants["NOISY"] = True
    warps = warps_for(plan.rows * plan.ways) if entry == "walk" else plan.warps
    cells = plan.states * plan.terms if plan.moves else plan.states * (plan.states + plan.terms)
    scores = plan.score_size / cells
    message = plan.states / cells
    moved = {
        "forward": 4 * scores + 8 * message,
        "maximum": 4 * scores + 8 * message,
        "walk": 4 * scores + 8 * message,
        "tangent": 8 * scores + 12 * message,
        "backward": 8 * scores + 8 * message,
        "curvature": 12 * scores + 12 * message,
    }
    return Program(
        f"{name}: {kernel}",
        "chain.triton_paths" if entry == "walk" else "chain.triton_sweeps",
        entry,
        {name: "*i32" if name in whole else NUMBERS for name in names},
        constants,
        warps,
        (plan.tile * plan.states if plan.tile else cells) / (32 * warps),
        round(moved[kernel], 3),
        chips,
    )


def _alignments():
    every = ("sm_80", "sm_90", "sm_100")
    linear = alignments.alignment("global", affine=False, adjacent="any")
    affine = alignments.alignment("global", affine=True, adjacent="any")
    local = alignments.alignment("local", affine=True, adjacent="any")
    warp, block, tile = Sizes(32, 8), Sizes(256, 2), Sizes(64, 8, 256)
    for kernel in ("forward", "backward"):
        yield _strips("linear", linear, warp, kernel, every)
    for kernel in ("out of range", "maximum", "tangent", "curvature"):
        yield _strips("linear", linear, warp, kernel)
    yield _strips("affine", affine, Sizes(32, 2), "out of range")
    for kernel in ("forward", "backward"):
        yield _strips("linear, a block a pair", linear, block, kernel)
        yield _strips("linear, tiles", linear, tile, kernel)
        yield _strips("affine", affine, Sizes(32, 2), kernel)
        yield _strips("dtw", alignments.DTW, warp, kernel)
    for kernel in ("forward", "backward"):
        yield _strips("affine, local", local, Sizes(32, 2), kernel)
        yield _strips("monotonic", alignments.MONOTONIC, warp, kernel)
        yield _strips("osa", alignments.edit(swaps=True), Sizes(32, 4), kernel)
    for kernel in ("ends", "last_nodes", "walk"):
        yield _paths("affine, local", local, Sizes(32, 2), kernel)
    yield _paths("linear", linear, warp, "walk")


def _paths(name, spec, sizes, kernel):
    """Where paths end, and how they came there; a node of a path is what is counted as a cell."""
    plan, many = _plan(spec, sizes)
    tables = {
        "ends": {"tape": NUMBERS, "lengths": "*i32", "found": NUMBERS},
        "last_nodes": {
            "tape": NUMBERS,
            "lengths": "*i32",
            "times": "*i32",
            "pairs": NUMBERS,
            "keys": "*i32",
            "nodes": "*i32",
        },
        "walk": {
            "thetas": many,
            "tape": NUMBERS,
            "nodes": "*i32",
            "keys": "*i32",
            "places": "*i32",
            "batch": "i32",
            "count": "i32",
        },
    }
    signature = {**tables[kernel], **dict.fromkeys(("rows", "columns", "strips"), "i32")}
    block = PATHS if kernel == "walk" else TIMES
    constants = {"BLOCK": block, "PLAN": plan}
    constants |= {"HARD": False} if kernel == "ends" else {"NOISY": True}
    moves = len(spec.moves)
    moved = {"ends": 8, "last_nodes": 8, "walk": 4 + 12 * moves}
    warps = 1 if kernel == "walk" else 4
    return Program(
        f"{name}: {kernel}",
        "alignment.triton_paths",
        kernel,
        signature,
        constants,
        warps,
        max(1, block // (32 * warps)),
        moved[kernel],
    )


def _plan(spec, sizes):
    """What a kernel is compiled for, and the type of its potentials: scores of every cell, gaps of
    the whole batch."""
    kinds = [kind == "cell" for kind in spec.kinds]
    forms = tuple(Form(kind, kind, kind, shared=False) for kind in kinds)
    tiled = sizes.times is not None
    plan = Plan(spec, forms, sizes.lanes, sizes.rows, approximate=True, wide=False, tiled=tiled)
    return plan, (NUMBERS,) * len(forms)


def _strips(name, spec, sizes, kernel, chips=("sm_90",)):
    """A sweep of alignments."""
    plan, many = _plan(spec, sizes)
    scores = sum(form.cell for form in plan.forms)
    back = kernel in ("backward", "curvature")
    rate = kernel in ("tangent", "curvature")
    signature = {
        "thetas": many,
        "dthetas": many,
        "lengths": "*i32",
        "tape": NUMBERS,
        "dtape": NUMBERS,
        "ends": NUMBERS,
        "dends" if back else "dend": NUMBERS,
    }
    if back:
        signature |= {"edges": NUMBERS, "carries": NUMBERS, "grads": many}
    names = "rows", "columns", "strips", "lowest", "wave", "size"
    signature |= dict.fromkeys(names, "i32")
    constants = {"RATE": rate, "PLAN": plan}
    if not back:
        split = kernel in ("forward", "out of range")
        ones = 1.5 * 2.0**23 if kernel == "forward" else 0.0
        constants |= {"HARD": kernel == "maximum", "SPLIT": split, "ONES": ones}
        signature["whole"] = "*i32"
    message = 8 * spec.states
    moved = {
        "forward": 4 * scores + message,
        "out of range": 4 * scores + message,
        "maximum": 4 * scores + message,
        "backward": 8 * scores + message,
        "tangent": 8 * scores + message / 2,
        "curvature": 12 * scores + 1.5 * message,
    }
    return Program(
        f"{name}: {kernel}",
        "alignment.triton_sweeps",
        "backward" if back else "forward",
        signature,
        constants,
        max(1, sizes.lanes // 32),
        sizes.rows,
        moved[kernel],
        chips,
    )
