"""`keras-struct-treebank parse`: text from files and pipes in, trees out, from where it stopped."""

import argparse
import contextlib
import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from keras_struct.layers.whole_files import is_stream, open_whole
from keras_struct.runs import LeftOut, digest, digest_of_weights, open_text
from keras_struct.runs.locks import lock
from keras_struct.runs.model_data import digest_of_file
from keras_struct.runs.progress import progress_bar
from keras_struct.treebank.formats import DEFAULTS, FORMATS
from keras_struct.treebank.parser_task import LOOKAHEAD
from keras_struct.treebank.text import read_sentences

SECONDS = 5.0  # between notes of how far a run is


def read(
    files: Sequence[str], format: str, encoding: str | None, left_out: LeftOut
) -> Iterator[Any]:
    """The sentences of all files, one after the other; a file that cannot be read is left out."""
    for file in files:
        name = "<stdin>" if file == "-" else file
        kept = name if len(files) > 1 else None
        try:
            with open_text(file, encoding) as lines:
                yield from read_sentences(lines, format, name, left_out, kept)
        except (OSError, UnicodeError) as error:
            left_out(error)


def run_parse(
    chosen: argparse.Namespace, files: Sequence[str], parser: Any, left_out: LeftOut
) -> None:
    """Parse the files and write the trees."""
    format = chosen.format or DEFAULTS[chosen.kind]
    interactive = "-" in files and os.isatty(0)
    lookahead = chosen.lookahead
    if lookahead is None:
        lookahead = 1 if interactive else LOOKAHEAD
    options = {
        "batch_tokens": chosen.batch_tokens,
        "probabilities": chosen.probabilities,
        "max_words": chosen.max_words,
        "lookahead": lookahead,
    }
    sentences = read(files, chosen.input_format, chosen.encoding, left_out)
    # The trees themselves show the progress where they go to a terminal or a pipe.
    stream = chosen.output is None or is_stream(chosen.output)
    with progress_bar("sentences", None, disable=stream) as progress:
        if stream:
            with open_whole(chosen.output) as target:
                for parse in parser.parse(sentences, **options, skipped=left_out):
                    target.write(FORMATS[format](parse))
                    target.flush()
            return
        target = Pictures(chosen.output) if format == "svg" else Lines(chosen.output)
        decisions = None
        if "-" not in files:
            decisions = {
                "input": [digest_of_file(Path(file)) for file in files if _readable(file)],
                "options": {**options, "input": chosen.input_format, "encoding": chosen.encoding},
                "format": format,
                "model": digest([str(parser.get_config()), digest_of_weights(parser.weights)]),
            }
        with target.opened(decisions) as done:
            progress.update(progress.task_ids[0], completed=done)
            rest = itertools.islice(sentences, done, None)
            noted = time.monotonic()
            for parse in parser.parse(rest, **options, skipped=left_out):
                target.write(FORMATS[format](parse))
                done += 1
                # Of whole chunks, so that batches are the same as without an interruption.
                if done % lookahead == 0 and time.monotonic() - noted > SECONDS:
                    target.note(decisions, done)
                    noted = time.monotonic()
                progress.advance(progress.task_ids[0])


def _readable(file: str) -> bool:
    return os.path.isfile(file) and os.access(file, os.R_OK)


class Lines:
    """A file of trees that appears when all are written, and goes on from what is there.

    Meanwhile they are in `.NAME.part`, and how many are whole in `.NAME.part.json`.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.realpath(path))
        self.part = self.path.with_name(f".{self.path.name}.part")
        self.notes = self.path.with_name(f".{self.path.name}.part.json")

    @contextlib.contextmanager
    def opened(self, decisions: Any) -> Iterator[int]:
        """How many sentences are written already, by a run that the same things decide."""
        done, size = read_notes(self.notes, decisions)
        if not self.part.is_file() or self.part.stat().st_size < size:
            done = size = 0
        with self.part.open("ab") as self.stream:
            lock(self.stream, self.path)
            self.stream.truncate(size)
            try:
                yield done
            except BaseException:
                if not self.notes.exists():
                    self.part.unlink()
                raise
            self.stream.flush()
            self._publish()

    def _publish(self) -> None:
        if self.path.exists():
            os.chmod(self.part, self.path.stat().st_mode & 0o7777)
        os.replace(self.part, self.path)
        self.notes.unlink(missing_ok=True)

    def write(self, text: str) -> None:
        self.stream.write(text.encode("utf-8", "surrogateescape"))  # names of files

    def note(self, decisions: Any, done: int) -> None:
        if decisions is not None:
            self.stream.flush()
            os.fsync(self.stream.fileno())
            write_notes(self.notes, decisions, done, self.stream.tell())


class Pictures:
    """A folder of pictures, each whole, that goes on from what is there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.notes, self.number = folder, folder / ".part.json", 0

    @contextlib.contextmanager
    def opened(self, decisions: Any) -> Iterator[int]:
        self.number, _ = read_notes(self.notes, decisions)
        yield self.number
        self.notes.unlink(missing_ok=True)

    def write(self, text: str) -> None:
        self.number += 1
        with open_whole(self.folder / f"{self.number:05d}.svg") as stream:
            stream.write(text)

    def note(self, decisions: Any, done: int) -> None:
        if decisions is not None:
            write_notes(self.notes, decisions, done, 0)


def read_notes(path: Path, decisions: Any) -> tuple[int, int]:
    """Sentences and bytes that are written; none where something else decided."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if decisions is not None and found["decisions"] == json.loads(json.dumps(decisions)):
            done, size = int(found["sentences"]), int(found["bytes"])
            if min(done, size) >= 0:
                return done, size
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        pass
    return 0, 0


def write_notes(path: Path, decisions: Any, done: int, size: int) -> None:
    with open_whole(path) as stream:
        json.dump({"decisions": decisions, "sentences": done, "bytes": size}, stream)
