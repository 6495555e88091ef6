"""Pairs of chains with a reference alignment, to train on and to be judged by."""

import csv
import dataclasses
import math
from pathlib import Path

from keras_struct.protein.alignment import Alignment
from keras_struct.protein.chain import Chain
from keras_struct.protein.structure_files import read_chain

COLUMNS = ("first", "second", "first_row", "second_row")


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledPair:
    """A reference alignment, and how much it counts in training."""

    alignment: Alignment
    weight: float = 1.0


def read_labelled_pairs(path, skipped=None):
    """The reference alignments of a table.

    Args:
        path: Tab-separated file with a header and the columns `first` and `second`, each a
            structure file, or file and chain as `file:chain`, relative to the table; `first_row`
            and `second_row`, the aligned sequences with `-` for gaps, as TM-align prints them; and
            perhaps `weight`.

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
        table = csv.DictReader(stream, delimiter="\t")
        try:
            missing = [name for name in COLUMNS if name not in (table.fieldnames or ())]
            if missing:
                raise ValueError(f"Expected columns {COLUMNS}. Received: without {missing}")
            for row in table:
                try:
                    found.append(_pair(row, path.parent, chains))
                except (ValueError, OSError) as error:
                    located = ValueError(f"{path}, line {table.line_num}: {error}")
                    if skipped is None:
                        raise located from error
                    skipped(located)
        except csv.Error as error:
            raise ValueError(f"{path}, line {table.line_num}: {error}") from error
    if not found:
        raise ValueError(f"Expected pairs. Received: {path} without any")
    return found


def _pair(row, folder, chains):
    """The pair of a row; `chains` holds those that are known."""
    missing = [name for name in COLUMNS if not row[name]]
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
