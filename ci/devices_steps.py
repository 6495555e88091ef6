"""Small models with every layer and loss, and what they are trained on, for `devices_run.py`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_struct import layers, parsers

BATCH, LENGTH, OTHER, WORDS, FEATURES, TAGS, LABELS = 16, 6, 5, 24, 8, 6, 3
ALIGNERS = ("smith_waterman", "needleman_wunsch", "overlap", "saigo_vert")
MAPS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "linear_chain": {},
    "semi_markov": {"max_length": 3},
    "subset": {"k": 2},
    "smith_waterman": {"gap_open": -1.0},
    "needleman_wunsch": {"gap_open": -1.0},
    "overlap": {"gap_open": -1.0},
    "dtw": {},
    "monotonic": {},
    "sinkhorn": {},
    "cky": {},
    "eisner": {},
    "spanning_tree": {},
}
READOUTS = ("argmax_st", "perturbed", "imle", "sparse")


class Step(NamedTuple):
    """A model that is trained.

    Attributes:
        model: Function to a compiled model.
        inputs: Function to its inputs.
        targets: Function to its targets.
        weights: Function to weights of the examples or tokens, or None.
    """

    model: Callable[[], Any]
    inputs: Callable[[], Any]
    targets: Callable[[], Any]
    weights: Callable[[], Any] | None = None


def _rng():
    return np.random.default_rng(0)


def _lengths(length=LENGTH):
    """The same in each half of a batch: TensorFlow takes the mean of the means of devices, which
    with other numbers of tokens is not the mean over all of them."""
    return np.tile(_rng().integers(2, length + 1, BATCH // 2), 4)


def words(length=LENGTH):
    """Numbers of words, 0 for padding."""
    found = _rng().integers(1, WORDS, (2 * BATCH, length))
    return np.where(np.arange(length) < _lengths(length)[:, None], found, 0)


def pairs_of_words():
    return [words(), words(OTHER)]


def tags():
    return _rng().integers(0, TAGS, (2 * BATCH, LENGTH))


def some_tags():
    return np.where(_rng().random((2 * BATCH, LENGTH)) < 0.3, -100, tags())


def some_first_tags():
    """Of the scheme, those that may follow any other, and some unknown."""
    return np.where(np.isin(some_tags(), (2, 4)), 0, some_tags())


def token_weights():
    return _rng().integers(0, 3, (2 * BATCH, LENGTH)).astype("float32")


def example_weights():
    return _rng().integers(0, 3, 2 * BATCH).astype("float32")


def segments():
    """Pairs of one token and one of two."""
    found = np.full((2 * BATCH, LENGTH, 2), -1)
    for row, n in zip(found, _lengths(), strict=True):
        for start in range(0, n, 2):
            row[start] = start % LABELS, min(2, n - start)
    return found


def matches():
    first, second = pairs_of_words()
    return ((first[:, :, None] == second[:, None]) & (first[:, :, None] > 0)).astype("float32")


def paths():
    """Each token with its fellow of the other sequence, then gaps: nodes of a global alignment."""
    found = np.full((2 * BATCH, LENGTH + OTHER + 1, 2), -1)
    for row, n, m in zip(found, _lengths(), _lengths(OTHER), strict=True):
        nodes = [(min(t, n), min(t, m)) for t in range(max(n, m) + 1)]
        row[: len(nodes)] = nodes
    return found


def local_paths():
    found = np.full((2 * BATCH, LENGTH + OTHER + 1, 2), -1)
    found[:, :3] = [(0, 0), (1, 1), (2, 2)]
    return found


def symbols():
    return _rng().integers(0, TAGS, (2 * BATCH, 3))


def series():
    return _rng().normal(size=(2 * BATCH, OTHER, FEATURES)).astype("float32")


def states():
    return _rng().normal(size=(2 * BATCH, LENGTH, FEATURES)).astype("float32")


def heads():
    """Each word depends on the one before it."""
    found = np.where(words() > 0, np.arange(LENGTH), -1)
    return np.stack([found, np.where(found >= 0, np.arange(LENGTH) % LABELS, -1)], axis=-1)


def some_heads():
    found = heads()
    found[::2, 1] = -100
    return found


def spans():
    """Trees that branch to the right."""
    found = np.full((2 * BATCH, 2 * LENGTH - 1, 3), -1)
    for row, n in zip(found, _lengths(), strict=True):
        row[: 2 * n - 1] = [(i, n, 1) for i in range(n - 1)] + [(i, i + 1, 0) for i in range(n)]
    return found


def compiled(inputs, outputs, loss, metrics=(), weighted=False):
    model = keras.Model(inputs, outputs)
    named = {"weighted_metrics" if weighted else "metrics": list(metrics)}
    model.compile(keras.optimizers.SGD(0.05), loss, **named)
    return model


def tagger(head, loss, *metrics, weighted=False):
    def model():
        x = keras.Input((LENGTH,), dtype="int32")
        embedded = keras.layers.Embedding(WORDS, FEATURES, mask_zero=True)(x)
        made = [metric() for metric in metrics]
        return compiled(x, head()(embedded), loss(), made, weighted)

    return model


def pairs(structure, loss, *metrics, **options):
    def model():
        x = [keras.Input((n,), dtype="int32") for n in (LENGTH, OTHER)]
        embed = keras.layers.Embedding(WORDS, FEATURES, mask_zero=True)
        gaps = layers.GapPenalties(contextual=True)
        head = layers.Aligner(structure, scoring="bilinear", gaps=gaps, **options)
        return compiled(x, head(*map(embed, x)), loss(), [metric() for metric in metrics])

    return model


def attention(layer):
    def model():
        x = keras.Input((LENGTH,), dtype="int32")
        states = keras.layers.Embedding(WORDS, FEATURES, mask_zero=True)(x)
        return compiled(x, layer()(states, states), "mse")

    return model


def sequences(units, loss):
    def model():
        x = keras.Input((LENGTH, FEATURES))
        return compiled(x, keras.layers.Dense(units)(x), loss())

    return model


def mapped(structure, **options):
    return lambda: layers.StructuredAttention(2, 4, structure, seed=1, **options)


def inner(layer):
    """A head as an inner layer: its marginals."""

    def model():
        x = keras.Input((LENGTH,), dtype="int32")
        states = keras.layers.Embedding(WORDS, FEATURES, mask_zero=True)(x)
        return compiled(x, keras.layers.Dense(FEATURES)(layer()(states)), "mse")

    return model


def crf(**options):
    return lambda: layers.CRF(TAGS, **options)


def semi_markov(**options):
    return lambda: layers.SemiMarkovCRF(LABELS, 3, **options)


def tree(head, loss, *metrics):
    return tagger(lambda: head(LABELS), loss, *metrics)


def transport(**options):
    return lambda: layers.SinkhornTailAttention(2, 4, **options)


def weighed():
    return layers.StructuredNLL(class_weights={1: 2.0})


def steps() -> dict[str, Step]:
    """All of them by name."""
    names = ["O", "B-A", "I-A", "B-B", "I-B", "B-C"]
    nll, f1 = layers.StructuredNLL, lambda: layers.SpanF1(names)
    scores = [layers.ViterbiAccuracy, layers.ViterbiSequenceAccuracy, f1]
    ctc = tagger(
        lambda: layers.CTC(TAGS), lambda: layers.CTCLoss(zero_infinity=True), layers.LabelErrorRate
    )
    attachment = parsers.AttachmentScore
    found = {
        "CRF, StructuredNLL, metrics": Step(tagger(crf(), nll, *scores), words, tags),
        "CRF, unknown tags": Step(tagger(crf(), nll), words, some_tags),
        "CRF, weights of tokens": Step(
            tagger(crf(), weighed, layers.ViterbiAccuracy, weighted=True),
            words,
            tags,
            token_weights,
        ),
        "CRF, constraints": Step(
            tagger(crf(constraints=layers.tag_constraints(names)), nll),
            words,
            some_first_tags,
        ),
        "CRF, marginals": Step(inner(crf(output_mode="marginals")), words, states),
        "SemiMarkovCRF, StructuredNLL": Step(
            tagger(semi_markov(), nll, lambda: layers.SpanF1(["O", "A", "B"])), words, segments
        ),
        "SemiMarkovCRF, marginals": Step(
            inner(semi_markov(output_mode="marginals")), words, states
        ),
        "CTC, CTCLoss, LabelErrorRate": Step(ctc, words, symbols),
    }
    for structure in ALIGNERS:
        path = local_paths if structure in ("smith_waterman", "saigo_vert") else paths
        cross = layers.AlignmentCrossEntropy
        found[f"Aligner {structure}, AlignmentCrossEntropy"] = Step(
            pairs(structure, cross, layers.AlignmentF1), pairs_of_words, path
        )
    for loss in (layers.AlignmentCrossEntropy, layers.AlignmentF1Loss):
        found[f"Aligner, {loss.__name__} of pairs"] = Step(
            pairs("smith_waterman", lambda loss=loss: loss("pairs"), learn_temperature=True),
            pairs_of_words,
            matches,
        )
    found |= {
        "SoftDTW": Step(sequences(FEATURES, layers.SoftDTW), states, series, example_weights),
        "SoftDTW, divergence": Step(
            sequences(FEATURES, lambda: layers.SoftDTW(divergence=True, band=3)), states, series
        ),
        "SoftEditDistance": Step(
            sequences(TAGS, lambda: layers.SoftEditDistance(from_logits=True)), states, symbols
        ),
        "EisnerParser, TreeNLL": Step(
            tree(parsers.EisnerParser, parsers.TreeNLL, attachment), words, heads
        ),
        "EisnerParser, unknown heads": Step(
            tree(parsers.EisnerParser, parsers.TreeNLL), words, some_heads
        ),
        "SpanningTreeParser, TreeNLL": Step(
            tree(parsers.SpanningTreeParser, parsers.TreeNLL, attachment), words, heads
        ),
        "CKYParser, TreeNLL": Step(tree(parsers.CKYParser, parsers.TreeNLL), words, spans),
    }
    for head, target in (
        (parsers.EisnerParser, heads),
        (parsers.SpanningTreeParser, heads),
        (parsers.CKYParser, spans),
    ):
        for other in (parsers.TreeMaxMargin, parsers.LocalCrossEntropy):
            found[f"{head.__name__}, {other.__name__}"] = Step(tree(head, other), words, target)
    for name, options in MAPS.items():
        layer = mapped(name, learn_temperature=True, **options)
        found[f"StructuredAttention {name}"] = Step(attention(layer), words, states)
    for readout in READOUTS:
        for name in ("softmax", "linear_chain", "smith_waterman", "eisner"):
            layer = mapped(name, readout=readout, **MAPS[name])
            found[f"StructuredAttention {name}, {readout}"] = Step(attention(layer), words, states)
    variants: dict[str, dict[str, Any]] = {
        "band": {"band_width": 2, "learn_epsilon": True},
        "dustbin": {"dustbin": "spoke", "kl_weights": (None, 2.0)},
        "unrolled": {"gradient": "unrolled"},
        "implicit": {"gradient": "implicit"},
    }
    for name, options in variants.items():
        found[f"SinkhornTailAttention, {name}"] = Step(
            attention(transport(**options)), words, states
        )
    return found
