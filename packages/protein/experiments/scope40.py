"""What a learned gap is worth: structural letters of SCOPe domains against TM-align's alignments.

    KERAS_BACKEND=torch python packages/protein/experiments/scope40.py SET OUTPUT [--pairs 1500]

SET holds `domains.tsv` (structural letters of each domain) and `pairs.tsv` (alignments as CIGAR: P
a pair within 5 angstrom, M a wider one, D and I residues of one domain alone; folds of train and
dev are disjoint). Every configuration trains an embedding of the letters and the gaps of an
alignment on the pairs P, and is scored on dev by precision, recall and F1 of the pairs of its best
alignment. OUTPUT gets a line of JSON for each configuration, and a run that was interrupted goes on
with the next one; `--table` prints the lines as Markdown.
"""

import argparse
import csv
import itertools
import json
import os
import re
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
from keras import ops as K
from rich.progress import track

from keras_struct import layers, ops
from keras_struct.protein.batches import batches_by_shape, padded
from keras_struct.protein.paths import matched_pairs, path_of_pairs

DIMS = (2, 4, 8, 32)
FROZEN = -10.0
LEARNED = -3.0  # where learned gaps start
TUNED = (-1.0, -2.0, -3.0, -5.0)  # tried on pairs of the training folds
GAPS = ("frozen -10", "frozen tuned", "linear from -10", "linear", "affine", "contextual")
LOSSES = {"path": layers.AlignmentCrossEntropy, "f1": layers.AlignmentF1Loss}
PRIORS = ("softmax", "sinkhorn", "needleman_wunsch", "smith_waterman")
PRIOR_DIM = 8
BATCH_CELLS = 2**20
MOST = 16  # pairs of a batch in training
QUANTUM = 64  # what padded lengths are multiples of
LONGEST = 400
KL_WEIGHT = 1.0  # of the masses of the plan, in units of the temperature
EPSILON = 1e-7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("set", type=Path)
    parser.add_argument("output", type=Path, help="lines of JSON")
    parser.add_argument("--pairs", type=int, default=1500, help="to train on")
    parser.add_argument("--dev", type=int, default=600, help="pairs to score on")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="print what OUTPUT holds, and stop")
    options = parser.parse_args()
    if options.table:
        return print_table(options.output)
    letters, pairs = read(options.set)
    train = choose(pairs["train"], options.pairs + 200, options.seed)
    train, tuning = train[:-200], train[-200:]
    dev = choose(pairs["dev"], options.dev, options.seed)
    done = {row["name"]: row for row in rows(options.output)}

    def record(name, run):
        if name not in done:
            start = time.monotonic()
            done[name] = {"name": name, **run(), "seconds": round(time.monotonic() - start, 1)}
            with options.output.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(done[name]) + "\n")
            print(done[name], flush=True)
        return done[name]

    def fitted(dim, gap, loss, scored, structure="smith_waterman", value=FROZEN):
        keras.utils.set_random_seed(options.seed)
        model = build(len(letters), dim, gaps(gap, value), structure)
        fit(model, train, loss, options.epochs, options.seed)
        aligner = model.get_layer("aligner")
        learned = [float(np.mean(K.convert_to_numpy(w))) for w in aligner.gaps.weights[:2]]
        return {**score(decode(model, scored), scored), "gaps": [round(x, 2) for x in learned]}

    record("log-odds matrix, tuned gaps", lambda: baseline(letters, train, tuning, dev))
    best = {}
    for loss in LOSSES:
        found = {
            value: record(
                f"tuning: {loss}, gap {value:g}",
                lambda loss=loss, value=value: fitted(
                    PRIOR_DIM, "frozen tuned", loss, tuning, value=value
                ),
            )
            for value in TUNED
        }
        best[loss] = max(found, key=lambda value: found[value]["f1"])
    for loss, dim, gap in itertools.product(LOSSES, DIMS, GAPS):
        value = best[loss] if gap == "frozen tuned" else FROZEN
        record(
            f"{loss}, dim {dim}, {gap}",
            lambda dim=dim, gap=gap, loss=loss, value=value: fitted(
                dim, gap, loss, dev, value=value
            ),
        )
    for prior in PRIORS:
        record(
            f"prior: {prior}",
            lambda prior=prior: swapped(prior, len(letters), train, dev, options),
        )
    print_table(options.output)
    return None


def read(folder: Path):
    """The letters, and for each split a list of (ids, ids, pairs within 5 angstrom)."""
    csv.field_size_limit(2**24)
    with open(folder / "domains.tsv", newline="", encoding="utf-8") as stream:
        domains = {row["domain"]: row["mu"] for row in csv.DictReader(stream, delimiter="\t")}
    letters = sorted({letter for text in domains.values() for letter in text})
    numbers = {letter: k for k, letter in enumerate(letters, 1)}
    ids = {
        name: np.array([numbers[letter] for letter in text], "int32")
        for name, text in domains.items()
    }
    found: dict[str, list] = {}
    with open(folder / "pairs.tsv", newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            first, second = ids[row["dom1"]], ids[row["dom2"]]
            pairs = close_pairs(row["cigar"])
            if len(pairs) and max(len(first), len(second)) <= LONGEST:
                found.setdefault(row["split"], []).append((first, second, pairs))
    return letters, found


def close_pairs(cigar: str) -> np.ndarray:
    pairs, i, j = [], 0, 0
    for count, move in re.findall(r"(\d+)([MPDI])", cigar):
        n = int(count)
        if move == "P":
            pairs += [(i + k, j + k) for k in range(n)]
        i, j = i + n * (move != "I"), j + n * (move != "D")
    return np.array(pairs, "int64").reshape(-1, 2)


def choose(pairs: list, count: int, seed: int) -> list:
    order = np.random.default_rng(seed).permutation(len(pairs))[:count]
    return [pairs[k] for k in order]


def gaps(kind: str, value: float) -> layers.GapPenalties:
    if kind.startswith("frozen"):
        return layers.GapPenalties(value, None, trainable=False, name="gaps")
    if kind.startswith("linear"):
        return layers.GapPenalties(FROZEN if kind.endswith("-10") else LEARNED, None, name="gaps")
    return layers.GapPenalties(contextual=kind == "contextual", name="gaps")


def embedding(letters: int, dim: int, **options) -> keras.layers.Embedding:
    return keras.layers.Embedding(letters + 1, dim, embeddings_initializer="normal", **options)


def build(letters: int, dim: int, gaps, structure: str) -> keras.Model:
    first, second = (keras.Input((None,), dtype="int32", name=n) for n in ("first", "second"))
    embed = keras.layers.Embedding(
        letters + 1, dim, mask_zero=True, embeddings_initializer="normal"
    )
    aligner = layers.Aligner(structure, scoring="bilinear", gaps=gaps, name="aligner")
    return keras.Model({"first": first, "second": second}, aligner(embed(first), embed(second)))


class Batches(keras.utils.PyDataset):
    """Batches of pairs of like sizes with paths, or with matrices of pairs, as targets."""

    def __init__(self, pairs, matrices, seed):
        super().__init__()
        self.pairs, self.matrices = pairs, matrices
        self.generator = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self):
        return len(self.batches)

    def on_epoch_end(self):
        self.batches = batched(self.pairs, MOST, self.generator.permutation)
        self.generator.shuffle(self.batches)

    def __getitem__(self, index):
        (n, m), members = self.batches[index]
        x = inputs([self.pairs[k] for k in members], n, m)
        matched = [self.pairs[k][2] for k in members]
        weights = np.array([1.0 if self.matrices else 1 / len(p) for p in matched], "float32")
        if not self.matrices:
            return x, padded([path_of_pairs(p) for p in matched], n + m + 1, -1), weights
        y = np.zeros((len(members), n, m), "float32")
        for row, p in enumerate(matched):
            y[row, p[:, 0], p[:, 1]] = 1
        return x, y


def batched(pairs, most=None, order=None):
    lengths = [(len(first), len(second)) for first, second, _ in pairs]
    return batches_by_shape(lengths, BATCH_CELLS, most, QUANTUM, order)


def inputs(pairs, n, m):
    first, second = ([pair[k] for pair in pairs] for k in range(2))
    return {"first": padded(first, n), "second": padded(second, m)}


def fit(model, train, loss, epochs, seed, matrices=False):
    batches = Batches(train, matrices, seed)
    schedule = keras.optimizers.schedules.CosineDecay(0.05, epochs * len(batches))
    if not matrices:
        loss = LOSSES[loss]()
    model.compile(keras.optimizers.Adam(schedule, global_clipnorm=1.0), loss)
    model.fit(batches, epochs=epochs, verbose=0)


def outputs(model, pairs):
    """For each pair, by groups: its index, and its output without the padding of the batch."""
    for (n, m), batch in batched(pairs):
        x = inputs([pairs[k] for k in batch], n, m)
        yield from zip(batch, K.convert_to_numpy(model.predict_on_batch(x)), strict=True)


def decode(model, pairs):
    found: list = [None] * len(pairs)
    for k, path in outputs(layers.decoding_model(model), pairs):
        found[k] = matched_pairs(path)
    return found


def score(found, pairs):
    """Micro-averaged precision, recall and F1 of the pairs of residues."""
    right = sum(
        len(set(map(tuple, ours.tolist())) & set(map(tuple, pair[2].tolist())))
        for ours, pair in zip(found, pairs, strict=True)
    )
    ours, theirs = sum(map(len, found)), sum(len(pair[2]) for pair in pairs)
    scores = {"precision": right / max(1, ours), "recall": right / theirs}
    return {**scores, "f1": 2 * right / (ours + theirs)}


def baseline(letters, train, tuning, dev):
    """Smith-Waterman over the log-odds of matched letters, its gaps the best of a grid."""
    counts = np.ones((len(letters) + 1,) * 2)
    for first, second, pairs in train:
        a, b = first[pairs[:, 0]], second[pairs[:, 1]]
        np.add.at(counts, (a, b), 1)
        np.add.at(counts, (b, a), 1)
    joint = counts / counts.sum()
    matrix = np.log(joint / joint.sum(0) / joint.sum(1)[:, None]).astype("float32")

    def run(opening, extension, shift, pairs):
        found: list = [None] * len(pairs)
        for (n, m), members in batched(pairs):
            x = inputs([pairs[k] for k in members], n, m)
            lengths = tuple((side > 0).sum(axis=1) for side in x.values())
            scores = matrix[x["first"][:, :, None], x["second"][:, None, :]] - shift
            best = ops.smith_waterman(
                scores, opening, extension, lengths=lengths, temperature=0
            ).argmax()
            for k, path in zip(members, K.convert_to_numpy(best), strict=True):
                found[k] = matched_pairs(path)
        return score(found, pairs)

    grid = [
        (opening, extension, shift)
        for opening in (-1.0, -2.0, -3.0, -4.0)
        for extension in (-0.1, -0.3, -1.0)
        for shift in (-0.2, 0.0, 0.2)
    ]
    best = max(track(grid, "tune gaps"), key=lambda g: run(g[0], g[1], g[2], tuning)["f1"])
    opening, extension, shift = best
    return {**run(opening, extension, shift, dev), "gaps": [opening, extension], "shift": shift}


class PairMap(keras.layers.Layer):
    """Scores of all pairs as independent rows, or as a transport plan.

    Residues may stay unmatched: the softmax has a column more, of a learned score, and the masses
    of the plan are relaxed.
    """

    def __init__(self, prior, **kwargs):
        super().__init__(**kwargs)
        self.prior = prior

    def build(self, scores_shape, first_shape, second_shape):
        if self.prior == "softmax":
            self.unmatched = self.add_weight(shape=(), initializer="zeros", name="unmatched")

    def call(self, scores, first, second):
        rows, columns = first > 0, second > 0
        if self.prior == "sinkhorn":
            lengths = tuple(K.sum(K.cast(mask, "int32"), axis=1) for mask in (rows, columns))
            return ops.sinkhorn_plan(scores, lengths, kl_weights=(KL_WEIGHT, KL_WEIGHT))
        valid = rows[:, :, None] & columns[:, None, :]
        other = K.broadcast_to(self.unmatched, K.shape(scores[:, :, :1]))
        full = K.softmax(K.concatenate([K.where(valid, scores, -1e30), other], axis=2), axis=2)
        return K.where(valid, full[:, :, :-1], 0.0)


class Scores(keras.layers.Layer):
    """Bilinear scores of all pairs of states, with a bias."""

    def build(self, first_shape, second_shape):
        size = first_shape[-1]
        self.form = self.add_weight(shape=(size, size), name="form")
        self.bias = self.add_weight(shape=(), initializer="zeros", name="bias")

    def call(self, first, second):
        scale = first.shape[-1] ** -0.5
        return (
            K.matmul(K.matmul(first, self.form), K.transpose(second, (0, 2, 1))) * scale + self.bias
        )


def map_loss(y_true, y_pred):
    """One minus the soft F1 of a map."""
    y_true = K.cast(y_true, y_pred.dtype)
    both = K.sum(y_true * y_pred, axis=(1, 2))
    return 1 - 2 * both / (K.sum(y_true + y_pred, axis=(1, 2)) + EPSILON)


def swapped(prior, letters, train, dev, options):
    """The same encoder and loss, 1 - soft F1, under another map; pairs are mutual best ones."""
    keras.utils.set_random_seed(options.seed)
    first, second = (keras.Input((None,), dtype="int32", name=n) for n in ("first", "second"))
    if prior in ("softmax", "sinkhorn"):
        embed = embedding(letters, PRIOR_DIM)
        map = PairMap(prior)(Scores()(embed(first), embed(second)), first, second)
    else:
        packed = build(letters, PRIOR_DIM, gaps("affine", FROZEN), prior)
        map = layers.AlignmentDecoder("map")(packed({"first": first, "second": second}))
    model = keras.Model({"first": first, "second": second}, map)
    fit(model, train, map_loss, options.epochs, options.seed, matrices=True)
    found: list = [None] * len(dev)
    soft = np.zeros(3)
    for k, p in outputs(model, dev):
        n, m = len(dev[k][0]), len(dev[k][1])
        p = p[:n, :m]
        best = (p == p.max(axis=1, keepdims=True)) & (p == p.max(axis=0, keepdims=True)) & (p > 0.1)
        found[k] = np.argwhere(best)
        soft += [p[tuple(dev[k][2].T)].sum(), p.sum(), len(dev[k][2])]
    return {**score(found, dev), "soft_f1": 2 * soft[0] / (soft[1] + soft[2])}


def rows(path: Path) -> list[dict]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def print_table(path: Path) -> None:
    print("| configuration | precision | recall | F1 | soft F1 | gaps | s |")
    print("|---|---|---|---|---|---|---|")
    for row in rows(path):
        numbers = [f"{row[k]:.3f}" for k in ("precision", "recall", "f1")]
        soft = f"{row['soft_f1']:.3f}" if "soft_f1" in row else ""
        learned = ", ".join(f"{x:g}" for x in row.get("gaps", []))
        cells = [row["name"], *numbers, soft, learned, f"{row['seconds']:.0f}"]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
