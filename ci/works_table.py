"""Writes the table of what works where into the README of `ops`, from what `works_run.py` recorded.

    python ci/works_table.py [--check]

With `--check` nothing is written; the exit status says whether the table is up to date.
"""

import json
import sys

from generated import ROOT, main
from support_table import chosen

from keras_struct.ops import dispatch
from keras_struct.ops.structure_cases import every_case

FILES = (ROOT / "ops" / "README.md",)
RECORD = ROOT / "ci" / "works.json"
HALF = "half precision on all four"
COLUMNS = {
    "`jax.jit`": ("jax jit",),
    "XLA of TensorFlow": ("tensorflow xla",),
    "`torch.compile`": ("torch compile",),
    "`torch.jit.trace`": ("torch trace",),
    HALF: ("jax half", "tensorflow half", "torch half", "numpy half"),
    "SavedModel": ("tensorflow saved_model",),
    "ONNX": ("tensorflow onnx",),
}


def table():
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    structures = dispatch.structures()
    every = every_case()  # no cases of transport, whose kernel takes large plans
    kernels = [
        op
        for op in structures
        if op not in every or "pallas_tpu" in chosen([x.call() for x in every[op]], "jax", "tpu")
    ]
    header = ["structure", *COLUMNS, "devices"]
    rows = [header, ["---"] * len(header)]
    for op in structures:
        cells = record["cells"][op]
        found = [_cell([cells[name] for name in names]) for names in COLUMNS.values()]
        rows.append([f"`{op}`", *found, "CPU, TPU" if op in kernels else "CPU"])
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines += [
        "",
        "As run by `python ci/works_run.py`: value, marginals and best structure of a small case "
        "(potentials of a plan, output of `sinkhorn_tail`), equal to those of NumPy. "
        "`torch.compile` with `fullgraph=True`, or with graph breaks; a trace was saved and loaded "
        "again. Half precision is bfloat16, float16 on NumPy. CPU: all of this ran there. TPU: "
        "kernels that were compiled for TPUs and interpreted, and never ran on one. Nothing ran on "
        f"a GPU. {versions}.",
    ]
    return "\n".join(lines)


def _cell(results):
    wrong = [result for result in results if result is not None]
    if not wrong:
        return "yes"
    return wrong[0] if wrong == ["graph breaks"] else "no"


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", FILES, "works-table", table))
