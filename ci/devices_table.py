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
    rows = [["model", "`DataParallel`", "its collectives"], ["---"] * 3]
    rows += [[name, equal(x), sent(x)] for name, x in record["data"].items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def equal(result: dict) -> str:
    return "equal" if result["differs"] is None else result["differs"]


def sent(result: dict) -> str:
    if "collectives" not in result:
        return "-"
    found = ["sums of gradients, loss and metrics"]
    if result["decisions"]:
        found.append("one boolean")
    return ", ".join([*found, *(f"others: {kind}" for kind in result["foreign"])])


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", (PAGE,), "devices-table", table))
