"""Parses as text, and files that appear whole or not at all."""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from keras_struct.treebank.drawing import draw
from keras_struct.treebank.parses import ConstituencyParse, DependencyParse

Parse = ConstituencyParse | DependencyParse


def as_brackets(parse: Parse) -> str:
    """One line, `(S (NP (PRP We)) (VP (VBD left)))`."""
    if not isinstance(parse, ConstituencyParse):
        raise ValueError("Expected constituency trees for brackets. Received: dependency trees")
    return f"{parse.tree}\n"


def as_conllu(parse: Parse) -> str:
    """The lines of a CoNLL-U sentence, and a blank one."""
    if not isinstance(parse, DependencyParse):
        raise ValueError("Expected dependency trees for CoNLL-U. Received: constituency trees")
    return parse.sentence.serialize()


def as_json_line(parse: Parse) -> str:
    """One line of JSON, see `as_json` of the parse."""
    return json.dumps(parse.as_json(), ensure_ascii=False) + "\n"


FORMATS = {"brackets": as_brackets, "conllu": as_conllu, "json": as_json_line, "svg": draw}
DEFAULTS = {"constituency": "brackets", "dependency": "conllu"}


@contextlib.contextmanager
def open_whole(path: str | os.PathLike | None) -> Iterator[IO[str]]:
    """A text file to write that appears under its name only when all is written; None for stdout.

    Raises:
        FileNotFoundError: If its folder does not exist, before anything is written.
    """
    if path is None:
        yield sys.stdout
        return
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"Expected an existing folder. Received: {target.parent}")
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            yield stream
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise
