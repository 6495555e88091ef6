"""Writes the table of structures into the READMEs, from the registry and its rules.

    python ci/support_table.py [--check]

With `--check` nothing is written; the exit status says whether every table is up to date.
"""

import dataclasses
import inspect
import sys

from generated import ROOT, main

from keras_struct import ops
from keras_struct.ops import dispatch
from keras_struct.ops.structure_cases import every_case

FILES = (ROOT / "README.md", ROOT / "ops" / "README.md")
BACKENDS = ("jax", "tensorflow", "torch", "numpy")
ACCELERATORS = (("jax", "tpu"), ("jax", "gpu"), ("torch", "gpu"))


def table():
    header = [
        "structure",
        "what",
        "potentials",
        *BACKENDS,
        "jax on a TPU",
        "jax on a GPU",
        "torch on a GPU",
        "on request",
    ]
    rows = [header, ["---"] * len(header)]
    every = every_case()
    for op, family in dispatch.structures().items():
        if family == "transport":
            continue
        function = getattr(ops, op)
        summary = str(inspect.getdoc(function)).splitlines()[0].rstrip(".")
        potentials = ", ".join(f"`{name}`" for name in _potentials(function))
        calls = [case.call() for case in every[op]]
        by_backend = [chosen(calls, backend) for backend in BACKENDS]
        by_backend += [chosen(calls, *where) for where in ACCELERATORS]
        others = [name for name in _takers(family, calls) if not any(name in x for x in by_backend)]
        cells = [" or ".join(names) for names in by_backend]
        rows.append([f"`{op}`", summary, potentials, *cells, ", ".join(others)])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines += [
        "",
        "Every structure has value, log-partition, marginals of every potential, argmax, exact "
        "samples, top-k, entropy, log-probability, cross-entropy and KL, at any temperature "
        "(0 included); sparse marginals (SparseMAP) and the gradients of implicit MLE. "
        "Readouts are differentiable twice on JAX, TensorFlow and PyTorch; NumPy has "
        "no gradients. `native_cpu` needs a CPU and Numba (`linear_chain` the C++ kernels "
        "instead), `graph_cpu` TensorFlow without XLA and a CPU. `pallas_tpu` is compiled by the "
        "compiler for TPUs, for the chips and programs in `ci/tpu_figures.json`, and tested "
        "interpreted; it has never run on a TPU. "
        "`pallas_gpu` is lowered for CUDA, compiled by Triton, and tested interpreted; it has "
        "never run on a GPU; nor has `triton_gpu`, which Triton compiles, too. "
        "`checkpointed` trades time for memory (one pair of 8,192 tokens trains in under 2 GB); "
        "`reference` is the NumPy float64 oracle.",
    ]
    return "\n".join(lines)


def _potentials(function):
    """Array arguments that come before the options."""
    names = []
    for name, parameter in inspect.signature(function).parameters.items():
        required = parameter.default is inspect.Parameter.empty
        if name in ("lengths", "k", "temperature", "mask", "band", "min_loop", "swaps", "sources"):
            continue
        if name == "labels" and required:  # of CTC: the sequence that is aligned
            continue
        if required or name in (
            "start", "end", "labels", "splits", "gap_open", "gap_extend", "insertion", "deletion",
            "transposition",
        ):  # fmt: skip
            names.append(name)
    return names


def _on(call, backend, platform="cpu"):
    """The same call elsewhere, by a backend whose programs are not for another process."""
    facts = {"platform": platform, "device_kind": None, "traced": False, "exporting": False}
    return dataclasses.replace(call, backend=backend, xla=backend == "jax", **facts)


def chosen(calls, backend, platform="cpu"):
    """The implementations that small float32 calls get, most calls first."""
    names = [dispatch.choose(_on(call, backend, platform)).name for call in calls]
    return sorted(set(names), key=lambda name: (-names.count(name), name))


def _takers(family, calls):
    """Names of the implementations that some backend may ask for."""
    return [
        name
        for name, x in dispatch.candidates(family).items()
        if any(x.rejects(_on(call, backend)) is None for call in calls for backend in BACKENDS)
    ]


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", FILES, "support-table", table))
