"""From raw English text to sentences of words."""

from collections.abc import Iterable, Iterator

from syntok import segmenter


def sentences_of(text: str) -> list[list[str]]:
    """The sentences of a text, each a list of words.

    Contractions are split as treebanks do (`do n't`, `we 'll`), and so is punctuation. A blank line
    always ends a sentence.

    Args:
        text: English text.

    Example:

    >>> from keras_struct.treebank import sentences_of
    >>> sentences_of("It doesn't rain. We left (early).")
    [['It', 'does', "n't", 'rain', '.'], ['We', 'left', '(', 'early', ')', '.']]
    """
    return [
        [token.value for token in sentence]
        for paragraph in segmenter.analyze(text)
        for sentence in paragraph
    ]


def paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """The paragraphs of a stream of lines, each as soon as a blank line ends it.

    Example:

    >>> from keras_struct.treebank import paragraphs
    >>> list(paragraphs(["One line", "and another.", "", "The next."]))
    ['One line\\nand another.', 'The next.']
    """
    held: list[str] = []
    for line in lines:
        if line.strip():
            held.append(line.rstrip("\n"))
        elif held:
            yield "\n".join(held)
            held = []
    if held:
        yield "\n".join(held)


def read_sentences(source: Iterable[str], format: str) -> Iterator[str | list[str]]:
    """What `parse` takes, from the lines of an open file.

    Args:
        source: Lines, such as an open file.
        format: `"text"`, raw text; `"words"`, a sentence a line, its words between blanks.

    Yields:
        Paragraphs of raw text, or lists of words.
    """
    if format == "text":
        yield from paragraphs(source)
    else:
        for line in source:
            if line.strip():
                yield line.split()
