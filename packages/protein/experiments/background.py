"""The chains by which a search knows how common residues are, from a set of chains.

    python packages/protein/experiments/background.py SET OUTPUT.npz

SET is that of `structs.py`. Every chain is of another sequence cluster and another component of
TM-align's pairs, and has 60 to 160 residues without gaps in its coordinates; which ones are taken
is drawn at random. OUTPUT gets their letters and backbones in hundredths of an angstrom.
"""

import argparse
import csv
import json
from pathlib import Path

import networkx
import numpy as np

CHAINS = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("set", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    chains = {c["i"]: c for c in json.loads((options.set / "chains.json").read_text())}
    graph = networkx.Graph()
    graph.add_nodes_from(chains)
    with open(options.set / "tm_pairs.tsv", newline="", encoding="utf-8") as stream:
        graph.add_edges_from(
            (int(r["i"]), int(r["j"])) for r in csv.DictReader(stream, delimiter="\t")
        )
    groups = [sorted(group) for group in networkx.connected_components(graph)]
    found = {}
    with np.load(options.set / "chains.npz") as coordinates:
        for k in np.random.default_rng(0).permutation(len(groups)):
            for i in groups[k]:
                places, sequence = coordinates[str(i)], chains[i]["seq"]
                steps = np.linalg.norm(np.diff(places[:, 1].astype("float64"), axis=0), axis=1)
                if 60 <= len(sequence) <= 160 and (steps < 420).all() and "X" not in sequence:
                    found[sequence] = places
                    break
            if len(found) == CHAINS:
                break
    np.savez_compressed(
        options.output,
        sequences=np.array(list(found)),
        backbones=np.concatenate(list(found.values())),
    )
    print(f"{len(found)} chains, {sum(map(len, found))} residues")


if __name__ == "__main__":
    main()
