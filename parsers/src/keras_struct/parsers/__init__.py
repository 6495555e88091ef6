"""Constituency and dependency trees, their spans and arcs, and the scores of parsers."""

from keras_struct.parsers.attachment_score import AttachmentScore
from keras_struct.parsers.attachment_scores import AttachmentScores, attachment_scores
from keras_struct.parsers.binarization import binarize, collapse_unary, expand_unary, unbinarize
from keras_struct.parsers.bracket_f1 import BracketF1
from keras_struct.parsers.bracket_scores import BracketScores, bracket_scores
from keras_struct.parsers.dependencies import (
    arcs,
    check_arcs,
    is_projective,
    new_sentence,
    read_conllu,
    with_arcs,
    words_of,
)
from keras_struct.parsers.label_vocabulary import LabelVocabulary
from keras_struct.parsers.tree import Tree, read_trees
from keras_struct.parsers.tree_spans import NULL, chart_spans, tree_from_spans, tree_spans
from keras_struct.parsers.tree_stripping import strip_functions, strip_traces

__all__ = [
    "NULL",
    "AttachmentScore",
    "AttachmentScores",
    "BracketF1",
    "BracketScores",
    "LabelVocabulary",
    "Tree",
    "arcs",
    "attachment_scores",
    "binarize",
    "bracket_scores",
    "chart_spans",
    "check_arcs",
    "collapse_unary",
    "expand_unary",
    "is_projective",
    "new_sentence",
    "read_conllu",
    "read_trees",
    "strip_functions",
    "strip_traces",
    "tree_from_spans",
    "tree_spans",
    "unbinarize",
    "with_arcs",
    "words_of",
]
