"""Parsers and treebanks small enough for tests, without any download."""

import keras_hub
import numpy as np

from keras_struct import parsers
from keras_struct.treebank.constituency_parser import ConstituencyParser
from keras_struct.treebank.dependency_parser import DependencyParser
from keras_struct.treebank.preprocessor import ParserPreprocessor

WORDS = ["we", "they", "left", "saw", "it", "early", ".", ",", "(", ")"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##ly", "ear"]


def tiny_backbone(num_layers=2):
    """A BERT of 16 features."""
    return keras_hub.models.BertBackbone(len(VOCABULARY), num_layers, 2, 16, 16, dropout=0.0)


def tiny_preprocessor(sequence_length=512):
    """Its preprocessor; its words are `WORDS`."""
    tokenizer = keras_hub.models.BertTokenizer(VOCABULARY, lowercase=True)
    return ParserPreprocessor(tokenizer, sequence_length)


def tiny_parser(kind, sequence_length=512, **options):
    """A parser with random weights."""
    parts = {"backbone": tiny_backbone(), "preprocessor": tiny_preprocessor(sequence_length)}
    if kind == "constituency":
        labels = [parsers.NULL, "S", "NP"]
        return ConstituencyParser(**parts, labels=labels, tags=["X", "NN"], **options)
    return DependencyParser(**parts, labels=["root", "obj"], tags=["X", "NOUN"], **options)


def tiny_sentences(count, longest, seed=0):
    """Random sentences of `WORDS`, of 1 to `longest` words."""
    rng = np.random.default_rng(seed)
    return [rng.choice(WORDS, size=rng.integers(1, longest + 1)).tolist() for _ in range(count)]
