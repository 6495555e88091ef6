"""A training that is killed at any moment ends as if nobody had touched it."""

import json
import os
import random
import signal
import time

import keras
import numpy as np
import pytest

from keras_struct.ops.testing import BACKEND, HAS_GRADIENTS
from keras_struct.runs import training

EPOCHS = 12
DECISIONS = {"seed": 1, "rate": 0.01, "data": "0" * 64}


class Batches(keras.utils.PyDataset):
    def __init__(self):
        super().__init__()
        self.x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")

    def start_epoch(self, number):
        self.order = np.random.default_rng([7, number]).permutation(40)

    def __len__(self):
        return 5

    def __getitem__(self, index):
        x = self.x[self.order[8 * index : 8 * index + 8]]
        return x, x.sum(axis=1, keepdims=True)


def run(folder, epochs=EPOCHS, lines=None):
    """Train a model with dropout; its weights and history."""
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.3), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((5,)), *layers])
    model.compile(keras.optimizers.AdamW(0.01), loss="mse")
    training.claim(folder, {**DECISIONS, "epochs": EPOCHS})

    def publish(rows):
        (folder / "published.txt").write_text(str(len(rows)))

    rows = training.fit(
        *(model, Batches(), epochs, 3, folder),
        score=lambda: {"f1": 0.5},
        publish=publish,
        progress=(lines if lines is not None else []).append,
    )
    return [keras.ops.convert_to_numpy(w) for w in model.weights], rows


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.skipif(
    BACKEND != "torch", reason="processes that are forked, which JAX is not made for"
)
def test_kill_at_ten_random_moments(tmp_path):
    wanted, rows = run(tmp_path / "whole")
    start = time.monotonic()
    run(tmp_path / "time")
    each = (time.monotonic() - start) / EPOCHS
    generator = random.Random(0)
    folder, kills = tmp_path / "killed", 0
    folder.mkdir()
    for _ in range(10):
        child = os.fork()
        if child == 0:
            run(folder)
            os._exit(0)
        time.sleep(each * generator.uniform(0.2, 2.5))
        os.kill(child, signal.SIGKILL)
        kills += os.waitpid(child, 0)[1] == signal.SIGKILL
    assert kills >= 5
    ours, ours_rows = run(folder)
    assert same(ours, wanted)
    assert ours_rows == rows
    texts = [(tmp_path / name / "history.jsonl").read_text() for name in ("killed", "whole")]
    assert texts[0] == texts[1] and texts[0].count("\n") == EPOCHS
    assert (folder / "published.txt").read_text() == str(EPOCHS)
    names = {path.name for path in folder.rglob("*") if path.parent.name == "checkpoint"}
    assert names == {"000011", "000012"}


@pytest.mark.skipif(not HAS_GRADIENTS, reason="the NumPy backend has no gradients")
def test_a_damaged_checkpoint_costs_an_epoch(tmp_path):
    wanted, _ = run(tmp_path / "a", 4)
    run(tmp_path / "b", 3)
    checkpoints = sorted((tmp_path / "b" / "checkpoint").iterdir())
    assert [path.name for path in checkpoints] == ["000002", "000003"]
    (checkpoints[1] / "state.npz").write_bytes(b"")
    lines: list[str] = []
    ours, rows = run(tmp_path / "b", 4, lines)
    assert same(ours, wanted)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert "000003 cannot be read" in lines[0]
    for path in (tmp_path / "b" / "checkpoint").iterdir():
        (path / "history.json").write_bytes(b"{")
    with pytest.raises(ValueError, match=r"every one is damaged"):
        run(tmp_path / "b", 5)


@pytest.mark.skipif(BACKEND != "numpy", reason="files are the same on every backend")
def test_what_differs_is_named(tmp_path):
    training.claim(tmp_path, DECISIONS)
    training.claim(tmp_path, DECISIONS)
    (tmp_path / "checkpoint" / "000001").mkdir()
    (tmp_path / "history.jsonl").write_text("{}\n")
    for other, message in (
        ({**DECISIONS, "seed": 2}, r"Received: seed=2, not 1$"),
        ({**DECISIONS, "data": "1" * 64, "rate": 0.1}, r"rate=0\.1, not 0\.01, other data$"),
        ({"seed": 1, "rate": 0.01}, r"other data$"),
        ({**DECISIONS, "loss": "l2"}, r'loss="l2", not null$'),
    ):
        with pytest.raises(ValueError, match=message):
            training.claim(tmp_path, other)
    assert json.loads((tmp_path / "training.json").read_text()) == DECISIONS
    training.claim(tmp_path, {**DECISIONS, "seed": 2}, restart=True)
    assert json.loads((tmp_path / "training.json").read_text())["seed"] == 2
    assert sorted(f.name for f in tmp_path.rglob("*")) == ["checkpoint", "training.json"]
    (tmp_path / "training.json").write_text("")
    with pytest.raises(ValueError, match="nobody can read"):
        training.claim(tmp_path, DECISIONS)
