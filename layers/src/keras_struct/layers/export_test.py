"""Export on every backend, and the promise that the folder appears whole or not at all."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_struct.layers import export
from keras_struct.layers.attach_mask import AttachMask
from keras_struct.layers.crf import CRF
from keras_struct.layers.decoding_model import decoding_model
from keras_struct.layers.export import export_saved_model
from keras_struct.layers.semi_markov_crf import SemiMarkovCRF
from keras_struct.ops.testing import EXPORTS_BY_CHILD, PLAIN_TENSORFLOW

LOAD = """
import json, sys
import numpy as np
import tensorflow as tf
module = tf.saved_model.load(sys.argv[1])
x = np.random.default_rng(1).normal(size=(3, 7, 4)).astype("float32")
mask = tf.constant(np.arange(7) < np.array([[7], [4], [0]]))
outputs = [getattr(module, name)([x, mask]) for name in ("serve", "tags", "marginals")]
print(json.dumps([{key: y.numpy().tolist() for key, y in output.items()} for output in outputs]))
assert "keras_struct" not in sys.modules
"""


def tagger():
    x, mask = keras.Input((None, 4)), keras.Input((None,), dtype="bool")
    states = AttachMask()([x, mask])
    crf = CRF(3, transition_initializer="random_normal", constraints=np.tri(3))
    semi_markov = SemiMarkovCRF(2, 3, transition_initializer="random_normal")
    return keras.Model([x, mask], {"crf": crf(states), "semi_markov": semi_markov(states)})


@pytest.mark.skipif(not EXPORTS_BY_CHILD, reason="the same child process exports for JAX")
def test_endpoints_in_a_fresh_process_with_plain_tensorflow(tmp_path):
    model = tagger()
    decoders = {mode: decoding_model(model, mode) for mode in ("tags", "marginals")}
    path = export_saved_model(model, tmp_path / "tagger", endpoints=decoders)
    assert [p.name for p in tmp_path.iterdir()] == ["tagger"]
    command = [sys.executable, "-c", LOAD, str(path)]
    result = subprocess.run(command, env=PLAIN_TENSORFLOW, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    outputs = json.loads(result.stdout)
    x = np.random.default_rng(1).normal(size=(3, 7, 4)).astype("float32")
    mask = np.arange(7) < np.array([[7], [4], [0]])
    for endpoint, output in zip([model, *decoders.values()], outputs, strict=True):
        expected = endpoint.predict_on_batch([x, mask])
        assert set(output) == {"crf", "semi_markov"}
        for key, y in output.items():
            np.testing.assert_allclose(y, expected[key], atol=1e-5)


@pytest.fixture
def fake_writer(monkeypatch):
    """Writes one file in place of a SavedModel, or fails when told so."""
    state = {"fails": False}

    def write(model, names, path, *others):
        path.mkdir()
        (path / "saved_model.pb").write_text("partial" if state["fails"] else "whole")
        if state["fails"]:
            raise RuntimeError("no space left")

    monkeypatch.setattr(export, "_write", write)
    monkeypatch.setattr(export, "_write_in_child", write)
    return state


def test_whole_or_not_at_all(tmp_path, fake_writer):
    model = tagger()
    fake_writer["fails"] = True
    with pytest.raises(RuntimeError, match="no space left"):
        export_saved_model(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())
    fake_writer["fails"] = False
    path = export_saved_model(model, tmp_path / "model")
    assert (path / "saved_model.pb").read_text() == "whole"
    fake_writer["fails"] = True
    with pytest.raises(RuntimeError, match="no space left"):
        export_saved_model(model, path, overwrite=True)
    assert (path / "saved_model.pb").read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def test_an_existing_path(tmp_path, fake_writer):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        export_saved_model(tagger(), tmp_path / "model")
    path = export_saved_model(tagger(), str(tmp_path / "model"), overwrite=True)
    assert isinstance(path, pathlib.Path)
    assert [p.name for p in path.iterdir()] == ["saved_model.pb"]


def test_tensorflow_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install tensorflow"):
        export_saved_model(tagger(), tmp_path / "model")


def test_endpoints_on_other_inputs(tmp_path):
    for endpoints in ({"tags": decoding_model(tagger())}, {"tags": CRF(3)}, {"serve": tagger()}):
        with pytest.raises(ValueError, match="Received: "):
            export_saved_model(tagger(), tmp_path / "model", endpoints=endpoints)
    assert not list(tmp_path.iterdir())


@keras.saving.register_keras_serializable("keras_struct_test")
class FailsUnderTensorFlow(keras.layers.Layer):
    def call(self, inputs):
        if keras.backend.backend() == "tensorflow":
            raise RuntimeError("the layer says why")
        return inputs

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)


def test_the_failure_of_the_child_is_told(tmp_path):
    x = keras.Input((None, 2))
    model = keras.Model(x, FailsUnderTensorFlow()(x))
    with pytest.raises(RuntimeError, match="the layer says why"):
        export_saved_model(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="the TensorFlow backend needs no child process"
)
def test_a_class_that_no_other_process_can_import(tmp_path, monkeypatch):
    monkeypatch.setattr(FailsUnderTensorFlow, "__module__", "__main__")
    x = keras.Input((None, 2))
    with pytest.raises(ValueError, match="__main__"):
        export_saved_model(keras.Model(x, FailsUnderTensorFlow()(x)), tmp_path / "model")
