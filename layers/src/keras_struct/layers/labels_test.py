"""Targets and weights of losses and metrics: their forms, what they mean, and what is refused."""

import itertools

import keras
import numpy as np
import pytest

from keras_struct import layers, ops
from keras_struct.layers.chain_targets import tags_of
from keras_struct.ops.testing import BACKEND, HAS_GRADIENTS, array, grad, tensor

K = 3
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 1], [1, 0, 1, 1]], bool)
RNG = np.random.default_rng(0)
SCORES = 2 * RNG.normal(size=(4, 4, K)).astype("float32")  # batch size = length
TRANSITIONS, (START, END) = (RNG.normal(size=(n, K)).astype("float32") for n in (K, 2))
TAGS = RNG.integers(0, K, (4, 4))
WEIGHTS = RNG.integers(0, 3, (4, 4)) * RNG.random((4, 4))
NAMES = ["O", "B-X", "I-X"]
CHAIN = layers.pack(layers.ChainPotentials(SCORES, TRANSITIONS, START, END, mask=MASK))
SEGMENTS = layers.pack(
    layers.ChainPotentials(SCORES[:, :, None] + np.zeros((2, 1), "float32"), TRANSITIONS)
)
ALIGNMENT = layers.pack(layers.AlignmentPotentials(SCORES, -1.0, structure="needleman_wunsch"))


def value(loss_or_metric, *given, **more):
    """Of a loss for each example, or of a metric that sees one batch."""
    if isinstance(loss_or_metric, keras.losses.Loss):
        return array(loss_or_metric(*given, **more))
    loss_or_metric.reset_state()
    loss_or_metric.update_state(*given, **more)
    return array(loss_or_metric.result())


def nll(**more):
    return layers.StructuredNLL(reduction=None, **more)


def weighted_by_enumeration(weights):
    """Sum of weight times -log p(tag | observed tags before it), by listing all sequences."""
    losses = []
    for b, mask in enumerate(MASK):
        places = np.flatnonzero(mask)
        sequences = np.array(list(itertools.product(range(K), repeat=len(places))))
        score = SCORES[b, places, sequences].sum(1) + START[sequences[:, 0]] + END[sequences[:, -1]]
        score += TRANSITIONS[sequences[:, :-1], sequences[:, 1:]].sum(1)
        p, agree = np.exp(score - score.max()), np.ones(len(sequences), bool)
        loss, before = 0.0, p.sum()
        for column, place in zip(sequences.T, places, strict=True):
            if weights[b, place] != 0:
                agree &= column == TAGS[b, place]
                loss -= weights[b, place] * np.log(p[agree].sum() / before)
                before = p[agree].sum()
        losses.append(loss)
    return losses


@pytest.mark.parametrize(
    "head",
    [
        nll(),
        layers.ViterbiAccuracy(),
        layers.ViterbiSequenceAccuracy(),
        layers.SpanF1(NAMES),
    ],
    ids=lambda head: head.name,
)
def test_forms_of_tags(head):
    expected = value(head, TAGS, CHAIN)
    for tags in (TAGS[..., None], np.eye(K)[TAGS], np.eye(K, dtype=int)[TAGS]):
        np.testing.assert_array_equal(value(head, tags, CHAIN), expected)


def test_forms_of_tags_where_sizes_are_one():
    for batch, n, k in itertools.product((1, 2), repeat=3):
        tags = TAGS[:batch, :n] % k
        for form in (tags, tags[..., None], *([np.eye(k)[tags]] if k > 1 else [])):
            for sizes in ((batch, n), (None, None)):
                valid = tensor(np.ones((batch, n)), "bool")
                found = tags_of(form, k, valid, None, *sizes).event
                np.testing.assert_array_equal(array(found), tags)


def test_a_weight_of_an_example_is_one_of_its_only_token():
    packed = layers.pack(layers.ChainPotentials(SCORES[:, :1], TRANSITIONS))
    expected = np.arange(4) * value(nll(), TAGS[:, :1], packed)
    for weight in (np.arange(4), np.arange(4)[:, None]):
        found = value(nll(), TAGS[:, :1], packed, sample_weight=weight)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_forms_of_tags_of_a_tagger_and_of_tokens():
    metric = layers.SpanF1(NAMES, from_potentials=False)
    for tags in (TAGS, TAGS[..., None], np.eye(K)[TAGS]):
        assert value(metric, tags, np.eye(K)[TAGS]) == 1.0
    loss = layers.SoftEditDistance(temperature=0.0, reduction=None)
    for tokens in (TAGS, TAGS[..., None]):
        np.testing.assert_allclose(value(loss, tokens, np.eye(K)[TAGS]), 0.0, atol=1e-6)


TAGGERS = (nll(), layers.ViterbiAccuracy(), layers.ViterbiSequenceAccuracy(), layers.SpanF1(NAMES))
ALIGNERS = (layers.AlignmentCrossEntropy, layers.AlignmentF1Loss)
SERIES = np.zeros((4, 4, 2), "float32")
WRONG_TARGETS = [
    *((head, CHAIN, shape) for head in TAGGERS for shape in ((4,), (3, 4), (4, 1), (4, 4, 2))),
    *((head, CHAIN, shape) for head in TAGGERS for shape in ((1, 4), (4, 3), (4, 4, K, 1))),
    *((head, SEGMENTS, shape) for head in TAGGERS for shape in ((4, 4), (4, 4, 1), (4, 4, K))),
    *((loss("path"), ALIGNMENT, shape) for loss in ALIGNERS for shape in ((3, 9, 2), (4, 9, 3))),
    *((loss("pairs"), ALIGNMENT, shape) for loss in ALIGNERS for shape in ((4, 4, 4), (4, 1, K))),
    (layers.AlignmentF1(), ALIGNMENT, (1, 9, 2)),
    (layers.AlignmentF1(reference="pairs"), ALIGNMENT, (1, 4, K)),
    (layers.SoftEditDistance(), SERIES, (1, 4)),
    (layers.SoftEditDistance(), SERIES, (4,)),
    (layers.SoftDTW(), SERIES, (1, 4, 2)),
    (layers.SoftDTW(), SERIES, (4, 4, 1)),
    (layers.SpanF1(NAMES, from_potentials=False), TAGS, (4, 1)),
]


@pytest.mark.parametrize("head, predicted, shape", WRONG_TARGETS)
def test_another_shape_is_an_error_that_names_it(head, predicted, shape):
    received = f"Received: shape of y_true={shape}".replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=f"Expected .*{received}"):
        value(head, np.zeros(shape, "float32"), predicted)


def test_errors_of_shape_come_while_a_model_is_traced():
    model = keras.Sequential([keras.Input((4, 2)), layers.CRF(K)])
    model.compile(loss=layers.StructuredNLL())
    for n, weight, message in (
        (2, None, r"shape of y_true=\(.*, 2\)"),
        (4, np.ones((4, 3)), r"shape of sample_weight=\(.*, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model.test_on_batch(np.zeros((4, 4, 2)), np.zeros((4, n)), sample_weight=weight)


def test_weights_of_tokens_of_a_chain():
    weighted = value(nll(), TAGS, CHAIN, sample_weight=WEIGHTS)
    np.testing.assert_allclose(weighted, weighted_by_enumeration(WEIGHTS), rtol=1e-5, atol=1e-6)
    plain, scale = value(nll(), TAGS, CHAIN), np.arange(4.0)
    for weight in (scale, scale[:, None], scale[:, None] * np.ones((4, 4))):
        found = value(nll(), TAGS, CHAIN, sample_weight=weight)
        np.testing.assert_allclose(found, scale * plain, rtol=1e-5)
    # The reduction is that of sequences.
    mean = layers.StructuredNLL()(TAGS, CHAIN, sample_weight=WEIGHTS)
    np.testing.assert_allclose(array(mean), weighted.mean(), rtol=1e-6)


def test_labels_of_weight_0_do_not_matter():
    others = np.where(WEIGHTS == 0, -100, TAGS)
    for head in TAGGERS[:2]:
        expected = value(head, TAGS, CHAIN, sample_weight=WEIGHTS)
        np.testing.assert_array_equal(value(head, others, CHAIN, sample_weight=WEIGHTS), expected)
    hidden = value(nll(), np.full((4, 4), -100), CHAIN, sample_weight=np.zeros((4, 4)))
    np.testing.assert_array_equal(hidden, 0.0)


@pytest.mark.skipif(not HAS_GRADIENTS, reason="NumPy has no gradients")
def test_gradients_of_weighted_tokens():
    """With weights 1 they are those of the whole likelihood, the marginals less the target."""
    weight = np.ones((4, 4), "float32")
    loss = layers.StructuredNLL(reduction="sum")
    packed = array(CHAIN)
    expected, found = (
        array(grad(lambda x, w=w: loss(TAGS, x, sample_weight=w))(tensor(packed, "float32"))[0])
        for w in (None, weight)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_weights_of_tokens_where_tags_are_forbidden():
    """A forbidden tag that is observed has no likelihood, one that is not changes nothing."""
    allowed = np.where(np.eye(K, dtype=bool), -np.inf, TRANSITIONS)  # no tag twice
    weight, repeated = np.array([[1.0, 1.0, 0.0, 1.0]] * 2), [[0, 1, 1, 0], [0, 0, 1, 2]]
    packed = layers.pack(layers.ChainPotentials(SCORES[:2], allowed.astype("float32")))
    found = value(nll(), repeated, packed, sample_weight=weight)
    whole = [value(nll(), [[0, 1, tag, 0]], packed[:1])[0] for tag in range(K)]
    expected = [-np.log(np.exp(-np.array(whole)).sum()), np.inf]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    if HAS_GRADIENTS:
        loss = layers.StructuredNLL(reduction="sum")
        slope = array(grad(lambda x: loss(repeated, x, sample_weight=weight))(packed)[0])
        assert np.isfinite(slope).all()
        assert slope[0].any()
        assert not slope[1, -4:].any()


def test_class_weights():
    for given in ([0.5, 0.0, 2.0], {0: 0.5, 1: 0.0, 2: 2.0}):
        loss = nll(class_weights=given)
        by_class = np.array([0.5, 0.0, 2.0])[TAGS]
        for weight in (None, WEIGHTS):
            expected = weighted_by_enumeration(by_class * (1 if weight is None else WEIGHTS))
            found = value(loss, TAGS, CHAIN, sample_weight=weight)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        again = layers.StructuredNLL.from_config(loss.get_config())
        assert again.class_weights == loss.class_weights
    partial = value(nll(class_weights={2: 3.0}), TAGS, CHAIN)
    expected = weighted_by_enumeration(np.array([1.0, 1.0, 3.0])[TAGS])
    np.testing.assert_allclose(partial, expected, rtol=1e-5)


def test_weights_of_tokens_in_metrics():
    best = array(layers.unpack(CHAIN).distribution().argmax())
    right = (best == TAGS)[MASK]
    found = value(layers.ViterbiAccuracy(), TAGS, CHAIN, sample_weight=WEIGHTS)
    np.testing.assert_allclose(found, (right * WEIGHTS[MASK]).sum() / WEIGHTS[MASK].sum(), 1e-5)
    for head in (*TAGGERS[1:], layers.AlignmentF1(reference="pairs")):
        target, packed = (TAGS, CHAIN)
        if isinstance(head, layers.AlignmentF1):
            target, packed = np.tile(np.eye(4, K), (4, 1, 1)), ALIGNMENT
        weight = np.array([1.0, 0.0, 2.0, 0.0])
        expected = value(head, target, packed, sample_weight=weight)
        assert value(head, target, packed, sample_weight=weight[:, None]) == expected


PATH = np.array([[(0, 0), (1, 1), (2, 2), (3, 3), (4, 3)]] * 4)
NO_TOKENS = [
    (nll(), SEGMENTS, np.tile([[0, 1]], (4, 4, 1))),
    (layers.AlignmentCrossEntropy(), ALIGNMENT, PATH),
    (layers.AlignmentF1Loss(), ALIGNMENT, PATH),
    (layers.AlignmentF1(), ALIGNMENT, PATH),
    (layers.SoftDTW(), SERIES, SERIES),
    (layers.SoftEditDistance(), np.eye(K)[TAGS], TAGS),
    (layers.ViterbiSequenceAccuracy(), CHAIN, TAGS),
]


@pytest.mark.parametrize("head, predicted, target", NO_TOKENS)
def test_weights_of_tokens_without_a_meaning_are_refused(head, predicted, target):
    with pytest.raises(ValueError, match=r"Received: shape of sample_weight=\(4, 4\)"):
        value(head, target, predicted, sample_weight=np.ones((4, 4), "float32"))


@pytest.mark.parametrize(
    "loss, weight, message",
    [
        (nll(), np.ones((3,)), r"shape of sample_weight=\(3,\)"),
        (nll(), np.ones((4, 3)), r"shape of sample_weight=\(4, 3\)"),
        (nll(), np.ones((4, 4, 1)), r"shape of sample_weight=\(4, 4, 1\)"),
        (nll(class_weights=[1.0, 2.0]), None, r"the 3 tags .* class_weights=\[1.0, 2.0\]"),
        (nll(class_weights={3: 2.0}), None, r"class_weights=\{3: 2.0\}"),
        (
            layers.StructuredNLL("mean_with_sample_weight"),
            np.ones((4, 4)),
            "reduction='mean_with_sample_weight'",
        ),
    ],
)
def test_other_weights_are_errors(loss, weight, message):
    with pytest.raises(ValueError, match=message):
        loss(TAGS, CHAIN, sample_weight=weight)


def test_class_weights_are_checked():
    with pytest.raises(ValueError, match="class_weights"):
        layers.StructuredNLL(class_weights=[1.0, -1.0])
    with pytest.raises(ValueError, match="class_weights"):
        nll(class_weights=[1.0, 1.0, 1.0])(np.tile([[0, 1]], (4, 4, 1)), SEGMENTS)


def changed(target, index, number):
    target = np.array(target)
    target[index] = number
    return target


ONE_HOT = np.eye(K)[TAGS]
NOT_THERE = [
    (nll(), CHAIN, changed(TAGS, (1, 0), K), "tags from 0 to 2"),
    (nll(), CHAIN, changed(TAGS, (1, 0), -1), "tags from 0 to 2"),
    (nll(), CHAIN, changed(ONE_HOT, (1, 0), 0.5), "tags from 0 to 2"),
    (nll(), CHAIN, changed(TAGS.astype("float32"), (1, 0), 0.5), "tags from 0 to 2"),
    (
        layers.CTCLoss(reduction=None),
        SCORES,
        changed(np.ones((4, 2), "float32"), (1, 0), np.nan),
        "labels from 0 to 2",
    ),
    (
        layers.AlignmentCrossEntropy("pairs", reduction=None),
        ALIGNMENT,
        changed(np.tile(np.eye(4, K), (4, 1, 1)), (1, 0, 0), np.nan),
        "pairs from 0 to 1",
    ),
    (nll(class_weights=[1.0, 0.0, 2.0]), CHAIN, changed(TAGS, (1, 0), K), "tags from 0 to 2"),
    (nll(), SEGMENTS, changed(np.tile([[0, 1]], (4, 4, 1)), (1, 0, 0), K), "labels from 0 to 2"),
    (layers.SoftEditDistance(reduction=None), ONE_HOT, changed(TAGS, (1, 0), K), "tokens from 0"),
    (layers.SoftEditDistance(reduction=None), ONE_HOT, changed(TAGS, (1, 0), -7), "tokens from 0"),
    *(
        (loss(reduction=None), ALIGNMENT, changed(PATH, (1, 2, axis), 9), f"nodes of axis {axis}")
        for loss in ALIGNERS[: 1 if BACKEND == "jax" else 2]  # where each is compiled for seconds
        for axis in range(2)
    ),
]


@pytest.mark.parametrize("loss, predicted, target, message", NOT_THERE)
def test_a_target_that_does_not_exist(loss, predicted, target, message):
    """An error where values are read; where they are not, infinite in its example only."""
    packed = tensor(predicted, "float32")
    with pytest.raises(ValueError, match=f"Expected {message}.*Received: y_true="):
        loss(target, packed)
    with ops.validation(False):
        assert np.isinf(array(loss(target, packed))).tolist() == [False, True, False, False]
        if HAS_GRADIENTS and BACKEND != "jax":  # on JAX gradients are traced: the same, compiled
            slope = grad(lambda x: keras.ops.sum(loss(target, x)[1:2]))(packed)[0]
            assert not array(slope).any()


def test_metrics_count_a_tag_that_does_not_exist_as_wrong():
    best = array(layers.unpack(CHAIN).distribution().argmax())
    wrong = changed(best, (0, 0), K)
    for head in (layers.ViterbiAccuracy(), layers.SpanF1(NAMES)):
        with pytest.raises(ValueError, match=rf"y_true={K} at \(0, 0\)"):
            value(head, wrong, CHAIN)
    with ops.validation(False):
        share = 1 - 1 / MASK.sum()
        np.testing.assert_allclose(value(layers.ViterbiAccuracy(), wrong, CHAIN), share, 1e-6)


def test_names_of_other_tags_are_an_error():
    with pytest.raises(ValueError, match=r"names of the 3 labels.*Received: 2 labels"):
        value(layers.SpanF1(["O", "B"]), TAGS % 2, CHAIN)
    with pytest.raises(ValueError, match=r"names of the 3 labels.*Received: 2 labels"):
        value(layers.SpanF1(["O", "B"], from_potentials=False), TAGS % 2, SCORES)


STATES = np.ones((2, 3, 4), "float32")


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: layers.Aligner()([STATES, STATES]), r"aligner\(first, second\)"),
        (lambda: layers.StructuredAttention(2, 2, "subset"), r"arguments \['k'\]"),
        (lambda: layers.CRF(2)(STATES, mask=np.ones((2, 4), bool)), r"shape of mask=\(2, 4\)"),
        (lambda: layers.CRF(2)(STATES, mask=np.ones((2,), bool)), r"shape of mask=\(2,\)"),
        (
            lambda: layers.StructuredAttention(2, 2, "dtw")(
                STATES, STATES, query_mask=np.ones((2, 4), bool)
            ),
            r"shape of mask=\(2, 4\)",
        ),
        (lambda: layers.AttachMask()([STATES, np.ones((2, 4))]), "AttachMask"),
        (lambda: layers.AttachMask()(STATES), r"AttachMask"),
        (lambda: layers.Aligner()(STATES, STATES[:1]), "shape of second="),
        (
            lambda: layers.StructuredAttention(2, 2, "dtw")(STATES, STATES[:1]),
            r"shapes of query=\(2, 3, 4\), value=\(1, 3, 4\)",
        ),
        (lambda: layers.StructuredAttention(2, 2, 5), "structure=5"),
        *(
            (
                lambda structure=structure, shape=shape: layers.StructuredAttention(
                    2, 2, structure
                )(STATES, STATES, attention_mask=np.ones(shape, bool)),
                "shape of attention_mask=",
            )
            for structure in ("softmax", "cky")
            for shape in ((2, 3, 4), (2, 4), (2, 3, 3, 3), (1, 2, 2, 3, 3))
        ),
        (lambda: ops.explain("smith_waterman"), "function='smith_waterman'"),
        (lambda: ops.explain(abs, -1), "chose no implementation"),
    ],
)
def test_calls_that_had_raw_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_explain_takes_a_distribution(capsys):
    distribution = layers.unpack(CHAIN).distribution()
    assert ops.explain(distribution) is distribution.choice
    assert "linear_chain" in capsys.readouterr().out


def test_masks_of_numbers_and_lists():
    mask = [[1, 1, 0], [1, 0, 0]]
    for structure in ("dtw", "sinkhorn", "linear_chain"):
        attend = layers.StructuredAttention(2, 2, structure)
        expected = array(attend(STATES, STATES, value_mask=np.array(mask, bool)))
        for form in (mask, np.array(mask, "float32")):
            found = array(attend(STATES, STATES, value_mask=form))
            np.testing.assert_array_equal(found, expected)
