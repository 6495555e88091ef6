"""The CRF head: exact against enumeration, and what broke older CRF layers, by name."""

import itertools
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest

from keras_struct.layers.attach_mask import AttachMask
from keras_struct.layers.check_layer import CHECKS, check_layer
from keras_struct.layers.crf import CRF
from keras_struct.layers.decoding_model import decoding_model
from keras_struct.layers.packed import unpack
from keras_struct.layers.sequence_mask import lengths_from_mask
from keras_struct.layers.span_f1 import SpanF1
from keras_struct.layers.structured_decoder import StructuredDecoder
from keras_struct.layers.structured_nll import StructuredNLL
from keras_struct.layers.tag_scheme import TagConstraints, tag_constraints
from keras_struct.layers.viterbi_accuracy import ViterbiAccuracy, ViterbiSequenceAccuracy
from keras_struct.ops.testing import tried

LABELS = ["O", "B-X", "I-X"]
BACKEND = keras.backend.backend()
needs_gradients = pytest.mark.skipif(BACKEND == "numpy", reason="NumPy has no gradients")


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def padding_mask(lengths, n):
    return np.arange(n) < np.array(lengths)[:, None]


def masked_model(crf, features=4, n=None):
    x = keras.Input((n, features))
    mask = keras.Input((n,), dtype="bool")
    return keras.Model([x, mask], crf(AttachMask()([x, mask])))


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def decoded(mode, packed, **kwargs):
    """What a compiled `StructuredDecoder` returns."""
    x = keras.Input(packed.shape[1:])
    return keras.Model(x, StructuredDecoder(mode, **kwargs)(x)).predict_on_batch(packed)


def enumerate_chain(scores, transitions, start, end):
    """Log-partition, marginals and best tags of one sequence, by listing all of them."""
    n, k = scores.shape
    sequences = list(itertools.product(range(k), repeat=n))
    totals = np.array(
        [
            start[y[0]]
            + end[y[-1]]
            + sum(scores[t, y[t]] for t in range(n))
            + sum(transitions[a, b] for a, b in itertools.pairwise(y))
            for y in sequences
        ],
        "float64",
    )
    log_partition = np.logaddexp.reduce(totals)
    marginals = np.zeros((n, k))
    for y, p in zip(sequences, np.exp(totals - log_partition), strict=True):
        marginals[np.arange(n), y] += p
    return (
        log_partition,
        marginals,
        sequences[int(np.argmax(totals))],
        dict(zip(sequences, totals, strict=True)),
    )


@pytest.mark.parametrize("constraints", [None, "BIO"])
def test_loss_marginals_and_tags_equal_enumeration(constraints):
    constraints = constraints and tag_constraints(LABELS, constraints)
    crf = CRF(3, constraints=constraints, transition_initializer="random_normal")
    x, lengths = random(3, 4, 4), [4, 2, 1]
    inputs = [x, padding_mask(lengths, 4)]
    model = masked_model(crf)
    packed = model(inputs)
    potentials = [numpy(p).astype("float64") for p in unpack(packed)]
    marginals = decoded("marginals", packed)
    tags = decoded("tags", packed)
    target = np.array([[0, 1, 2, 0], [1, 2, 7, 7], [1, 7, 7, 7]])
    loss = numpy(StructuredNLL(reduction=None)(target, packed))
    for b, n in enumerate(lengths):
        log_partition, expected, best, totals = enumerate_chain(
            potentials[0][b, :n], *potentials[1:4]
        )
        np.testing.assert_allclose(marginals[b, :n], expected, atol=1e-5)
        assert not marginals[b, n:].any()
        assert tags[b].tolist() == [*best, *[-1] * (4 - n)]
        np.testing.assert_allclose(
            loss[b], log_partition - totals[tuple(target[b, :n])], rtol=1e-4, atol=1e-5
        )


def test_output_modes_agree_with_the_decoder():
    x, mask = random(2, 5, 4), padding_mask([5, 3], 5)
    head = CRF(3, transition_initializer="random_normal", temperature=0.5)
    packed = masked_model(head)([x, mask])
    for mode in ("marginals", "tags"):
        layer = CRF.from_config({**head.get_config(), "output_mode": mode, "name": mode})
        model = masked_model(layer)
        layer.set_weights(head.get_weights())
        expected = decoded(mode, packed)
        np.testing.assert_allclose(model.predict_on_batch([x, mask]), expected, atol=1e-6)


def test_temperature_divides_the_potentials():
    x = random(2, 5, 4)
    cold, warm = (
        CRF(3, temperature=t, kernel_initializer="ones", transition_initializer="ones")
        for t in (0.5, 1.0)
    )
    np.testing.assert_allclose(
        decoded("marginals", cold(x)),
        decoded("marginals", warm(x), temperature=0.5),
        atol=1e-5,
    )
    hard = decoded("marginals", warm(x), temperature=0)
    np.testing.assert_array_equal(hard.argmax(-1), decoded("tags", warm(x)))
    assert set(np.unique(hard)) == {0.0, 1.0}


def test_keras_contract_of_the_head():
    crf = CRF(
        3,
        constraints=tag_constraints(LABELS),
        kernel_regularizer="l2",
        transition_initializer="glorot_uniform",
    )
    mask = padding_mask([5, 2], 5)
    targets = np.array([[0, 1, 2, 0, 1], [1, 2, 0, 0, 0]])
    x, loss = random(2, 5, 4), StructuredNLL()
    report = check_layer(crf, x, mask=mask, loss=loss, targets=targets, checks=tried(CHECKS))
    assert set(report.values()) <= {"passed", report["fit"]}


@pytest.mark.parametrize("mode", ["marginals", "tags"])
def test_keras_contract_of_the_other_modes(mode):
    crf = CRF(3, output_mode=mode, use_projection=False, transition_initializer="glorot_uniform")
    checks = ["config", "spec", "masks", "mixed_precision", "fit"]
    report = check_layer(crf, random(2, 5, 3), mask=padding_mask([5, 2], 5), checks=checks)
    assert report["masks"] == "passed"


def test_keras_contract_of_the_decoder():
    packed = CRF(3)(random(2, 5, 4))
    for mode in ("tags", "marginals"):
        decoder = StructuredDecoder(mode)
        report = check_layer(
            decoder, numpy(packed), checks=["config", "spec", "mixed_precision", "fit"]
        )
        assert report["fit"].startswith("not applicable")


def test_save_and_load(tmp_path):
    """tf2crf #5, #7, #17; keras-contrib #129: loading needs no custom objects and no tricks."""
    model = keras.Sequential(
        [keras.Input((None, 4)), keras.layers.Masking(), CRF(3, transition_initializer="ones")]
    )
    if BACKEND != "numpy":
        model.compile("adam", StructuredNLL(), metrics=[ViterbiAccuracy(), SpanF1(LABELS)])
    x = random(2, 5, 4)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(x)), numpy(model(x)))
    if BACKEND != "numpy":
        loaded.fit(x, np.zeros((2, 5)), verbose=0)
        assert [type(m) for m in loaded.metrics[1].metrics] == [ViterbiAccuracy, SpanF1]
        assert isinstance(loaded.loss, StructuredNLL)
    model.save_weights(tmp_path / "model.weights.h5")
    loaded.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(numpy(loaded(x)), numpy(model(x)))


@pytest.mark.compiles_long
def test_loading_before_the_import_says_what_to_import(tmp_path):
    path = tmp_path / "model.keras"
    keras.Sequential([keras.Input((None, 4)), CRF(3)]).save(path)
    code = f"""
import keras
try:
    keras.saving.load_model({str(path)!r})
except TypeError as error:
    assert str(error).endswith("'before loading': 'import keras_struct.layers'}}}}"), error
    import keras_struct.layers
    keras.saving.load_model({str(path)!r})
else:
    raise AssertionError("no error")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_masks_in_decode():
    """addons #1443: padding changes neither the tags before it nor the marginals."""
    model = decoding_model(masked_model(CRF(3, transition_initializer="random_normal")))
    x, lengths = random(3, 6, 4), [6, 3, 0]
    padded = np.array(x)
    padded[~padding_mask(lengths, 6)] = np.nan
    tags = model.predict_on_batch([padded, padding_mask(lengths, 6)])
    for b, n in enumerate(lengths):
        assert (tags[b, n:] == -1).all()
        if n:
            alone = model.predict_on_batch([x[b : b + 1, :n], np.ones((1, n), bool)])
            np.testing.assert_array_equal(tags[b, :n], alone[0])


def test_mask_from_an_embedding_reaches_the_loss():
    model = keras.Sequential(
        [keras.layers.Embedding(9, 4, mask_zero=True), CRF(3, transition_initializer="ones")]
    )
    words = np.array([[3, 5, 0, 0]])
    long = StructuredNLL()(np.array([[1, 2, 0, 0]]), model(words))
    short = StructuredNLL()(np.array([[1, 2]]), model(words[:, :2]))
    np.testing.assert_allclose(numpy(long), numpy(short), rtol=1e-6)


def test_lengths_of_a_mask_that_is_not_right_padded():
    with pytest.raises(ValueError, match="right-padded"):
        lengths_from_mask(np.array([[False, True, True]]))


def test_float16():
    """addons #2030, #2231: half precision trains, and lengths beyond 2,048 survive."""
    n = 2500
    policy = keras.DTypePolicy("mixed_float16")
    crf = CRF(2, dtype=policy, transition_initializer="random_normal")
    model = masked_model(crf)
    mask = padding_mask([2499, 2049], n)
    packed = model([random(2, n, 4), mask])
    assert crf.compute_dtype == "float16"
    assert keras.backend.standardize_dtype(packed.dtype) == "float32"
    tags = decoding_model(model).predict_on_batch([random(2, n, 4), mask])
    assert (tags >= 0).sum(1).tolist() == [2499, 2049]
    if BACKEND != "numpy":
        model.compile("adam", StructuredNLL())
        assert np.isfinite(model.train_on_batch([random(2, n, 4), mask], np.zeros((2, n))))
    with pytest.raises(ValueError, match="Received: dtype=float16"):
        StructuredDecoder()(keras.ops.cast(packed, "float16"))


@needs_gradients
def test_as_inner_layer():
    """keras #4646: the marginals go on through the model, with their mask, and pass gradients."""
    x = keras.Input((None, 4))
    mask = keras.Input((None,), dtype="bool")
    states = AttachMask()([x, mask])
    crf = CRF(3, output_mode="marginals", transition_initializer="random_normal")
    features = keras.layers.Concatenate()([states, crf(states)])
    model = keras.Model([x, mask], keras.layers.LSTM(2)(features))
    before = [np.array(numpy(w)) for w in crf.trainable_weights]
    model.compile(keras.optimizers.Adam(0.01), "mse")
    padded = random(2, 5, 4)
    model.fit([padded, padding_mask([5, 3], 5)], np.ones((2, 2)), verbose=0)
    for old, weight in zip(before, crf.trainable_weights, strict=True):
        assert np.isfinite(numpy(weight)).all()
        assert (numpy(weight) != old).any(), weight.name


@needs_gradients
def test_fit_learns_transitions_that_no_token_shows():
    """Tags alternate, features say nothing: only the transition and start scores can learn it."""
    model = keras.Sequential([keras.Input((None, 1)), CRF(2, use_projection=True)])
    metrics = [ViterbiAccuracy(), ViterbiSequenceAccuracy(), SpanF1(["I", "B"])]
    model.compile(keras.optimizers.Adam(0.2), StructuredNLL(), metrics=metrics)
    x, y = np.zeros((16, 7, 1)), np.tile([1, 0, 1, 0, 1, 0, 1], (16, 1))
    history = model.fit(x, y, epochs=20, batch_size=16, verbose=0).history
    assert history["loss"][-1] < 0.2 < history["loss"][0]
    results = model.evaluate(x, y, verbose=0, return_dict=True)
    assert results["viterbi_accuracy"] == 1.0
    assert results["viterbi_sequence_accuracy"] == 1.0
    assert results["span_f1"] == 1.0
    np.testing.assert_array_equal(decoding_model(model).predict(x, verbose=0), y)


def test_constraints_hold_in_tags_and_marginals():
    constraints = tag_constraints(LABELS)
    crf = CRF(3, constraints=constraints, use_start=False, kernel_initializer="random_normal")
    packed = crf(100 * random(8, 6, 4))
    tags = decoded("tags", packed)
    for before, tag in itertools.pairwise(tags.T):
        assert constraints.transitions[before, tag].all()
    assert constraints.start[tags[:, 0]].all()
    marginals = decoded("marginals", packed)
    np.testing.assert_allclose(marginals[:, 0, 2], 0.0)
    forbidden = StructuredNLL()(np.full((8, 6), 2), packed)
    assert numpy(forbidden) == np.inf


def test_constraints_as_matrix_or_dict():
    matrix = [[True, False], [True, True]]
    crf = CRF(2, constraints=matrix)
    assert isinstance(crf.constraints, TagConstraints)
    again = CRF.from_config(crf.get_config())
    for a, b in zip(crf.constraints, again.constraints, strict=True):
        np.testing.assert_array_equal(a, b)


def test_decoding_model_keeps_the_structure_of_the_outputs():
    x = keras.Input((None, 4))
    outputs = {"tags": CRF(3)(x), "other": keras.layers.Dense(2)(x)}
    decoded = decoding_model(keras.Model(x, outputs))(random(2, 5, 4))
    assert tuple(decoded["tags"].shape) == (2, 5)
    assert tuple(decoded["other"].shape) == (2, 5, 2)
    with pytest.raises(ValueError, match="an output of a CRF"):
        decoding_model(keras.Model(x, outputs["other"]))
    with pytest.raises(ValueError, match="Expected a Keras model"):
        decoding_model(CRF(3))


def test_a_padding_mask_that_is_not_passed_is_told():
    """As in KerasHub, whose backbones take it as an input."""
    x, mask = keras.Input((None, 4)), keras.Input((None,), dtype="bool", name="padding_mask")
    states = keras.layers.MultiHeadAttention(1, 2)(x, x, attention_mask=mask[:, None])
    with pytest.warns(UserWarning, match="input 'padding_mask': without it padding counts"):
        CRF(3)(states)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CRF(3)(AttachMask()([states, mask]))
        CRF(3)(states, mask=mask)
        CRF(3)(keras.layers.Dense(2)(x))


@keras.saving.register_keras_serializable("crf_test")
class Tagger(keras.Model):
    """A subclassed model of two heads, one of which only passes on."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embed = keras.layers.Embedding(9, 4, mask_zero=True)
        self.first, self.second = CRF(3), CRF(2, transition_initializer="random_normal")
        self.marginals = CRF(2, output_mode="marginals")

    def call(self, words):
        states = self.embed(words)
        return {
            "two": [self.first(states), self.second(states)],
            "other": self.marginals(states),
        }


def test_decoding_model_of_a_subclassed_model(tmp_path):
    words = np.array([[1, 2, 3, 4], [5, 6, 0, 0]])
    model = Tagger()
    decoder = decoding_model(model)
    found = decoder.predict(words, verbose=0)
    outputs = model.predict(words, verbose=0)
    for head, raw, tags in zip(
        (model.first, model.second), outputs["two"], found["two"], strict=True
    ):
        np.testing.assert_array_equal(tags, numpy(head.decode(raw)))
        np.testing.assert_array_equal(tags == -1, words == 0)
        marginals = numpy(head.decode(raw, "marginals", temperature=0))
        np.testing.assert_array_equal(marginals.argmax(-1)[words > 0], tags[words > 0])
    np.testing.assert_allclose(found["other"], outputs["other"])
    decoder.save(tmp_path / "decoder.keras")
    again = keras.saving.load_model(tmp_path / "decoder.keras").predict(words, verbose=0)
    np.testing.assert_array_equal(again["two"][1], found["two"][1])
    unbuilt = decoding_model(keras.Sequential([keras.layers.Embedding(9, 4), CRF(3)]))
    assert unbuilt.predict(words, verbose=0).shape == (2, 4)
    with pytest.raises(ValueError, match="an output of a CRF"):
        decoding_model(keras.Sequential([keras.layers.Embedding(9, 4)])).predict(words, verbose=0)
    with pytest.raises(ValueError, match="output_mode='marginals'"):
        model.marginals.decode(outputs["other"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_tags": 0}, "num_tags=0"),
        ({"num_tags": 3, "output_mode": "best"}, "output_mode='best'"),
        ({"num_tags": 3, "temperature": 0}, "temperature=0"),
        ({"num_tags": 3, "constraints": np.ones((2, 2))}, "shapes="),
    ],
)
def test_user_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        CRF(**arguments)


def test_errors_of_shape():
    with pytest.raises(ValueError, match="input_shape="):
        CRF(3)(random(2, 4))
    with pytest.raises(ValueError, match="use_projection=False"):
        CRF(3, use_projection=False)(random(2, 5, 4))
