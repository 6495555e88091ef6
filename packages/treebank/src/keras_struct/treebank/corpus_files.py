"""The files of a corpus: paths, folders, globs and URLs; text, JSON lines and Parquet."""

import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from keras_struct.runs import check_text, open_text
from keras_struct.runs.model_data import digest_of_file
from keras_struct.treebank.preprocessor import check_words
from keras_struct.treebank.text import Sentence, read_sentences, sentences_of

RECORDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
ROWS = 1024  # of Parquet that are read at a time


def is_url(path: str) -> bool:
    """Whether a path is for fsspec, such as `s3://bucket/corpus`."""
    return "://" in path


def files_of_folder(path: str) -> list[str]:
    """The files of a folder and of those in it, in order, without hidden ones."""
    found = [
        os.path.join(folder, name)
        for folder, folders, names in os.walk(path)
        for name in names
        if not any(part.startswith(".") for part in Path(folder, name).relative_to(path).parts)
    ]
    return sorted(found)


def files_of_url(url: str) -> list[str]:
    """The files that a URL names, of a file, a folder or a glob, in order."""
    system, path = _system(url)
    found = [path] if system.isdir(path) else system.glob(path)
    found = {file for part in found for file in system.find(part)}
    return [system.unstrip_protocol(file) for file in sorted(found)]


def stamp(file: str) -> str:
    """What tells that a file has changed: its content, or what a server says of it."""
    if not is_url(file):
        return digest_of_file(Path(file))
    system, path = _system(file)
    return str(system.ukey(path))


def read_corpus(
    files: Sequence[str],
    format: str | None,
    encoding: str | None,
    column: str,
    left_out: Callable[[Exception], Any],
) -> Iterator[Sentence]:
    """The sentences of all files, one after the other; always the same for the same files.

    Args:
        files: Paths and URLs.
        format: Of `read_sentences`, `"jsonl"` or `"parquet"`; None goes by the ending of each file,
            else raw text.
        encoding: Of text and JSON lines, see `open_text`.
        column: The name, in JSON lines and Parquet, of what is a text or a list of words.
        left_out: Called with the error of a line, record or file that is none, which is left out.

    Raises:
        OSError: If a file cannot be read to its end.
        ImportError: If a file needs fsspec or pyarrow, and it is not installed.
    """
    for file in files:
        form = format or RECORDS.get(os.path.splitext(file)[1].lower(), "text")
        try:
            if form == "parquet":
                yield from _of_records(_rows(file, column), file, left_out)
                continue
            with _opened(file) as source, open_text(source, encoding) as lines:
                if form == "jsonl":
                    yield from _of_records(_objects(lines, column), file, left_out)
                else:
                    kept = file if len(files) > 1 else None
                    yield from read_sentences(lines, form, file, left_out, kept)
        except ValueError as error:
            left_out(error if file in str(error) else ValueError(f"{file}: {error}"))


def sentences_of_record(record: Any, file: str | None = None) -> list[Sentence]:
    """The sentences of a text, or the one that a list of words is; else a `ValueError`."""
    if isinstance(record, str):
        check_text(record)
        return sentences_of(record, file=file)
    if not isinstance(record, (list, tuple)):
        raise ValueError(
            f"Expected a text or a list of words. Received: one of type {type(record).__name__}"
        )
    check_words(record)
    return [Sentence(record, file=file)]


def _of_records(records, file, left_out):
    """The sentences of numbered records; what is an error instead of a record is left out."""
    for number, record in enumerate(records, 1):
        name = f"{file}:{number}"
        try:
            if isinstance(record, ValueError):
                raise record
            found = sentences_of_record(record, name)
        except ValueError as error:
            left_out(ValueError(f"{name}: {error}"))
            continue
        yield from found


def _objects(lines, column):
    """The values under a name of lines of JSON, or the errors of lines; blank ones have no text."""
    for line in lines:
        if not line.strip():
            yield ""
            continue
        try:
            check_text(line)
            found = json.loads(line)
            if not isinstance(found, dict) or column not in found:
                raise ValueError(f"Expected an object with {column!r}. Received: {line[:80]!r}")
            yield found[column]
        except (ValueError, RecursionError) as error:
            yield ValueError(str(error))


def _rows(file, column):
    """The values of a column of Parquet."""
    pyarrow = import_pyarrow()
    try:
        with _opened(file) as source:
            table = pyarrow.parquet.ParquetFile(source)
            if column not in table.schema_arrow.names:
                names = ", ".join(table.schema_arrow.names)
                raise ValueError(f"Expected a column {column!r}. Received: {file} with {names}")
            for batch in table.iter_batches(ROWS, columns=[column]):
                yield from batch.column(0).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        if getattr(error, "errno", None) is not None:
            raise  # of the device, not of what the file holds
        raise ValueError(
            f"Expected a Parquet file. Received: {file}: {str(error)[:500]}"
        ) from error


def _opened(file):
    """A binary stream."""
    if not is_url(file):
        return open(file, "rb")
    system, path = _system(file)
    return io.BufferedReader(system.open(path, "rb"))


def _system(url):
    try:
        import fsspec
    except ImportError as error:
        raise ImportError("Expected fsspec: pip install fsspec") from error
    return fsspec.core.url_to_fs(url)


def import_pyarrow():
    """The module pyarrow, or an error that says how it is installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("Expected pyarrow: pip install keras-struct-treebank[parquet]") from error
    return pyarrow
