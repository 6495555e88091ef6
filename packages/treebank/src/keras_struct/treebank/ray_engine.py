"""Parsers on the processes of Ray: parts of a corpus, and datasets of Ray Data."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_struct.runs.cluster import (
    check_dataset,
    connected,
    import_ray,
    in_actors,
    inputs_of,
    map_tables,
)
from keras_struct.treebank.corpus import parse_each, part_maker
from keras_struct.treebank.corpus_files import import_pyarrow, sentences_of_record
from keras_struct.treebank.parse_tables import table_of
from keras_struct.treebank.parser_task import ParserTask

DISTRIBUTION = "keras-struct-treebank"
ROWS = 1024  # of a dataset that are parsed together


def parse_dataset(
    dataset: Any,
    parser: ParserTask,
    column: str = "text",
    concurrency: int | tuple[int, int] | None = None,
    batch_rows: int = ROWS,
    **options: Any,
) -> Any:
    """Parse the texts of a dataset of Ray Data, by actors that hold the parser each.

    The result is as lazy as every dataset of Ray: nothing is parsed before its rows are asked for,
    and no more of them are in memory than are on their way.

    Args:
        dataset: `ray.data.Dataset`. A row holds, under `column`, a text of any number of sentences,
            or the words of one.
        parser: `ConstituencyParser` or `DependencyParser`, which is sent to every actor.
        column: Name of the column of texts.
        concurrency: How many actors, or at least and at most how many; None for one and as many as
            the cluster has processors.
        batch_rows: Rows that are parsed together.
        **options: Those of `parse`, such as `probabilities`.

    Returns:
        `ray.data.Dataset` with a row for each sentence: what `as_json` of its parse has (`file`,
        `text`, `offsets`, `words`, `tags`, and `spans`, or `heads`, `relations` and
        `probabilities`); `error`, null, or why the row of the input or the sentence was not parsed;
        and all other columns of the input, with `input_` before names that the parse has, too. A
        text without sentences has no row. Rows are in the order of the input if
        `ray.data.DataContext.get_current().execution_options.preserve_order` is true.

    Raises:
        ImportError: If ray or pyarrow is not installed.
        ValueError: For arguments that do not fit, or a dataset without the column.

    Example:

    >>> import ray  # doctest: +SKIP
    >>> from keras_struct import treebank  # doctest: +SKIP
    >>> parser = treebank.ConstituencyParser.from_preset("constituency_en")  # doctest: +SKIP
    >>> texts = ray.data.read_json("corpus/")  # doctest: +SKIP
    >>> trees = treebank.parse_dataset(texts, parser, probabilities=True)  # doctest: +SKIP
    >>> trees.write_parquet("trees/")  # doctest: +SKIP
    """
    ray = import_ray(DISTRIBUTION)
    import_pyarrow()
    check_dataset(dataset, column, batch_rows)
    arguments = (*packed(parser, ray), column, options)
    maker = f"{__name__}:table_maker"
    return map_tables(ray, dataset, maker, arguments, concurrency, batch_rows)


def parts_by_ray(
    parser: ParserTask,
    settings: tuple[str, dict[str, Any]],
    work: Iterator[tuple[Path, Sequence[Any]]],
    workers: int | None,
) -> Iterator[tuple[Path, tuple[bytes, int, list[str]]]]:
    """The parts of a corpus, as `part_maker` makes them, in the order in which they are done.

    Args:
        parser: The parser.
        settings: Format and options of `part_maker`.
        work: Paths and sentences of parts.
        workers: Processes; None for one for each processor of the cluster.

    Yields:
        Path of a part and what `part_maker` makes of it.
    """
    with connected(DISTRIBUTION) as ray:
        arguments = (*packed(parser, ray), *settings)
        units = ((path, (path.name, sentences)) for path, sentences in work)
        yield from in_actors(ray, f"{__name__}:part_maker_of", arguments, units, workers)


def packed(parser: ParserTask, ray: Any) -> tuple[str, Any, str]:
    """The class of a parser, a reference to the files of its preset, and the dtype policy."""
    import keras

    with tempfile.TemporaryDirectory() as folder:
        parser.save_to_preset(Path(folder) / "parser")
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(Path(folder).rglob("*"))
            if path.is_file()
        }
    return type(parser).__name__, ray.put(files), keras.config.dtype_policy().name


# In the process of an actor --------------------------------------------------------------------


def unpacked(task: str, files: Mapping[str, bytes], policy: str) -> ParserTask:
    """A parser as `packed` has it."""
    import keras

    from keras_struct import treebank

    keras.config.set_dtype_policy(policy)
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return getattr(treebank, task).from_preset(str(Path(folder) / "parser"))


def part_maker_of(
    task: str, files: Mapping[str, bytes], policy: str, format: str, options: dict[str, Any]
) -> Callable[[Any], Any]:
    """`part_maker` of a parser that is `packed`."""
    return part_maker(unpacked(task, files, policy), format, options)


def table_maker(
    task: str, files: Mapping[str, bytes], policy: str, column: str, options: dict[str, Any]
) -> Callable[[Any], Any]:
    """What makes a table of parses of one of texts."""
    return functools.partial(_table, unpacked(task, files, policy), column, options)


def _table(parser, column, options, table):
    arrow = import_pyarrow()
    rows: list[int] = []  # of the input, for each row of the result
    parses: list[Any] = []  # or errors
    sentences: list[Any] = []
    places: list[int] = []
    for number, record in enumerate(table.column(column).to_pylist()):
        try:
            found = sentences_of_record(record)
        except ValueError as error:
            rows.append(number)
            parses.append(error)
            continue
        places += range(len(parses), len(parses) + len(found))
        sentences += found
        rows += [number] * len(found)
        parses += [None] * len(found)
    made = parse_each(parser, sentences, **options) if sentences else []
    for place, parse in zip(places, made, strict=True):
        parses[place] = parse
    errors = [
        f"{type(parse).__name__}: {parse}" if isinstance(parse, Exception) else None
        for parse in parses
    ]
    result = table_of(parser, parses).append_column("error", arrow.array(errors, arrow.string()))
    others = inputs_of(table.drop_columns([column]), rows, result.column_names)
    for name in others.column_names:
        result = result.append_column(name, others[name])
    return result
