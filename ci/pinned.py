"""Figures of compiled kernels that are pinned in a file, and what a report says of new ones."""

import argparse
import json
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

TOLERANCE = 0.1  # how much worse than pinned a figure may be


def parser(doc: str, chips: Iterable[str]) -> argparse.ArgumentParser:
    """The options that every report has."""
    found = argparse.ArgumentParser(description=doc.splitlines()[0])
    found.add_argument("--update", action="store_true", help="pin what is found")
    found.add_argument("--chips", nargs="+", choices=list(chips), default=list(chips))
    found.add_argument("--only", default="", help="part of the names of programs")
    return found


class Pinned:
    """The figures in a file: `chips` has, for each chip, those of programs by name.

    Args:
        file: JSON.
        update: Whether what is found is to be pinned.
        libraries: Names of the distributions that decide the figures.
    """

    def __init__(self, file: Path, update: bool, libraries: Iterable[str]) -> None:
        self.file, self.update = file, update
        self.versions = {name: metadata.version(name) for name in libraries}
        found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        self.chips: dict[str, dict[str, Any]] = found.get("chips", {})
        if not update and found.get("versions") != self.versions:
            print(f"pinned with {found.get('versions')}, compiled with {self.versions}")

    def replaces(self, chip: str, name: str, figures: dict[str, Any]) -> dict[str, Any] | None:
        """What new figures of a program are to be compared with: the pinned ones or, where they are
        to be pinned themselves, these; None if there are none."""
        of_chip = self.chips.setdefault(chip, {})
        if self.update and "error" not in figures:
            of_chip[name] = figures
        return figures if self.update else of_chip.get(name)

    def report(self, worse: list[str]) -> int:
        """Write and print what was found; the exit status."""
        if self.update:
            found = {"chips": self.chips, "versions": self.versions}
            text = json.dumps(found, indent=1, sort_keys=True)
            self.file.write_text(text + "\n", encoding="utf-8")
        print("\n".join(worse) if worse else "all kernels compile as pinned")
        return 1 if worse else 0
