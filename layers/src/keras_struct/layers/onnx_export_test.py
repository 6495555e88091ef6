"""ONNX files give what the model gives, for other sizes too, or there is no file."""

import functools

import keras
import numpy as np
import pytest

from keras_struct import layers
from keras_struct.layers import export_onnx, onnx_export
from keras_struct.ops.testing import BACKEND, EVERY_CASE, EXPORTS

onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
RNG = np.random.default_rng(0)


def run(path, **inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return dict(
        zip([y.name for y in session.get_outputs()], session.run(None, inputs), strict=True)
    )


def random(*shape):
    return 2 * RNG.normal(size=shape).astype("float32")


@pytest.mark.skipif(not EXPORTS, reason="a process of a minute: in make test-every")
def test_a_tagger_with_masks_and_forbidden_tags(tmp_path):
    """Tags, marginals and the packed potentials, which hold infinities, of sizes not yet seen."""
    x, mask = keras.Input((None, 4), name="x"), keras.Input((None,), dtype="bool", name="mask")
    constraints = layers.tag_constraints(["O", "B-X", "I-X"])
    crf = layers.CRF(3, constraints=constraints, transition_initializer="random_normal")
    packed = crf(layers.AttachMask()([x, mask]))
    outputs = {
        "packed": packed,
        "tags": layers.StructuredDecoder()(packed),
        "marginals": layers.StructuredDecoder("marginals")(packed),
    }
    model = keras.Model({"x": x, "mask": mask}, outputs)
    sizes = ((1, 1), (4, 9))[BACKEND != "tensorflow" :]  # where each shape is compiled: one
    one = None
    if BACKEND != "tensorflow":
        one = [{"x": random(4, 9, 4), "mask": np.ones((4, 9), bool)}]
    path = export_onnx(model, tmp_path / "tagger.onnx", examples=one)
    assert [p.name for p in tmp_path.iterdir()] == ["tagger.onnx"]
    for batch, n in sizes:
        given = random(batch, n, 4)
        hidden = RNG.random((batch, n)) < 0.3
        given[hidden] = np.nan
        found = run(path, x=given, mask=~hidden)
        expected = model.predict_on_batch({"x": given, "mask": ~hidden})
        np.testing.assert_array_equal(found["tags"], expected["tags"])
        np.testing.assert_allclose(found["marginals"], expected["marginals"], atol=1e-5)
        np.testing.assert_allclose(found["packed"], expected["packed"], rtol=1e-5, atol=1e-5)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        export_onnx(model, path)


def aligner(mode):
    first, second = keras.Input((None, 4), name="first"), keras.Input((None, 4), name="second")
    head = layers.Aligner("needleman_wunsch")
    model = layers.decoding_model(keras.Model([first, second], head(first, second)), mode)
    return model, {"first": random(2, 7, 4), "second": random(2, 4, 4)}


def attention(structure):
    x = keras.Input((None, 4), name="x")
    mapped = layers.StructuredAttention(2, 4, structure=structure)(x, x)
    return keras.Model(x, mapped), {"x": random(1, 6, 4)}


def beams():
    x = keras.Input((None, 4), name="x")
    decoder = layers.CTCDecoder("beams", beam_width=3, top_k=2)
    return keras.Model(x, decoder(layers.CTC(3)(x))), {"x": random(1, 9, 4)}


def segments():
    x = keras.Input((None, 4), name="x")
    model = keras.Model(x, layers.SemiMarkovCRF(2, 3, use_lengths=True)(x))
    return layers.decoding_model(model, "segments"), {"x": random(1, 9, 4)}


# A recurrence of each kind; those that are translated for half a minute in `make test-every`.
MODELS: dict = {
    "plan": functools.partial(attention, "sinkhorn"),
    "path": functools.partial(aligner, "path"),
    "score": functools.partial(aligner, "score"),
    "map": functools.partial(aligner, "map"),
    "warping": functools.partial(attention, "dtw"),
    "phrases": functools.partial(attention, "cky"),
    "projective_trees": functools.partial(attention, "eisner"),
    "trees": functools.partial(attention, "spanning_tree"),
    "beams": beams,
    "segments": segments,
}


@pytest.mark.skipif(BACKEND != "tensorflow", reason="all graphs are those of TensorFlow")
@pytest.mark.parametrize("name", MODELS if EVERY_CASE else list(MODELS)[:1])
def test_recurrences_of_each_kind(name, tmp_path):
    model, inputs = MODELS[name]()
    path = export_onnx(model, tmp_path / "model.onnx")
    expected = model.predict_on_batch(list(inputs.values()) if len(inputs) > 1 else inputs["x"])
    for found, want in zip(run(path, **inputs).values(), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)


@keras.saving.register_keras_serializable("keras_struct_test")
class WithoutTranslation(keras.layers.Layer):
    def call(self, inputs):
        return keras.ops.erfinv(keras.ops.tanh(inputs)) if self.name == "odd" else inputs

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)


@keras.saving.register_keras_serializable("keras_struct_test")
class Chosen(keras.layers.Layer):
    def call(self, x):
        dtype = self.name  # of what is chosen from
        low, high = (keras.ops.cast(y, dtype) for y in (x < 1, x > -1))
        return keras.ops.cast(keras.ops.where(x > 0, low, high), "float32")


@pytest.mark.skipif(BACKEND != "tensorflow", reason="it takes no process here")
def test_a_choice_between_booleans(tmp_path):
    x = keras.Input((3,), name="x")
    path = export_onnx(keras.Model(x, Chosen(name="bool")(x)), tmp_path / "some.onnx")
    given = np.array([[-2, -0.5, 0.5], [2, np.inf, np.nan]], "float32")
    assert run(path, x=given)["bool"].tolist() == [[0, 1, 1], [0, 0, 0]]
    with pytest.raises(NotImplementedError, match=r"operations that ONNX Runtime has.*Where"):
        export_onnx(keras.Model(x, Chosen(name="uint16")(x)), tmp_path / "other.onnx")


@pytest.mark.skipif(BACKEND != "tensorflow", reason="it takes no process here")
def test_what_onnx_has_not_is_named(tmp_path):
    x = keras.Input((None, 2))
    model = keras.Model(x, WithoutTranslation(name="odd")(x))
    with pytest.raises(NotImplementedError, match=r"Received: Erfinv \(in .*odd"):
        export_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(BACKEND != "tensorflow", reason="it takes no process here")
def test_a_file_that_differs_is_not_written(tmp_path, monkeypatch):
    x = keras.Input((None, 2))
    model = keras.Model(x, keras.layers.Dense(1, name="score")(x))
    predict = model.predict_on_batch
    monkeypatch.setattr(model, "predict_on_batch", lambda batch: predict(batch) + 0.5)
    with pytest.raises(ValueError, match=r"output 'score'.* by up to 0\.5"):
        export_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_user_errors(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="Expected a Functional"):
        export_onnx(keras.Sequential([layers.CRF(3)]), tmp_path / "model.onnx")
    monkeypatch.setattr(onnx_export, "NEEDED", ("tensorflow", "no_such_package"))
    with pytest.raises(ImportError, match=r"Install \['no_such_package'\]"):
        export_onnx(keras.Sequential([layers.CRF(3)]), tmp_path / "model.onnx")
