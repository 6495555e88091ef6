"""Aligns two globins of an earthworm by the distribution over all their local alignments.

    python examples/protein_alignment.py [--first A] [--second B]

The structure file (2GTL, the haemoglobin of Lumbricus terrestris) comes with the package tmtools.
Scores are BLOSUM62 with affine gaps. At temperature 0 the distribution is the best alignment of
Smith and Waterman; at higher temperatures its marginals say which other alignments are nearly as
good. The printed digits are the probability at temperature 1 of each pair of the best alignment, in
tenths: where they are low, look again. TM-align, which sees coordinates and no letters, tells which
pairs are right.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import biotite.structure as structure
import keras
import numpy as np
import tmtools
from biotite.sequence.align import SubstitutionMatrix
from biotite.structure.io import pdbx
from figures import alignment_figure, write_png

from keras_struct import ops

FILE = Path(tmtools.__file__).parent / "data" / "2gtl.cif"
ROOT = Path(__file__).resolve().parents[1]
TEMPERATURES = (4.0, 1.0, 0.25, 0)
GAP_OPEN, GAP_EXTEND = (
    -11.0,
    -1.0,
)  # as parasail and BLAST count: the first and every further letter
WIDTH = 60


def main() -> None:
    options = parse()
    chains = [read_chain(FILE, name) for name in (options.first, options.second)]
    (first, first_atoms), (second, second_atoms) = chains
    matrix = SubstitutionMatrix.std_protein_matrix()
    scores = matrix.score_matrix()[np.ix_(first.code, second.code)].astype("float32")

    def distribution(temperature: float) -> ops.Distribution:
        return ops.smith_waterman(scores, GAP_OPEN, GAP_EXTEND, temperature=temperature)

    maps = {t: array(distribution(t).marginals()) for t in TEMPERATURES}
    best = distribution(0)
    pairs = matched_pairs(array(best.argmax()))
    print(
        f"2GTL chains {options.first} ({len(first)} residues) and {options.second} ({len(second)})"
    )
    print(f"best score {float(array(best.value())):.0f}, gap {GAP_OPEN:.0f} and {GAP_EXTEND:.0f}\n")
    print(alignment_text(str(first), str(second), pairs, matrix, maps[1.0]))
    for temperature in TEMPERATURES[:-1]:
        entropy = float(array(distribution(temperature).entropy()))
        print(f"T = {temperature:<4g}  entropy of the alignment {entropy:6.2f} nats")

    found = tmtools.tm_align(first_atoms, second_atoms, str(first), str(second))
    right = aligned_pairs(found.seqxA, found.seqyA)
    print(f"\nof {len(right)} pairs of TM-align (TM-score {found.tm_norm_chain1:.2f}):")
    print(f"  {len(right & set(pairs))} are in the best alignment of {len(pairs)} pairs")
    expected = sum(maps[1.0][pair] for pair in right)
    print(f"  {expected:.1f} are expected in an alignment at T = 1")

    path = options.output / "protein_alignment.png"
    names = [f"2GTL {name}" for name in (options.first, options.second)]
    write_png(path, alignment_figure(maps, names, pairs))
    print(f"\nmarginals at each temperature: {path}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--first", default="A", metavar="CHAIN")
    parser.add_argument("--second", default="B", metavar="CHAIN")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "protein_alignment")
    parser.add_argument("--smoke", action="store_true", help="the same: it takes seconds")
    return parser.parse_args()


def read_chain(file: Path, name: str) -> tuple:
    """Sequence (biotite `ProteinSequence`) and coordinates (N, 3) in angstrom of the CA atoms."""
    atoms = pdbx.get_structure(pdbx.CIFFile.read(file), model=1)
    atoms = atoms[structure.filter_amino_acids(atoms) & (atoms.atom_name == "CA")]
    chains = sorted(set(atoms.chain_id))
    if name not in chains:
        raise SystemExit(f"Expected a chain of {file.name} among {chains}. Received: chain={name}")
    atoms = atoms[atoms.chain_id == name]
    return structure.to_sequence(atoms)[0][0], atoms.coord.astype("float64")


def matched_pairs(path: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (row, column) that a path of nodes matches."""
    nodes = path[path[:, 0] >= 0]
    steps = np.diff(nodes, axis=0)
    return [(int(i) - 1, int(j) - 1) for i, j in nodes[1:][(steps == 1).all(axis=1)]]


def aligned_pairs(first: str, second: str) -> set[tuple[int, int]]:
    """Pairs of two aligned sequences with dashes."""
    pairs, i, j = set(), 0, 0
    for a, b in zip(first, second, strict=True):
        if a != "-" and b != "-":
            pairs.add((i, j))
        i, j = i + (a != "-"), j + (b != "-")
    return pairs


def alignment_text(first, second, pairs, matrix, marginals) -> str:
    """The aligned sequences, with a middle line as BLAST prints it and the probabilities below."""
    columns, before = [], (pairs[0][0] - 1, pairs[0][1] - 1)
    for i, j in pairs:
        columns += [(first[k], " ", "-", " ") for k in range(before[0] + 1, i)]
        columns += [("-", " ", second[k], " ") for k in range(before[1] + 1, j)]
        a, b, score = first[i], second[j], matrix.get_score(first[i], second[j])
        middle = a if a == b else "+" if score > 0 else " "
        columns.append((a, middle, b, str(min(9, int(10 * marginals[i, j])))))
        before = i, j
    lines = ["".join(line) for line in zip(*columns, strict=True)]
    blocks = []
    for k in range(0, len(columns), WIDTH):
        blocks.append("\n".join(f"  {line[k : k + WIDTH]}".rstrip() for line in lines))
    return "\n\n".join(blocks) + "\n"


def array(x) -> np.ndarray:
    return keras.ops.convert_to_numpy(x)


if __name__ == "__main__":
    main()
