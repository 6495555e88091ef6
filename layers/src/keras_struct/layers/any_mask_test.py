"""A position that is masked out is no part of the sequence, wherever it stands.

Every head with every loss, metric and decoder, in one model: padding in front, holes and padding
behind give the numbers of the sequences alone, in `fit` and in `predict`.
"""

from collections.abc import Callable

import keras
import numpy as np
import pytest

from keras_struct import layers
from keras_struct.ops.testing import BACKEND, HAS_GRADIENTS

COMPILED = BACKEND in ("jax", "tensorflow")
N, WIDE = 4, 7
KEPT = {
    "front": np.array([[3, 4, 5, 6], [3, 4, 5, 6]]),
    "holes": np.array([[0, 2, 3, 6], [1, 2, 4, 5]]),
    "behind": np.array([[0, 1, 2, 3], [0, 1, 2, 3]]),
}
LABELS = ["O", "B-X", "I-X"]
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(2, 2, N, 3)).astype("float32")
TAGS = np.array([[1, 2, 2, 0], [0, 1, 2, 1]])
SEGMENTS = np.array([[(1, 2), (-1, -1), (0, 1), (0, 1)], [(0, 1), (1, 3), (-1, -1), (-1, -1)]])
PAIRS = np.stack([np.eye(N), np.eye(N, k=1)])
PATHS = np.array(
    [
        [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (-1, -1)],
        [(0, 0), (0, 1), (1, 2), (2, 3), (3, 4), (4, 4)],
    ]
)
TARGETS: dict[str, np.ndarray] = {
    "crf": TAGS,
    "semi": SEGMENTS,
    "pairs": PAIRS,
    "soft": PAIRS,
    "path": PATHS,
    "series": RNG.normal(size=(2, N, 2)).astype("float32"),
    "tokens": TAGS,
}
# Not those that share everything but a few lines with others, where each is compiled for seconds.
LEFT_OUT = {
    "jax": ("soft", "tokens"),
    "tensorflow": ("soft", "tokens", "pairs", "series", "score", "inner_map", "labels"),
}.get(BACKEND, ())
TRAINED = [name for name in TARGETS if name not in LEFT_OUT]


def loss_of(name):
    return {
        "crf": layers.StructuredNLL,
        "semi": layers.StructuredNLL,
        "pairs": lambda: layers.AlignmentCrossEntropy("pairs"),
        "soft": lambda: layers.AlignmentF1Loss("pairs"),
        "path": layers.AlignmentCrossEntropy,
        "series": layers.SoftDTW,
        "tokens": layers.SoftEditDistance,
    }[name]()


def metrics_of(name):
    """Metrics of an output; one that reads all of it where each is compiled for seconds."""
    metrics: dict[str, Callable] = {
        "crf": lambda: [
            layers.SpanF1(LABELS),
            layers.ViterbiAccuracy(),
            layers.ViterbiSequenceAccuracy(),
        ],
        "semi": lambda: [layers.ViterbiAccuracy(), layers.SpanF1(["O", "X"])],
        "pairs": lambda: [] if COMPILED else [layers.AlignmentF1(reference="pairs")],
        "path": lambda: [layers.AlignmentF1()],
    }
    return metrics[name]()[: 1 if COMPILED else None] if name in metrics else []


def models():
    """A model with all heads, and one that decodes what they return."""
    inputs = [keras.Input((None, 3)), keras.Input((None, 3))]
    masks = [keras.Input((None,), dtype="bool"), keras.Input((None,), dtype="bool")]
    x, y = (layers.AttachMask()(pair) for pair in zip(inputs, masks, strict=True))
    options = {"transition_initializer": keras.initializers.RandomNormal(seed=1)}
    gaps = layers.GapPenalties(-1.0, -0.5, contextual=True, kernel_initializer="ones")
    pairs = layers.Aligner("smith_waterman", gaps=gaps)(x, y)
    heads = {
        "crf": layers.CRF(3, **options)(x),
        "semi": layers.SemiMarkovCRF(2, 3, **options)(x),
        "pairs": pairs,
        "path": layers.Aligner(
            "needleman_wunsch", scoring="bilinear", gaps=layers.GapPenalties(-1.0, None)
        )(x, y),
    }
    others = {
        "soft": keras.layers.Identity()(pairs),
        "series": layers.CRF(2, "marginals", **options)(x),
        "tokens": layers.CRF(3, "marginals", kernel_initializer="random_normal")(x),
    }
    decoded = {
        "tags": layers.StructuredDecoder()(heads["crf"]),
        "marginals": layers.StructuredDecoder("marginals")(heads["crf"]),
        "segments": layers.StructuredDecoder("segments")(heads["semi"]),
        "labels": layers.StructuredDecoder()(heads["semi"]),
        "label_marginals": layers.StructuredDecoder("marginals")(heads["semi"]),
        "map": layers.AlignmentDecoder("map")(heads["pairs"]),
        "inner_map": layers.Aligner("overlap", "map")(x, y),
        "score": layers.AlignmentDecoder("score")(heads["path"]),
        "path": layers.AlignmentDecoder()(heads["path"]),
    }
    inputs = [*inputs, *masks]
    outputs = {name: {**heads, **others}[name] for name in TRAINED}
    decoded = {name: y for name, y in decoded.items() if name not in LEFT_OUT}
    return keras.Model(inputs, outputs), keras.Model(inputs, decoded)


def wide(x, kept, fill, axes=(1,)):
    """`x` with its positions along the axes at the places that are kept."""
    for axis in axes:
        shape = [*x.shape]
        shape[axis] = WIDE
        out = np.full(shape, fill, x.dtype)
        for b, places in enumerate(kept):
            np.moveaxis(out[b], axis - 1, 0)[places] = np.moveaxis(x[b], axis - 1, 0)
        x = out
    return x


def cut(y):
    """What is decoded, without padding behind."""
    return y[(slice(None), *(slice(N if n == WIDE else n) for n in y.shape[1:]))]


def places_of_nodes(path, kept):
    """Counts of consumed tokens as the places after the last of them."""
    ends = np.concatenate([np.zeros((len(kept), 1), int), kept + 1], axis=1)
    found = np.stack([ends[b][np.maximum(nodes, 0)] for b, nodes in enumerate(path)])
    return np.where(path < 0, -1, found)


def batch(kept=None):
    """Inputs and targets: alone, or among positions that hold anything."""
    every = np.ones((2, N), bool)
    if kept is None:
        return [X, Y, every, every], {name: TARGETS[name] for name in TRAINED}
    mask = wide(every, kept, False)
    targets = {
        "crf": wide(TAGS, kept, 99),
        "semi": wide(SEGMENTS, kept, 2),
        "pairs": wide(PAIRS, kept, 1.0, (1, 2)),
        "soft": wide(PAIRS, kept, 1.0, (1, 2)),
        "path": places_of_nodes(PATHS, kept),
        "series": wide(TARGETS["series"], kept, np.nan),
        "tokens": wide(TAGS, kept, -1),
    }
    targets = {name: targets[name] for name in TRAINED}
    return [*(wide(x, kept, np.nan) for x in (X, Y)), mask, mask], targets


class Numbers:
    """Losses, metrics and trained weights of a batch, each time from the same weights."""

    def __init__(self):
        keras.utils.set_random_seed(0)
        self.model, self.decoding = models()
        self.weights = self.model.get_weights()
        self.losses = {name: loss_of(name) for name in TRAINED}
        self.metrics = {name: metrics_of(name) for name in TRAINED}
        if HAS_GRADIENTS:
            self.model.compile(
                keras.optimizers.SGD(0.1),
                self.losses,
                metrics=self.metrics,
                jit_compile=BACKEND == "jax",
            )

    def of(self, kept=None):
        inputs, targets = batch(kept)
        if not HAS_GRADIENTS:
            return self.without_training(self.model(inputs), targets)
        self.model.set_weights(self.weights)
        self.model.reset_metrics()
        logs = self.model.train_on_batch(inputs, targets, return_dict=True)
        return {**logs, **dict(enumerate(self.model.get_weights()))}

    def without_training(self, outputs, targets):
        found = {}
        for name, target in targets.items():
            found[name] = self.losses[name](target, outputs[name])
            for metric in self.metrics[name]:
                metric.reset_state()
                metric.update_state(target, outputs[name])
                found[name, metric.name] = metric.result()
        return found


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
    expected = numbers.decoding.predict_on_batch(batch(KEPT["behind"] if COMPILED else None)[0])
    expected = {name: cut(y) for name, y in expected.items()}
    for kept in KEPT.values():
        inputs = batch(kept)[0]
        found = numbers.decoding.predict_on_batch(inputs)
        for name in {"tags", "labels", "segments"} & found.keys():
            np.testing.assert_array_equal(found[name], wide(expected[name], kept, -1), name)
        for name in {"marginals", "label_marginals", "map", "inner_map"} & found.keys():
            axes = (1, 2) if "map" in name else (1,)
            np.testing.assert_allclose(
                found[name], wide(expected[name], kept, 0.0, axes), atol=1e-5, err_msg=name
            )
        if "score" in found:
            np.testing.assert_allclose(found["score"], expected["score"], rtol=1e-5)
        path = places_of_nodes(expected["path"], kept)[:, : 2 * N + 1]
        np.testing.assert_array_equal(found["path"][:, : 2 * N + 1], path)
        assert (found["path"][:, 2 * N + 1 :] == -1).all()
        packed = numbers.model(inputs)
        mask = layers.StructuredDecoder().compute_mask(packed["crf"])
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(mask), inputs[2])


def test_spans_of_tags_with_a_mask():
    """The Keras mask of a tagger: what is masked out does not cut a span in two."""
    metric = layers.SpanF1(LABELS, from_potentials=False)
    for kept in KEPT.values():
        y_pred = keras.ops.convert_to_tensor(wide(TAGS, kept, 1))
        y_pred = layers.AttachMask()([y_pred, wide(np.ones((2, N), bool), kept, False)])
        metric.reset_state()
        metric.update_state(wide(TAGS, kept, 2), y_pred)
        assert float(metric.result()) == 1
        assert float(metric.target) == 3
