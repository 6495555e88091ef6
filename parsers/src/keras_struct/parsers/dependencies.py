"""Dependency trees in CoNLL-U, as the `TokenList` of the `conllu` package."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from string import whitespace
from typing import Any

import conllu
import numpy as np
from conllu.exceptions import ParseException
from conllu.parser import DEFAULT_FIELD_PARSERS, DEFAULT_FIELDS, parse_pair_value
from conllu.serializer import serialize_field

from keras_struct.ops.annotations import ArrayLike

_BROKEN = re.compile("[\ud800-\udfff]")  # halves of characters, bytes that were no text
_NO_TEXT = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")


def read_conllu(
    lines: Iterable[str],
    name: str = "<lines>",
    skipped: Callable[[Exception], object] | None = None,
    trees: bool = False,
) -> Iterator[conllu.TokenList]:
    r"""Reads sentences in CoNLL-U with their comments, multiword tokens and empty nodes.

    Columns have the types of the `conllu` package where it can write them back as they were, else
    they stay strings: `sentence.serialize()` gives the lines again, but for blanks in comments.

    Args:
        lines: Lines of text, such as an open file or a list of strings. A byte-order mark before
            the first one is no part of it.
        name: What errors call the text, such as the path of the file.
        skipped: Called with the error of a malformed sentence, which is left out: reading goes on
            after the next blank line. None raises the error.
        trees: Whether the arcs of every sentence must be a tree with one root, see `check_arcs`.

    Yields:
        `conllu.TokenList`, one for each sentence.

    Raises:
        ValueError: If a line is malformed; the message starts with name and line. With `trees` also
            if the arcs of a sentence are none; the line is its first.

    Example:

    >>> from keras_struct.parsers import arcs, read_conllu
    >>> text = '''# sent_id = 1
    ... 1\tWe\twe\tPRON\tPRP\t_\t2\tnsubj\t_\t_
    ... 2\tleft\tleave\tVERB\tVBD\t_\t0\troot\t_\t_'''
    >>> (sentence,) = read_conllu(text.splitlines())
    >>> sentence.metadata["sent_id"], arcs(sentence)
    ('1', ([2, 0], ['nsubj', 'root']))

    Source: Nivre et al. (2020), Universal Dependencies v2, §3;
    https://universaldependencies.org/format.html
    """
    for first, block in _blocks(lines):
        number, count, sentence = first - 1, 0, _empty_sentence()
        try:
            for line in block:
                number += 1
                if _BROKEN.search(line):
                    raise ParseException(
                        "Expected text in the encoding of the file. Received: bytes that are none"
                    )
                if line.startswith("#"):
                    _add_comment(sentence, line[1:].strip())
                else:
                    token = _parse_token(line.split("\t"), count + 1)
                    count += isinstance(token["id"], int)
                    sentence.append(token)
            if sentence and not count:
                raise ParseException("Expected words. Received: none but of several or empty nodes")
            if trees and sentence:
                number = first
                check_arcs(sentence)
                if {None, "_"} & set(arcs(sentence)[1]):
                    raise ParseException("Expected relations (DEPREL) of all words. Received: _")
        except (ParseException, ValueError) as error:
            located = ValueError(f"{name}:{number}: {error}")
            if skipped is None:
                raise located from error
            skipped(located)
            continue
        if sentence:
            yield sentence


def _blocks(lines):
    """Number of the first line, and the lines of each sentence; comments alone go to the next."""
    first, words = 1, False
    block: list[str] = []
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\r\n")
        if number == 1:
            line = line.removeprefix("\ufeff")
        if line.strip():
            if not block:
                first = number
            words = words or not line.startswith("#")
            block.append(line)
        elif words:
            yield first, block
            block, words = [], False
    if block:
        yield first, block


def _add_comment(sentence, comment):
    key, value = parse_pair_value(comment)
    if value and key not in sentence.metadata:
        sentence.metadata[key] = value
    else:
        sentence.metadata[comment] = None


def conllu_text(text: str) -> str:
    """A text that a column or a comment of CoNLL-U can hold: control signs and blanks are a blank.

    Example:

    >>> from keras_struct.parsers import conllu_text
    >>> conllu_text("a\\tb\\x00c")
    'a b c'
    """
    return _NO_TEXT.sub(" ", text)


def new_sentence(words: Sequence[str], upos: Sequence[str] | None = None) -> conllu.TokenList:
    """A sentence without arcs, for `with_arcs` to fill.

    Args:
        words: List of N words.
        upos: List of N universal part-of-speech tags, or None.

    Returns:
        `conllu.TokenList`.

    Example:

    >>> from keras_struct.parsers import new_sentence, with_arcs
    >>> sentence = with_arcs(new_sentence(["We", "left"]), [2, 0], ["nsubj", "root"])
    >>> print(sentence.serialize().strip().replace("\\t", " "))
    1 We _ _ _ _ 2 nsubj _ _
    2 left _ _ _ _ 0 root _ _
    """
    sentence = _empty_sentence()
    tags = [None] * len(words) if upos is None else upos
    for number, (word, tag) in enumerate(zip(words, tags, strict=True), 1):
        columns = dict.fromkeys(DEFAULT_FIELDS) | {"id": number, "form": word, "upos": tag}
        sentence.append(conllu.Token(columns))
    return sentence


def words_of(sentence: conllu.TokenList) -> list[conllu.models.Token]:
    """The tokens that are syntactic words, without multiword tokens and empty nodes."""
    return [token for token in sentence if isinstance(token["id"], int)]


def arcs(sentence: conllu.TokenList) -> tuple[list[Any], list[str]]:
    """Heads and relations of the N syntactic words.

    Args:
        sentence: `conllu.TokenList`.

    Returns:
        List of N heads, 0 for the root, else the number from 1 of the head (None if the sentence
        has none); and list of N relations.
    """
    words = words_of(sentence)
    return [word["head"] for word in words], [word["deprel"] for word in words]


def with_arcs(
    sentence: conllu.TokenList, heads: ArrayLike, relations: Sequence[str]
) -> conllu.TokenList:
    """A copy of a sentence with other heads and relations.

    Enhanced dependencies are left out, for they belong to the arcs that are replaced.

    Args:
        sentence: `conllu.TokenList` of N syntactic words.
        heads: N integers from 0 to N, 0 for the root.
        relations: N strings.

    Returns:
        `conllu.TokenList`.
    """
    words = words_of(sentence)
    new = {
        word["id"]: {"head": int(head), "deprel": relation, "deps": None}
        for word, head, relation in zip(words, heads, relations, strict=True)
    }
    tokens = [conllu.Token(token | new.get(token["id"], {})) for token in sentence]
    return conllu.TokenList(tokens, conllu.Metadata(sentence.metadata), DEFAULT_FIELDS)


def check_arcs(sentence: conllu.TokenList) -> None:
    """Raises an error unless the arcs of a sentence are a tree with one root.

    Args:
        sentence: `conllu.TokenList`.

    Raises:
        ValueError: If a head is missing or no word of the sentence, if there is not exactly one
            root, or if words form a cycle. The message names the sentence by its `sent_id`.

    Example:

    >>> from keras_struct.parsers import check_arcs, new_sentence, with_arcs
    >>> check_arcs(with_arcs(new_sentence(["We", "left"]), [2, 1], ["nsubj", "root"]))
    Traceback (most recent call last):
    ...
    ValueError: Expected one root in the sentence 'We left'. Received: roots=[]
    """
    heads, _ = arcs(sentence)
    forms = " ".join(word["form"] for word in words_of(sentence))
    where = f"in the sentence {sentence.metadata.get('sent_id', forms)!r}"
    for word, head in enumerate(heads, 1):
        if not isinstance(head, int) or not 0 <= head <= len(heads):
            raise ValueError(
                f"Expected heads from 0 to {len(heads)} {where}. Received: head={head} of {word}"
            )
    roots = [word for word, head in enumerate(heads, 1) if head == 0]
    if len(roots) != 1:
        raise ValueError(f"Expected one root {where}. Received: roots={roots}")
    reached = {0}
    for word in range(1, len(heads) + 1):
        path = [word]
        while (head := heads[path[-1] - 1]) not in reached and head not in path:
            path.append(head)
        if path[0] not in reached and head in path:
            cycle = path[path.index(head) :]
            raise ValueError(f"Expected no cycle {where}. Received: cycle={cycle}")
        reached.update(path)


def is_projective(heads: ArrayLike) -> bool:
    """Whether no two arcs cross, the arc from the root at position 0 among them.

    Args:
        heads: N integers from 0 to N, 0 for the root.

    Returns:
        Bool.

    Example:

    >>> from keras_struct.parsers import is_projective
    >>> is_projective([2, 0, 2]), is_projective([3, 0, 2, 1])
    (True, False)

    Source: Kübler, McDonald and Nivre (2009), Dependency Parsing, §2.1.
    """
    ends = np.stack([np.asarray(heads, int), np.arange(1, len(heads) + 1)])
    left, right = ends.min(0), ends.max(0)
    inside = (left[:, None] < left) & (left < right[:, None])
    return not (inside & (right > right[:, None])).any()


def _empty_sentence():
    return conllu.TokenList(default_fields=DEFAULT_FIELDS)


def _parse_token(columns, number):
    if len(columns) != len(DEFAULT_FIELDS):
        raise ParseException(
            f"Expected {len(DEFAULT_FIELDS)} columns between tabs. Received: columns={columns}"
        )
    token = conllu.Token()
    for place, (field, text) in enumerate(zip(DEFAULT_FIELDS, columns, strict=True)):
        parse = DEFAULT_FIELD_PARSERS.get(field)
        value = text if parse is None else parse(columns, place)
        token[field] = value if serialize_field(value) == text else text
    if not token["form"].strip(whitespace):
        raise ParseException("Expected a form. Received: an empty column")
    if isinstance(token["id"], int) and token["id"] != number:
        raise ParseException(f"Expected the word number {number}. Received: id={token['id']}")
    return token
