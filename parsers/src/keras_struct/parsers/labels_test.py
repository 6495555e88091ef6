"""Targets and weights of the losses and metrics of trees: their shapes, and what is refused."""

import numpy as np
import pytest

from keras_struct import layers, ops, parsers
from keras_struct.ops.testing import BACKEND, array

RNG = np.random.default_rng(0)
ARC_SCORES = RNG.normal(size=(3, 3, 3, 2)).astype("float32")  # batch size = length
ARCS = layers.pack(layers.TreePotentials(ARC_SCORES, structure="eisner"))
SPANS = layers.pack(layers.TreePotentials(ARC_SCORES, structure="cky"))
HEADS = np.array([[(2, 0), (0, 1), (2, 1)]] * 3)
CHART = np.array([[(0, 3, 1), (0, 1, 0), (1, 3, 1), (1, 2, 0), (2, 3, 0)]] * 3)
WEIGHTS = np.array([[1.0, 0.0, 2.0], [0.5, 1.0, 0.0], [0.0, 0.0, 3.0]], "float32")
LOSSES = (parsers.TreeNLL, parsers.TreeMaxMargin, parsers.LocalCrossEntropy)
LABELS = ["@", "S"]
RELATIONS = ["nsubj", "root"]


def changed(target, index, number):
    target = np.array(target)
    target[index] = number
    return target


def value(loss_or_metric, *given, **more):
    """Of a loss for each example, or of a metric that sees one batch."""
    if not hasattr(loss_or_metric, "update_state"):
        return array(loss_or_metric(*given, **more))
    loss_or_metric.update_state(*given, **more)
    return array(loss_or_metric.result())


def test_words_are_weighted_where_each_is_a_choice():
    loss = parsers.LocalCrossEntropy(reduction=None)
    scores = ARC_SCORES.reshape(3, 3, 6).astype("float64")
    places = np.array([1, 1, 1]) * 2 + HEADS[0, :, 1]  # the root's arc is on the diagonal
    words = np.log(np.exp(scores).sum(-1)) - scores[:, np.arange(3), places]
    np.testing.assert_allclose(value(loss, HEADS, ARCS), words.sum(1), rtol=1e-5)
    unknown = np.where((WEIGHTS == 0)[..., None], -100, HEADS)
    for target in (HEADS, unknown):
        found = value(loss, target, ARCS, sample_weight=WEIGHTS)
        np.testing.assert_allclose(found, (WEIGHTS * words).sum(1), rtol=1e-5)


def test_words_are_weighted_in_attachment_scores():
    metric = parsers.AttachmentScore("las", RELATIONS)
    found = value(metric, HEADS, changed(HEADS, (0, 0), (1, 1)), sample_weight=WEIGHTS)
    np.testing.assert_allclose(found, 1 - 1 / WEIGHTS.sum(), rtol=1e-6)


@pytest.mark.parametrize(
    "head, predicted, target",
    [
        *((loss(), ARCS, HEADS) for loss in LOSSES[:2]),
        *((loss(), SPANS, CHART) for loss in LOSSES),
        (parsers.BracketF1(LABELS), SPANS, CHART),
    ],
)
def test_weights_of_words_without_a_meaning_are_refused(head, predicted, target):
    with pytest.raises(ValueError, match=r"Received: shape of sample_weight=\(3, 3\)"):
        value(head, target, predicted, sample_weight=WEIGHTS)


@pytest.mark.parametrize(
    "head, predicted, shape",
    [
        *((loss(), ARCS, shape) for loss in LOSSES for shape in ((1, 3, 2), (3, 1, 2), (3, 3))),
        *((loss(), SPANS, shape) for loss in LOSSES for shape in ((1, 5, 3), (3, 5, 2))),
        (parsers.AttachmentScore("las", RELATIONS), ARCS, (3, 3)),
        (parsers.AttachmentScore(), ARCS, (1, 3)),
        (parsers.AttachmentScore(), ARCS, (3, 1, 2)),
        (parsers.BracketF1(LABELS), SPANS, (1, 5, 3)),
        (parsers.BracketF1(LABELS), CHART, (3, 5, 2)),
    ],
)
def test_another_shape_is_an_error_that_names_it(head, predicted, shape):
    received = f"Received: shape of y_true={shape}".replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=f"Expected .*{received}"):
        value(head, np.zeros(shape, "float32"), predicted)


# One structure where each is compiled for seconds; they share all that is tested here.
NOT_THERE = [
    (ARCS, changed(HEADS, (1, 0, 0), 4), "heads from 0 to 3"),
    (ARCS, changed(HEADS, (1, 0, 0), -1), "heads from 0 to 3"),
    (ARCS, changed(HEADS.astype("float32"), (1, 0, 0), 0.5), "heads from 0 to 3"),
    (ARCS, changed(HEADS, (1, 0, 1), 2), "relations from 0 to 1"),
    (SPANS, changed(CHART, (1, 0, 1), 4), "ends from 1 to 3"),
    (SPANS, changed(CHART, (1, 0, 2), 2), "labels from 0 to 1"),
]


@pytest.mark.parametrize("loss", [loss(reduction=None) for loss in LOSSES], ids=lambda x: x.name)
def test_a_target_that_does_not_exist(loss):
    """An error where values are read; where they are not, infinite in its example only."""
    for predicted, target, message in NOT_THERE:
        with pytest.raises(ValueError, match=f"Expected {message}.*Received: y_true="):
            loss(target, predicted)
        if BACKEND == "jax" and not isinstance(loss, parsers.LocalCrossEntropy):
            continue  # compiled anew for each call, for seconds
        with ops.validation(False):
            losses = array(loss(target, predicted))
        assert np.isinf(losses).tolist() == [False, True, False]


def test_metrics_count_a_label_that_does_not_exist_as_wrong():
    for metric, target, expected in (
        (parsers.AttachmentScore("las", RELATIONS), changed(HEADS, (0, 0, 1), 7), 8 / 9),
        (parsers.BracketF1(LABELS, "precision"), changed(CHART, (0, 0, 2), 7), 5 / 6),
    ):
        right = HEADS if isinstance(metric, parsers.AttachmentScore) else CHART
        with pytest.raises(ValueError, match=r"Received: y_true=7 at \(0, 0\)"):
            metric.update_state(target, right)
        with ops.validation(False):
            np.testing.assert_allclose(value(metric, target, right), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "metric, predicted, target",
    [
        (parsers.AttachmentScore("las", ["root"]), ARCS, HEADS),
        (parsers.BracketF1(["@"]), SPANS, CHART),
    ],
)
def test_names_of_other_labels_are_an_error(metric, predicted, target):
    with pytest.raises(ValueError, match=r"names of the 2 labels.*Received: 1 labels"):
        metric.update_state(target, predicted)


def test_heads_that_do_not_exist_are_an_error_of_the_metric():
    with pytest.raises(ValueError, match=r"heads from 0 to 3.*y_true=4"):
        parsers.AttachmentScore().update_state(changed(HEADS, (1, 0, 0), 4), HEADS)
