"""Pairs of chains with a reference alignment, to train on and to be judged by."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

from keras_struct.layers.annotations import StrPath
from keras_struct.protein.alignment import Alignment
from keras_struct.protein.chain import Chain
from keras_struct.protein.structure_files import read_chain

COLUMNS = ("first", "second", "first_row", "second_row")


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledPair:
    """A reference alignment, and how much it counts in training."""

    alignment: Alignment
    weight: float = 1.0


def read_labelled_pairs(
    path: StrPath, skipped: Callable[[Exception], object] | None = None
) -> list[LabelledPair]:
    """The reference alignments of a table.

    Args:
        path: Tab-separated file with a header and the columns `first` and `second`, each a
            structure file, or file and chain as `file:chain`, relative to the table; `first_row`
            and `second_row`, the aligned sequences with `-` for gaps, as TM-align prints them; and
            perhaps `weight`. Each line is a row.

    Returns:
        List of `LabelledPair`; a chain of several pairs is one object.

    Raises:
        FileNotFoundError: If the table does not exist.
        ValueError: If columns are missing, a file cannot be read, or the rows show other residues
            than the files; the message names the line.
    """
    path = Path(path)
    chains: dict[str, Chain] = {}
    found: list[LabelledPair] = []
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        try:
            header = _cells(next(stream, ""))
            missing = [name for name in COLUMNS if name not in header]
            if missing:
                raise ValueError(f"Expected columns {COLUMNS}. Received: without {missing}")
        except ValueError as error:
            raise ValueError(f"{path}, line 1: {error}") from error
        for number, line in enumerate(stream, 2):
            try:
                cells = _cells(line)
                if cells:
                    row = dict(zip(header, cells, strict=False))
                    found.append(_pair(row, path.parent, chains))
            except (ValueError, OSError) as error:
                located = ValueError(f"{path}, line {number}: {error}")
                if skipped is None:
                    raise located from error
                skipped(located)
    if not found:
        raise ValueError(f"Expected pairs. Received: {path} without any")
    return found


def _cells(line):
    """The cells of a line; a quotation mark that nobody closes ends with it."""
    try:
        return next(csv.reader([line], delimiter="\t", strict=True))
    except csv.Error as error:
        raise ValueError(
            f"Expected cells between tabs, quotation marks in pairs. Received: {error}"
        ) from None


def _pair(row, folder, chains):
    """The pair of a row; `chains` holds those that are known."""
    missing = [name for name in COLUMNS if not row.get(name)]
    if missing:
        raise ValueError(f"Expected values of all columns. Received: none of {missing}")
    for side in ("first", "second"):
        if row[side] not in chains:
            chains[row[side]] = read_chain(folder / row[side])
    rows = row["first_row"], row["second_row"]
    alignment = Alignment.from_rows(chains[row["first"]], chains[row["second"]], rows)
    weight = float(row.get("weight") or 1.0)
    if not (math.isfinite(weight) and weight > 0):
        raise ValueError(f"Expected a positive weight. Received: weight={row['weight']}")
    return LabelledPair(alignment, weight)
