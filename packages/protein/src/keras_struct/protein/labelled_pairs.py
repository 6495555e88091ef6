"""Pairs of chains with a reference alignment, to train on and to be judged by."""

import csv
import dataclasses
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


def read_labelled_pairs(path):
    """The reference alignments of a table.

    Args:
        path: Tab-separated file with a header and the columns `first` and `second`, each a
            structure file, or file and chain as `file:chain`, relative to the table; `first_row`
            and `second_row`, the aligned sequences with `-` for gaps, as TM-align prints them; and
            perhaps `weight`.

    Returns:
        List of `LabelledPair`; a chain of several pairs is one object.

    Raises:
        FileNotFoundError: If the table, or a file that it names, does not exist.
        ValueError: If columns are missing, or the rows show other residues than the files; the
            message names the line.
    """
    path = Path(path)
    chains: dict[str, Chain] = {}
    found: list[LabelledPair] = []
    with open(path, encoding="utf-8", newline="") as stream:
        table = csv.DictReader(stream, delimiter="\t")
        missing = [name for name in COLUMNS if name not in (table.fieldnames or ())]
        if missing:
            raise ValueError(f"Expected columns {COLUMNS} in {path}. Received: without {missing}")
        for row in table:
            try:
                for side in ("first", "second"):
                    if row[side] not in chains:
                        chains[row[side]] = read_chain(path.parent / row[side])
                alignment = Alignment.from_rows(
                    chains[row["first"]],
                    chains[row["second"]],
                    (row["first_row"], row["second_row"]),
                )
                weight = float(row.get("weight") or 1.0)
            except ValueError as error:
                raise ValueError(f"{path}, line {table.line_num}: {error}") from error
            found.append(LabelledPair(alignment, weight))
    if not found:
        raise ValueError(f"Expected pairs. Received: {path} without any")
    return found
