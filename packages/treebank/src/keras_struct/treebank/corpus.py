"""`keras-struct-treebank parse --engine`: a corpus into a folder of parts.

A part holds the trees of so many sentences as they follow each other over all files, and appears
whole; which sentences it holds depends on nothing but the input. So parts may be made in any order,
by any process, twice if need be, and a run that was interrupted makes those that are missing.
"""

import argparse
import functools
import importlib.metadata
import io
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from keras_struct.layers.whole_files import open_whole
from keras_struct.runs import LeftOut, digest, digest_of_weights
from keras_struct.runs.locks import lock
from keras_struct.runs.progress import progress_bar
from keras_struct.treebank.corpus_files import import_pyarrow, read_corpus, stamp
from keras_struct.treebank.formats import DEFAULTS, FORMATS

DECISIONS, DONE, LOCK = "_parse.json", "_SUCCESS", ".lock"
ENDINGS = {"brackets": "mrg", "conllu": "conllu", "json": "jsonl", "parquet": "parquet"}


def run_parse(
    chosen: argparse.Namespace, files: Sequence[str], parser: Any, left_out: LeftOut
) -> None:
    """Parse files into the parts of a folder.

    Args:
        chosen: Arguments of the command.
        files: Paths and URLs of files.
        parser: The parser.
        left_out: Called with the error of what is left out.

    Raises:
        ValueError: If the folder holds parts and `--resume` is not given, or those of another run,
            or another process writes them.
        OSError: If a file cannot be read or a part not be written; what is written stays.
        ImportError: If fsspec or pyarrow is needed and not installed.
    """
    folder = Path(chosen.output)
    format = chosen.format or DEFAULTS[chosen.kind]
    options = {
        "batch_tokens": chosen.batch_tokens,
        "probabilities": chosen.probabilities,
        "max_words": chosen.max_words,
    }
    if chosen.lookahead is not None:
        options["lookahead"] = chosen.lookahead
    if format == "parquet":
        import_pyarrow()
    decisions = {
        "input": [stamp(file) for file in files],
        "options": {
            **options,
            "input": chosen.input_format,
            "encoding": chosen.encoding,
            "column": chosen.column,
            "part_sentences": chosen.part_sentences,
        },
        "format": format,
        "model": digest([str(parser.get_config()), digest_of_weights(parser.weights)]),
        "version": importlib.metadata.version("keras-struct-treebank"),
    }
    folder.mkdir(exist_ok=True)
    with (folder / LOCK).open("a") as stream, progress_bar("sentences", None) as progress:
        lock(stream, folder)
        _check_decisions(folder, json.loads(json.dumps(decisions)), chosen.resume)
        sentences = read_corpus(
            files, chosen.input_format, chosen.encoding, chosen.column, left_out
        )
        advance = functools.partial(progress.advance, progress.task_ids[0])
        parts = _parts(folder, sentences, chosen.part_sentences, ENDINGS[format])
        work = _missing(parts, advance)
        settings = (format, {**options, "strict": left_out.strict})
        if chosen.engine == "ray":
            from keras_struct.treebank.ray_engine import parts_by_ray

            made = parts_by_ray(parser, settings, work, chosen.workers)
        else:
            make = part_maker(parser, *settings)
            made = ((path, make((path.name, chunk))) for path, chunk in work)
        for path, (data, count, errors) in made:
            with open_whole(path, "wb") as stream:
                stream.write(data)
            advance(count)
            for error in errors:
                left_out(ValueError(error))
        with open_whole(folder / DONE):
            pass


def parse_each(
    parser: Any, sentences: Sequence[Any], strict: bool = False, **options: Any
) -> list[Any]:
    """The parse of each sentence, or the error of one that cannot be parsed.

    Args:
        parser: The parser.
        sentences: List of sentences, each a list of words.
        strict: Whether an error is raised.
        **options: Those of `parse`.

    Raises:
        Exception: If none of several sentences can be parsed: then it is not for their sake.
    """
    try:
        return list(parser.parse(sentences, **options))
    except Exception:
        if strict:
            raise
    found: list[Any] = []
    for sentence in sentences:
        try:
            found += parser.parse([sentence], **options)
        except Exception as error:
            found.append(error)
    if len(found) > 1 and all(isinstance(parse, Exception) for parse in found):
        raise found[0]
    return found


def part_maker(
    parser: Any, format: str, options: dict[str, Any]
) -> Callable[[tuple[str, Sequence[Any]]], tuple[bytes, int, list[str]]]:
    """What makes parts.

    Args:
        parser: The parser.
        format: Of the trees.
        options: Those of `parse_each`.

    Returns:
        Function from the name of a part and its sentences to what the file holds, how many
        sentences it had, and errors of those that are left out.
    """

    def make(work: tuple[str, Sequence[Any]]) -> tuple[bytes, int, list[str]]:
        name, sentences = work
        found = parse_each(parser, sentences, **options)
        parses = [parse for parse in found if not isinstance(parse, Exception)]
        if format == "parquet":
            from keras_struct.treebank.parse_tables import table_of

            stream = io.BytesIO()
            import_pyarrow().parquet.write_table(table_of(parser, parses), stream)
            data = stream.getvalue()
        else:
            text = "".join(map(FORMATS[format], parses))
            data = text.encode("utf-8", "surrogateescape")  # names of files
        errors = [
            f"{name}, sentence {number}, {' '.join(sentences[number - 1])[:80]!r}: "
            f"{type(parse).__name__}: {parse}"
            for number, parse in enumerate(found, 1)
            if isinstance(parse, Exception)
        ]
        return data, len(sentences), errors

    return make


def _parts(
    folder: Path, sentences: Iterator[Any], size: int, ending: str
) -> Iterator[tuple[Path, Any]]:
    """Path and sentences of every part."""
    for number in itertools.count():
        chunk = list(itertools.islice(sentences, size))
        if not chunk:
            return
        yield folder / f"part-{number:06d}.{ending}", chunk


def _missing(
    parts: Iterator[tuple[Path, Any]], advance: Callable[[int], Any]
) -> Iterator[tuple[Path, Any]]:
    """The parts that are not there yet; of the others only the sentences are counted."""
    for path, sentences in parts:
        if path.exists():
            advance(len(sentences))
        else:
            yield path, sentences


def _check_decisions(folder: Path, decisions: dict[str, Any], resume: bool) -> None:
    """Write what decides a run, or compare it with that of the parts that are there."""
    path = folder / DECISIONS
    if not path.exists():
        if any(name.startswith("part-") for name in os.listdir(folder)):
            raise ValueError(f"Expected a new folder. Received: {folder} with parts of another run")
        with open_whole(path) as stream:
            json.dump(decisions, stream)
        return
    if not resume:
        raise ValueError(f"Expected a new folder, or --resume. Received: {folder} with parts")
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        theirs = None
    theirs = theirs if isinstance(theirs, dict) else {}
    different = [name for name in decisions if theirs.get(name) != decisions[name]]
    if different:
        raise ValueError(
            f"Expected the run that {folder} holds. Received: other {', '.join(different)}"
        )
