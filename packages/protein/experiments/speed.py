"""Pairs per second of an aligner, beside TM-align and the Smith-Waterman of parasail.

    KERAS_BACKEND=torch python packages/protein/experiments/speed.py pairs/test.tsv [--model NAME]

The aligner encodes each chain once; a pair then costs a map, its marginals and a path. TM-align
(tmtools) searches superpositions. parasail aligns the 3Di letters alone by a striped kernel, with
equal letters scored 2 and others -1: its time does not depend on the matrix. Prints Markdown; F1 is
against the alignments of the table, which are TM-align's own, so it has 1 up to rounding.
"""

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import parasail
import tmtools

from keras_struct import protein

GAPS = (4, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("pairs", type=Path, help="labelled pairs")
    parser.add_argument("--model", default="structure")
    parser.add_argument("--rounds", type=int, default=3, help="the fastest counts")
    options = parser.parse_args()
    alignments = [pair.alignment for pair in protein.read_labelled_pairs(options.pairs)]
    pairs = [(a.first, a.second) for a in alignments]
    chains = list({id(c): c for pair in pairs for c in pair}.values())
    letters = {id(c): c.structural_letters for c in chains}
    aligner = protein.ProteinAligner.from_preset(options.model)
    states = {id(c): x for c, x in zip(chains, aligner.encode(chains), strict=True)}
    matrix = parasail.matrix_create("ACDEFGHIKLMNPQRSTVWY", 2, -1)

    def aligned():
        found: list = [None] * len(pairs)
        first, second = ([states[id(pair[k])] for pair in pairs] for k in range(2))
        for k, matched, map, _ in aligner.match(first, second):
            probabilities = map[tuple(matched.T)]
            found[k] = protein.Alignment(pairs[k][0], pairs[k][1], matched, probabilities)
        return found

    def ours():
        return [alignment.pairs for alignment in aligned()]

    def refined():
        return [alignment.pairs for alignment in protein.refine(aligned())]

    def tm_align():
        return [
            protein.Alignment.from_rows(a, b, (r.seqxA, r.seqyA)).pairs
            for a, b in pairs
            for r in [tmtools.tm_align(a.ca, b.ca, a.sequence, b.sequence)]
        ]

    def striped():
        for a, b in pairs:
            parasail.sw_trace_striped_sat(letters[id(a)], letters[id(b)], *GAPS, matrix)

    def encode():
        aligner.encode(chains)

    lengths = np.mean([[len(c) for c in pair] for pair in pairs], axis=0)
    print(
        f"{len(pairs)} pairs, {lengths[0]:.0f} and {lengths[1]:.0f} residues on average; "
        f"{keras.backend.backend()}, {os.environ.get('OMP_NUM_THREADS', 'all')} thread(s)\n"
    )
    print("| what | pairs/s | F1 |\n|---|---|---|")
    for name, run in (
        ("aligned from states", ours),
        ("aligned from states and refined", refined),
        ("TM-align", tm_align),
        ("parasail, 3Di letters", striped),
    ):
        seconds, found = fastest(run, options.rounds)
        f1 = "" if found is None else f"{score(found, alignments):.3f}"
        print(f"| {name} | {len(pairs) / seconds:.0f} | {f1} |", flush=True)
    seconds, _ = fastest(encode, options.rounds)
    print(f"\n{len(chains)} chains are encoded at {len(chains) / seconds:.0f} a second.")


def fastest(run, rounds: int):
    times, found = [], None
    for _ in range(rounds):
        start = time.perf_counter()
        found = run()
        times.append(time.perf_counter() - start)
    return min(times), found


def score(found, alignments) -> float:
    return float(
        np.mean(
            [
                protein.pair_scores(ours, reference.pairs)["f1"]
                for ours, reference in zip(found, alignments, strict=True)
            ]
        )
    )


if __name__ == "__main__":
    main()
