"""Learns to put the spaces back into English text whose spaces were removed.

    make spaces BACKEND=jax SENTENCE="aniteratorisalsoiterable"

Each character gets a tag: B, M or E for the beginning, the middle and the end of a word, S for a
word of one letter. A CRF, which scores whole tag sequences and allows only those that make words,
is trained beside a softmax tagger of the same encoder, which tags each character on its own. Both
start from the same weights and see the same batches. (With only the two tags "begins a word" and
"goes on", neighbours say little about each other, and the two taggers are equally good.)

The CRF is exported as a SavedModel, and another process, plain TensorFlow, puts the spaces into
the sentence. Everything is written to build/demo/<backend>; an interrupted run goes on after the
last epoch that it finished.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import zlib
from pathlib import Path

from keras_struct.runs.quiet import hide_native_logs

os.environ.setdefault("KERAS_BACKEND", "jax")
# The arrays are small; on a busy machine, PyTorch spends most time waiting for its other threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
hide_native_logs()

import keras
from rich.console import Console
from rich.table import Table
from spaces import characters as chars
from spaces.picture import draw_marginals
from spaces.prose import MAX_CHARACTERS, Prose, read_prose
from spaces.tagger import best_tags, make_tagger, tags_and_boundaries, train

from keras_struct import layers

SENTENCE = "the items are now in order and none is left"
TEMPERATURES = (0.25, 1.0, 4.0)
EPOCHS = 18
SEED = 1
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    options = parse()
    backend = keras.config.backend()
    if backend == "numpy":
        sys.exit("Expected a backend that has gradients. Received: KERAS_BACKEND=numpy")
    start = time.perf_counter()
    folder = ROOT / "build" / "demo" / backend if options.output is None else options.output
    folder.mkdir(parents=True, exist_ok=True)

    prose = read_prose()
    if options.smoke:
        prose = Prose(prose.train[:80], prose.held_out[:20])
    describe(prose)
    crf, scores = train_both(prose, 2 if options.smoke else EPOCHS, folder / "checkpoints")
    report(scores)
    seconds = {"train and evaluate": time.perf_counter() - start}

    export(crf, folder)
    there = segment_elsewhere(folder, options.sentence)
    words = clean(options.sentence)
    letters = "".join(words)
    characters, true = chars.encode([" ".join(words)], len(letters))
    tags, probabilities = tags_and_boundaries(crf, characters, TEMPERATURES)
    here = chars.insert_spaces(letters, chars.boundaries(tags[None])[0])
    if here != there:
        sys.exit(f"Expected what the trained model answers, {here!r}. Received: {there!r}")
    print(f"The SavedModel, in a process with plain TensorFlow:\n  {letters}\n  {there}\n")
    picture = folder / "marginals.png" if options.picture is None else options.picture
    draw_marginals(
        picture,
        letters,
        dict(zip(TEMPERATURES, probabilities, strict=True)),
        chars.boundaries(true)[0] if len(words) > 1 else None,
    )
    seconds["export, reload and draw"] = time.perf_counter() - start - sum(seconds.values())

    results = {"backend": backend, "scores": scores, "seconds": seconds}
    write_whole(folder / "results.json", json.dumps(results, indent=2))
    shutil.rmtree(folder / "checkpoints")
    times = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    print(f"Wrote {folder}, {picture.name} in {picture.parent} ({times})")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("sentence", nargs="?", default=SENTENCE, help="spaces in it are removed")
    parser.add_argument("--output", type=Path, help="folder; default build/demo/<backend>")
    parser.add_argument("--picture", type=Path, help="file; default marginals.png in the folder")
    parser.add_argument("--smoke", action="store_true", help="a few sentences, two epochs")
    options = parser.parse_args()
    if not clean(options.sentence):
        parser.error(f"Expected a sentence with letters. Received: sentence={options.sentence!r}")
    return options


def describe(prose: Prose) -> None:
    known = {word for sentence in prose.train for word in sentence.split()}
    for name, part in zip(("training", "held out"), prose, strict=True):
        words = [word for sentence in part for word in sentence.split()]
        letters, new = sum(map(len, words)), sum(word not in known for word in words)
        print(f"{name}: {len(part):,} sentences, {len(words):,} words, {letters:,} characters")
    print(f"{new / len(words):.1%} of the held-out words never occur in training\n")


def train_both(prose: Prose, epochs: int, checkpoints: Path):
    """The trained CRF tagger, and the held-out scores of both taggers by name."""
    rows = chars.join_to_rows(prose.train, MAX_CHARACTERS)
    characters, tags = chars.encode(rows, MAX_CHARACTERS)
    held_out = chars.encode(prose.held_out, MAX_CHARACTERS)
    # Epochs of another run go on only if text and settings are the same.
    run = zlib.crc32(repr((rows, epochs, SEED)).encode())
    losses = {
        "softmax": keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1),
        "crf": layers.StructuredNLL(),
    }
    scores = {}
    for head, loss in losses.items():
        keras.utils.set_random_seed(SEED)
        model = make_tagger(head)
        train(model, loss, characters, tags, epochs, checkpoints / f"{run:08x}" / head)
        scores[head] = {
            "parameters": model.count_params(),
            **chars.score(best_tags(model, held_out[0]), held_out[1])._asdict(),
        }
    return model, scores


def report(scores: dict[str, dict[str, float]]) -> None:
    table = Table("tagger", title="\nHeld-out topics", title_justify="left", title_style="bold")
    for column in ("parameters", "precision", "recall", "boundary F1", "exact sentences"):
        table.add_column(column, justify="right")
    for name, (parameters, *shares) in ((name, row.values()) for name, row in scores.items()):
        table.add_row(name, f"{parameters:,}", *(f"{share:.2%}" for share in shares))
    Console().print(table)


def clean(sentence: str) -> list[str]:
    """The words of a sentence, without what is not in the alphabet."""
    words = ("".join(c for c in word if c in chars.ALPHABET) for word in sentence.lower().split())
    return [word for word in words if word]


def export(model, folder: Path) -> None:
    names = {"alphabet": chars.ALPHABET, "labels": chars.LABELS}
    write_whole(folder / "alphabet.json", json.dumps(names))
    endpoints = {mode: layers.decoding_model(model, mode) for mode in ("tags", "marginals")}
    layers.export_saved_model(model, folder / "spaces_model", endpoints=endpoints, overwrite=True)


def segment_elsewhere(folder: Path, sentence: str) -> str:
    """What the SavedModel answers in a new process, which does not import this library."""
    script = ROOT / "examples" / "spaces" / "segment.py"
    command = [sys.executable, str(script), str(folder), sentence]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    child = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return child.stdout.strip()


def write_whole(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)


if __name__ == "__main__":
    main()
