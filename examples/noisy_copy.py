"""Learns the gap scores of an alignment from examples of it.

    python examples/noisy_copy.py

A text of 8 letters is copied with errors: letters are changed, runs of letters are left out, and
runs of new letters slip in. The generating alignment of a text with its copy is known. The scores
of the letters are given; what a model has to learn is what a gap costs, to open and to extend,
two numbers. It does so by `model.fit` with the likelihood of the generating alignments as loss, and
recovers the log-odds of the channel that made the copies. A model whose gap score is frozen at -10,
an arbitrary number as one would set it without data, fits the same alignments badly.
"""

import argparse
import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from keras_struct import layers

LETTERS, LENGTH = 8, 24
CHANGE, OPEN, EXTEND = 0.1, 0.08, 0.6  # probabilities of the channel, per letter
SEED = 0


def main() -> None:
    options = parse()
    if keras.config.backend() == "numpy":
        raise SystemExit("Expected a backend with gradients. Received: KERAS_BACKEND=numpy")
    rng = np.random.default_rng(SEED)
    examples, epochs = (128, 2) if options.smoke else (2048, 12)
    train, held_out = noisy_copies(rng, examples), noisy_copies(rng, examples // 8)

    table = Table("gap scores", title="Held-out copies", title_justify="left")
    for column in ("open", "extend", "nats", "precision", "recall", "F1"):
        table.add_column(column, justify="right")
    for name, gaps in (
        ("frozen at -10", layers.GapPenalties(-10.0, -10.0, trainable=False)),
        ("learned", layers.GapPenalties(-10.0, -10.0)),
    ):
        model = make_model(gaps)
        if gaps.trainable:
            model.fit(*train, batch_size=32, epochs=epochs, verbose=0 if options.smoke else 1)
        loss, *scores = model.evaluate(*held_out, batch_size=64, verbose=0)
        numbers = [float(keras.ops.convert_to_numpy(x)) for x in gaps.constants]
        table.add_row(name, *(f"{x:.2f}" for x in (*numbers, loss)), *(f"{x:.1%}" for x in scores))
    table.add_row("the channel", *(f"{x:.2f}" for x in channel_scores()[2:]), *["-"] * 4)
    Console().print(table)


def make_model(gaps) -> keras.Model:
    """An aligner of letters with the scores of the channel, whose gap scores alone are weights."""
    first, second = (keras.Input((None,), dtype="int32", name=name) for name in ("text", "copy"))
    embed = keras.layers.Embedding(1 + LETTERS, LETTERS, mask_zero=True, trainable=False)
    aligner = layers.Aligner("needleman_wunsch", gaps=gaps, adjacent_gaps="none")
    model = keras.Model([first, second], aligner(embed(first), embed(second)))
    same, other, _, _ = channel_scores()
    size = np.sqrt((same - other) * np.sqrt(LETTERS))  # the dot product is over sqrt(LETTERS)
    embed.embeddings.assign(np.eye(1 + LETTERS, LETTERS, k=-1) * size)
    aligner.bias.assign(other)
    aligner.bias.trainable = False
    metrics = [layers.AlignmentF1(name, name=name) for name in ("precision", "recall", "f1")]
    model.compile(keras.optimizers.Adam(0.1), layers.AlignmentCrossEntropy(), metrics=metrics)
    return model


def channel_scores() -> tuple[float, float, float, float]:
    """Log-odds of an equal letter, of another letter, of the first and of a further gap letter."""
    go_on = np.log(1 - 2 * OPEN)
    same, other = np.log((1 - CHANGE) * LETTERS), np.log(CHANGE * LETTERS / (LETTERS - 1))
    return same + go_on, other + go_on, np.log(OPEN * (1 - EXTEND)) - go_on, np.log(EXTEND)


def noisy_copies(rng: np.random.Generator, count: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Texts and copies (B, L), 0 is padding, and the paths of their generating alignments."""
    samples = [noisy_copy(rng) for _ in range(count)]
    longest = [max(len(x[n]) for x in samples) for n in range(2)]
    text, copy = (
        np.array([np.pad(x[n], (0, longest[n] - len(x[n]))) for x in samples]) for n in range(2)
    )
    paths = np.full((count, sum(longest) + 1, 2), -1)
    for path, (_, _, nodes) in zip(paths, samples, strict=True):
        path[: len(nodes)] = nodes
    return [text, copy], paths


def noisy_copy(rng: np.random.Generator) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """A text, its copy, and the nodes of their alignment."""
    text = rng.integers(1, LETTERS + 1, LENGTH).tolist()
    copy: list[int] = []
    state, done, nodes = "match", 0, [(0, 0)]
    while done < LENGTH:
        if state == "match":
            state = rng.choice(["match", "left out", "slipped in"], p=[1 - 2 * OPEN, OPEN, OPEN])
        elif rng.random() >= EXTEND:
            state = "match"
        if state == "match" and rng.random() < CHANGE:
            others = [letter for letter in range(1, LETTERS + 1) if letter != text[done]]
            copy.append(int(rng.choice(others)))
        elif state == "match":
            copy.append(text[done])
        elif state == "slipped in":
            copy.append(int(rng.integers(1, LETTERS + 1)))
        done += state != "slipped in"
        nodes.append((done, len(copy)))
    return text, copy, nodes


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--smoke", action="store_true", help="few examples, few epochs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
