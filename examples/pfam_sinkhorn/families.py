"""Pairs of aligned members of Pfam families, from aligned FASTA files."""

import dataclasses

import numpy as np
from biotite.sequence.io import fasta

RESIDUES = "LAGVSERTIDPKQNFYMHWC"
# The numbers of ESM's vocabulary, so that an `ESMBackbone` reads them, too.
PAD, FIRST, UNKNOWN, VOCABULARY = 1, 4, 24, 33
NO_TARGET = -1


@dataclasses.dataclass(frozen=True)
class Family:
    """Aligned sequences of one family.

    Attributes:
        name: Of the family.
        rows: Strings of one length, gaps as "-".
    """

    name: str
    rows: list[str]


def read_families(folder, longest):
    """The families of all alignments in a folder that are no longer than `longest` columns."""
    files = sorted(path for path in folder.iterdir() if ".align" in path.name or ".fa" in path.name)
    families = []
    for path in files:
        rows = [row.upper().replace(".", "-") for _, row in fasta.FastaFile.read_iter(str(path))]
        if len({len(row) for row in rows}) != 1:
            raise ValueError(f"Expected rows of one length. Received: {path}")
        if len(rows[0]) <= longest:
            families.append(Family(path.name.split(".")[0], rows))
    if len(families) < 2:
        raise ValueError(
            f"Expected aligned FASTA files of at least two families in the folder, of at most "
            f"{longest} columns. Received: {folder}"
        )
    return families


def generated_families(count=4, members=24, columns=40, seed=0):
    """Families of random sequences with substitutions and deletions, for a quick run."""
    rng = np.random.default_rng(seed)
    letters = np.array([*RESIDUES, "-"])
    families = []
    for number in range(count):
        ancestor = rng.integers(0, 20, columns)
        rows = np.where(
            rng.random((members, columns)) < 0.4,
            rng.integers(0, 20, (members, columns)),
            ancestor,
        )
        rows[rng.random((members, columns)) < 0.1] = 20
        families.append(Family(f"generated{number}", ["".join(row) for row in letters[rows]]))
    return families


def encode(sequence):
    return [FIRST + RESIDUES.index(x) if x in RESIDUES else UNKNOWN for x in sequence]


def pairs(families, count, longest, seed):
    """Random pairs, each family as often as any other.

    Returns:
        Inputs `{"query": (count, longest), "key": ...}` of residues, and targets (count, longest):
        the place of the key that a residue of the query is aligned with, or -1.
    """
    rng = np.random.default_rng(seed)
    query, key = (np.full((count, longest), PAD, "int32") for _ in range(2))
    targets = np.full((count, longest), NO_TARGET, "int32")
    for n in range(count):
        rows = families[n % len(families)].rows
        first, second = (np.array([*rows[i]]) for i in rng.choice(len(rows), 2, replace=False))
        for residues, ids in ((first, query), (second, key)):
            sequence = encode(residues[residues != "-"])
            ids[n, : len(sequence)] = sequence
        places = [np.cumsum(x != "-") - 1 for x in (first, second)]
        both = (first != "-") & (second != "-")
        targets[n, places[0][both]] = places[1][both]
    return {"query": query, "key": key}, targets
