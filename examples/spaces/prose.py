"""English sentences from the language reference that CPython ships (`pydoc_data.topics`).

Each topic is the plain text of a page of the reference. What becomes of it:

1.  Blank lines separate paragraphs, and each item of a list is one of its own.
2.  A paragraph is prose if it has no mark of grammar, doctest, table or heading, if its lines are
    indented alike, and if it ends with punctuation. This drops the code blocks.
3.  A sentence ends at `.`, `?`, `!`, `:` or `;` before a space.
4.  Its words are separated by spaces, dashes, hyphens and slashes; quotes, brackets, asterisks and
    the underscores of `__special__` names around them go. A sentence in which something else than
    letters (and an inner apostrophe) remains, such as `str.format()` or `3.1`, is dropped, and so
    is one of fewer than `MIN_WORDS` words or more than `MAX_CHARACTERS` characters.
5.  Everything is lower case, and no sentence occurs twice.

The held-out sentences are those of whole topics. Pages of the reference quote each other, so
sentences that also occur in a held-out topic are removed from the training part.
"""

import re
from collections.abc import Iterator
from pydoc_data.topics import topics
from typing import NamedTuple

HELD_OUT = ("customization", "dict", "execmodel", "formatstrings", "import")
MIN_WORDS = 4
MAX_CHARACTERS = 192  # without spaces

_ITEM = re.compile(r"^( *)(\*|\d+\.) ")
_NOT_PROSE = re.compile(r"::=|>>>|\||[=*~+-]{4}")
_WORD = re.compile(r"\W*([A-Za-z]+(?:'[a-z]+)?)\W*")


class Prose(NamedTuple):
    """Distinct sentences: lower-case words with single spaces between them."""

    train: list[str]
    held_out: list[str]


def read_prose() -> Prose:
    """The sentences for training and the held-out ones."""
    kept = [name for name in topics if name not in HELD_OUT]
    train, held_out = (
        dict.fromkeys(sentence for name in names for sentence in sentences(topics.get(name, "")))
        for names in (kept, HELD_OUT)
    )
    return Prose([sentence for sentence in train if sentence not in held_out], list(held_out))


def sentences(topic: str) -> Iterator[str]:
    """The sentences of a topic, cleaned."""
    for paragraph in _paragraphs(topic.replace("’", "'")):
        for sentence in re.split(r"(?<=[.?!:;])\W?\s+", paragraph):
            tokens = re.split(r"\s+|—|/|-", sentence.replace("__", ""))
            matches = [_WORD.fullmatch(token) for token in tokens if re.search(r"\w", token)]
            words = [match[1].lower() for match in matches if match]
            short = sum(map(len, words)) <= MAX_CHARACTERS
            if short and len(words) == len(matches) >= MIN_WORDS:
                yield " ".join(words)


def _paragraphs(topic: str) -> Iterator[str]:
    for block in re.split(r"\n\s*\n", topic):
        for item in re.split(r"\n(?= *(?:\*|\d+\.) )", block.strip("\n")):
            text = _ITEM.sub(lambda marker: " " * len(marker[0]), item)
            indents = {len(line) - len(line.lstrip()) for line in text.splitlines()}
            paragraph = " ".join(text.split())
            ends = re.search(r"[.:;?!,]\W?$", paragraph)
            if ends and len(indents) == 1 and not _NOT_PROSE.search(text):
                yield paragraph
