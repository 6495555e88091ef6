"""A word that is masked out is no part of the sentence, wherever it stands.

Every head with its losses, metrics and decoders, in one model: padding in front, holes and padding
behind give the numbers of the sentences alone, in `fit` and in `predict`.
"""

from typing import Any

import keras
import numpy as np
import pytest

from keras_struct import layers, parsers
from keras_struct.layers.any_mask_test import COMPILED, KEPT, N, cut, wide
from keras_struct.ops.testing import HAS_GRADIENTS

STATES = np.random.default_rng(0).normal(size=(2, N, 3)).astype("float32")
# Heads and relations; spans, of which the second sentence has a full stop, and its own one.
ARCS = np.array([[(2, 1), (0, 0), (2, 1), (3, 0)], [(0, 0), (1, 1), (4, 1), (2, 0)]])
LABELS = ["@", "S", "NP", "."]
SPANS = np.array(
    [
        [(0, 4, 1), (0, 2, 2), (0, 1, 0), (1, 2, 0), (2, 4, 2), (2, 3, 0), (3, 4, 0), [-1] * 3],
        [(0, 4, 1), (0, 1, 2), (1, 4, 0), (1, 3, 2), (1, 2, 0), (2, 3, 0), (3, 4, 0), (1, 2, 3)],
    ]
)
HEADS = {
    "nll": lambda: parsers.CKYParser(4, boundary_dim=3),
    "margin": lambda: parsers.SpanningTreeParser(2, arc_dim=3, relation_dim=2, single_root=False),
    "local": lambda: parsers.EisnerParser(2, arc_dim=3, relation_dim=2),
}
LOSSES: dict[str, Any] = {
    "nll": parsers.TreeNLL,
    "margin": parsers.TreeMaxMargin,
    "local": parsers.LocalCrossEntropy,
}


def targets_of(kept=None):
    """Trees with words by their places; what stands in the padding of dependencies is anything."""
    if kept is None:
        return {"nll": SPANS[:, :7], "margin": ARCS, "local": ARCS}
    arcs = np.where(ARCS[..., :1] > 0, np.arange(2) == 0, False)
    heads = np.stack([kept[b][np.maximum(tree[:, 0] - 1, 0)] + 1 for b, tree in enumerate(ARCS)])
    arcs = np.where(arcs, heads[..., None], ARCS)
    arcs = wide(arcs, kept, 1)
    return {"nll": spans_by_place(SPANS[:, :7], kept), "margin": arcs, "local": arcs}


def spans_by_place(spans, kept):
    """Spans whose ends are the places of words, or after them, among others."""
    placed = np.array(spans)
    for b, words in enumerate(kept):
        there = spans[b, :, 0] >= 0
        placed[b, there, 0] = words[spans[b, there, 0]]
        placed[b, there, 1] = words[spans[b, there, 1] - 1] + 1
    return placed


def arcs_by_place(arcs, kept):
    """Heads by their places among others, -1 in the padding."""
    placed = np.array(arcs)
    for b, words in enumerate(kept):
        heads = arcs[b, :, 0]
        placed[b, :, 0] = np.where(heads > 0, words[np.maximum(heads - 1, 0)] + 1, heads)
    return wide(placed, kept, -1)


class Numbers:
    """Losses, metrics and trained weights of a batch, each time from the same weights."""

    def __init__(self):
        keras.utils.set_random_seed(0)
        states, mask = keras.Input((None, 3)), keras.Input((None,), dtype="bool")
        x = layers.AttachMask()([states, mask])
        heads = {name: head()(x) for name, head in HEADS.items()}
        self.model = keras.Model([states, mask], heads)
        modes = ["tree"] if COMPILED else ["tree", "marginals", "minimum_risk"]
        decoded = {
            f"{name}_{mode}": parsers.TreeDecoder(mode)(y)
            for name, y in heads.items()
            for mode in modes
        }
        self.decoding = keras.Model([states, mask], decoded)
        self.weights = self.model.get_weights()
        self.losses = {name: loss() for name, loss in LOSSES.items()}
        self.metrics = {"nll": [parsers.BracketF1(LABELS)], "margin": [parsers.AttachmentScore()]}
        if HAS_GRADIENTS:
            self.model.compile(
                keras.optimizers.SGD(0.1),
                self.losses,
                metrics=self.metrics,
                jit_compile=keras.backend.backend() == "jax",
            )

    def of(self, kept=None):
        inputs, targets = inputs_of(kept), targets_of(kept)
        if not HAS_GRADIENTS:
            outputs = self.model(inputs)
            return {name: loss(targets[name], outputs[name]) for name, loss in self.losses.items()}
        self.model.set_weights(self.weights)
        self.model.reset_metrics()
        logs = self.model.train_on_batch(inputs, targets, return_dict=True)
        return {**logs, **dict(enumerate(self.model.get_weights()))}


def inputs_of(kept):
    every = np.ones((2, N), bool)
    if kept is None:
        return [STATES, every]
    return [wide(STATES, kept, np.nan), wide(every, kept, False)]


@pytest.fixture(scope="module")
def numbers():
    return Numbers()


@pytest.fixture(scope="module")
def alone(numbers):
    """Without padding; with padding behind, in the same program, where that is compiled."""
    return numbers.of(KEPT["behind"] if COMPILED else None)


@pytest.mark.parametrize("where", KEPT)
def test_losses_gradients_and_metrics(numbers, alone, where):
    found = numbers.of(KEPT[where])
    assert found.keys() == alone.keys()
    for name, expected in alone.items():
        expected = np.asarray(expected)
        assert np.isfinite(expected).all(), name
        np.testing.assert_allclose(
            np.asarray(found[name]), expected, rtol=1e-4, atol=1e-5, err_msg=str(name)
        )


def test_what_is_decoded(numbers):
    expected = numbers.decoding.predict_on_batch(inputs_of(KEPT["behind"] if COMPILED else None))
    for kept in KEPT.values():
        found = numbers.decoding.predict_on_batch(inputs_of(kept))
        for name, y in expected.items():
            if "marginals" in name:
                placed = wide(cut(y), kept, 0.0, (1, 2))
                np.testing.assert_allclose(found[name], placed, atol=1e-5, err_msg=name)
            elif name.startswith("nll"):
                placed = spans_by_place(y[:, : 2 * N - 1], kept)
                np.testing.assert_array_equal(found[name][:, : 2 * N - 1], placed, name)
                assert (found[name][:, 2 * N - 1 :] == -1).all()
            else:
                np.testing.assert_array_equal(found[name], arcs_by_place(cut(y), kept), name)


@pytest.mark.skipif(COMPILED, reason="each operation is compiled; the metrics are in `fit` above")
@pytest.mark.parametrize("where", KEPT)
def test_metrics_count_words_and_not_places(where):
    """A full stop that is removed, and what a target holds in the padding."""
    kept = KEPT[where]
    scores = np.random.default_rng(11).normal(size=(2, N, N, 4)).astype("float32")
    spans = layers.TreePotentials(scores)
    arcs = layers.TreePotentials(scores, structure="eisner")
    metrics: tuple = parsers.BracketF1(LABELS), parsers.AttachmentScore()
    results = []
    for places in (None, kept):
        targets, potentials = (SPANS, ARCS), [spans, arcs]
        if places is not None:
            mask = wide(np.ones((2, N), bool), kept, False)
            moved = wide(scores, kept, 0.0, (1, 2))
            potentials = [p._replace(scores=moved, mask=mask) for p in potentials]
            targets = spans_by_place(SPANS, kept), targets_of(kept)["margin"]
        found = []
        for metric, target, given in zip(metrics, targets, potentials, strict=True):
            metric.reset_state()
            metric.update_state(target, layers.pack(given))
            found.append([float(x) for x in (metric.right, metric.predicted, metric.target)])
        results.append(found)
    assert results[0] == results[1]
    assert results[0][0][0] > 0 and results[0][1][0] > 0
