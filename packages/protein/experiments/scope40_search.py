"""What scores of a search should lose for common residues: SCOPe domains, by structural letters.

    KERAS_BACKEND=torch python packages/protein/experiments/scope40_search.py SET MODEL.keras

SET is that of `scope40.py`. The aligner of letters is trained on 3,000 pairs of the training folds,
unless MODEL is there. The domains of the folds of dev, of which none has a pair to train on, are
searched by 40 of them: the share of the family, of the superfamily beyond it and of the fold beyond
that which comes before the first domain of another fold. Prints Markdown.
"""

import argparse
import csv
import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import scope40

from keras_struct import layers, protein
from keras_struct.protein.batches import padded
from keras_struct.protein.local_scores import LocalScores
from keras_struct.protein.paths import path_of_pairs
from keras_struct.protein.residue_encoder import ALPHABETS

LONGEST, QUERIES, RESIDUES = 600, 40, 1500
LOSSES = ((0, 0.0), (1, 0.0), (1, 0.3), (1, 0.5), (1, 0.7), (1, 1.2))  # times common, and constant


class Domain(protein.Chain):
    """A domain of which only structural letters are known; they stand for its sequence."""

    @property
    def structural_letters(self):
        return self.sequence


class Batches(keras.utils.PyDataset):
    """Batches of pairs of like sizes, with paths."""

    def __init__(self, pairs):
        super().__init__()
        self.pairs, self.generator = pairs, np.random.default_rng(0)
        self.on_epoch_end()

    def __len__(self):
        return len(self.batches)

    def on_epoch_end(self):
        self.batches = scope40.batched(self.pairs, scope40.MOST, self.generator.permutation)
        self.generator.shuffle(self.batches)

    def __getitem__(self, index):
        (n, m), members = self.batches[index]
        pairs = [self.pairs[k] for k in members]
        x = {
            f"{side}_letters": padded([pair[k] for pair in pairs], length)[..., None]
            for k, (side, length) in enumerate((("first", n), ("second", m)))
        }
        weights = np.array([1 / len(pair[2]) for pair in pairs], "float32")
        return x, padded([path_of_pairs(pair[2]) for pair in pairs], n + m + 1, -1), weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("set", type=Path)
    parser.add_argument("model", type=Path)
    options = parser.parse_args()
    letters, pairs = scope40.read(options.set)
    ALPHABETS["mu"] = "".join(letters)
    if not options.model.is_file():
        train(scope40.choose(pairs["train"], 3000, 0), options.model)
    aligner = protein.ProteinAligner.from_preset(options.model)
    names, classes = domains(options.set)
    states = aligner.encode(names)
    lengths = np.array([len(x) for x in states])
    generator = np.random.default_rng(0)
    family, superfamily, fold = (np.array([level(c, k) for c in classes]) for k in (4, 3, 2))
    queries = [
        k
        for k in generator.permutation(len(states))
        if 1 < (family == family[k]).sum() < (superfamily == superfamily[k]).sum()
    ][:QUERIES]
    flat = np.concatenate([states[k] for k in generator.choice(len(states), 60, replace=False)])
    background = flat[::5][:RESIDUES]
    scores = LocalScores(aligner)
    plain = [scores.common(x, background) for x in states]
    print("| loss | over the root of the length | family | superfamily | fold |")
    print("|---|---|---|---|---|")
    for times, constant in LOSSES:
        common = [times * (x - x.dtype.type(0.25)) + np.float32(constant / 2) for x in plain]
        found = np.array([scores(states[k], states, common[k], common) for k in queries])
        for rooted in (False, True):
            rows = []
            for k, row in zip(queries, found / np.sqrt(lengths) if rooted else found, strict=True):
                order = [j for j in np.argsort(-row) if j != k]
                false = np.flatnonzero(fold[order] != fold[k])
                first = order[: false[0]]
                groups = (
                    family == family[k],
                    (superfamily == superfamily[k]) & (family != family[k]),
                    (fold == fold[k]) & (superfamily != superfamily[k]),
                )
                counts = [group.sum() - group[k] for group in groups]
                rows.append(
                    [
                        g[first].sum() / n if n else np.nan
                        for g, n in zip(groups, counts, strict=True)
                    ]
                )
            cells = " | ".join(f"{x:.3f}" for x in np.nanmean(rows, axis=0))
            print(f"| {times} times common, {constant} | {rooted} | {cells} |", flush=True)


def train(pairs: list, path: Path) -> None:
    keras.utils.set_random_seed(0)
    encoder = protein.ResidueEncoder(("mu",), dim=64, depth=2, dropout=0.2)
    aligner = protein.ProteinAligner.create(encoder)
    batches, epochs = Batches(pairs), 3
    steps = epochs * len(batches)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=2e-3, warmup_steps=steps // 10
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.01, global_clipnorm=1.0)
    aligner.model.compile(optimizer, layers.AlignmentCrossEntropy())
    aligner.model.fit(batches, epochs=epochs, verbose=2)
    aligner.save(path)


def level(scop: str, parts: int) -> str:
    return ".".join(scop.split(".")[:parts])


def domains(folder: Path) -> tuple[list, list]:
    """Domains of the folds of dev, and their classes."""
    csv.field_size_limit(2**24)
    with open(folder / "domains.tsv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    scop = {row["domain"]: row["scop"] for row in rows}
    with open(folder / "pairs.tsv", newline="", encoding="utf-8") as stream:
        folds = {
            level(scop[row["dom1"]], 2)
            for row in csv.DictReader(stream, delimiter="\t")
            if row["split"] == "dev"
        }
    kept = [r for r in rows if level(r["scop"], 2) in folds and len(r["mu"]) <= LONGEST]
    return [Domain(r["domain"], r["mu"]) for r in kept], [r["scop"] for r in kept]


if __name__ == "__main__":
    main()
