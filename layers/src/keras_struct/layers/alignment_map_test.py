"""Alignments as attention maps: the marginals of `ops`, with masks, learned gaps and no NaN."""

import keras
import numpy as np
import pytest

from keras_struct import ops
from keras_struct.layers.alignment_map import DTWMap, NeedlemanWunschMap, SmithWatermanMap
from keras_struct.layers.check_layer import check_layer
from keras_struct.layers.structured_attention import STRUCTURES, StructuredAttention
from keras_struct.layers.structured_attention_test import (
    ALIGNMENTS,
    exports,
    needs_gradients,
    numpy,
    random,
    right_padded,
)


@pytest.mark.parametrize("structure", ALIGNMENTS)
def test_maps_equal_the_marginals_of_ops(structure):
    """Of each head alone: its gaps, its temperature, the lengths of its example."""
    scores, lengths = random(2, 2, 5, 4), np.array([[5, 4], [3, 2]])
    layer = STRUCTURES[structure](temperature=0.7)
    queries, keys = np.arange(5) < lengths[:, :1], np.arange(4) < lengths[:, 1:]
    actual = numpy(layer(scores, key_mask=keys[:, None], query_mask=queries[:, None]))
    for b, h in np.ndindex(2, 2):
        t, s = lengths[b]
        x, gaps = scores[b, h, :t, :s], (-3.0, -0.3)
        if structure == "dtw":
            expected = ops.dtw(-x, temperature=0.7)
        elif structure == "monotonic":
            expected = ops.monotonic_alignment(x, temperature=0.7)
        else:
            expected = getattr(ops, structure)(x, *gaps, temperature=0.7)
        np.testing.assert_allclose(actual[b, h, :t, :s], numpy(expected.marginals()), atol=1e-5)
        assert not actual[b, h, t:].any() and not actual[b, h, :, s:].any()


def test_each_head_has_gaps_of_its_own():
    layer = NeedlemanWunschMap()
    layer.build((None, 2, None, None))
    layer.set_weights([np.array([-1.0, -2.0]), np.array([-0.5, -0.1])])
    scores = random(1, 2, 3, 4)
    actual = numpy(layer(scores))
    for h, gaps in enumerate([(-1.0, -0.5), (-2.0, -0.1)]):
        expected = numpy(ops.needleman_wunsch(scores[0, h], *gaps).marginals())
        np.testing.assert_allclose(actual[0, h], expected, atol=1e-5)


def test_options_of_the_structures():
    scores = random(1, 1, 6, 6)
    linear = SmithWatermanMap(gap_open=-1.0, gap_extend=None, adjacent_gaps="none")
    expected = ops.smith_waterman(scores, -1.0, adjacent_gaps="none").marginals()
    np.testing.assert_allclose(numpy(linear(scores)), numpy(expected), atol=1e-5)
    assert [w.name for w in linear.weights] == ["gap_open"]
    banded = numpy(DTWMap(band=1)(scores))
    assert not np.triu(banded, 2).any() and not np.tril(banded, -2).any() and banded.any()


@pytest.mark.parametrize("structure", ALIGNMENTS)
def test_without_any_alignment_the_map_is_zero(structure):
    """An empty sequence; fewer queries than keys, for monotonic; everything forbidden."""
    scores = random(3, 2, 2, 3)
    scores[2] = -np.inf
    queries, keys = np.array([[0], [2], [2]]) > np.arange(2), np.ones((3, 3), bool)
    layer = STRUCTURES[structure](learn_temperature=True)
    attention = numpy(layer(scores, key_mask=keys[:, None], query_mask=queries[:, None]))
    assert not attention[0].any()
    assert attention[1].any() == (structure != "monotonic")
    # A global or overlap alignment without a matched pair.
    assert not attention[2].any()
    assert np.isfinite(attention).all()


@pytest.mark.parametrize("structure", ALIGNMENTS)
def test_a_causal_mask_is_refused(structure):
    x = random(2, 4, 6)
    with pytest.raises(ValueError, match="use_causal_mask=True"):
        StructuredAttention(2, 3, structure)(x, x, use_causal_mask=True)


@needs_gradients
def test_gaps_and_temperature_learn_unless_frozen():
    x = keras.Input((None, 4))
    maps = [SmithWatermanMap(trainable=free, learn_temperature=True) for free in (True, False)]
    layers = [StructuredAttention(2, 3, structure=structure) for structure in maps]
    model = keras.Model(x, keras.layers.add([layer(x, x) for layer in layers]))
    model.compile(keras.optimizers.Adam(0.1), "mse")
    before = [[np.array(numpy(w)) for w in structure.weights] for structure in maps]
    model.fit(random(2, 5, 4), random(2, 5, 4, seed=1), verbose=0)
    for structure, values in zip(maps, before, strict=True):
        names = [w.name for w in structure.weights]
        assert names == ["log_temperature", "gap_open", "gap_extend"]
        for old, weight in zip(values, structure.weights, strict=True):
            assert (numpy(weight) != old).any() == structure.trainable, weight.name


@exports
@pytest.mark.compiles_long
def test_saved_model_with_another_batch_and_two_other_lengths():
    inputs = {"query": random(2, 5, 4), "value": random(2, 4, 4, seed=1)}
    masks = {"query": right_padded([5, 2], 5), "value": right_padded([4, 2], 4)}
    report = check_layer(Several(), inputs, mask=masks, checks=["saved_model"])
    assert report["saved_model"] == "passed"


@keras.saving.register_keras_serializable("keras_struct_test")
class Several(keras.layers.Layer):
    """All alignments at once: every export takes seconds."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.attend = [StructuredAttention(2, 3, s) for s in ALIGNMENTS]

    def build(self, query_shape, value_shape):
        for layer in self.attend:
            layer.build(query_shape, value_shape)

    def call(self, query, value, query_mask=None, value_mask=None):
        masks = {"query_mask": query_mask, "value_mask": value_mask}
        return keras.ops.stack([layer(query, value, **masks) for layer in self.attend], axis=2)

    def compute_output_spec(self, query, value, query_mask=None, value_mask=None):
        batch, n, features = query.shape
        return keras.KerasTensor((batch, n, len(self.attend), features), self.compute_dtype)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: SmithWatermanMap(gap_open=float("nan")), "gap_open=nan"),
        (lambda: SmithWatermanMap(adjacent_gaps="both"), "adjacent_gaps='both'"),
        (lambda: DTWMap(band=-1), "band=-1"),
    ],
)
def test_user_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
