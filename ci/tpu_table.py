"""Writes the table of what TPU kernels schedule into `ops/TPU.md`, from `ci/tpu_figures.json`.

    python ci/tpu_table.py [--check]

The figures are those that `ci/tpu_compile.py --update` has read from the real compiler. `make
tpu-report` compiles everything, compares and writes the table.
"""

import json
import sys
from typing import Any

from generated import ROOT, main

FIGURES = ROOT / "ci" / "tpu_figures.json"
PAGE = ROOT / "ops" / "TPU.md"
PREFIX = "keras_struct_"


def table(pinned: dict[str, Any]) -> str:
    chips = sorted(pinned["chips"], key=["v5e", "v6e", "v5p", "7x"].index)
    programs = sorted({name for chip in chips for name in pinned["chips"][chip]})
    head = ["program", "kernel", *chips, "scratch MB"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for program in programs:
        found = {chip: pinned["chips"][chip].get(program, {}) for chip in chips}
        kernels = sorted({name for x in found.values() for name in x if name.startswith(PREFIX)})
        for kernel in kernels:
            of_chips = [found[chip].get(kernel) for chip in chips]
            scratch = max(x["scratch MB"] for x in of_chips if x)
            cells = [program, kernel.removeprefix(PREFIX), *map(_schedule, of_chips), str(scratch)]
            lines.append(f"| {' | '.join(cells)} |")
    used = ", ".join(f"{name} {version}" for name, version in sorted(pinned["versions"].items()))
    return "\n".join([f"Compiled with {used}.", "", *lines])


def _schedule(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return "–"
    bundles = " + ".join(map(str, figures["bundles"])) or "no loop"
    return f"{bundles} ({figures['spills']} spilled)" if figures["spills"] else bundles


def figures() -> str:
    return table(json.loads(FIGURES.read_text(encoding="utf-8")))


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", [PAGE], "figures", figures))
