"""Training that goes on after an interruption of any kind, to the result of one without any."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_struct.layers.annotations import StrPath
from keras_struct.layers.whole_files import open_whole, whole_folder
from keras_struct.runs.model_data import digest_of_file

DECISIONS, HISTORY, CHECKPOINTS = "training.json", "history.jsonl", "checkpoint"
STATE, ROWS = "state.npz", "history.json"  # of a checkpoint
KEPT = 2  # checkpoints: the newest, and the one before in case that is damaged
SHOWN = 60  # letters of a decision that an error shows
Row = dict[str, Any]


def claim(folder: StrPath, decisions: dict[str, Any], restart: bool = False) -> None:
    """Make a folder that of a training, or check that it is.

    Args:
        folder: Path, made if need be.
        decisions: Dictionary of all that decides how the training ends, of types that JSON has:
            numbers, names, and `digest` of data and weights.
        restart: Whether to begin anew where another training, or this one, has begun.

    Raises:
        ValueError: If the folder holds a training that something else decided; the message names
            what.
    """
    folder = Path(folder)
    path = folder / DECISIONS
    (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    if restart:
        path.unlink(missing_ok=True)
    if not path.exists():
        for file in [folder / HISTORY, *(folder / CHECKPOINTS).iterdir()]:
            shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
        with open_whole(path) as stream:
            stream.write(json.dumps(decisions, indent=1) + "\n")
    ours, theirs = json.loads(json.dumps(decisions)), _read_decisions(path)
    different = [
        _difference(name, ours.get(name), theirs.get(name))
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name) != theirs.get(name)
    ]
    if different:
        raise ValueError(
            f"Expected the training that {folder} holds, or restart=True (--restart) to begin "
            f"another. Received: {', '.join(different)}"
        )


def _read_decisions(path):
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(
            "Expected what decided a training, or restart=True (--restart) to begin another. "
            f"Received: {path}, which nobody can read"
        )
    return found


def _difference(name, ours, theirs):
    shown = [json.dumps(value) for value in (ours, theirs)]
    if max(map(len, shown)) > SHOWN:
        return f"other {name}"
    return f"{name}={shown[0]}, not {shown[1]}"


def digest(parts: Iterable[Any]) -> str:
    """A number of texts, bytes and arrays that tells whether they are the same as others.

    Example:

    >>> from keras_struct.runs import digest
    >>> digest(["a", b"bc"]) == digest(["a", b"bc"]), digest(["a", b"bc"]) == digest(["ab", b"c"])
    (True, False)
    """
    found = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else bytes(memoryview(part).cast("B"))
        found.update(len(data).to_bytes(8, "little") + data)
    return found.hexdigest()


def digest_of_weights(weights: Iterable[Any]) -> str:
    """The `digest` of Keras variables, whatever their names; states of random numbers aside."""
    parts: list[Any] = []
    for weight in weights:
        if "seed_generator" not in weight.path:
            parts += [str(weight.shape), keras.ops.convert_to_numpy(weight).tobytes()]
    return digest(parts)


def without_names(config: Any) -> Any:
    """A configuration of layers without their names, which count how many a process has made."""
    if isinstance(config, dict):
        return {key: without_names(value) for key, value in config.items() if key != "name"}
    if isinstance(config, (list, tuple)):
        return [without_names(value) for value in config]
    return config


def fit(
    model: Any,
    batches: Any,
    epochs: int,
    seed: int,
    folder: Path,
    score: Callable[[], Row],
    publish: Callable[[list[Row]], None],
    progress: Callable[[str], None],
) -> list[Row]:
    """Train a compiled model, from the newest checkpoint in a folder.

    After each epoch a checkpoint is written whole, weights, state of the optimizer and of random
    numbers, and history; only then the history is written to `history.jsonl` and the model
    published, and both again when the training goes on. So a process may end at any moment.

    Args:
        model: Compiled Keras model.
        batches: `keras.utils.PyDataset` with a method `start_epoch(number)`, which makes the
            batches of the epoch with a number from 0, the same ones whenever it is called.
        epochs: How many there are in all.
        seed: Of the random numbers of the framework, which are drawn anew for each epoch (dropout
            on PyTorch, which has no generator of its own).
        folder: That of the training, see `claim`.
        score: Gives the scores of the model as it is, for the history.
        publish: Called with the rows of the history, the last one that of the model as it is: saves
            the model if that is wanted. Perhaps called twice for an epoch.
        progress: Called with a line of text after each epoch, and where a checkpoint is damaged.

    Returns:
        The rows of the history.

    Raises:
        ValueError: If there are checkpoints and none can be read.
    """
    checkpoints = folder / CHECKPOINTS
    model.optimizer.build(model.trainable_variables)
    rows = restore(model, checkpoints, progress)

    def publish_all() -> None:
        with open_whole(folder / HISTORY) as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows)
        publish(rows)

    def after_epoch(epoch: int, logs: Any) -> None:
        rows.append({"epoch": epoch + 1, "loss": float(logs["loss"]), **score()})
        store(model, checkpoints, rows)
        publish_all()
        progress("  ".join(f"{k} {_shown(v)}" for k, v in rows[-1].items()))
        batches.start_epoch(epoch + 1)

    def before_epoch(epoch: int, logs: Any) -> None:
        # Here, since Keras draws numbers, too, while it builds what is not built.
        keras.utils.set_random_seed((seed * 1_000_003 + epoch) % 2**32)

    if rows:
        publish_all()
    if len(rows) < epochs:
        batches.start_epoch(len(rows))
        callback = keras.callbacks.LambdaCallback(
            on_epoch_begin=before_epoch, on_epoch_end=after_epoch
        )
        # The batches have their order already; Keras would change it by another random number.
        model.fit(
            batches,
            initial_epoch=len(rows),
            epochs=epochs,
            shuffle=False,
            verbose=0,
            callbacks=[callback],
        )
    return rows


def _shown(value):
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _variables(model):
    """All that a training changes; Keras would store no random numbers with the weights."""
    return [
        *model.trainable_variables,
        *model.non_trainable_variables,
        *model.optimizer.variables,
    ]


def store(model, checkpoints, rows):
    """Write the checkpoint of a model after the epochs of a history, and remove older ones."""
    with whole_folder(checkpoints / f"{len(rows):06d}") as new:
        new.mkdir()
        values = [keras.ops.convert_to_numpy(variable) for variable in _variables(model)]
        np.savez(new / STATE, *values)
        stored = {"history": rows, "checksum": _checksum(new, rows)}
        (new / ROWS).write_text(json.dumps(stored), encoding="utf-8")
    for old in _stored(checkpoints)[:-KEPT]:
        shutil.rmtree(old)


def _checksum(checkpoint, rows):
    return digest([digest_of_file(checkpoint / STATE), json.dumps(rows)])


def _stored(checkpoints):
    """The checkpoints in a folder, the newest last."""
    return sorted(path for path in checkpoints.iterdir() if path.name.isdigit())


def restore(model, checkpoints, progress):
    """Give a model the state of the newest checkpoint that is whole.

    Returns:
        Its history; an empty one if there is no checkpoint.

    Raises:
        ValueError: If every checkpoint is damaged, or of another model.
    """
    found = _stored(checkpoints)
    for checkpoint in reversed(found):
        try:
            stored = json.loads((checkpoint / ROWS).read_text(encoding="utf-8"))
            rows = stored["history"]
            if stored["checksum"] != _checksum(checkpoint, rows):
                raise ValueError("its checksum is another one")
            with np.load(checkpoint / STATE, allow_pickle=False) as arrays:
                values = [arrays[f"arr_{k}"] for k in range(len(arrays.files))]
            for variable, value in zip(_variables(model), values, strict=True):
                variable.assign(value)
            return rows
        except (OSError, ValueError, KeyError, TypeError) as error:
            progress(f"{checkpoint} cannot be read ({error}); the one before is used")
    if found:
        raise ValueError(
            "Expected a checkpoint that can be read, or restart=True (--restart) to begin anew. "
            f"Received: {checkpoints}, where every one is damaged"
        )
    return []
