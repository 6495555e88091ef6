"""Parsers of constituency and dependency trees: heads, losses, scores, treebanks."""

from keras_struct.parsers.attachment_score import AttachmentScore
from keras_struct.parsers.attachment_scores import AttachmentScores, attachment_scores
from keras_struct.parsers.biaffine import Biaffine
from keras_struct.parsers.binarization import binarize, collapse_unary, expand_unary, unbinarize
from keras_struct.parsers.bracket_f1 import BracketF1
from keras_struct.parsers.bracket_scores import (
    BracketScores,
    bracket_scores,
    read_evalb_parameters,
)
from keras_struct.parsers.cky_parser import CKYParser
from keras_struct.parsers.dependencies import (
    arcs,
    check_arcs,
    conllu_text,
    is_projective,
    new_sentence,
    read_conllu,
    with_arcs,
    words_of,
)
from keras_struct.parsers.dependency_parser import (
    DependencyParser,
    EisnerParser,
    SpanningTreeParser,
)
from keras_struct.parsers.greedy_spans import greedy_spans
from keras_struct.parsers.label_vocabulary import LabelVocabulary
from keras_struct.parsers.local_cross_entropy import LocalCrossEntropy
from keras_struct.parsers.tree import (
    BRACKET_ESCAPES,
    Tree,
    escape_word,
    read_trees,
    unescape_word,
)
from keras_struct.parsers.tree_decoder import TreeDecoder
from keras_struct.parsers.tree_max_margin import TreeMaxMargin
from keras_struct.parsers.tree_nll import TreeNLL
from keras_struct.parsers.tree_spans import NULL, chart_spans, tree_from_spans, tree_spans
from keras_struct.parsers.tree_stripping import strip_functions, strip_root, strip_traces

__all__ = [
    "BRACKET_ESCAPES",
    "NULL",
    "AttachmentScore",
    "AttachmentScores",
    "Biaffine",
    "BracketF1",
    "BracketScores",
    "CKYParser",
    "DependencyParser",
    "EisnerParser",
    "LabelVocabulary",
    "LocalCrossEntropy",
    "SpanningTreeParser",
    "Tree",
    "TreeDecoder",
    "TreeMaxMargin",
    "TreeNLL",
    "arcs",
    "attachment_scores",
    "binarize",
    "bracket_scores",
    "chart_spans",
    "check_arcs",
    "collapse_unary",
    "conllu_text",
    "escape_word",
    "expand_unary",
    "greedy_spans",
    "is_projective",
    "new_sentence",
    "read_conllu",
    "read_evalb_parameters",
    "read_trees",
    "strip_functions",
    "strip_root",
    "strip_traces",
    "tree_from_spans",
    "tree_spans",
    "unbinarize",
    "unescape_word",
    "with_arcs",
    "words_of",
]


def __dir__() -> list[str]:
    return __all__
