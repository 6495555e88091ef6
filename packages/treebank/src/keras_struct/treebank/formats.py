"""Parses as text."""

import json

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
