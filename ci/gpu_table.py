"""Writes the table of what Triton compiles for GPUs into `ops/GPU.md`, from `ci/gpu_figures.json`.

    python ci/gpu_table.py [--check]

The figures are those that `ci/gpu_compile.py --update` has read from the machine code. What limits
a kernel is the slowest of: its instructions, four of which a multiprocessor issues in a cycle, for
32 threads each; those of its special function unit, which gives 16 results in a cycle; products on
tensor cores, where they were counted; and the bytes that must come from memory and go back, at what
the chip's memory can do.
"""

import json
import sys
from typing import Any

from generated import ROOT, main

FIGURES = ROOT / "ci" / "gpu_figures.json"
PAGE = ROOT / "ops" / "GPU.md"
# Multiprocessors, cycles and bytes of memory in a second: A100 (80 GB), H100 (SXM), B200.
CHIPS = {
    "sm_80": (108, 1.41e9, 2.04e12),
    "sm_90": (132, 1.76e9, 3.35e12),
    "sm_100": (148, 1.85e9, 8.0e12),
}
# Products of float16 with sums in float32, of a multiprocessor in a cycle (TF32 takes two of them).
PRODUCTS = {"sm_80": 1024, "sm_90": 2048, "sm_100": 4096}
LANES, ISSUES, SPECIAL = 32, 4, 16  # special: results of a multiprocessor in a cycle
UNITS = ("float", "integer", "special", "tensor", "memory", "shuffle", "barrier", "control")


def limits(figures: dict[str, Any], chip: str) -> dict[str, float]:
    """Cells in a second, in thousands of millions, that each limit would allow alone."""
    processors, clock, memory = CHIPS[chip]
    cycles = processors * clock / 1e9
    found = {
        "instructions": ISSUES * LANES * cycles / figures["instructions"],
        "bytes": memory / 1e9 / figures["bytes"],
    }
    if special := figures["by unit"].get("special"):
        found["exponentials"] = SPECIAL * cycles / special
    if products := figures.get("products"):
        found["tensor cores"] = PRODUCTS[chip] * cycles / products
    return found


def table(pinned: dict[str, Any]) -> str:
    head = ["program", "chip", "registers", "shared kB", "warps", "instructions", *UNITS]
    head += ["bytes", "limited by", "10⁹ cells/s at most"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    chips = [chip for chip in CHIPS if chip in pinned["chips"]]
    names = sorted({name for chip in chips for name in pinned["chips"][chip]})
    for name in names:
        for chip in chips:
            if x := pinned["chips"][chip].get(name):
                least, most = min((value, limit) for limit, value in limits(x, chip).items())
                cells = [name, chip, x["registers"], round(x["shared bytes"] / 1024, 1)]
                cells += [x["warps"], x["instructions"]]
                cells += [x["by unit"].get(unit, "–") for unit in UNITS]
                cells += [f"{x['bytes']:g}", most, round(least)]
                lines.append(f"| {' | '.join(map(str, cells))} |")
    used = ", ".join(f"{name} {version}" for name, version in sorted(pinned["versions"].items()))
    return "\n".join([f"Compiled with {used}.", "", *lines])


def figures() -> str:
    return table(json.loads(FIGURES.read_text(encoding="utf-8")))


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", [PAGE], "figures", figures))
