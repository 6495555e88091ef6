"""Attachment scores against the definitions, as a function and as a metric."""

import keras
import numpy as np
import pytest

from keras_struct.parsers import AttachmentScore, attachment_scores, new_sentence, with_arcs

LABELS = ["root", "nsubj", "nsubj:pass", "punct", "case", "obl", "obl:tmod"]
CONTENT = ["root", "nsubj", "obl"]


def sentences(seed, size=12, longest=9):
    """Arrays `(B, N, 2)` of gold and predicted arcs, -1 in the padding; and the sentences."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, size)
    y_true = np.stack(
        [rng.integers(0, longest, (size, longest)), rng.integers(0, len(LABELS), (size, longest))],
        axis=-1,
    )
    keep = rng.random(y_true.shape) < 0.7
    y_pred = np.where(keep, y_true, rng.permutation(y_true))
    y_true[np.arange(longest) >= lengths[:, None]] = -1
    gold, predicted = (
        [
            with_arcs(new_sentence(["a"] * n), row[:n, 0], [LABELS[k] for k in row[:n, 1]])
            for row, n in zip(rows, lengths, strict=True)
        ]
        for rows in (y_true, y_pred)
    )
    return y_true.astype("int32"), y_pred.astype("int32"), gold, predicted


def test_scores_by_the_definitions():
    y_true, y_pred, gold, predicted = sentences(0)
    valid = y_true[..., 0] >= 0
    (heads, labels), (found, found_labels) = y_true[valid].T, y_pred[valid].T
    names, found_names = (
        np.array([LABELS[k].split(":")[0] for k in numbers]) for numbers in (labels, found_labels)
    )
    right = (heads == found) & (names == found_names)
    content, found_content = np.isin(names, CONTENT), np.isin(found_names, CONTENT)
    precision = (right & content).sum() / found_content.sum()
    recall = (right & content).sum() / content.sum()
    expected = [
        (heads == found).mean(),
        right.mean(),
        2 * precision * recall / (precision + recall),
        valid.sum(),
    ]
    np.testing.assert_allclose(attachment_scores(gold, predicted), expected)
    assert attachment_scores(gold, gold)[:3] == (1.0, 1.0, 1.0)
    assert attachment_scores([], []) == (0.0, 0.0, 0.0, 0)


def test_other_words_are_an_error():
    gold = new_sentence(["a", "b"])
    gold.metadata["sent_id"] = "weblog-7"
    message = r"Expected the words \['a', 'b'\] in the sentence 'weblog-7'. Received: words=\['a'\]"
    with pytest.raises(ValueError, match=message):
        attachment_scores([gold], [new_sentence(["a"])])


@pytest.mark.parametrize("measure", ["uas", "las", "clas"])
def test_metric_equals_the_function(measure):
    y_true, y_pred, gold, predicted = sentences(1)
    metric = AttachmentScore(measure, labels=LABELS)
    metric = AttachmentScore.from_config(metric.get_config())
    assert metric.name == measure
    for rows in (slice(5), slice(5, None)):
        metric.update_state(y_true[rows], y_pred[rows])
    expected = getattr(attachment_scores(gold, predicted), measure)
    np.testing.assert_allclose(float(metric.result()), expected, rtol=1e-6)
    metric.reset_state()
    assert float(metric.result()) == 0.0


def test_uas_of_heads_alone_and_weights():
    y_true, y_pred, gold, predicted = sentences(2)
    metric = AttachmentScore()
    metric.update_state(y_true[..., 0], y_pred[..., 0])
    np.testing.assert_allclose(float(metric.result()), attachment_scores(gold, predicted).uas)
    for weight in ([1.0] * 4 + [0.0] * 8, np.repeat([[1.0]] * 4 + [[0.0]] * 8, 9, axis=1)):
        metric.reset_state()
        metric.update_state(y_true, y_pred, sample_weight=weight)
        expected = attachment_scores(gold[:4], predicted[:4]).uas
        np.testing.assert_allclose(float(metric.result()), expected, rtol=1e-6)


def test_metric_in_compile():
    y_true, y_pred, gold, predicted = sentences(3)
    inputs = keras.Input((None, 2), dtype="int32")
    model = keras.Model(inputs, keras.layers.Identity()(inputs))
    model.compile(
        loss=lambda y_true, y_pred: keras.ops.zeros(()),
        metrics=[AttachmentScore("uas"), AttachmentScore("las", LABELS)],
    )
    results = model.evaluate(y_pred, y_true, batch_size=4, verbose=0, return_dict=True)
    expected = attachment_scores(gold, predicted)
    np.testing.assert_allclose([results["uas"], results["las"]], expected[:2], rtol=1e-6)


def test_errors():
    with pytest.raises(ValueError, match=r"Expected a measure among .* Received: measure='UAS'"):
        AttachmentScore("UAS")
    with pytest.raises(ValueError, match="Expected the names of the relations for las"):
        AttachmentScore("las")
