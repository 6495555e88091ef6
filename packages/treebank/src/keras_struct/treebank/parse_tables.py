"""Parses as tables of Arrow."""

from collections.abc import Sequence
from typing import Any

from keras_struct.treebank.constituency_parser import ConstituencyParser
from keras_struct.treebank.corpus_files import import_pyarrow


def table_of(parser: Any, parses: Sequence[Any]) -> Any:
    """A `pyarrow.Table` with a row for each parse, of the names and values of its `as_json`.

    The row of an error has no values.
    """
    schema = schema_of(parser)
    rows = [{} if isinstance(parse, Exception) else parse.as_json() for parse in parses]
    for row in rows:
        if "file" in row:  # names of files that are no UTF-8
            row["file"] = row["file"].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return import_pyarrow().Table.from_pylist(rows, schema=schema)


def schema_of(parser: Any) -> Any:
    """Its columns and their types, for the kind of trees of a parser."""
    arrow = import_pyarrow()
    text, texts, number = arrow.string(), arrow.list_(arrow.string()), arrow.int32()
    columns = [
        ("file", text),
        ("text", text),
        ("offsets", arrow.list_(arrow.list_(arrow.int64()))),
        ("words", texts),
        ("tags", texts),
    ]
    if isinstance(parser, ConstituencyParser):
        span = [("start", number), ("end", number), ("label", text)]
        span.append(("probability", arrow.float64()))
        columns.append(("spans", arrow.list_(arrow.struct(span))))
    else:
        columns += [("heads", arrow.list_(number)), ("relations", texts)]
        columns.append(("probabilities", arrow.list_(arrow.float64())))
    return arrow.schema(columns)
