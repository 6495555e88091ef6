"""Scores of parsers on gold trees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_struct.treebank.constituency_parser import ConstituencyParser
from keras_struct.treebank.gold_trees import ConstituencyTrees, DependencyTrees
from keras_struct.treebank.parser_task import ParserTask


def evaluate(parser: ParserTask, gold: Sequence[Any], **options: Any) -> dict[str, float]:
    """Scores of a parser on gold trees, from their words.

    Args:
        parser: `ConstituencyParser` or `DependencyParser`.
        gold: List of trees, or of `conllu.TokenList`, as `read_constituency` and `read_dependency`
            give them.
        **options: See `parse`.

    Returns:
        Dict from the name of a score to its value: EVALB's, or UAS, LAS and CLAS, and the accuracy
        of the tags.
    """
    trees = ConstituencyTrees if isinstance(parser, ConstituencyParser) else DependencyTrees
    parses = list(parser.parse([trees.words(tree) for tree in gold], **options))
    pairs = [
        (tag, found)
        for tree, parse in zip(gold, parses, strict=True)
        for tag, found in zip(trees.tags(tree), parse.tags, strict=True)
    ]
    right = sum(tag == found for tag, found in pairs)
    return {**trees.scores(gold, parses), "tags": right / max(1, len(pairs))}
