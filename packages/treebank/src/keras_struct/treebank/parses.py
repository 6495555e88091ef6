"""What a parser returns for a sentence."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from keras_struct import parsers
from keras_struct.treebank.text import Sentence

BRACKET_TAGS = {sign: escape for escape, sign in parsers.BRACKET_ESCAPES.items()}


class ConstituencyParse(NamedTuple):
    """A sentence with its constituency tree.

    Attributes:
        words: N words; a `Sentence`, which knows its text and offsets, if the parser got text.
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
        words = [parsers.escape_word(word) for word in self.words]
        tags = [BRACKET_TAGS.get(w, tag) for w, tag in zip(self.words, self.tags, strict=True)]
        return parsers.tree_from_spans(words, tags, list(self.spans))

    def as_json(self) -> dict[str, Any]:
        """Words, tags, spans and probabilities, text and offsets, of types that JSON has."""
        spans: list[dict[str, Any]] = [
            {"start": start, "end": end, "label": label} for start, end, label in self.spans
        ]
        for span, p in zip(spans, self.probabilities or (), strict=False):
            span["probability"] = round(p, 6)
        found = {"words": list(self.words), "tags": list(self.tags), "spans": spans}
        return {**_origin(self.words), **found}


class DependencyParse(NamedTuple):
    """A sentence with its dependency tree.

    Attributes:
        words: N words; a `Sentence`, which knows its text and offsets, if the parser got text.
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
        """The tree as a `conllu.TokenList`.

        With `# text`, and `SpaceAfter=No` where no blank follows a word; of a sentence that was
        CoNLL-U all that is no arc or missing tag is kept, but enhanced dependencies are not.
        """
        origin = self.words if isinstance(self.words, Sentence) else Sentence(self.words)
        if origin.tokens is not None:
            sentence = parsers.with_arcs(origin.tokens, self.heads, self.relations)
            for word, tag in zip(parsers.words_of(sentence), self.tags, strict=True):
                if word["upos"] in (None, "_"):
                    word["upos"] = tag
            return sentence
        forms = [parsers.conllu_text(word) for word in self.words]
        forms = [form if form.strip() else "_" for form in forms]  # a column is not blank
        sentence = parsers.new_sentence(forms, list(self.tags))
        blanks = origin.blanks_after()
        if origin.text is not None:
            sentence.metadata["text"] = parsers.conllu_text(origin.text)
        for word, blank in zip(sentence[:-1], blanks, strict=False):
            if not blank:
                word["misc"] = {"SpaceAfter": "No"}
        return parsers.with_arcs(sentence, self.heads, self.relations)

    def as_json(self) -> dict[str, Any]:
        """Words, tags, heads, relations, probabilities, text, offsets, of types that JSON has."""
        found: dict[str, Any] = {name: list(getattr(self, name)) for name in self._fields[:4]}
        if self.probabilities is not None:
            found["probabilities"] = [round(p, 6) for p in self.probabilities]
        return {**_origin(self.words), **found}


def _origin(words: Sequence[str]) -> dict[str, Any]:
    """What a sentence knows of the text that it comes from."""
    names = ("file", "text", "offsets")
    found = {name: getattr(words, name, None) for name in names}
    return {name: value for name, value in found.items() if value is not None}
