"""Raw text in, trees out: English constituency and dependency parsers on KerasHub backbones."""

from keras_struct.treebank.averaging import average
from keras_struct.treebank.compact_preset import save_compact_preset
from keras_struct.treebank.constituency_parser import ConstituencyParser
from keras_struct.treebank.dependency_parser import DependencyParser
from keras_struct.treebank.drawing import draw
from keras_struct.treebank.evaluation import evaluate
from keras_struct.treebank.gold_trees import read_constituency, read_dependency
from keras_struct.treebank.minilm import load_bert_weights, minilm_backbone, minilm_tokenizer
from keras_struct.treebank.parses import ConstituencyParse, DependencyParse
from keras_struct.treebank.preprocessor import ParserPreprocessor
from keras_struct.treebank.ray_engine import parse_dataset
from keras_struct.treebank.text import paragraphs, sentences_of
from keras_struct.treebank.training import train
from keras_struct.treebank.word_pooling import WordPooling

__all__ = [
    "ConstituencyParse",
    "ConstituencyParser",
    "DependencyParse",
    "DependencyParser",
    "ParserPreprocessor",
    "WordPooling",
    "average",
    "draw",
    "evaluate",
    "load_bert_weights",
    "minilm_backbone",
    "minilm_tokenizer",
    "paragraphs",
    "parse_dataset",
    "read_constituency",
    "read_dependency",
    "save_compact_preset",
    "sentences_of",
    "train",
]


def __dir__() -> list[str]:
    return __all__
