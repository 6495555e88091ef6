"""From raw English text, and from lines of words, to sentences of words."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from keras_struct import parsers
from keras_struct.runs import check_text
from keras_struct.treebank.segmentation import sentence_spans

FORMATS = ("text", "words", "conllu")
_BLANKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
_WORD = re.compile(r"\S+")


class Sentence(list):
    """The words of a sentence, a list, and where they come from.

    Attributes:
        text: The text of the sentence on one line, or None.
        offsets: For each word, where it starts and ends in the text that was given, in characters,
            such as that of a whole file; or None.
        file: Name of the file, or None.
        tokens: The `conllu.TokenList` that it was read from, or None.
    """

    def __init__(self, words, text=None, offsets=None, file=None, tokens=None):
        super().__init__(words)
        self.text, self.offsets, self.file, self.tokens = text, offsets, file, tokens

    def blanks_after(self):
        """Whether a blank stands after each word."""
        if self.offsets is None:
            return [True] * len(self)
        starts = [start for start, _ in self.offsets[1:]] + [-1]
        ends = [end for _, end in self.offsets]
        return [start != end for start, end in zip(starts, ends, strict=True)]


def sentences_of(text: str, offset: int = 0, file: str | None = None) -> list[Sentence]:
    """The sentences of a text, each the list of its words, `Sentence`.

    Contractions are split as treebanks do (`do n't`, `we 'll`), and so is punctuation. A blank line
    always ends a sentence. No character is lost: between the offsets of words are only blanks.

    Args:
        text: English text.
        offset: What is added to the offsets of words.
        file: Where the text comes from.

    Example:

    >>> from keras_struct.treebank import sentences_of
    >>> sentences_of("It doesn't rain. We left (early).")
    [['It', 'does', "n't", 'rain', '.'], ['We', 'left', '(', 'early', ')', '.']]
    >>> sentences_of("NF-kB  in it.")[0].offsets
    [(0, 2), (2, 3), (3, 5), (7, 9), (10, 12), (12, 13)]
    """
    return [
        Sentence(
            [text[start:end] for start, end in spans],
            _BLANKS.sub(" ", text[spans[0][0] : spans[-1][1]]),
            [(start + offset, end + offset) for start, end in spans],
            file,
        )
        for spans in sentence_spans(text)
    ]


def paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """The paragraphs of a stream of lines, each as soon as a blank line ends it.

    Example:

    >>> from keras_struct.treebank import paragraphs
    >>> list(paragraphs(["One line", "and another.", "", "The next."]))
    ['One line\\nand another.', 'The next.']
    """
    for _, _, text in _numbered_paragraphs(lines):
        yield text.rstrip("\r\n")


def _numbered_paragraphs(lines: Iterable[str]) -> Iterator[tuple[int, int, str]]:
    """Number of the first line, offset and text of each paragraph, with its line ends."""
    held: list[str] = []
    first, start, offset = 1, 0, 0
    for number, line in enumerate(lines, 1):
        if not line.endswith(("\n", "\r")):
            line += "\n"
        if line.strip():
            if not held:
                first, start = number, offset
            held.append(line)
        elif held:
            yield first, start, "".join(held)
            held = []
        offset += len(line)
    if held:
        yield first, start, "".join(held)


def read_sentences(
    source: Iterable[str],
    format: str,
    name: str = "<lines>",
    skipped: Callable[[Exception], Any] | None = None,
    file: str | None = None,
) -> Iterator[Sentence]:
    """What `parse` takes, from the lines of an open file.

    Args:
        source: Lines, such as an open file.
        format: `"text"`, raw text; `"words"`, a sentence a line, its words between blanks;
            `"conllu"`, CoNLL-U, of which comments, multiword tokens and empty nodes are kept.
        name: What errors call the text, such as the path of the file.
        skipped: Called with the error of a paragraph, line or sentence that is then left out; None
            raises.
        file: Name that the sentences keep.

    Raises:
        ValueError: If bytes of the file are no text in its encoding, or CoNLL-U is malformed; the
            message starts with name and line.
    """
    if format == "conllu":
        for tokens in parsers.read_conllu(source, name, skipped=skipped):
            words = parsers.words_of(tokens)
            if words:
                text = tokens.metadata.get("text")
                yield Sentence([word["form"] for word in words], text, None, file, tokens)
        return
    records = _numbered_paragraphs(source) if format == "text" else _numbered_lines(source)
    for number, offset, text in records:
        try:
            check_text(text)
        except ValueError as error:
            error = ValueError(f"{name}:{number}: {error}")
            if skipped is None:
                raise error from None
            skipped(error)
            continue
        if format == "text":
            yield from sentences_of(text, offset, file)
        elif found := list(_WORD.finditer(text)):
            offsets = [(match.start() + offset, match.end() + offset) for match in found]
            forms = [match[0] for match in found]
            yield Sentence(forms, " ".join(forms), offsets, file)


def _numbered_lines(lines: Iterable[str]) -> Iterator[tuple[int, int, str]]:
    offset = 0
    for number, line in enumerate(lines, 1):
        yield number, offset, line
        offset += len(line)
