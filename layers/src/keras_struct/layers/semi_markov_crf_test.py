"""The semi-Markov head: exact against enumeration, and the Keras contract."""

import itertools

import keras
import numpy as np
import pytest

from keras_struct.layers.check_layer import CHECKS, check_layer
from keras_struct.layers.crf import CRF
from keras_struct.layers.decoding_model import decoding_model
from keras_struct.layers.packed import pack, unpack
from keras_struct.layers.potentials import ChainPotentials
from keras_struct.layers.segments import segments_to_spans, spans_to_segments
from keras_struct.layers.semi_markov_crf import SemiMarkovCRF
from keras_struct.layers.span_f1 import SpanF1
from keras_struct.layers.structured_decoder import StructuredDecoder
from keras_struct.layers.structured_nll import StructuredNLL
from keras_struct.layers.viterbi_accuracy import ViterbiAccuracy, ViterbiSequenceAccuracy
from keras_struct.ops.testing import tried

BACKEND = keras.backend.backend()


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def decoded(mode, packed, **kwargs):
    """What a compiled `StructuredDecoder` returns."""
    x = keras.Input(packed.shape[1:])
    return keras.Model(x, StructuredDecoder(mode, **kwargs)(x)).predict_on_batch(packed)


def segmentations(n, longest, labels):
    """Every list of (start, length, label)."""
    if n == 0:
        yield []
        return
    for length in range(1, min(longest, n) + 1):
        for rest in segmentations(n - length, longest, labels):
            for label in range(labels):
                yield [(0, length, label), *((s + length, d, k) for s, d, k in rest)]


def as_event(segmentation, n):
    event = np.full((n, 2), -1)
    for start, length, label in segmentation:
        event[start] = label, length
    return event


def test_loss_marginals_and_segments_equal_enumeration():
    n, longest, k = 4, 3, 2
    layer = SemiMarkovCRF(k, longest, transition_initializer="random_normal")
    packed = layer(random(1, n, 5))
    scores, transitions, start, end = (numpy(p).astype("float64") for p in unpack(packed)[:4])
    every = list(segmentations(n, longest, k))
    totals = np.array(
        [
            start[y[0][2]]
            + end[y[-1][2]]
            + sum(scores[0, s, d - 1, label] for s, d, label in y)
            + sum(transitions[a[2], b[2]] for a, b in itertools.pairwise(y))
            for y in every
        ]
    )
    log_partition = np.logaddexp.reduce(totals)
    expected = np.zeros((n, k))
    for y, p in zip(every, np.exp(totals - log_partition), strict=True):
        for s, d, label in y:
            expected[s : s + d, label] += p
    np.testing.assert_allclose(decoded("marginals", packed)[0], expected, atol=1e-5)
    best = every[int(np.argmax(totals))]
    np.testing.assert_array_equal(decoded("segments", packed)[0], as_event(best, n))
    tags = [label for _, d, label in best for _ in range(d)]
    np.testing.assert_array_equal(decoded("tags", packed)[0], tags)
    target = every[7]
    loss = StructuredNLL()(as_event(target, n)[None], packed)
    np.testing.assert_allclose(numpy(loss), log_partition - totals[7], rtol=1e-5)


def test_scores_of_segments():
    """Sum of the tokens, first, last and length, as the docstring says."""
    n, longest, k = 5, 3, 2
    layer = SemiMarkovCRF(k, longest, transition_initializer="random_normal")
    x = random(1, n, 4)
    scores = numpy(unpack(layer(x)).scores)[0]
    kernels = [numpy(w) for w in layer.weights if w.name == "kernel"]
    token, first, last = (x[0] @ kernel for kernel in kernels)
    for s in range(n):
        for d in range(1, min(longest, n - s) + 1):
            expected = token[s : s + d].sum(0) + first[s] + last[s + d - 1]
            expected = expected + numpy(layer.length_scores)[d - 1]
            np.testing.assert_allclose(scores[s, d - 1], expected, rtol=1e-4, atol=1e-5)


def test_segments_of_one_token_are_a_crf():
    """With max_length=1 a segmentation is a tag sequence."""
    crf = CRF(3, use_projection=False, transition_initializer="random_normal")
    semi = SemiMarkovCRF(3, 1, use_projection=False, transition_initializer="random_normal")
    x, mask = random(2, 5, 3), np.arange(5) < np.array([[5], [3]])
    one, other = crf(x, mask=mask), semi(x[:, :, None], mask=mask)
    semi.set_weights(crf.get_weights())
    other = semi(x[:, :, None], mask=mask)
    for mode in ("tags", "marginals"):
        np.testing.assert_allclose(decoded(mode, one), decoded(mode, other), atol=1e-5)


def test_keras_contract_of_the_head():
    layer = SemiMarkovCRF(2, 3, transition_initializer="glorot_uniform")
    targets = np.stack(
        [spans_to_segments(spans, 5, ["O", "X"]) for spans in ([(1, 3, "X")], [(0, 2, "X")])]
    )
    mask = np.arange(5) < np.array([[5], [2]])
    report = check_layer(
        layer,
        random(2, 5, 4),
        mask=mask,
        loss=StructuredNLL(),
        targets=targets,
        checks=tried(CHECKS[:-1]),  # the last one, of the SavedModel, in export_test
    )
    assert set(report.values()) <= {"passed", report["fit"]}


@pytest.mark.parametrize("mode", ["marginals", "tags", "segments"])
def test_keras_contract_of_the_other_modes(mode):
    layer = SemiMarkovCRF(2, 3, output_mode=mode, transition_initializer="glorot_uniform")
    mask = np.arange(5) < np.array([[5], [2]])
    checks = ["config", "spec", "masks", "mixed_precision", "fit"]
    report = check_layer(layer, random(2, 5, 4), mask=mask, checks=checks)
    assert report["masks"] == "passed"


@pytest.mark.skipif(BACKEND == "numpy", reason="NumPy has no gradients")
def test_fit_learns_lengths_that_no_token_shows():
    """Segments have length 2, features say nothing: only the length scores can learn it."""
    labels = ["X"]
    model = keras.Sequential([keras.Input((None, 1)), SemiMarkovCRF(1, 3)])
    metrics = [ViterbiAccuracy(), ViterbiSequenceAccuracy(), SpanF1(labels)]
    model.compile(keras.optimizers.Adam(0.2), StructuredNLL(), metrics=metrics)
    spans = [(0, 2, "X"), (2, 4, "X"), (4, 6, "X")]
    x, y = np.zeros((8, 6, 1)), np.stack([spans_to_segments(spans, 6, labels)] * 8)
    model.fit(x, y, epochs=15, batch_size=8, verbose=0)
    results = model.evaluate(x, y, verbose=0, return_dict=True)
    assert results["loss"] < 0.5
    assert results["viterbi_accuracy"] == 1.0
    assert results["viterbi_sequence_accuracy"] == 1.0
    assert results["span_f1"] == 1.0
    segments = decoding_model(model, "segments").predict(x, verbose=0)
    assert segments_to_spans(segments[0], labels) == spans


def test_span_f1_of_segments():
    labels = ["O", "A", "B"]
    target = spans_to_segments([(0, 2, "A"), (3, 5, "B")], 6, labels)
    predicted = spans_to_segments([(0, 2, "A"), (3, 4, "B")], 6, labels)
    scores = np.zeros((1, 6, 2, 3), "float32")
    for n, (k, d) in enumerate(predicted):
        if d > 0:
            scores[0, n, d - 1, k] = 100.0
    metric = SpanF1(labels)
    metric.update_state(target[None], pack(ChainPotentials(scores, np.zeros((3, 3)))))
    np.testing.assert_allclose(float(metric.result()), 0.5)


def test_spans_and_segments_are_each_others_reverse():
    labels = ["O", "A", "B"]
    spans = [(1, 3, "B"), (3, 4, "A")]
    segments = spans_to_segments(spans, 6, labels)
    assert segments.tolist() == [[0, 1], [2, 2], [-1, -1], [1, 1], [0, 1], [0, 1]]
    assert segments_to_spans(segments, labels) == spans


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: SemiMarkovCRF(2, 0), "max_length=0"),
        (lambda: SemiMarkovCRF(2, 3, output_mode="best"), "output_mode='best'"),
        (lambda: SemiMarkovCRF(2, 3, use_projection=False)(random(1, 4, 2)), "input_shape="),
        (lambda: spans_to_segments([(0, 2, "A"), (1, 3, "A")], 4, ["O", "A"]), "spans="),
        (lambda: spans_to_segments([(0, 2, "C")], 4, ["O", "A"]), "label='C'"),
        (lambda: StructuredDecoder("segments")(CRF(2)(random(1, 4, 2))), "output_mode='segments'"),
    ],
)
def test_user_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
