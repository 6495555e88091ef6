"""Constituency parser of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import keras_hub
import numpy as np

from keras_struct.layers.annotations import Config
from keras_struct.parsers import NULL, CKYParser
from keras_struct.treebank.parser_task import ParserTask
from keras_struct.treebank.parses import ConstituencyParse
from keras_struct.treebank.preprocessor import ParserPreprocessor


@keras.saving.register_keras_serializable("keras_struct")
class ConstituencyParser(ParserTask):
    """From text to constituency trees: a KerasHub backbone, words, and a `CKYParser`.

    Args:
        backbone: `keras_hub.models.BertBackbone`, or another with the same inputs.
        preprocessor: `ParserPreprocessor`; None to call the model with arrays only.
        labels: Names of the labels of spans, such as those of a `LabelVocabulary`, with `NULL`.
        tags: Names of the part-of-speech tags.
        boundary_dim: See `CKYParser`.
        dropout: Rate for the states of words and of their projections.
        decoding: `"minimum_risk"`, the tree with the most expected correct spans, or `"tree"`, the
            best one; see `TreeDecoder`.
        temperature: For minimum risk, the probabilities are those at this temperature: above 1,
            since a trained parser is too sure of itself.
        threshold: For minimum risk, a span counts its probability less this.
        **kwargs: `name`.

    Call arguments:
        inputs: List of raw texts or of sentences as lists of words; see `parse` for its options and
            for streams. Or the dict of arrays of a `ParserPreprocessor`.

    Returns:
        List of `ConstituencyParse`. For arrays a dict: `"tree"`, the packed scores for `TreeNLL`,
        and `"tags"`, `(B, N, number of tags)`, scores.

    Raises:
        ValueError: For a text that stands alone, not in a list, and for empty words.

    Example:

    >>> import keras_hub
    >>> from keras_struct import treebank
    >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "we", "left"]
    >>> parser = treebank.ConstituencyParser(
    ...     keras_hub.models.BertBackbone(len(vocabulary), 1, 1, 8, 8),
    ...     treebank.ParserPreprocessor(keras_hub.models.BertTokenizer(vocabulary)),
    ...     labels=["@", "S", "NP"],
    ...     tags=["PRP", "VBD"],
    ... )
    >>> (parse,) = parser([["we", "left"]])
    >>> parse.words, len(parse.tags), parse.tree.words()
    (['we', 'left'], 2, ['we', 'left'])

    Source: Kitaev, Cao and Klein (2019), Multilingual constituency parsing with self-attention and
    pre-training; Zhang, Zhou and Li (2020), Fast and accurate neural CRF constituency parsing;
    Goodman (1996), Parsing algorithms and metrics; Lipton, Elkan and Naryanaswamy (2014), Optimal
    thresholding of classifiers to maximize F1 measure.
    """

    presets: ClassVar[dict[str, dict[str, str]]] = {
        "constituency_en": {
            "description": "English constituency trees, trained on biomedical texts (CRAFT)."
        }
    }

    def __init__(
        self,
        backbone: keras_hub.models.Backbone,
        preprocessor: ParserPreprocessor | None,
        labels: Sequence[str],
        tags: Sequence[str],
        boundary_dim: int = 128,
        dropout: float = 0.2,
        decoding: str = "minimum_risk",
        temperature: float = 1.3,
        threshold: float = 0.4,
        **kwargs: Any,
    ) -> None:
        if NULL not in labels:
            raise ValueError(f"Expected {NULL!r} among the labels. Received: labels={labels}")
        head = CKYParser(len(labels), boundary_dim=boundary_dim, dropout=dropout, name="tree")
        of_tree = {
            "temperature": temperature,
            "null_label": list(labels).index(NULL),
            "threshold": threshold,
        }
        super().__init__(
            backbone, preprocessor, head, labels, tags, dropout, decoding, of_tree, **kwargs
        )
        self.boundary_dim = boundary_dim
        self.temperature, self.threshold = temperature, threshold

    def result(
        self, words: Sequence[str], tree: np.ndarray, tags: list[str], marginals: np.ndarray | None
    ) -> ConstituencyParse:
        rows = [(s, e, k) for s, e, k in tree.tolist() if s >= 0 and self.labels[k] != NULL]
        p = None
        if marginals is not None:
            marginals = np.asarray(marginals)
            p = [float(marginals[s, e - 1, k]) for s, e, k in rows]
        return ConstituencyParse(words, tags, [(s, e, self.labels[k]) for s, e, k in rows], p)

    def joined(self, parses: Sequence[ConstituencyParse]) -> ConstituencyParse:
        """Side by side; the tree has a root with an empty label."""
        shift, spans = 0, []
        for parse in parses:
            spans += [(start + shift, end + shift, label) for start, end, label in parse.spans]
            shift += len(parse.words)
        p = None
        if parses[0].probabilities is not None:
            p = [x for parse in parses for x in parse.probabilities or ()]
        return ConstituencyParse(
            [word for parse in parses for word in parse.words],
            [tag for parse in parses for tag in parse.tags],
            spans,
            p,
        )

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "boundary_dim": self.boundary_dim,
            "temperature": self.temperature,
            "threshold": self.threshold,
        }
