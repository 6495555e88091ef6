"""Aligns two globins by a learned aligner and superposes them, beside TM-align.

    python examples/structure_alignment.py [--first A] [--second B]

The structure file (2GTL, the haemoglobin of Lumbricus terrestris) comes with the package tmtools.
The aligner reads structural letters and amino acids and never sees a coordinate; only the
superposition of its alignment does, from which the alignment is then refined. TM-align searches
superpositions.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tmtools

from keras_struct import protein

FILE = Path(tmtools.__file__).parent / "data" / "2gtl.cif"
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    options = parse()
    options.output.mkdir(parents=True, exist_ok=True)
    try:
        first, second = protein.read_chains(FILE, [options.first, options.second])
    except ValueError as error:
        raise SystemExit(str(error)) from None
    aligner = protein.ProteinAligner.from_preset("structure")
    (ours,) = aligner.align([(first, second)], maps=True)
    (refined,) = protein.refine([ours])
    found = tmtools.tm_align(first.ca, second.ca, first.sequence, second.sequence)
    theirs = protein.Alignment.from_rows(first, second, (found.seqxA, found.seqyA))
    print(ours.as_text())

    print(f"{'':10s}{'pairs':>7s}{'TM-score':>10s}{'RMSD':>7s}{'lDDT':>7s}")
    for name, alignment in (("ours", ours), ("refined", refined), ("TM-align", theirs)):
        measures = alignment.measures()
        print(
            f"{name:10s}{measures['aligned']:7d}{measures['tm_score_first']:10.3f}"
            f"{measures['rmsd']:7.2f}{measures['lddt']:7.3f}"
        )
    shared, after = (protein.pair_scores(a.pairs, theirs.pairs)["recall"] for a in (ours, refined))
    print(f"\nof the pairs of TM-align {shared:.0%} are found, {after:.0%} refined", end=", ")
    moved = [
        second.ca @ rotation.T + shift
        for rotation, shift in (
            protein.superposition(first, second, refined.pairs),
            (np.linalg.inv(found.u), -np.linalg.inv(found.u) @ found.t),
        )
    ]
    distance = np.sqrt(((moved[0] - moved[1]) ** 2).sum(axis=1).mean())
    print(f"and the superpositions differ by {distance:.2f} angstrom")

    protein.write_superposed(refined, options.output / "superposed.pdb")
    protein.draw(ours, options.output / "map.png")
    print(f"\nboth chains, superposed, and the alignment map: {options.output}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--first", default="A", metavar="CHAIN")
    parser.add_argument("--second", default="B", metavar="CHAIN")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "structure_alignment")
    parser.add_argument("--smoke", action="store_true", help="the same: it takes seconds")
    return parser.parse_args()


if __name__ == "__main__":
    main()
