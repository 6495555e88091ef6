"""Structure files and tables of labelled pairs from a set of chains that TM-align has aligned.

    python packages/protein/experiments/structs.py SET FOLDER

SET holds `chains.json` and `chains.npz` (N, CA, C, O, CB in hundredths of an angstrom, -32768 where
missing) and `tm_pairs.tsv`. FOLDER gets a PDB file for each chain and `train.tsv`, `dev.tsv` and
`test.tsv`, as `keras-struct-protein train` and `evaluate` take them. Chains whose sequence clusters
are joined by a pair make a component, and no component is in two tables. Pairs are weighted so that
every pair of clusters, of which at most 8 are taken, counts the same.
"""

import argparse
import csv
import json
from collections import Counter, defaultdict
from pathlib import Path

import networkx
import numpy as np
from biotite import structure
from biotite.sequence import ProteinSequence
from biotite.structure.io import pdb
from rich.progress import track

ATOMS = ("N", "CA", "C", "O", "CB")
MISSING = -32768
TRAINED = 3  # the largest components, nine tenths of the pairs, are trained on
MOST = 8  # pairs of one pair of clusters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("set", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    chains = {chain["i"]: chain for chain in json.loads((options.set / "chains.json").read_text())}
    with open(options.set / "tm_pairs.tsv", newline="") as stream:
        pairs = list(csv.DictReader(stream, delimiter="\t"))
    tables = split(pairs)
    used = {int(row[side]) for rows in tables.values() for row in rows for side in "ij"}
    with np.load(options.set / "chains.npz") as coordinates:
        for i in track(sorted(used), "write chains"):
            write(options.folder / f"{i}.pdb", chains[i]["seq"], coordinates[str(i)])
    for name, rows in tables.items():
        write_table(options.folder / f"{name}.tsv", rows)
        print(f"{name}: {len(rows)} pairs, {len(clusters(rows))} pairs of clusters")


def cluster_pair(row: dict) -> tuple[str, ...]:
    return tuple(sorted((row["cluster40_i"], row["cluster40_j"])))


def clusters(rows: list[dict]) -> Counter:
    return Counter(map(cluster_pair, rows))


def split(pairs: list[dict]) -> dict[str, list[dict]]:
    """Tables by component: the largest are trained on, the others alternate."""
    graph = networkx.Graph(cluster_pair(row) for row in pairs)
    component = {
        cluster: number
        for number, members in enumerate(networkx.connected_components(graph))
        for cluster in members
    }
    groups = defaultdict(list)
    taken: Counter[tuple[str, ...]] = Counter()
    for row in pairs:
        taken[cluster_pair(row)] += 1
        if taken[cluster_pair(row)] <= MOST:
            groups[component[row["cluster40_i"]]].append(row)
    ordered = sorted(groups.values(), key=lambda rows: (-len(rows), rows[0]["i"]))
    small = ordered[TRAINED:]
    return {
        "train": [row for rows in [*ordered[:TRAINED], *small[2::3]] for row in rows],
        "dev": [row for rows in small[1::3] for row in rows],
        "test": [row for rows in small[0::3] for row in rows],
    }


def write(path: Path, sequence: str, coordinates: np.ndarray) -> None:
    atoms = []
    for number, (letter, residue) in enumerate(zip(sequence, coordinates, strict=True), 1):
        name = ProteinSequence.convert_letter_1to3(letter)
        for atom, place in zip(ATOMS, residue, strict=True):
            if (place != MISSING).all():
                atoms.append(
                    structure.Atom(
                        place / 100,
                        chain_id="A",
                        res_id=number,
                        res_name=name,
                        atom_name=atom,
                        element=atom[0],
                    )
                )
    file = pdb.PDBFile()
    file.set_structure(structure.array(atoms))
    file.write(path)


def write_table(path: Path, rows: list[dict]) -> None:
    counts = clusters(rows)
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter="\t")
        writer.writerow(("first", "second", "first_row", "second_row", "weight"))
        for row in rows:
            weight = len(rows) / len(counts) / counts[cluster_pair(row)]
            writer.writerow(
                (f"{row['i']}.pdb", f"{row['j']}.pdb", row["aln_i"], row["aln_j"], f"{weight:.6g}")
            )


if __name__ == "__main__":
    main()
