"""The frozen structure encoder of ProteinMPNN as what an alignment is scored on.

    KERAS_BACKEND=torch python packages/protein/experiments/frozen_proteinmpnn.py pairs/ [--letters]

pairs/ is what `structs.py` wrote. Each chain is encoded once with the published weights; a small
head on these states, with `--letters` beside a `ResidueEncoder` of 3Di letters and amino acids,
and the gaps are trained on the likelihood of TM-align's paths. Prints Markdown: the scores on test
after the epoch with the best F1 on dev, and those of dev then.
"""

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
from keras import ops as K
from rich.progress import track

from keras_struct import layers, protein
from keras_struct.protein.batches import batches_by_shape, padded
from keras_struct.protein.protein_aligner import matched_pairs, path_of_pairs

ALPHABETS = ("3di", "amino_acids")
STATES, HIDDEN, DIM = 128, 256, 64
DROPOUT = 0.2
LONGEST = 512
BATCH_CELLS = 2**20
MOST = 16  # pairs of a batch
QUANTUM = 64  # what padded lengths are multiples of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--letters", action="store_true")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tables = {
        name: protein.read_labelled_pairs(options.pairs / f"{name}.tsv")
        for name in ("train", "dev", "test")
    }
    inputs = encode([pair for pairs in tables.values() for pair in pairs])
    keras.utils.set_random_seed(options.seed)
    model = build(options.letters)
    batches = batches_of(tables["train"], inputs)
    steps = options.epochs * len(batches)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=options.learning_rate, warmup_steps=max(1, steps // 10)
    )
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=0.01, global_clipnorm=1.0),
        layers.AlignmentCrossEntropy(),
    )
    generator, best = np.random.default_rng(options.seed), None
    decoder = layers.decoding_model(model)
    for epoch in range(options.epochs):
        start = time.monotonic()
        for k in track(generator.permutation(len(batches)), f"epoch {epoch + 1}"):
            model.train_on_batch(*batches[k])
        scores = {name: evaluate(decoder, tables[name], inputs) for name in ("dev", "test")}
        print(
            f"epoch {epoch + 1}: dev {scores['dev']}, {time.monotonic() - start:.0f} s", flush=True
        )
        if best is None or scores["dev"]["f1"] > best["dev"]["f1"]:
            best = scores
    assert best is not None
    print("| set | precision | recall | F1 | lDDT | TM-align's lDDT | share |")
    print("|---|---|---|---|---|---|---|")
    for name, row in best.items():
        share = row["lddt"] / row["reference_lddt"]
        cells = " | ".join(f"{value:.3f}" for value in row.values())
        print(f"| {name} | {cells} | {share:.0%} |")


def encode(pairs) -> dict[int, dict[str, np.ndarray]]:
    """Of every chain, by its identity, the inputs of the model."""
    chains = {id(c): c for p in pairs for c in (p.alignment.first, p.alignment.second)}
    by_name: dict[str, dict] = {}
    encoder = protein.load_proteinmpnn()
    for chain in track(list(chains.values()), "encode"):
        if chain.name not in by_name:
            states = encoder(chain.backbone[None].astype("float32"))[0]
            by_name[chain.name] = {
                "states": K.convert_to_numpy(K.stop_gradient(states)),
                "letters": protein.letter_ids(chain, ALPHABETS),
            }
    return {key: by_name[chain.name] for key, chain in chains.items()}


def build(with_letters: bool) -> keras.Model:
    norm = keras.layers.LayerNormalization()
    hidden = keras.layers.Dense(HIDDEN, activation="gelu")
    output, drop = keras.layers.Dense(DIM), keras.layers.Dropout(DROPOUT)
    residues = protein.ResidueEncoder(ALPHABETS, DIM, dropout=DROPOUT)

    def side(name):
        states = keras.Input((None, STATES), name=f"{name}_states")
        letters = keras.Input((None, len(ALPHABETS)), dtype="int32", name=f"{name}_letters")
        x = output(drop(hidden(drop(norm(states)))))
        if with_letters:
            x = x + residues(letters)
        return [states, letters], x, letters[..., 0] > 0

    (first, x, x_mask), (second, y, y_mask) = side("first"), side("second")
    aligner = layers.Aligner(gaps=layers.GapPenalties(contextual=True))
    packed = aligner(x, y, first_mask=x_mask, second_mask=y_mask)
    return keras.Model({tensor.name: tensor for tensor in first + second}, packed)


def arrays(pairs, inputs, sizes) -> dict[str, np.ndarray]:
    """Inputs of the model for pairs of chains, padded."""
    found = {}
    for k, (side, size) in enumerate(zip(("first", "second"), sizes, strict=True)):
        for name in ("states", "letters"):
            values = [inputs[id(pair[k])][name] for pair in pairs]
            found[f"{side}_{name}"] = padded(values, size)
    return found


def batches_of(labelled, inputs) -> list[tuple]:
    """Batches of pairs of like sizes: inputs, paths, and weights."""
    mean = float(np.mean([pair.weight for pair in labelled]))
    chosen = []
    for pair in labelled:
        chains = (pair.alignment.first, pair.alignment.second)
        if len(pair.alignment.pairs) and max(map(len, chains)) <= LONGEST:
            chosen.append((chains, pair))
    lengths = [tuple(map(len, chains)) for chains, _ in chosen]
    batches = []
    for shape, members in batches_by_shape(lengths, BATCH_CELLS, MOST, QUANTUM):
        part = [chosen[k] for k in members]
        paths = [path_of_pairs(pair.alignment.pairs) for _, pair in part]
        weights = [pair.weight / mean / len(pair.alignment.pairs) for _, pair in part]
        batches.append(
            (
                arrays([chains for chains, _ in part], inputs, shape),
                padded(paths, sum(shape) + 1, -1),
                np.array(weights, "float32"),
            )
        )
    return batches


def evaluate(decoder, labelled, inputs) -> dict[str, float]:
    rows = []
    for pair in labelled:
        first, second = pair.alignment.first, pair.alignment.second
        x = arrays([(first, second)], inputs, (len(first), len(second)))
        found = matched_pairs(K.convert_to_numpy(decoder.predict_on_batch(x))[0])
        rows.append(
            {
                **protein.pair_scores(found, pair.alignment.pairs),
                "lddt": protein.lddt(first, second, found),
                "reference_lddt": protein.lddt(first, second, pair.alignment.pairs),
            }
        )
    weights = [pair.weight for pair in labelled]
    return {
        name: round(float(np.average([row[name] for row in rows], weights=weights)), 4)
        for name in rows[0]
    }


if __name__ == "__main__":
    main()
