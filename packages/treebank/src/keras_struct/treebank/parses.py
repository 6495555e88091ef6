"""What a parser returns for a sentence."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from keras_struct import parsers
from keras_struct.treebank.preprocessor import ESCAPES

BRACKETS = {sign: escape for escape, sign in ESCAPES.items() if escape.startswith("-")}


class ConstituencyParse(NamedTuple):
    """A sentence with its constituency tree.

    Attributes:
        words: N words.
        tags: N part-of-speech tags.
        spans: `(start, end, label)` of the constituents, ends exclusive, parents first; chains of
            constituents over the same words are joined by `+`.
        probabilities: The probability of each span with its label, or None.
    """

    words: Sequence[str]
    tags: Sequence[str]
    spans: Sequence[tuple[int, int, str]]
    probabilities: Sequence[float] | None = None

    @property
    def tree(self) -> parsers.Tree:
        """The tree; brackets in words are escaped as treebanks do (`-LRB-`)."""
        words = [BRACKETS.get(word, word) for word in self.words]
        tags = [BRACKETS.get(word, tag) for word, tag in zip(self.words, self.tags, strict=True)]
        return parsers.tree_from_spans(words, tags, list(self.spans))

    def as_json(self) -> dict[str, Any]:
        """Words, tags, spans and probabilities, of types that JSON has."""
        spans: list[dict[str, Any]] = [
            {"start": start, "end": end, "label": label} for start, end, label in self.spans
        ]
        for span, p in zip(spans, self.probabilities or (), strict=False):
            span["probability"] = round(p, 6)
        return {"words": list(self.words), "tags": list(self.tags), "spans": spans}


class DependencyParse(NamedTuple):
    """A sentence with its dependency tree.

    Attributes:
        words: N words.
        tags: N universal part-of-speech tags.
        heads: N numbers: 0 for the root, else the number from 1 of the head.
        relations: N relations.
        probabilities: The probability of each arc with its relation, or None.
    """

    words: Sequence[str]
    tags: Sequence[str]
    heads: Sequence[int]
    relations: Sequence[str]
    probabilities: Sequence[float] | None = None

    @property
    def sentence(self) -> Any:
        """The tree as a `conllu.TokenList`."""
        sentence = parsers.new_sentence(list(self.words), list(self.tags))
        return parsers.with_arcs(sentence, self.heads, self.relations)

    def as_json(self) -> dict[str, Any]:
        """Words, tags, heads, relations and probabilities, of types that JSON has."""
        found: dict[str, Any] = {name: list(getattr(self, name)) for name in self._fields[:4]}
        if self.probabilities is not None:
            found["probabilities"] = [round(p, 6) for p in self.probabilities]
        return found
