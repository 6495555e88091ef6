import functools
import itertools

import keras
import numpy as np
import pytest

from keras_struct import layers, ops
from keras_struct.layers import CTC, AttachMask, CTCDecoder, CTCLoss, LabelErrorRate, check_layer
from keras_struct.layers.check_layer import CHECKS
from keras_struct.ops.testing import BACKEND, HAS_GRADIENTS, array, grad, tensor, tried

B, T, K = 3, 4, 3
RNG = np.random.default_rng(0)
LOGITS = 2 * RNG.normal(size=(B, T, K)).astype("float32")
MASK = np.array([[1, 1, 1, 1], [0, 1, 1, 0], [1, 0, 1, 1]], bool)
LABELS = np.array([[1, 1, 0], [2, 0, 0], [0, 0, 0]])  # blank 0; the last is empty


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def read(path, blank):
    return tuple(k for k, _ in itertools.groupby(path) if k != blank)


def distribution(b, blank=0, mask=MASK):
    """Probability of every label sequence of an example."""
    p = np.exp(log_softmax(LOGITS[b].astype("float64")))[mask[b]]
    found: dict = {}
    for path in itertools.product(range(K), repeat=len(p)):
        labels = read(path, blank)
        found[labels] = found.get(labels, 0) + p[np.arange(len(p)), path].prod()
    return found


def masked(x, mask=MASK):
    return AttachMask()([tensor(x, "float32"), tensor(mask, "bool")])


def losses(y_true, y_pred, **options):
    return array(CTCLoss(reduction=None, **options)(y_true, y_pred))


def labels_of(row, blank):
    return tuple(int(k) for k in row if k not in (-1, blank))


def test_a_loss_is_not_below_0():
    """Where every path reads the target, and rounding says that they are more than all."""
    logits = RNG.normal(size=(64, 3, 2)).astype("float32")
    logits[:, 1] = -60, 60
    found = losses(np.ones((64, 1), int), logits)
    assert found.min() >= 0
    assert found.max() < 1e-6


@pytest.mark.parametrize("blank", [0, 2])
def test_loss_equals_enumeration(blank):
    labels = np.where(LABELS == 0, blank, LABELS % 2 if blank == 2 else LABELS)
    expected = [-np.log(distribution(b, blank)[labels_of(labels[b], blank)]) for b in range(B)]
    padded = np.where(labels == blank, -1, labels)
    in_front = np.sort(padded, axis=1)  # the order of these labels is theirs, too
    for y_true in (labels, labels[..., None], padded, in_front):
        found = losses(y_true, masked(LOGITS), blank=blank)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_logits_log_probabilities_and_probabilities():
    expected = losses(LABELS, LOGITS)
    log_probs = log_softmax(LOGITS)
    np.testing.assert_allclose(losses(LABELS, log_probs), expected, rtol=1e-5)
    np.testing.assert_allclose(losses(LABELS, np.exp(log_probs), from_logits=False), expected, 1e-4)
    with pytest.raises(ValueError, match=r"Received: probabilities.*from_logits=True"):
        losses(LABELS, np.exp(log_probs))
    with pytest.raises(ValueError, match=r"Received: logits.*from_logits=False"):
        losses(LABELS, LOGITS, from_logits=False)


@pytest.mark.skipif(not HAS_GRADIENTS, reason="NumPy has no gradients")
def test_loss_and_gradient_equal_those_of_keras():
    labels = np.array([[1, 2], [2, 1], [2, 2]])
    mine, theirs = CTCLoss(reduction="sum"), keras.losses.CTC(reduction="sum")
    x = tensor(LOGITS, "float32")
    np.testing.assert_allclose(array(mine(labels, x)), array(theirs(labels, x)), rtol=1e-5)
    found, expected = (array(grad(lambda x, f=f: f(labels, x))(x)[0]) for f in (mine, theirs))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_targets_that_are_impossible():
    """Longer than the input, or with repetitions that need more frames, or with no such label."""
    labels = np.array([[1, 2, 1, 2, 1], [1, 1, 1, -1, -1], [2, 1, -1, -1, -1]])
    assert np.isinf(losses(labels, LOGITS)).tolist() == [True, True, False]
    zero = losses(labels, LOGITS, zero_infinity=True)
    assert zero.tolist()[:2] == [0.0, 0.0]
    assert zero[2] > 0
    if HAS_GRADIENTS and BACKEND != "jax":  # there it is traced, and the same
        loss = CTCLoss(reduction="sum", zero_infinity=True)
        slope = array(grad(lambda x: loss(labels, x))(tensor(LOGITS, "float32"))[0])
        assert not slope[:2].any()
        assert slope[2].any()
    other = np.array([[1, 5], [1, 2], [1, 2]])
    with pytest.raises(ValueError, match=r"labels from 0 to 2.*y_true=5 at \(0, 1\)"):
        losses(other, LOGITS)
    with ops.validation(False):
        found = losses(other, tensor(LOGITS, "float32"))
    assert np.isinf(found).tolist() == [True, False, False]
    with pytest.raises(ValueError, match="blank=3"):
        losses(other, LOGITS, blank=3)
    with pytest.raises(ValueError, match=r"shape of y_true=\(2, 2\)"):
        losses(other[:2], LOGITS)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="elsewhere each shape is compiled")
def test_one_graph_for_targets_of_all_lengths():
    import tensorflow as tf

    def value_and_slope(labels, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = CTCLoss(reduction=None)(labels, x)
        return loss, tape.gradient(loss, x)

    specs = [tf.TensorSpec((None, None), "int64"), tf.TensorSpec((None, None, K), "float32")]
    graph = tf.function(value_and_slope, input_signature=specs)
    for labels in (LABELS, LABELS[:, :1], LABELS[:2, :0]):
        x = tf.constant(LOGITS[: len(labels)])
        for found, expected in zip(graph(labels, x), value_and_slope(labels, x), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("blank", [0, 1])
def test_best_path_and_its_labels(blank):
    path = LOGITS.argmax(-1)
    found = array(CTCDecoder("path", blank)(masked(LOGITS)))
    np.testing.assert_array_equal(found, np.where(MASK, path, -1))
    found = array(CTCDecoder("labels", blank)(masked(LOGITS)))
    for b in range(B):
        labels = read(path[b][MASK[b]], blank)
        assert found[b].tolist() == [*labels, *[-1] * (T - len(labels))]


@pytest.mark.parametrize("blank", [0, 2])
def test_a_wide_beam_finds_all_label_sequences(blank):
    width = 31
    decoder = CTCDecoder("beams", blank, beam_width=width, top_k=30)
    beams = decoder(masked(LOGITS))
    labels, scores = array(beams["labels"]), array(beams["log_probs"])
    assert labels.shape == (B, 30, T)
    for b in range(B):
        listed = sorted(distribution(b, blank).items(), key=lambda item: -item[1])[:30]
        count = len(listed)
        np.testing.assert_allclose(np.exp(scores[b, :count]), [p for _, p in listed], rtol=1e-5)
        found = [labels_of(row, -1) for row in labels[b, :count]]
        assert found == [labels for labels, _ in listed]
        assert np.isneginf(scores[b, count:]).all()
        assert (labels[b, count:] == -1).all()


def test_a_narrow_beam_keeps_the_best_prefixes():
    """Its probabilities are those of paths, so at most those of the labels; forbidden symbols."""
    logits = LOGITS.copy()
    logits[0, 1, 1:] = -np.inf
    beams = CTCDecoder("beams", beam_width=2, top_k=1)(tensor(logits, "float32"))
    labels, scores = array(beams["labels"])[:, 0], array(beams["log_probs"])[:, 0]
    exact = -losses(labels, logits)
    assert np.isfinite(scores).all()
    assert (scores <= exact + 1e-5).all()


def test_contract():
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)
    inputs = RNG.normal(size=(2, T, 5)).astype("float32")
    loss = CTCLoss(zero_infinity=True)
    targets = np.array([[1, 2], [1, 0]])
    head = functools.partial(CTC, K)
    check_layer(head, inputs, mask=mask, loss=loss, targets=targets, checks=tried(CHECKS))
    check_layer(CTCDecoder(), LOGITS[:2], mask=mask, checks=("spec", "masks"))
    checks = tried(("config", "spec", "masks", "saved_model"))
    decoder = CTCDecoder("beams", beam_width=2, top_k=1)
    check_layer(decoder, LOGITS[:2], mask=mask, checks=checks)


def test_the_padding_is_certainly_blank():
    """Whoever knows no mask gives the same, where it stands before or behind the frames."""
    mask = np.array([[1, 1, 1, 1], [0, 1, 1, 1], [1, 1, 0, 0]], bool)
    head = CTC(K, use_projection=False)
    poisoned = np.where(mask[..., None], LOGITS, np.nan).astype("float32")
    log_probs = array(head(masked(poisoned, mask)))
    np.testing.assert_allclose(losses(LABELS, log_probs), losses(LABELS, masked(poisoned, mask)))
    found = array(CTCDecoder()(tensor(log_probs, "float32")))
    np.testing.assert_array_equal(found, array(CTCDecoder()(masked(LOGITS, mask))))
    metric = LabelErrorRate()
    metric.update_state(LABELS, tensor(log_probs, "float32"))
    by_labels = LabelErrorRate()
    by_labels.update_state(LABELS, found)
    np.testing.assert_allclose(array(metric.result()), array(by_labels.result()))


def edits(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def test_label_error_rate():
    target = np.array([[1, 2, 3, -1], [2, 2, 0, 0], [0, 0, 0, 0]])
    found = np.array([[1, 3, -1], [-1, -1, -1], [3, -1, -1]])
    weight = np.array([1.0, 2.0, 3.0])
    pairs = [(labels_of(a, 0), labels_of(b, 0)) for a, b in zip(target, found, strict=True)]
    metric = LabelErrorRate()
    for given in (None, weight):
        metric.reset_state()
        metric.update_state(target, found, sample_weight=given)
        w = np.ones(3) if given is None else given
        expected = (w * [edits(a, b) for a, b in pairs]).sum() / (
            w * [len(a) for a, _ in pairs]
        ).sum()
        np.testing.assert_allclose(array(metric.result()), expected, rtol=1e-6)
    assert LabelErrorRate.from_config(LabelErrorRate(blank=2).get_config()).blank == 2


@pytest.mark.skipif(not HAS_GRADIENTS, reason="NumPy has no gradients")
def test_fit_learns_to_read():
    """Each symbol stands for one to three frames; the model must find out which."""
    keras.utils.set_random_seed(0)
    labels = RNG.integers(1, 4, (32, 3))
    x = np.zeros((32, 12, 4), "float32")
    for row, y in zip(x, labels, strict=True):
        at = 0
        for k in y:
            length = int(RNG.integers(1, 3))
            row[at : at + length, k] = 1
            at += length + 1
    model = keras.Sequential([keras.Input((None, 4)), CTC(4)])
    metric = LabelErrorRate()
    model.compile(keras.optimizers.Adam(0.3), CTCLoss(), metrics=[metric])
    model.fit(x, labels, epochs=20, batch_size=32, verbose=0)
    assert model.evaluate(x, labels, verbose=0, return_dict=True)["label_error_rate"] == 0.0
    found = layers.decoding_model(model).predict(x, verbose=0)
    np.testing.assert_array_equal(found[:, :3], labels)
    np.testing.assert_array_equal(
        array(model.layers[-1].decode(model.predict(x, verbose=0))), found
    )
    beams = layers.decoding_model(model, "beams").predict(x[:4], verbose=0)
    np.testing.assert_array_equal(beams["labels"][:, 0, :3], labels[:4])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: CTC(1), "num_symbols=1"),
        (lambda: CTC(3, blank=3), "blank=3"),
        (lambda: CTC(3, output_mode="tags"), "output_mode='tags'"),
        (lambda: CTC(3, use_projection=False)(LOGITS[..., :2]), r"input_shape=\(3, 4, 2\)"),
        (lambda: CTCDecoder("best"), "output_mode='best'"),
        (lambda: CTCDecoder("beams", beam_width=2, top_k=3), "top_k=3"),
        (lambda: CTCDecoder(blank=7)(LOGITS), "blank=7"),
    ],
)
def test_user_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
