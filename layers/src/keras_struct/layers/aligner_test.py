"""The aligner: equal to `ops`, trains inside `compile`, decodes, saves and exports."""

import itertools

import keras
import numpy as np
import pytest

from keras_struct import ops
from keras_struct.layers.aligner import Aligner
from keras_struct.layers.alignment_cross_entropy import AlignmentCrossEntropy
from keras_struct.layers.alignment_decoder import AlignmentDecoder
from keras_struct.layers.alignment_f1 import AlignmentF1
from keras_struct.layers.alignment_f1_loss import AlignmentF1Loss
from keras_struct.layers.attach_mask import AttachMask
from keras_struct.layers.check_layer import CHECKS, check_layer
from keras_struct.layers.decoding_model import decoding_model
from keras_struct.layers.gap_penalties import GapPenalties
from keras_struct.layers.packed import pack, unpack
from keras_struct.layers.potentials import ALIGNMENTS, AlignmentPotentials
from keras_struct.layers.structured_attention_test import (
    needs_gradients,
    numpy,
    random,
    right_padded,
)
from keras_struct.ops.testing import tried

X = {"first": random(2, 5, 4), "second": random(2, 4, 4, seed=1)}
MASKS = {"first": right_padded([5, 2], 5), "second": right_padded([4, 3], 4)}
PATH = np.array([[(0, 0), (1, 1), (1, 2), (2, 3)], [(0, 1), (1, 2), (2, 3), (-1, -1)]])


def pairs_of(path, rows, columns):
    """Matrix of the matched pairs of a path."""
    pairs = np.zeros((rows, columns), "float32")
    for (i, j), (k, l) in itertools.pairwise(path):
        if (k - i, l - j) == (1, 1):
            pairs[i, j] = 1
    return pairs


def masked_model(aligner, features=4):
    first, second = keras.Input((None, features)), keras.Input((None, features))
    masks = [keras.Input((None,), dtype="bool") for _ in range(2)]
    states = [AttachMask()(pair) for pair in zip((first, second), masks, strict=True)]
    return keras.Model([first, second, *masks], aligner(*states))


@pytest.mark.parametrize("structure", ALIGNMENTS)
@pytest.mark.parametrize("gap_extend", [-0.3, None])
@pytest.mark.parametrize("adjacent_gaps", [None, "none", "ordered"])
def test_packing_is_lossless(structure, gap_extend, adjacent_gaps):
    """Whatever the structure, eager and compiled, with sizes that are not known."""
    if structure == "saigo_vert" and adjacent_gaps == "none":
        with pytest.raises(ValueError, match="adjacent_gaps='none'"):
            Aligner(structure, adjacent_gaps=adjacent_gaps)
        return
    gaps = GapPenalties(-2.0, gap_extend, contextual=True, kernel_initializer="random_normal")
    aligner = Aligner(structure, gaps=gaps, adjacent_gaps=adjacent_gaps, temperature=0.5)
    packed = aligner(**X, first_mask=MASKS["first"], second_mask=MASKS["second"])
    assert tuple(packed.shape) == tuple(aligner.compute_output_spec(**X).shape)
    unpacked = unpack(packed)
    options = (
        {}
        if adjacent_gaps is None or structure == "saigo_vert"
        else {"adjacent_gaps": adjacent_gaps}
    )
    scores = X["first"] @ X["second"].transpose(0, 2, 1) / 2
    lengths = (np.array([5, 2]), np.array([4, 3]))
    expected = getattr(ops, structure)(
        scores, *gaps(**X), lengths=lengths, temperature=0.5, **options
    )
    actual = unpacked.distribution()
    np.testing.assert_allclose(numpy(actual.value()), numpy(expected.value()), rtol=1e-5)
    np.testing.assert_allclose(numpy(actual.marginals()), numpy(expected.marginals()), atol=1e-5)
    assert [numpy(n).tolist() for n in unpacked.lengths] == [[5, 2], [4, 3]]


@pytest.mark.parametrize("structure", ["smith_waterman", "needleman_wunsch"])
def test_output_modes_agree_with_the_decoder(structure):
    """And with `ops`, in a compiled model, with NaN in the padding."""
    head = Aligner(structure, scoring="bilinear", learn_temperature=True, temperature=2.0)
    model = masked_model(head)
    x = [np.where(MASKS[name][..., None], X[name], np.nan) for name in X]
    feed = [*x, *MASKS.values()]
    packed = model.predict_on_batch(feed)
    expected = unpack(packed).distribution()
    for mode, y in (
        ("path", expected.argmax()),
        ("map", expected.marginals()),
        ("score", expected.value()),
    ):
        layer = Aligner.from_config({**head.get_config(), "output_mode": mode, "name": mode})
        inner = masked_model(layer)
        layer.set_weights(head.get_weights())
        for actual in (inner, decoding_model(model, mode)):
            np.testing.assert_allclose(actual.predict_on_batch(feed), numpy(y), atol=1e-5)
    hard = decoding_model(model, "map", temperature=0).predict_on_batch(feed)
    for b, path in enumerate(numpy(expected.argmax())):
        np.testing.assert_array_equal(hard[b], pairs_of(path, 5, 4))


@pytest.mark.parametrize(
    "structure", [pytest.param("smith_waterman", marks=pytest.mark.compiles_long), "overlap"]
)
def test_keras_contract_of_the_head(structure):
    gaps = GapPenalties(contextual=structure == "overlap", kernel_initializer="random_normal")
    aligner = Aligner(structure, scoring="bilinear", gaps=gaps, learn_temperature=True)
    path = (
        PATH
        if structure == "smith_waterman"
        else np.array(
            [[(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)], [(0, 1), (1, 2), (2, 3), (-1, -1), (-1, -1)]]
        )
    )
    report = check_layer(
        aligner,
        X,
        mask=MASKS,
        loss=AlignmentCrossEntropy(),
        targets=path,
        frozen=["gap_extend", "kernel"] if structure == "overlap" else [],
        checks=tried(CHECKS),
    )
    assert set(report.values()) <= {"passed", report["fit"]}


@pytest.mark.parametrize("mode", ["map", "score", "path"])
def test_keras_contract_of_the_other_modes(mode):
    aligner = Aligner("needleman_wunsch", mode, gaps=GapPenalties(gap_extend=None))
    checks = ["config", "spec", "masks", "mixed_precision", "fit"]
    report = check_layer(aligner, X, mask=MASKS, checks=checks)
    assert report["masks"] == "passed"


@pytest.mark.parametrize("mode", ["map", "score", "path"])
def test_keras_contract_of_the_decoder(mode):
    packed = numpy(pack(AlignmentPotentials(random(2, 3, 4), -3.0, structure="saigo_vert")))
    checks = ["config", "spec", "mixed_precision", "fit"]
    report = check_layer(AlignmentDecoder(mode), packed, dynamic_axes=(9, 10), checks=checks)
    assert report["fit"].startswith("not applicable")


def test_an_empty_sequence():
    """No local alignment: path of -1, map 0, score minus infinity, and an infinite loss."""
    packed = pack(
        AlignmentPotentials(random(1, 3, 4), -3.0, lengths=(np.array([0]), np.array([4])))
    )
    assert (numpy(AlignmentDecoder("path")(packed)) == -1).all()
    assert not numpy(AlignmentDecoder("map")(packed)).any()
    assert numpy(AlignmentDecoder("score")(packed)) == -np.inf
    assert numpy(AlignmentCrossEntropy()(PATH[:1], packed)) == np.inf


@pytest.mark.parametrize("structure", ["smith_waterman", "needleman_wunsch"])
def test_path_loss_is_the_log_probability(structure):
    packed = pack(
        AlignmentPotentials(random(1, 2, 2), -1.0, -0.5, structure=structure, temperature=0.7)
    )
    alignments = unpack(packed).distribution()
    paths = alignments.topk(20).events[:, 0]
    paths = numpy(paths)[numpy(paths)[:, 0, 0] >= 0]
    loss = AlignmentCrossEntropy(reduction=None)
    losses = [float(numpy(loss(path[None], packed))[0]) for path in paths]
    np.testing.assert_allclose(sum(np.exp(-np.array(losses))), 1.0, rtol=1e-5)
    assert len(losses) == {"smith_waterman": 5, "needleman_wunsch": 13}[structure]


def test_pair_loss_by_hand():
    packed = pack(
        AlignmentPotentials(random(2, 5, 4), -1.0, lengths=(np.array([5, 2]), np.array([4, 3])))
    )
    p = numpy(unpack(packed).distribution().marginals()).astype("float64")
    y = np.stack([pairs_of(path, 5, 4) for path in PATH])
    y[1, 3, 3] = 1  # in the padding
    valid = MASKS["first"][:, :, None] & MASKS["second"][:, None]
    cells = -np.where(y == 1, np.log(p + 1e-300), np.log1p(-p))
    expected = np.where(valid, cells, 0).sum((1, 2))
    actual = numpy(AlignmentCrossEntropy("pairs", reduction=None)(y, packed))
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_f1_by_hand():
    """Predicted (0,0), (1,1), (2,2) and (0,1), (1,2); the reference says (0,0), (1,1) and (1,2)."""
    scores = np.full((2, 3, 3), -9.0, "float32")
    scores[0, [0, 1, 2], [0, 1, 2]] = 1.0
    scores[1, [0, 1], [1, 2]] = 1.0
    packed = pack(AlignmentPotentials(scores, -5.0))
    paths = np.array([[(0, 0), (1, 1), (2, 2)], [(1, 1), (2, 2), (2, 2)]])
    paths[1, 2] = -1
    paths[1, :2] = [(1, 2), (2, 3)]
    pairs = np.stack([pairs_of(path, 3, 3) for path in paths])
    expected = {"precision": (3 / 5, 1 / 2), "recall": (1.0, 1.0), "f1": (6 / 8, 2 / 3)}
    for measure, (whole, second) in expected.items():
        reference, y = ("pairs", pairs) if measure == "recall" else ("path", paths)
        metric = AlignmentF1(measure, reference)
        for weights, value in ((None, whole), (None, whole), (np.array([0.0, 2.0]), second)):
            if weights is not None:
                metric.reset_state()
            metric.update_state(y, packed, sample_weight=weights)
            np.testing.assert_allclose(float(metric.result()), value, rtol=1e-6)


def test_f1_loss_is_that_of_the_expected_pairs():
    scores, gap = random(2, 4, 3), -0.7
    packed = pack(AlignmentPotentials(scores, gap, lengths=(np.array([4, 2]), np.array([3, 3]))))
    p = numpy(unpack(packed).distribution().marginals())
    path = np.array([[(0, 0), (1, 1), (2, 1), (3, 2)], [(0, 1), (1, 2), (2, 3), (-1, -1)]])
    pairs = np.stack([pairs_of(nodes, 4, 3) for nodes in path])
    expected = [1 - 2 * (a * b).sum() / (a + b).sum() for a, b in zip(p, pairs, strict=True)]
    pairs[1, 2:] = 1  # in the padding
    for reference, y in (("path", path), ("pairs", pairs)):
        loss = AlignmentF1Loss(reference, reduction=None)(y, packed)
        np.testing.assert_allclose(numpy(loss), expected, rtol=1e-5)
    nothing = pack(AlignmentPotentials(scores, gap, lengths=(np.array([0, 0]), np.array([3, 3]))))
    assert float(AlignmentF1Loss("pairs")(np.zeros((2, 4, 3), "float32"), nothing)) == 0


@needs_gradients
def test_f1_loss_teaches_scores_and_gaps():
    inputs = [keras.Input((None, 4)), keras.Input((None, 4))]
    aligner = Aligner(scoring="bilinear", gaps=GapPenalties(-1.0, -1.0))
    model = keras.Model(inputs, aligner(*inputs))
    before = [numpy(w).copy() for w in model.weights]
    model.compile(keras.optimizers.Adam(0.05), AlignmentF1Loss())
    history = model.fit(list(X.values()), PATH, epochs=8, verbose=0).history["loss"]
    assert history[-1] < history[0] - 0.05
    assert all(np.abs(numpy(w) - x).max() > 0 for w, x in zip(model.weights, before, strict=True))


@needs_gradients
@pytest.mark.compiles_long
def test_fit_learns_the_gaps_and_the_frozen_ones_stay(tmp_path):
    """Copies with two tokens dropped: a gap of -10 never opens, the learned one does."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=(32, 7, 8)).astype("float32")
    second = first[:, [0, 1, 4, 5, 6]]
    second = second + 0.7 * rng.normal(size=second.shape).astype("float32")
    path = [(0, 0), (1, 1), (2, 2), (3, 2), (4, 2), (5, 3), (6, 4), (7, 5)]
    y = np.tile(np.array(path), (32, 1, 1))
    inputs = [keras.Input((None, 8)), keras.Input((None, 8))]
    values = []
    for trainable in (True, False):
        gaps = GapPenalties(-10.0, -10.0, trainable=trainable)
        model = keras.Model(inputs, Aligner("overlap", gaps=gaps)(*inputs))
        model.compile(keras.optimizers.Adam(0.5), AlignmentCrossEntropy(), metrics=[AlignmentF1()])
        model.fit([first, second], y, epochs=20, batch_size=32, verbose=0)
        values.append(model.evaluate([first, second], y, verbose=0, return_dict=True))
        moved = [float(numpy(w)) != -10.0 for w in gaps.weights]
        assert moved == [trainable, trainable]
    assert values[0]["alignment_f1"] > 0.9 > values[1]["alignment_f1"]
    assert values[0]["loss"] < values[1]["loss"]


def test_save_and_load(tmp_path):
    aligner = Aligner(scoring="bilinear", gaps=GapPenalties(contextual=True))
    inputs = [keras.Input((None, 4)), keras.Input((None, 4))]
    model = keras.Model(inputs, aligner(*inputs))
    compile_it = keras.backend.backend() != "numpy"
    if compile_it:
        model.compile(
            "adam", AlignmentCrossEntropy("pairs"), metrics=[AlignmentF1(reference="pairs")]
        )
    x = list(X.values())
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(x)), numpy(model(x)))
    if compile_it:
        loaded.fit(x, np.stack([pairs_of(path, 5, 4) for path in PATH]), verbose=0)
        assert loaded.loss.reference == loaded.metrics[1].metrics[0].reference == "pairs"


def test_float16():
    """Half precision keeps lengths beyond 2,048 and the potentials in float32."""
    n = 2500
    aligner = Aligner(dtype="mixed_float16")
    packed = aligner(random(1, n, 4), random(1, 3, 4), first_mask=right_padded([2499], n))
    assert aligner.compute_dtype == "float16"
    assert keras.backend.standardize_dtype(packed.dtype) == "float32"
    assert numpy(unpack(packed).lengths[0]).tolist() == [2499]
    with pytest.raises(ValueError, match="Received: dtype=float16"):
        AlignmentDecoder()(keras.ops.cast(packed, "float16"))


def test_the_map_goes_on_with_the_mask_of_the_first_sequence():
    aligner = Aligner(output_mode="map")
    model = masked_model(aligner)
    assert model.output._keras_mask is not None


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Aligner("tree"), "structure='tree'"),
        (lambda: Aligner(output_mode="best"), "output_mode='best'"),
        (lambda: Aligner(scoring="cosine"), "scoring='cosine'"),
        (lambda: Aligner(temperature=0), "temperature=0"),
        (lambda: Aligner()(random(2, 5, 4), random(2, 4, 3)), "scoring='dot_product'"),
        (lambda: AlignmentDecoder("tags"), "output_mode='tags'"),
        (lambda: AlignmentCrossEntropy("matrix"), "reference='matrix'"),
        (lambda: AlignmentF1("accuracy"), "measure='accuracy'"),
        (lambda: AlignmentF1Loss("matrix"), "reference='matrix'"),
        (lambda: AlignmentCrossEntropy()(np.ones((2, 5, 4)), np.ones((2, 7, 6))), "a path"),
        (lambda: unpack(np.ones((2, 7), "float32")), r"shape=\(2, 7\)"),
    ],
)
def test_user_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
