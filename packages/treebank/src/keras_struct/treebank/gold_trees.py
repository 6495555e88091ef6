"""Gold trees, as training and evaluation see them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import conllu
import numpy as np

from keras_struct import parsers
from keras_struct.layers.annotations import StrPath
from keras_struct.parsers.binarization import check_labels
from keras_struct.parsers.tree import numbered_trees
from keras_struct.runs import open_text


def read_constituency(
    path: StrPath, skipped: Callable[[Exception], object] | None = None, encoding: str | None = None
) -> list[parsers.Tree]:
    """The trees of a file of brackets, without traces, functions and roots.

    Args:
        path: Path, or `-` for standard input.
        skipped: Called with the error of a tree that is malformed or has no words or a label with
            a reserved sign, see `parsers.chart_spans`; it is left out. None raises.
        encoding: Of the file; None for that of its byte-order mark, or else UTF-8.

    Raises:
        ValueError: For such a tree; the message starts with file and line.
    """
    trees = []
    with open_text(path, encoding) as lines:
        for number, whole in numbered_trees(lines, str(path), skipped):
            try:
                tree = parsers.strip_traces(whole)
                if tree is None:
                    raise ValueError("Expected words. Received: none but traces")
                tree = parsers.strip_root(parsers.strip_functions(tree))
                check_labels(tree)
            except ValueError as error:
                located = ValueError(f"{path}:{number}: {error}")
                if skipped is None:
                    raise located from None
                skipped(located)
            else:
                trees.append(tree)
    return trees


def read_dependency(
    path: StrPath, skipped: Callable[[Exception], object] | None = None, encoding: str | None = None
) -> list[conllu.TokenList]:
    """The sentences of a CoNLL-U file.

    Args:
        path: Path, or `-` for standard input.
        skipped: Called with the error of a sentence that is malformed, or whose arcs are no tree
            with one root; it is left out. None raises.
        encoding: Of the file; None for that of its byte-order mark, or else UTF-8.

    Raises:
        ValueError: For such a sentence; the message starts with file and line.
    """
    with open_text(path, encoding) as lines:
        return list(parsers.read_conllu(lines, str(path), skipped, trees=True))


def bracket_measures(found) -> dict[str, float]:
    """What users see of `BracketScores`."""
    return {
        "bracket F1": found.f1,
        "precision": found.precision,
        "recall": found.recall,
        "exact match": found.exact_match,
    }


class GoldTrees:
    """What a parser is trained on and scored against; nothing here has a state."""

    @staticmethod
    def read(path, skipped=None, encoding=None) -> list[Any]:
        """The trees of a file, see `read_dependency`."""
        raise NotImplementedError

    @staticmethod
    def words(tree) -> list[str]:
        raise NotImplementedError

    @staticmethod
    def tags(tree) -> list[str]:
        raise NotImplementedError

    @staticmethod
    def labels(trees) -> parsers.LabelVocabulary:
        """The labels of all trees."""
        raise NotImplementedError

    @staticmethod
    def target(tree, labels) -> np.ndarray:
        """The padded array of a tree that the losses of `keras_struct.parsers` take."""
        raise NotImplementedError

    @staticmethod
    def fits(tree, options) -> bool:
        """Whether a parser with these options has this tree among its own."""
        return True

    @staticmethod
    def scores(gold, parses) -> dict[str, float]:
        """Scores of parses by name."""
        raise NotImplementedError


class ConstituencyTrees(GoldTrees):
    """Trees in brackets, `parsers.Tree`."""

    read = staticmethod(read_constituency)

    @staticmethod
    def words(tree):
        return tree.words()

    @staticmethod
    def tags(tree):
        return tree.tags()

    @staticmethod
    def labels(trees):
        return parsers.LabelVocabulary.of(
            [label for tree in trees for *_, label in parsers.chart_spans(tree)],
            [parsers.NULL],
            unknown=parsers.NULL,
        )

    @staticmethod
    def target(tree, labels):
        return labels.encode_spans(parsers.chart_spans(tree), 2 * len(tree.words()) - 1)

    @staticmethod
    def scores(gold, parses):
        """EVALB's."""
        # The tags are those of the gold trees: EVALB leaves punctuation out by its gold tag.
        trees = [
            parsers.tree_from_spans(tree.words(), tree.tags(), list(parse.spans))
            for tree, parse in zip(gold, parses, strict=True)
        ]
        return bracket_measures(parsers.bracket_scores(gold, trees))


class DependencyTrees(GoldTrees):
    """CoNLL-U sentences, `conllu.TokenList`."""

    read = staticmethod(read_dependency)

    @staticmethod
    def words(sentence):
        return [word["form"] for word in parsers.words_of(sentence)]

    @staticmethod
    def tags(sentence):
        return [word["upos"] for word in parsers.words_of(sentence)]

    @staticmethod
    def labels(sentences):
        return parsers.LabelVocabulary.of([r for s in sentences for r in parsers.arcs(s)[1]])

    @staticmethod
    def target(sentence, labels):
        heads, relations = parsers.arcs(sentence)
        numbers = [labels.number(relation) for relation in relations]
        return np.stack([heads, numbers], axis=-1).astype("int32")

    @staticmethod
    def fits(sentence, options):
        """Eisner's trees are projective."""
        eisner = options.get("structure", "eisner") == "eisner"
        return not eisner or parsers.is_projective(parsers.arcs(sentence)[0])

    @staticmethod
    def scores(gold, parses):
        """Those of the CoNLL 2018 shared task."""
        trees = [
            parsers.with_arcs(sentence, parse.heads, parse.relations)
            for sentence, parse in zip(gold, parses, strict=True)
        ]
        found = parsers.attachment_scores(gold, trees)
        return {"UAS": found.uas, "LAS": found.las, "CLAS": found.clas}


KINDS: dict[str, type[GoldTrees]] = {
    "constituency": ConstituencyTrees,
    "dependency": DependencyTrees,
}
