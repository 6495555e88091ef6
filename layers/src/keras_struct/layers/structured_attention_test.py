"""Structured attention: equal to Keras for the softmax, to closed forms and enumeration else."""

import itertools
import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_struct.layers.attention_map import (
    LinearChainMap,
    SemiMarkovMap,
    SoftmaxMap,
    SubsetMap,
)
from keras_struct.layers.check_layer import check_layer
from keras_struct.layers.export import export_saved_model
from keras_struct.layers.structured_attention import STRUCTURES, StructuredAttention
from keras_struct.layers.tree_map import TreeMap
from keras_struct.ops.testing import EXPORTS, PLAIN_TENSORFLOW, tried

BACKEND = keras.backend.backend()
needs_gradients = pytest.mark.skipif(BACKEND == "numpy", reason="NumPy has no gradients")
exports = pytest.mark.skipif(
    not EXPORTS, reason="TensorFlow exports from a .keras file, as it does its own, see export_test"
)
OPTIONS: dict[str, dict] = {
    "softmax": {},
    "linear_chain": {"pairwise_initializer": "random_normal"},
    "semi_markov": {"max_length": 2, "length_initializer": "random_normal"},
    "subset": {"k": 2},
}
TREES = [name for name, structure in STRUCTURES.items() if issubclass(structure, TreeMap)]
ALIGNMENTS = [
    name for name, s in STRUCTURES.items() if s.over_pairs and name not in (*TREES, "sinkhorn")
]
SELECTIONS = [name for name, structure in STRUCTURES.items() if not structure.over_pairs]


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def compiled(layer, *args, **kwargs):
    """Outputs of a compiled call of the layer, as arrays."""
    inputs = [keras.Input(x.shape[1:], dtype=str(x.dtype)) for x in args]
    return keras.Model(inputs, layer(*inputs, **kwargs)).predict_on_batch(list(args))


def right_padded(lengths, n):
    return np.arange(n) < np.array(lengths)[:, None]


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"value_dim": 5, "output_shape": 6, "use_bias": False},
        {"use_gate": True},
        pytest.param(
            {"use_gate": True, "sliding_window": 2},
            marks=pytest.mark.skipif(
                "sliding_window" not in keras.layers.MultiHeadAttention(1, 1).get_config(),
                reason="this Keras has no sliding window",
            ),
        ),
    ],
    ids=["plain", "shapes", "gate", "gate and window"],
)
@pytest.mark.parametrize("scores", [True, False])
def test_softmax_equals_multi_head_attention(arguments, scores):
    ours = StructuredAttention(2, 3, structure="softmax", **arguments)
    theirs = keras.layers.MultiHeadAttention(2, 3, **arguments)
    query, value, key = random(2, 4, 6), random(2, 5, 6, seed=1), random(2, 5, 6, seed=2)
    calls: list[dict] = [
        {},
        {"use_causal_mask": True},
        {"attention_mask": np.random.default_rng(0).random((2, 4, 5)) < 0.7},
        {"value_mask": right_padded([5, 3], 5), "key_mask": right_padded([5, 3], 5)},
    ]
    for layer in (ours, theirs):
        layer.build(query.shape, value.shape, key.shape)
    ours.set_weights(theirs.get_weights())
    for call in calls:
        output = ours(query, value, key, return_attention_scores=scores, **call)
        output, attention = output if scores else (output, None)
        expected, map_expected = theirs(query, value, key, return_attention_scores=True, **call)
        np.testing.assert_allclose(numpy(output), numpy(expected), atol=1e-6)
        if scores:
            np.testing.assert_allclose(numpy(attention), numpy(map_expected), atol=1e-6)


def test_softmax_over_another_axis():
    ours = StructuredAttention(2, 3, attention_axes=2)
    theirs = keras.layers.MultiHeadAttention(2, 3, attention_axes=2)
    x = random(2, 3, 4, 6)
    ours(x, x), theirs(x, x)
    ours.set_weights(theirs.get_weights())
    np.testing.assert_allclose(numpy(ours(x, x)), numpy(theirs(x, x)), atol=1e-6)
    chain = StructuredAttention(2, 3, structure="linear_chain", attention_axes=2)
    _, attention = compiled(chain, x, x, return_attention_scores=True)
    assert attention.shape == (2, 3, 2, 4, 4)


def test_softmax_with_temperature():
    scores = random(2, 3, 4, 5)
    expected = numpy(keras.ops.softmax(scores / 0.5))
    np.testing.assert_allclose(compiled(SoftmaxMap(0.5), scores), expected, atol=1e-6)
    warm = StructuredAttention(2, 3, temperature=0.5)
    cold = StructuredAttention(2, 3, temperature=1.0)
    x = random(2, 4, 6)
    warm(x, x), cold(x, x)
    weights = cold.get_weights()
    warm.set_weights(weights)
    weights[0], weights[1] = 2 * weights[0], 2 * weights[1]  # the query and its bias
    cold.set_weights(weights)
    np.testing.assert_allclose(numpy(warm(x, x)), numpy(cold(x, x)), atol=1e-5)


@pytest.mark.parametrize(
    "structure, options", [("linear_chain", {}), ("semi_markov", {"max_length": 5})]
)
def test_without_structure_scores_the_map_is_the_sigmoid(structure, options):
    scores = random(2, 3, 4, 5)
    actual = compiled(STRUCTURES[structure](**options), scores)
    np.testing.assert_allclose(actual, sigmoid(scores), atol=1e-6)


def chain_score(layer, y, s):
    pairwise = numpy(layer.pairwise)[0]
    return s[y == 1].sum() + sum(pairwise[a, b] for a, b in itertools.pairwise(y))


def run_score(layer, y, s):
    lengths = [len(list(run)) for state, run in itertools.groupby(y) if state]
    if max(lengths, default=0) > layer.max_length:
        return -np.inf
    return s[y == 1].sum() + sum(numpy(layer.length_scores)[0, n - 1] for n in lengths)


def subset_score(layer, y, s):
    return s[y == 1].sum() if y.sum() == layer.k else -np.inf


@pytest.mark.parametrize(
    "layer, score",
    [
        (LinearChainMap(0.7, pairwise_initializer="random_normal"), chain_score),
        (SemiMarkovMap(2, 0.7, length_initializer="random_normal"), run_score),
        (SubsetMap(2, 0.7), subset_score),
    ],
    ids=["linear_chain", "semi_markov", "subset"],
)
def test_maps_equal_enumeration(layer, score):
    n = 5
    scores = random(1, 1, n)
    actual = numpy(layer(scores))[0, 0]
    selections = np.array(list(itertools.product([0, 1], repeat=n)))
    totals = np.array([score(layer, y, scores[0, 0]) for y in selections]) / 0.7
    weights = np.exp(totals - totals.max())
    np.testing.assert_allclose(actual, weights @ selections / weights.sum(), atol=1e-5)


@pytest.mark.parametrize("structure", [s for s in STRUCTURES if s != "sinkhorn"])
def test_temperature_zero_is_the_best_structure(structure):
    layer = StructuredAttention(2, 3, structure, temperature=0, **OPTIONS.get(structure, {}))
    x = random(1, 4, 6)
    _, attention = compiled(layer, x, x, return_attention_scores=True)
    assert set(np.unique(attention)) <= {0.0, 1.0}
    if structure in ("softmax", "monotonic"):
        assert (attention.sum(-1) == 1).all()
    if structure == "subset":
        assert (attention.sum(-1) == 2).all()


@pytest.mark.parametrize("structure", SELECTIONS[1:])
def test_causal_and_padded_structures_end_early(structure):
    """Query t with a causal mask sees what it would see if there were t + 1 keys."""
    layer = StructuredAttention(2, 3, structure, **OPTIONS[structure])
    x, scores = random(1, 4, 6), {"return_attention_scores": True}
    output, attention = compiled(layer, x, x, use_causal_mask=True, **scores)
    alone, part = compiled(layer, x[:, 2:3], x[:, :3], **scores)
    np.testing.assert_allclose(output[:, 2:3], alone, atol=1e-5)
    np.testing.assert_allclose(attention[:, :, 2, :3], part[:, :, 0], atol=1e-5)
    assert not np.triu(attention, 1).any()


@pytest.mark.parametrize("structure", list(STRUCTURES)[1:])
def test_attention_mask_forbids(structure):
    layer = StructuredAttention(2, 3, structure, **OPTIONS.get(structure, {}))
    x = random(2, 4, 6)
    mask = np.random.default_rng(0).random((2, 4, 4)) < 0.6
    mask[0, 0] = False  # A query that may attend to nothing.
    _, attention = compiled(layer, x, x, attention_mask=mask, return_attention_scores=True)
    assert not attention.transpose(0, 2, 3, 1)[~mask].any()
    assert np.isfinite(attention).all()
    if structure == "subset":
        expected = np.minimum(2, mask.sum(-1))[:, None].repeat(2, 1)
        np.testing.assert_allclose(attention.sum(-1), expected, atol=1e-5)


def test_linear_chain_goes_on_past_a_forbidden_key():
    layer = LinearChainMap(pairwise_initializer="random_normal")
    scores = random(1, 1, 3)
    scores[..., 1] = -np.inf
    actual = numpy(layer(scores))[0, 0]
    pairwise = numpy(layer.pairwise)[0]
    weight = {
        (a, b): np.exp(a * scores[0, 0, 0] + b * scores[0, 0, 2] + pairwise[a, 0] + pairwise[0, b])
        for a in (0, 1)
        for b in (0, 1)
    }
    total = sum(weight.values())
    expected = [(weight[1, 0] + weight[1, 1]) / total, 0.0, (weight[0, 1] + weight[1, 1]) / total]
    np.testing.assert_allclose(actual, expected, atol=1e-5)


# All alignments are one program.
LONG = [pytest.param(name, marks=pytest.mark.compiles_long) for name in ALIGNMENTS[1:]]


@pytest.mark.parametrize("structure", [*SELECTIONS, ALIGNMENTS[0], *LONG, "sinkhorn"])
def test_keras_contract(structure):
    options = OPTIONS.get(structure, {})
    layer = StructuredAttention(2, 3, structure, learn_temperature=True, **options)
    x = random(2, 5, 4)
    value = random(2, 4, 4, seed=1)
    masks = {"query": right_padded([5, 2], 5), "value": right_padded([4, 2], 4)}
    checks = ["config", "spec", "masks", "mixed_precision", "fit"]
    report = check_layer(
        layer,
        {"query": x, "value": value},
        mask=masks,
        # A key bias moves all scores of a query, to which maps with rows of one sum are blind.
        frozen=["bias"] if structure in ("softmax", "subset", "monotonic", "sinkhorn") else [],
        checks=tried([*checks, "reload"] if structure in ("linear_chain", "overlap") else checks),
    )
    assert report["masks"] == report["config"] == "passed"


@needs_gradients
def test_structure_parameters_learn_unless_frozen():
    x = keras.Input((None, 4))
    maps = [LinearChainMap(trainable=free, learn_temperature=True) for free in (True, False)]
    layers = [StructuredAttention(2, 3, structure=structure) for structure in maps]
    model = keras.Model(x, keras.layers.add([layer(x, x) for layer in layers]))
    model.compile(keras.optimizers.Adam(0.1), "mse")
    before = [[np.array(numpy(w)) for w in structure.weights] for structure in maps]
    model.fit(random(2, 5, 4), random(2, 5, 4, seed=1), verbose=0)
    for structure, values in zip(maps, before, strict=True):
        assert [w.name for w in structure.weights] == ["log_temperature", "pairwise"]
        for old, weight in zip(values, structure.weights, strict=True):
            assert (numpy(weight) != old).any() == structure.trainable, weight.name


def test_dropout_acts_on_the_map_in_training_only():
    layer = StructuredAttention(1, 2, structure=Uniform(), dropout=0.5, seed=0)
    x = random(1, 6, 4)
    still, again = numpy(layer(x, x)), numpy(layer(x, x))
    np.testing.assert_array_equal(still, again)
    assert (numpy(layer(x, x, training=True)) != still).any()


def test_a_layer_of_the_user_as_structure():
    layer = StructuredAttention(2, 3, structure=Uniform())
    x = random(2, 4, 6)
    _, attention = layer(x, x, return_attention_scores=True)
    np.testing.assert_allclose(numpy(attention), 0.25)
    again = StructuredAttention.from_config(layer.get_config())
    assert isinstance(again.structure, Uniform)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_masked_position_is_no_part_of_the_structure(structure):
    """Front padding and a hole: as the same sequence without them."""
    layer = StructuredAttention(2, 3, structure, **OPTIONS.get(structure, {}))
    x = random(1, 4, 5)
    alone, expected = (numpy(y) for y in layer(x, x, return_attention_scores=True))
    kept = np.array([2, 3, 5, 6])
    wide = random(1, 7, 5, seed=3)
    wide[:, kept] = x
    mask = np.isin(np.arange(7), kept)[None]
    masks = {"query_mask": mask, "value_mask": mask, "key_mask": mask}
    output, attention = (numpy(y) for y in layer(wide, wide, **masks, return_attention_scores=True))
    np.testing.assert_allclose(output[:, kept], alone, atol=1e-5)
    np.testing.assert_allclose(attention[:, :, kept][..., kept], expected, atol=1e-5)
    assert not attention[:, :, kept][..., ~mask[0]].any()


@pytest.mark.parametrize("structure", [s for s in STRUCTURES if s != "softmax"])
def test_padding_in_an_attention_mask_is_padding(structure):
    """By a mask of keys alone, by one of pairs, and by Keras masks."""
    layer = StructuredAttention(2, 3, structure, **OPTIONS.get(structure, {}))
    x = random(2, 6, 5)
    pad = right_padded([4, 6], 6)
    masks = {"query_mask": pad, "value_mask": pad, "key_mask": pad}
    _, expected = layer(x, x, **masks, return_attention_scores=True)
    expected = numpy(expected)[0, :, :4]
    for mask in (pad[:, None], pad[:, None] & pad[:, :, None]):
        _, found = layer(x, x, attention_mask=mask, return_attention_scores=True)
        np.testing.assert_allclose(numpy(found)[0, :, :4], expected, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("structure", ["linear_chain", "semi_markov", "smith_waterman"])
def test_weights_in_half_precision(structure, dtype):
    x = random(1, 4, 5)
    exact = StructuredAttention(2, 3, structure, **OPTIONS.get(structure, {}))
    layer = StructuredAttention(2, 3, structure, dtype=dtype, **OPTIONS.get(structure, {}))
    expected = exact(x, x)
    layer(x, x)
    layer.set_weights(exact.get_weights())
    found = keras.ops.cast(layer(x, x), "float32")
    np.testing.assert_allclose(numpy(found), numpy(expected), atol=0.1)


@keras.saving.register_keras_serializable("keras_struct_test")
class Uniform(keras.layers.Layer):
    def call(self, scores, key_mask=None):
        return keras.ops.ones_like(scores) / keras.ops.shape(scores)[-1]


LOAD = """
import json, sys
import numpy as np
import tensorflow as tf
module = tf.saved_model.load(sys.argv[1])
x = np.random.default_rng(1).normal(size=(3, 7, 4)).astype("float32")
print(json.dumps([y.numpy().tolist() for y in module.serve(x)]))
"""


@exports
def test_saved_model_with_another_batch_and_length(tmp_path):
    x = keras.Input((None, 4))
    layers = [StructuredAttention(2, 3, s, **OPTIONS[s]) for s in SELECTIONS]
    model = keras.Model(x, [layer(x, x, use_causal_mask=True) for layer in layers])
    model.predict_on_batch(random(2, 5, 4))
    path = export_saved_model(model, tmp_path / "attention")
    command = [sys.executable, "-c", LOAD, str(path)]
    child = subprocess.run(command, env=PLAIN_TENSORFLOW, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr[-3000:]
    expected = model.predict_on_batch(random(3, 7, 4, seed=1))
    for actual, y in zip(json.loads(child.stdout), expected, strict=True):
        np.testing.assert_allclose(actual, y, atol=1e-5)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: StructuredAttention(2, 3, "tree"), "structure='tree'"),
        (lambda: StructuredAttention(2, 3, SubsetMap(2), temperature=2.0), "temperature beside"),
        (lambda: StructuredAttention(2, 3, temperature=-1.0), "temperature=-1.0"),
        (lambda: SubsetMap(0), "k=0"),
        (lambda: SemiMarkovMap(0), "max_length=0"),
        (lambda: SoftmaxMap(0, learn_temperature=True), "learn_temperature=True"),
    ],
)
def test_user_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_several_attention_axes():
    x = random(2, 3, 4, 6)
    with pytest.raises(ValueError, match="attention_axes="):
        StructuredAttention(2, 3, "linear_chain", attention_axes=(1, 2))(x, x)
