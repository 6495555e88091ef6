"""Trains the same encoder under every head and loss on the same sentences, and scores them.

    python packages/treebank/experiments/compare_heads.py constituency craft/train.mrg craft/dev.mrg
    python packages/treebank/experiments/compare_heads.py dependency ewt/train.conllu ewt/dev.conllu

Prints a Markdown table, see RESULTS.md.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_struct import layers, parsers, treebank
from keras_struct.treebank.batches import batches_by_length
from keras_struct.treebank.training import KINDS

# Name, options of `train`, and how the trees are found from the scores.
HEADS: dict[str, Any] = {
    "constituency": (
        ("CKY, likelihood of the tree", {"loss": "nll"}, ("best tree",)),
        ("CKY, structured hinge", {"loss": "max_margin"}, ("best tree",)),
        ("every span by itself", {"loss": "local"}, ("greedily", "best tree")),
    ),
    "dependency": (
        ("Eisner, likelihood of the tree", {"structure": "eisner"}, ("best tree",)),
        ("Matrix-Tree, likelihood", {"structure": "spanning_tree"}, ("best tree",)),
        (
            "every arc by itself",
            {"structure": "spanning_tree", "loss": "local"},
            ("greedily", "best tree"),
        ),
    ),
}


def greedy_tree(scores):
    """The padded array of the parts that are best each by itself, of one sentence."""
    n, _, count = scores.shape
    flat = scores.reshape(n, -1).argmax(-1)
    heads, words = flat // count, np.arange(n)
    return np.stack([np.where(heads == words, 0, heads + 1), flat % count], axis=-1)


def greedy_parses(parser, sentences):
    """What `parser.parse` gives, with the parts taken greedily."""
    model = keras.Model(parser.input, parser.output)  # a task would take sentences
    found = [None] * len(sentences)
    for batch in batches_by_length([len(words) for words in sentences], 1200):
        arrays = parser.preprocessor.arrays([sentences[i] for i in batch], few_shapes=True)
        outputs = model.predict_on_batch(arrays)
        packed = layers.unpack(keras.ops.convert_to_tensor(outputs["tree"])).scores
        scores = keras.ops.convert_to_numpy(packed)
        tags = np.argmax(outputs["tags"], axis=-1)
        for row, i in enumerate(batch):
            words = sentences[i]
            part = scores[row, : len(words), : len(words)]
            if isinstance(parser, treebank.ConstituencyParser):
                tree = np.array(parsers.greedy_spans(part))
            else:
                tree = greedy_tree(part)
            names = [parser.tags[k] for k in tags[row, : len(words)]]
            found[i] = parser.result(words, tree, names, None)
    return found


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("kind", choices=sorted(HEADS))
    options.add_argument("train", type=Path)
    options.add_argument("dev", type=Path)
    options.add_argument("--limit", type=int, default=6000, help="sentences to train on")
    options.add_argument("--epochs", type=int, default=2)
    options.add_argument("--dtype-policy", default="mixed_bfloat16")
    options.add_argument("--only", default="", help="heads whose name holds this text")
    chosen = options.parse_args()
    keras.config.set_dtype_policy(chosen.dtype_policy)
    trees = KINDS[chosen.kind]
    gold = trees.read(chosen.dev)
    sentences = [trees.words(tree) for tree in gold]
    header = True
    for name, more, ways in HEADS[chosen.kind]:
        if chosen.only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            parser = treebank.train(
                chosen.kind,
                [chosen.train],
                [],
                folder,
                epochs=chosen.epochs,
                limit=chosen.limit,
                progress=lambda line: None,
                decoding="tree",
                **more,
            )
            minutes = (time.perf_counter() - start) / 60
        for way in ways:
            if way == "greedily":
                parses = greedy_parses(parser, sentences)
            else:
                parses = list(parser.parse(sentences))
            scores = trees.scores(gold, parses)
            if header:
                print("| trained on | decoded |", *(f" {key} |" for key in scores), "training |")
                print("|---|---|", "---:|" * (len(scores) + 1), sep="")
                header = False
            cells = (f" {100 * value:.2f} |" for value in scores.values())
            print(f"| {name} | {way} |", *cells, f"{minutes:.1f} min |", flush=True)


if __name__ == "__main__":
    main()
