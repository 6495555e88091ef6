"""Trees as attention maps: the marginals of `ops`, with masks and no NaN."""

import keras
import numpy as np
import pytest

from keras_struct import ops
from keras_struct.layers.check_layer import check_layer
from keras_struct.layers.structured_attention import STRUCTURES, StructuredAttention
from keras_struct.layers.structured_attention_test import (
    TREES,
    exports,
    numpy,
    random,
    right_padded,
)
from keras_struct.layers.tree_map import EisnerMap


@pytest.mark.parametrize("structure", TREES)
def test_maps_equal_the_marginals_of_ops(structure):
    """Of each head alone, at its length: the shorter of queries and keys."""
    scores, lengths = random(2, 2, 4, 4), np.array([[4], [3]])
    layer = STRUCTURES[structure](temperature=0.7)
    mask = np.arange(4) < lengths
    actual = numpy(layer(scores, key_mask=mask[:, None], query_mask=np.ones((2, 1, 4), bool)))
    for b, h in np.ndindex(2, 2):
        n = lengths[b, 0]
        x = scores[b, h, :n, :n]
        if structure == "cky":
            x = x + x.T - np.diag(np.diag(x))
            spans = numpy(ops.cky(x, temperature=0.7).marginals())
            expected = spans + spans.T - np.diag(np.diag(spans))
        else:
            expected = numpy(getattr(ops, structure)(x, temperature=0.7).marginals())
            np.testing.assert_allclose(actual[b, h, :n].sum(-1), 1.0, rtol=1e-5)
        np.testing.assert_allclose(actual[b, h, :n, :n], expected, atol=1e-5)
        assert not actual[b, h, n:].any() and not actual[b, h, :, n:].any()


def test_several_roots():
    scores = random(1, 1, 3, 3)
    actual = numpy(EisnerMap(single_root=False)(scores))
    expected = numpy(ops.eisner(scores, single_root=False).marginals())
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    assert np.trace(actual[0, 0]) > 1.01


@pytest.mark.parametrize("structure", TREES)
def test_without_any_tree_the_map_is_zero(structure):
    """An empty sequence; everything forbidden."""
    scores = random(2, 2, 3, 3)
    scores[1] = -np.inf
    mask = np.arange(3) < np.array([[0], [3]])
    attention = numpy(STRUCTURES[structure](learn_temperature=True)(scores, mask[:, None]))
    assert not attention.any()


@pytest.mark.parametrize("structure", TREES)
def test_keras_contract(structure):
    layer = StructuredAttention(2, 3, structure, learn_temperature=True)
    x, mask = random(2, 4, 5), right_padded([4, 2], 4)
    report = check_layer(
        layer,
        {"query": x, "value": x},
        mask={"query": mask, "value": mask},
        # A key bias moves all scores of a query, to which maps with rows of one sum are blind.
        frozen=[] if structure == "cky" else ["bias"],
        checks=["config", "spec", "masks", "mixed_precision", "fit"],
    )
    assert report["masks"] == report["config"] == "passed"


@keras.saving.register_keras_serializable("keras_struct_test")
class Trees(keras.layers.Layer):
    """All trees at once: every export takes seconds."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.attend = [StructuredAttention(2, 3, structure) for structure in TREES]

    def build(self, input_shape):
        for layer in self.attend:
            layer.build(input_shape, input_shape)

    def call(self, x, mask=None):
        masks = {"query_mask": mask, "value_mask": mask}
        return keras.ops.stack([layer(x, x, **masks) for layer in self.attend], axis=2)

    def compute_output_spec(self, x, mask=None):
        batch, n, features = x.shape
        return keras.KerasTensor((batch, n, len(self.attend), features), self.compute_dtype)


@exports
@pytest.mark.compiles_long
def test_saved_model_with_another_batch_and_length():
    report = check_layer(
        Trees(), random(2, 4, 5), mask=right_padded([4, 2], 4), checks=["saved_model"]
    )
    assert report["saved_model"] == "passed"


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: StructuredAttention(2, 3, "cky")(x, x[:, :3]), "4 queries and 3 keys"),
        (lambda x: StructuredAttention(2, 3, "cky")(x, x, use_causal_mask=True), "causal"),
        (lambda x: EisnerMap(single_root=None), "single_root=None"),
    ],
)
def test_user_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(random(2, 4, 5))
