"""Weights that are distributions of their own: where they are, and whether they are whole."""

import contextlib
import functools
import hashlib
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

from keras_struct.runs.command import shortened

CHECKSUMS = "models.json"


def models_folder(module: str) -> Path:
    """The folder of a package that holds weights.

    Args:
        module: Its import path, such as `"keras_struct.treebank_models"`.

    Raises:
        ImportError: If it is not installed, with the command that installs it.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        name = module.replace(".", "-").replace("_", "-")
        raise ImportError(f"The shipped models are in a package of their own: pip install {name}")
    return Path(next(iter(spec.submodule_search_locations)))


@functools.cache
def check_model(folder: Path, name: str) -> None:
    """Raise a `ValueError` unless the files of a model are those that were published.

    Args:
        folder: That of the package, see `models_folder`.
        name: Of a file, or of a folder of files, in it.
    """
    published = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))["sha256"]
    files = [file for file in published if file == name or file.startswith(f"{name}/")]
    if not files:
        raise ValueError(f"Expected one of the models of {folder}. Received: {name}")
    for file in files:
        if not (folder / file).is_file() or digest_of_file(folder / file) != published[file]:
            raise ValueError(
                "Expected the weights that were published; install the package anew. "
                f"Received: {folder / file}, missing or damaged"
            )


@contextlib.contextmanager
def reading_model(path: str | Path) -> Iterator[None]:
    """Turn whatever the reading of a damaged model leads to into a `ValueError` that names it."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        told = shortened(f"{type(error).__name__}: {error}")
        raise ValueError(f"Expected a model that can be read. Received: {path}: {told}") from error


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
