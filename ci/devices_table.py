"""Writes the table of what trains on several devices into docs/howto/devices.md.

    python ci/devices_table.py [--check]

With `--check` nothing is written; the exit status says whether the table is up to date.
"""

import json
import sys

from generated import ROOT, main

PAGE = ROOT / "docs" / "howto" / "devices.md"
RECORD = ROOT / "ci" / "devices.json"


def table() -> str:
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    head = ["model", "`DataParallel`", "its collectives", "`ModelParallel`", "`MirroredStrategy`"]
    rows = [head, ["---"] * len(head)]
    for name, result in record["data"].items():
        others = [equal(record[engine][name], name) for engine in ("model", "mirrored")]
        rows.append([name, equal(result, name), sent(result), *others])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def equal(result: dict, name: str) -> str:
    """A difference is of numbers, or an error that is shown."""
    if result["differs"] is None:
        return "equal" if not result.get("foreign") else "equal, a collective in a loop"
    noise = "differs by" in result["differs"] and name.endswith((", perturbed", ", imle"))
    return "other noise" if noise else result["differs"]


def sent(result: dict) -> str:
    if "collectives" not in result:
        return "-"
    found = ["sums of gradients, loss and metrics"]
    if result["decisions"]:
        found.append("one boolean")
    return ", ".join([*found, *(f"others: {kind}" for kind in result["foreign"])])


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", (PAGE,), "devices-table", table))
