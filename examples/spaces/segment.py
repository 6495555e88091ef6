"""Puts spaces into a sentence with the exported model: plain TensorFlow and nothing else.

    python examples/spaces/segment.py build/demo/jax "thelistisnotempty"

The folder holds the SavedModel `spaces_model` and its alphabet, as `make spaces` writes them.
"""

import json
import logging
import sys
from pathlib import Path

import tensorflow as tf


def segment(folder: Path, sentence: str) -> str:
    """The sentence with spaces between its words; what is not in the alphabet is left out."""
    files = json.loads((folder / "alphabet.json").read_text())
    letters = [letter for letter in sentence.lower() if letter in files["alphabet"]]
    numbers = [1 + files["alphabet"].index(letter) for letter in letters]
    model = tf.saved_model.load(str(folder / "spaces_model"))
    tags = [files["labels"][tag] for tag in model.tags(tf.constant([numbers], tf.int32))[0].numpy()]
    words = "".join(letter + " " * (tag in "ES") for letter, tag in zip(letters, tags, strict=True))
    return words.strip()


if __name__ == "__main__":
    logging.getLogger("absl").setLevel(logging.ERROR)
    print(segment(Path(sys.argv[1]), sys.argv[2]))
    if "keras_struct" in sys.modules:
        raise ImportError("Expected plain TensorFlow. Received: keras_struct was imported")
