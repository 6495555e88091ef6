"""Targets that do not say all: tokens that are ignored, and sets of tags that are allowed."""

import itertools

import keras
import numpy as np
import pytest

from keras_struct import layers, ops
from keras_struct.ops.testing import BACKEND, HAS_GRADIENTS, array, grad, tensor

K, N, D = 3, 4, 3
RNG = np.random.default_rng(1)
MASK = np.array([[1, 1, 1, 1], [0, 1, 1, 1], [1, 0, 1, 0]], bool)
SCORES = 2 * RNG.normal(size=(3, N, K)).astype("float32")
SEGMENT_SCORES = 2 * RNG.normal(size=(3, N, D, K)).astype("float32")
TRANSITIONS, (START, END) = (RNG.normal(size=(n, K)).astype("float32") for n in (K, 2))
CHAIN, SEGMENTS = (
    layers.pack(layers.ChainPotentials(x, TRANSITIONS, START, END, mask=MASK))
    for x in (SCORES, SEGMENT_SCORES)
)
TAGS = RNG.integers(0, K, (3, N))
IGNORED = np.array([[1, 0, 0, 1], [0, 0, 1, 0], [1, 1, 0, 0]], bool)
ANY = -100
NAMES = ["O", "B-X", "I-X"]


def nll(**more):
    return layers.StructuredNLL(reduction=None, **more)


def loss_of(loss, *given, **more):
    return array(loss(*given, **more))


def result(metric, *given, **more):
    metric.update_state(*given, **more)
    return float(array(metric.result()))


def tag_scores(b):
    """All tag sequences of an example (n, places), their scores, and the places."""
    places = np.flatnonzero(MASK[b])
    tags = np.array(list(itertools.product(range(K), repeat=len(places))))
    score = SCORES[b, places, tags].sum(1) + START[tags[:, 0]] + END[tags[:, -1]]
    return tags, score + TRANSITIONS[tags[:, :-1], tags[:, 1:]].sum(1), places


def share(score, agree):
    """Minus the log of the probability of what agrees."""
    p = np.exp(score - score.max())
    with np.errstate(divide="ignore"):
        return -np.log(p[agree].sum() / p.sum())


def by_enumeration(sets):
    """Minus the log-probability that every tag is in its set `(B, N, K)`."""
    losses = []
    for b in range(len(MASK)):
        tags, score, places = tag_scores(b)
        losses.append(share(score, sets[b, places, tags].all(1)))
    return losses


def test_ignored_tokens_are_summed_out():
    sets = np.eye(K, dtype=bool)[TAGS] | IGNORED[..., None]
    expected = by_enumeration(sets)
    weight = (~IGNORED).astype("float32")
    for label in (-100, -1):
        tags = np.where(IGNORED, label, TAGS)
        loss = nll(ignore_index=label)
        for form in (tags, tags[..., None]):
            np.testing.assert_allclose(loss_of(loss, form, CHAIN), expected, rtol=1e-5)
        for more in ({}, {"sample_weight": np.ones_like(weight)}, {"sample_weight": weight}):
            found = loss_of(loss, tags, CHAIN, **more)
            np.testing.assert_allclose(found, expected, rtol=1e-5)
        again = layers.StructuredNLL.from_config(loss.get_config())
        assert again.ignore_index == label
    np.testing.assert_allclose(loss_of(nll(), np.full((3, N), ANY), CHAIN), 0.0, atol=1e-6)


def test_sets_of_tags_are_summed_over():
    sets = RNG.random((3, N, K)) < 0.5
    sets |= np.eye(K, dtype=bool)[TAGS]
    for form in (sets, sets.astype("float32")):
        np.testing.assert_allclose(loss_of(nll(), form, CHAIN), by_enumeration(sets), rtol=1e-5)
    weights, class_weights = RNG.random((3, N)), np.array([0.5, 0.0, 2.0])
    found = loss_of(nll(class_weights=list(class_weights)), sets, CHAIN, sample_weight=weights)
    weights = weights * (sets * class_weights).sum(-1) / sets.sum(-1)
    for b, loss in enumerate(found):
        tags, score, places = tag_scores(b)
        agree, expected, p = np.ones(len(tags), bool), 0.0, np.exp(score - score.max())
        for column, place in zip(tags.T, places, strict=True):
            if weights[b, place]:
                before = p[agree].sum()
                agree &= sets[b, place, column]
                expected -= weights[b, place] * np.log(p[agree].sum() / before)
        np.testing.assert_allclose(loss, expected, rtol=1e-4)


@pytest.mark.skipif(not HAS_GRADIENTS, reason="NumPy has no gradients")
def test_gradient_of_what_is_known():
    """It is that of the two log-partitions, the marginals less those that agree."""
    tags = tensor(np.where(IGNORED, ANY, TAGS), "int32")
    loss = layers.StructuredNLL(reduction="sum")
    found = array(grad(lambda x: loss(tags, x))(tensor(CHAIN, "float32"))[0])[:, -N:]
    chain = layers.unpack(CHAIN)
    sets = np.eye(K, dtype=bool)[TAGS] | IGNORED[..., None]
    known = chain._replace(scores=np.where(sets, SCORES, -np.inf).astype("float32"))
    expected = array(chain.distribution().marginals()) - array(known.distribution().marginals())
    np.testing.assert_allclose(found[MASK], expected[MASK], atol=1e-5)


def segmentations(b):
    """All segmentations of an example as lists of (place, label, length), and their scores."""
    places = np.flatnonzero(MASK[b])
    found = []

    def grow(at, segments, score):
        if at == len(places):
            found.append((segments, score + END[segments[-1][1]]))
            return
        for d, k in itertools.product(range(1, min(D, len(places) - at) + 1), range(K)):
            step = TRANSITIONS[segments[-1][1], k] if segments else START[k]
            more = SEGMENT_SCORES[b, places[at], d - 1, k] + step
            grow(at + d, [*segments, (places[at], k, d)], score + more)

    grow(0, [], 0.0)
    return found


# Rows of label and length: known, of any label, nothing known, no start.
PARTLY = np.array(
    [
        [[1, 2], [-1, -1], [ANY, ANY], [ANY, ANY]],
        [[-1, -1], [ANY, ANY], [ANY, 1], [2, 1]],
        [[ANY, ANY], [-1, -1], [0, 1], [-1, -1]],
    ]
)


def test_segments_that_are_partly_known():
    expected = []
    for b in range(3):
        listed = segmentations(b)
        agree = []
        for segments, _ in listed:
            starts = {place: (k, d) for place, k, d in segments}
            rows = [(n, *PARTLY[b, n]) for n in np.flatnonzero(MASK[b])]
            agree.append(
                all(
                    length == ANY
                    or (length <= 0 and n not in starts)
                    or (starts.get(n, (0, 0))[1] == length and label in (ANY, starts[n][0]))
                    for n, label, length in rows
                )
            )
        assert 0 < sum(agree) < len(agree)
        expected.append(share(np.array([score for _, score in listed]), np.array(agree)))
    np.testing.assert_allclose(loss_of(nll(), PARTLY, SEGMENTS), expected, rtol=1e-5)
    whole = np.array([[[1, 3], [-1, -1], [-1, -1], [0, 1]]] * 3)
    for packed in (SEGMENTS[:1], SEGMENTS[1:2]):
        exact = loss_of(nll(ignore_index=None), whole[:1], packed)
        np.testing.assert_allclose(loss_of(nll(), whole[:1], packed), exact)
    with pytest.raises(ValueError, match="ignore_index=-1"):
        nll(ignore_index=-1)(PARTLY, SEGMENTS)


def test_metrics_leave_out_what_is_not_known():
    best = array(layers.unpack(CHAIN).distribution().argmax())
    known = MASK & ~IGNORED
    tags = np.where(IGNORED, ANY, np.where(best == 2, 0, best))
    right = best == tags
    share = right[known].mean()
    assert 0 < share < 1
    np.testing.assert_allclose(result(layers.ViterbiAccuracy(), tags, CHAIN), share, 1e-6)
    whole = np.where(known, right, True).all(1).mean()
    np.testing.assert_allclose(result(layers.ViterbiSequenceAccuracy(), tags, CHAIN), whole, 1e-6)
    sets = np.eye(K, dtype=bool)[np.maximum(tags, 0)] | IGNORED[..., None]
    np.testing.assert_allclose(result(layers.ViterbiAccuracy(), sets, CHAIN), share, 1e-6)
    sets[..., 2] = True  # then each tag is right, where something is known
    assert result(layers.ViterbiAccuracy(), sets, CHAIN) == 1.0
    # Spans as if ignored tokens were not there.
    kept = [known[b] for b in range(3)]
    spans = [[set(layers.tag_spans(x[b][kept[b]], NAMES)) for b in range(3)] for x in (best, tags)]
    both = sum(len(a & b) for a, b in zip(*spans, strict=True))
    expected = 2 * both / sum(len(x) for xs in spans for x in xs)
    assert 0 < expected < 1
    np.testing.assert_allclose(result(layers.SpanF1(NAMES), tags, CHAIN), expected, 1e-6)
    tagger = layers.SpanF1(NAMES, from_potentials=False)
    np.testing.assert_allclose(
        result(tagger, np.where(MASK, tags, -1), np.maximum(best, 0)), expected, 1e-6
    )


def test_metrics_of_segments_leave_out_what_is_not_known():
    best = array(layers.unpack(SEGMENTS).distribution().argmax())
    segments = best.copy()
    segments[0, :] = ANY
    assert result(layers.ViterbiAccuracy(), segments, SEGMENTS) == 1.0
    assert result(layers.SpanF1(["O", "A", "B"]), segments, SEGMENTS) == 1.0
    label = segments[1, 1, 0]
    segments[1, 1, 0] = (label + 1) % K
    wrong = best[1, 1, 1] / MASK[1:].sum()
    found = result(layers.ViterbiAccuracy(), segments, SEGMENTS)
    np.testing.assert_allclose(found, 1 - wrong, 1e-6)
    segments[1, 1, 0] = ANY
    assert result(layers.ViterbiAccuracy(), segments, SEGMENTS) == 1.0


def test_what_is_no_set_is_an_error():
    sets = np.ones((3, N, K), "float32")
    for row in ([0, 0, 0], [0.5, 0.5, 0], [2, 0, 0]):
        sets[1, 1] = row
        with pytest.raises(ValueError, match=r"Expected tags.*y_true=-1 at \(1, 1\)"):
            nll()(sets, CHAIN)
        with ops.validation(False):
            found = loss_of(nll(), sets, tensor(CHAIN, "float32"))
            assert np.isinf(found).tolist() == [False, True, False]
    with pytest.raises(ValueError, match="ignore_index='x'"):
        nll(ignore_index="x")
    with pytest.raises(ValueError, match=r"ignore_index=-100.*y_true=-1"):
        nll()(np.where(IGNORED, -1, TAGS), CHAIN)


def test_the_loss_of_what_is_impossible_may_be_zero():
    """A tag that is forbidden, a segment that is too long, a path that does not exist."""
    allowed = np.where(np.eye(K, dtype=bool), -np.inf, TRANSITIONS).astype("float32")
    chain = layers.pack(layers.ChainPotentials(SCORES, allowed))
    long = np.tile([[[0, N], [-1, -1], [-1, -1], [-1, -1]]], (3, 1, 1))
    segments = layers.pack(layers.ChainPotentials(SEGMENT_SCORES, TRANSITIONS))
    alignment = layers.pack(layers.AlignmentPotentials(SCORES, -1.0, structure="needleman_wunsch"))
    path = np.tile([[[1, 0], [0, 1]]], (3, 1, 1))
    for loss, target, packed in (
        (layers.StructuredNLL, np.zeros((3, N)), chain),
        (layers.StructuredNLL, long, segments),
        (layers.AlignmentCrossEntropy, path, alignment),
    ):
        assert np.isinf(loss_of(loss(reduction=None), target, packed)).all()
        zero = loss(reduction="sum", zero_infinity=True)
        assert loss.from_config(zero.get_config()).zero_infinity
        assert loss_of(zero, target, packed) == 0.0
        if HAS_GRADIENTS and BACKEND != "jax":  # there it is traced, and the same
            slope = grad(lambda x, loss=zero, y=target: loss(y, x))(tensor(packed, "float32"))[0]
            assert not array(slope).any()


@pytest.mark.skipif(not HAS_GRADIENTS, reason="NumPy has no gradients")
def test_a_tagger_learns_from_parts():
    keras.utils.set_random_seed(0)
    words = RNG.integers(1, 9, (32, 6))
    tags = words % K
    labels = np.where(RNG.random(words.shape) < 0.5, -100, tags)
    model = keras.Sequential([keras.layers.Embedding(9, 8), layers.CRF(K)])
    metric = layers.ViterbiAccuracy()
    model.compile(keras.optimizers.Adam(0.1), layers.StructuredNLL(), metrics=[metric])
    model.fit(words, labels, epochs=20, verbose=0)
    assert (layers.decoding_model(model).predict(words, verbose=0) == tags).all()
