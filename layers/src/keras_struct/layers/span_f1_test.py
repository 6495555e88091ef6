"""Spans of tags and their F1, against the CoNLL rules written as a loop."""

import keras
import numpy as np
import pytest

from keras_struct.layers.packed import pack
from keras_struct.layers.potentials import ChainPotentials
from keras_struct.layers.span_f1 import SpanF1
from keras_struct.layers.tag_scheme import tag_constraints, tag_spans
from keras_struct.layers.viterbi_accuracy import ViterbiAccuracy, ViterbiSequenceAccuracy

BIO = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
BIOES = ["O", *(f"{letter}-{kind}" for kind in ("PER", "LOC") for letter in "BIES")]
WORDS = ["I", "B"]
MIXED = ["O", "B-A", "I-A", "L-A", "U-A", "M-B", "S-B"]


def conll_spans(labels):
    """Spans of a list of labels: `startOfChunk` and `endOfChunk` of the evaluation script."""
    spans, start, before, kind_before = [], 0, "O", ""
    for position, label in enumerate([*labels, "O"]):
        tag, _, kind = label.partition("-")
        tag = {"M": "I", "L": "E", "U": "S"}.get(tag, tag)
        end = (
            (before in "BI" and tag in "BSO")
            or before in "ES"
            or (before != "O" and kind_before != kind)
        )
        begin = (
            tag in "BS" or (before in "ESO" and tag in "EI") or (tag != "O" and kind_before != kind)
        )
        if before != "O" and end:
            spans.append((start, position, kind_before))
        if tag != "O" and begin:
            start = position
        before, kind_before = tag, kind
    return spans


@pytest.mark.parametrize("labels", [BIO, BIOES, WORDS, MIXED], ids=["BIO", "BIOES", "BI", "mixed"])
def test_spans_follow_the_conll_rules(labels):
    rng = np.random.default_rng(0)
    for _ in range(200):
        tags = rng.integers(0, len(labels), rng.integers(1, 12))
        expected = conll_spans([labels[tag] for tag in tags])
        assert tag_spans([*tags, -1, -1], labels) == expected


@pytest.mark.parametrize("labels", [BIO, BIOES, WORDS, MIXED], ids=["BIO", "BIOES", "BI", "mixed"])
def test_f1_equals_the_intersection_of_sets(labels):
    rng = np.random.default_rng(1)
    metrics = [SpanF1(labels, m, from_potentials=False) for m in ("f1", "precision", "recall")]
    right = predicted = target = 0
    for _ in range(3):
        y_true = rng.integers(0, len(labels), (8, 9))
        y_pred = np.where(rng.random((8, 9)) < 0.8, y_true, rng.integers(0, len(labels), (8, 9)))
        for metric in metrics:
            metric.update_state(y_true, y_pred)
        for t, p in zip(y_true, y_pred, strict=True):
            t, p = set(tag_spans(t, labels)), set(tag_spans(p, labels))
            right, predicted, target = right + len(t & p), predicted + len(p), target + len(t)
    precision, recall = right / predicted, right / target
    expected = [2 * precision * recall / (precision + recall), precision, recall]
    np.testing.assert_allclose([float(m.result()) for m in metrics], expected, rtol=1e-5)
    metrics[0].reset_state()
    assert float(metrics[0].result()) == 0.0


def test_f1_of_potentials_and_lengths():
    rng = np.random.default_rng(2)
    y_true, y_pred, lengths = *rng.integers(0, 3, (2, 8, 9)), rng.integers(0, 10, 8)
    scores = np.eye(3, dtype="float32")[y_pred]
    by_potentials, by_tags = SpanF1(BIO[:3]), SpanF1(BIO[:3], from_potentials=False)
    by_potentials.update_state(
        y_true, pack(ChainPotentials(scores, np.zeros((3, 3)), lengths=lengths))
    )
    for t, p, n in zip(y_true, y_pred, lengths, strict=True):
        by_tags.update_state(*(np.pad(y[:n], (0, 9 - n))[None] for y in (t, p)))
    np.testing.assert_allclose(float(by_potentials.result()), float(by_tags.result()), rtol=1e-6)


def test_f1_of_tags_and_of_scores():
    y_true, y_pred = np.array([[1, 2, 0, 1]]), np.array([[1, 2, 0, 0]])
    for prediction in (y_pred, np.eye(3)[y_pred]):
        metric = SpanF1(BIO[:3], from_potentials=False)
        metric.update_state(y_true, prediction)
        np.testing.assert_allclose(float(metric.result()), 2 / 3, rtol=1e-6)


def test_f1_sees_the_mask_of_a_softmax_tagger():
    class Tagger(keras.layers.Layer):
        supports_masking = True

        def call(self, inputs):
            return keras.ops.ones((1, 4, 1)) * keras.ops.convert_to_tensor([0.0, 1.0, 0.0])

    words = keras.layers.Embedding(9, 2, mask_zero=True)(np.array([[3, 4, 0, 0]]))
    metric = SpanF1(BIO[:3], from_potentials=False)
    metric.update_state([[1, 1, 0, 0]], Tagger()(words))
    assert float(metric.result()) == 1.0


def test_sample_weights():
    scores = np.eye(2, dtype="float32")[np.array([[1, 0, 1], [1, 1, 1]])]
    packed = pack(ChainPotentials(scores, np.zeros((2, 2))))
    y_true = np.array([[1, 0, 1], [0, 0, 0]])
    for metric in (ViterbiAccuracy(), ViterbiSequenceAccuracy(), SpanF1(["O", "B"])):
        metric.update_state(y_true, packed)
        assert 0.0 < float(metric.result()) < 1.0
        metric.reset_state()
        metric.update_state(y_true, packed, sample_weight=[1.0, 0.0])
        assert float(metric.result()) == 1.0
    by_token = ViterbiAccuracy()
    by_token.update_state(y_true, packed, sample_weight=[[1, 1, 1], [1, 0, 0]])
    assert float(by_token.result()) == 0.75


def test_metrics_count_valid_tokens_only():
    scores = np.eye(2, dtype="float32")[np.array([[1, 0, 1]])]
    packed = pack(ChainPotentials(scores, np.zeros((2, 2)), lengths=[2]))
    token, sequence = ViterbiAccuracy(), ViterbiSequenceAccuracy()
    for metric in (token, sequence):
        metric.update_state([[1, 0, 0]], packed)
        assert float(metric.result()) == 1.0


def test_constraints_of_schemes():
    bio = tag_constraints(BIO)
    names = BIO
    for i, before in enumerate(names):
        for j, tag in enumerate(names):
            allowed = not tag.startswith("I") or before[1:] == tag[1:]
            assert bio.transitions[i, j] == allowed, (before, tag)
    assert bio.end.all()
    assert bio.start.tolist() == [True, True, False, True, False]
    bioes = tag_constraints(BIOES, "BIOES")
    for i, before in enumerate(BIOES):
        for j, tag in enumerate(BIOES):
            if before[0] in "BI":
                allowed = tag[0] in "IE" and before[1:] == tag[1:]
            else:
                allowed = tag[0] in "OBS"
            assert bioes.transitions[i, j] == allowed, (before, tag)
    assert bioes.end.tolist() == [label[0] in "OES" for label in BIOES]


def test_constraints_and_spans_agree():
    """Sequences that the constraints allow are spelt back by their spans."""
    constraints = tag_constraints(BIOES, "BIOES")
    rng = np.random.default_rng(0)
    for _ in range(100):
        tags = [rng.choice(np.flatnonzero(constraints.start))]
        while len(tags) < 8 or not constraints.end[tags[-1]]:
            tags.append(rng.choice(np.flatnonzero(constraints.transitions[tags[-1]])))
        spelt = ["O"] * len(tags)
        for start, end, kind in tag_spans(tags, BIOES):
            inside = ["B", *["I"] * (end - start - 2), "E"] if end - start > 1 else ["S"]
            spelt[start:end] = [f"{letter}-{kind}" for letter in inside]
        assert spelt == [BIOES[tag] for tag in tags]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: tag_constraints(["O", "X-PER"]), "label='X-PER'"),
        (lambda: tag_constraints(["O", "E-PER"]), "label='E-PER'"),
        (lambda: tag_constraints(["O"], "IO"), "scheme='IO'"),
        (lambda: SpanF1(["O"], "f2"), "measure='f2'"),
    ],
)
def test_user_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
