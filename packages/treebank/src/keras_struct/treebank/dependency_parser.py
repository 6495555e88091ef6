"""Dependency parser of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import keras_hub
import numpy as np

from keras_struct.layers.annotations import Config
from keras_struct.parsers import EisnerParser, SpanningTreeParser
from keras_struct.treebank.parser_task import ParserTask
from keras_struct.treebank.parses import DependencyParse
from keras_struct.treebank.preprocessor import ParserPreprocessor

STRUCTURES = {"eisner": EisnerParser, "spanning_tree": SpanningTreeParser}
JOINING_RELATION = "parataxis"


@keras.saving.register_keras_serializable("keras_struct")
class DependencyParser(ParserTask):
    """From text to dependency trees: a KerasHub backbone, words, and a dependency head.

    Args:
        backbone: `keras_hub.models.BertBackbone`, or another with the same inputs.
        preprocessor: `ParserPreprocessor`; None to call the model with arrays only.
        labels: Names of the relations.
        tags: Names of the part-of-speech tags.
        structure: `"eisner"`, projective trees, or `"spanning_tree"`, all trees; one root each.
        arc_dim: See `EisnerParser`.
        relation_dim: See `EisnerParser`.
        dropout: Rate for the states of words and of their projections.
        decoding: `"minimum_risk"`, the tree with the most expected correct arcs, or `"tree"`, the
            best one; see `TreeDecoder`.
        **kwargs: `name`.

    Call arguments:
        inputs: List of raw texts or of sentences as lists of words; see `parse` for its options and
            for streams. Or the dict of arrays of a `ParserPreprocessor`.

    Returns:
        List of `DependencyParse`. For arrays a dict: `"tree"`, the packed scores for `TreeNLL`,
        and `"tags"`, `(B, N, number of tags)`, scores.

    Raises:
        ValueError: For a text that stands alone, not in a list, and for empty words.

    Example:

    >>> import keras_hub
    >>> from keras_struct import treebank
    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "we", "left"]
    >>> parser = treebank.DependencyParser(
    ...     keras_hub.models.BertBackbone(len(vocabulary), 1, 1, 8, 8),
    ...     treebank.ParserPreprocessor(keras_hub.models.BertTokenizer(vocabulary)),
    ...     labels=["root", "nsubj"],
    ...     tags=["PRON", "VERB"],
    ... )
    >>> (parse,) = parser([["we", "left"]])
    >>> sorted(parse.heads) in ([0, 1], [0, 2]), len(parse.relations)
    (True, 2)

    Source: Dozat and Manning (2017), Deep biaffine attention for neural dependency parsing.
    """

    presets: ClassVar[dict[str, dict[str, str]]] = {
        "dependency_en": {
            "description": "English dependency trees (UD), trained on the web treebank EWT."
        }
    }

    def __init__(
        self,
        backbone: keras_hub.models.Backbone,
        preprocessor: ParserPreprocessor | None,
        labels: Sequence[str],
        tags: Sequence[str],
        structure: str = "eisner",
        arc_dim: int = 256,
        relation_dim: int = 96,
        dropout: float = 0.2,
        decoding: str = "minimum_risk",
        **kwargs: Any,
    ) -> None:
        if structure not in STRUCTURES:
            raise ValueError(
                f"Expected a structure among {list(STRUCTURES)}. Received: structure={structure!r}"
            )
        head = STRUCTURES[structure](
            len(labels), arc_dim=arc_dim, relation_dim=relation_dim, dropout=dropout, name="tree"
        )
        super().__init__(backbone, preprocessor, head, labels, tags, dropout, decoding, **kwargs)
        self.structure, self.arc_dim, self.relation_dim = structure, arc_dim, relation_dim

    def result(
        self, words: Sequence[str], tree: np.ndarray, tags: list[str], marginals: np.ndarray | None
    ) -> DependencyParse:
        heads, relations = tree[: len(words)].T.tolist()
        p = None
        if marginals is not None:
            marginals = np.asarray(marginals)
            arcs = enumerate(zip(heads, relations, strict=True))
            p = [float(marginals[m, m if h == 0 else h - 1, k]) for m, (h, k) in arcs]
        return DependencyParse(words, tags, heads, [self.labels[k] for k in relations], p)

    def joined(self, parses: Sequence[DependencyParse]) -> DependencyParse:
        """One tree: the roots of the later pieces depend on that of the first, by parataxis."""
        shift, heads, relations = 0, [], []
        top = parses[0].heads.index(0) + 1
        for number, parse in enumerate(parses):
            roots = [number > 0 and head == 0 for head in parse.heads]
            heads += [
                top if root else head + shift * (head > 0)
                for root, head in zip(roots, parse.heads, strict=True)
            ]
            relations += [
                JOINING_RELATION if root else relation
                for root, relation in zip(roots, parse.relations, strict=True)
            ]
            shift += len(parse.words)
        p = None
        if parses[0].probabilities is not None:
            p = [x for parse in parses for x in parse.probabilities or ()]
        return DependencyParse(
            [word for parse in parses for word in parse.words],
            [tag for parse in parses for tag in parse.tags],
            heads,
            relations,
            p,
        )

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "structure": self.structure,
            "arc_dim": self.arc_dim,
            "relation_dim": self.relation_dim,
        }
