"""Trains a parser over a small encoder without pretrained weights, and scores it.

    cd packages/treebank/experiments
    python scratch_encoder.py constituency craft/train.mrg craft/dev.mrg
    python scratch_encoder.py dependency ewt/train.conllu ewt/dev.conllu

Prints the scores after each epoch, see RESULTS.md. The subwords are those of MiniLM.
"""

import argparse
import tempfile
import time
from pathlib import Path

import keras
import keras_hub

from keras_struct import treebank
from keras_struct.treebank.minilm import minilm_tokenizer


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("kind", choices=["constituency", "dependency"])
    options.add_argument("train", type=Path)
    options.add_argument("dev", type=Path)
    options.add_argument("--layers", type=int, default=4)
    options.add_argument("--dim", type=int, default=128, help="features, a multiple of 32")
    options.add_argument("--epochs", type=int, default=6)
    options.add_argument("--learning-rate", type=float, default=1e-3)
    options.add_argument("--dtype-policy", default="mixed_bfloat16")
    chosen = options.parse_args()
    keras.config.set_dtype_policy(chosen.dtype_policy)
    keras.utils.set_random_seed(0)
    tokenizer = minilm_tokenizer()
    backbone = keras_hub.models.BertBackbone(
        tokenizer.vocabulary_size(),
        chosen.layers,
        num_heads=chosen.dim // 32,
        hidden_dim=chosen.dim,
        intermediate_dim=4 * chosen.dim,
    )
    print(f"{backbone.count_params():,} weights", flush=True)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        treebank.train(
            chosen.kind,
            [chosen.train],
            [chosen.dev],
            folder,
            epochs=chosen.epochs,
            learning_rate=chosen.learning_rate,
            frozen_layers=None,
            backbone=backbone,
            preprocessor=treebank.ParserPreprocessor(tokenizer),
        )
    print(f"{(time.perf_counter() - start) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
