"""Attention by transport: numbers of `ops`, the contract of Keras, and long sequences."""

import warnings

import keras
import numpy as np
import pytest

from keras_struct import ops
from keras_struct.layers.check_layer import CHECKS, check_layer
from keras_struct.layers.sinkhorn_tail_attention import SinkhornTailAttention
from keras_struct.layers.structured_attention import StructuredAttention
from keras_struct.layers.structured_attention_test import numpy, random, right_padded
from keras_struct.layers.transport_map import SinkhornMap
from keras_struct.ops.testing import tried


def test_keras_contract():
    layer = SinkhornTailAttention(
        2,
        3,
        band_width=2,
        base_steps=2,
        tail_steps=1,
        epsilon=0.7,
        learn_epsilon=True,
        dustbin="spoke",
        dustbin_capacity=2.0,
        kl_weights=(None, 2.0),
    )
    report = check_layer(
        layer,
        {"query": random(2, 5, 4), "value": random(2, 4, 4, seed=1)},
        mask={"query": right_padded([5, 2], 5), "value": right_padded([4, 2], 4)},
        checks=tried(CHECKS),
    )
    assert set(report.values()) <= {"passed"} or keras.config.backend() == "numpy", report


def test_equals_the_map_of_stored_scores():
    """Without a band and a dustbin it is `StructuredAttention("sinkhorn")`; with a band, masked."""
    x, value = random(2, 6, 4), random(2, 6, 4, seed=1)
    masks = {"query_mask": right_padded([6, 3], 6), "value_mask": right_padded([6, 4], 6)}
    for band_width in (None, 2):
        tiles = SinkhornTailAttention(2, 3, band_width=band_width, epsilon=0.5)
        stored = StructuredAttention(2, 3, "sinkhorn", temperature=0.5, base_steps=20)
        for layer in (tiles, stored):
            layer.build(x.shape, value.shape)
        stored.set_weights(tiles.get_weights())
        near = abs(np.arange(6)[:, None] - np.arange(6)) <= (band_width or 6)
        got = tiles(x, value, return_attention_scores=True, **masks)
        wanted = stored(
            x,
            value,
            attention_mask=np.broadcast_to(near, (2, 6, 6)),
            return_attention_scores=True,
            **masks,
        )
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_allclose(numpy(a), numpy(b), atol=1e-5)
    np.testing.assert_allclose(numpy(got[0]), numpy(tiles(x, value, **masks)), atol=1e-6)


def test_equals_ops_with_learned_tokens():
    layer = SinkhornTailAttention(2, 3, dustbin="block", dustbin_capacity=3.0, base_steps=4)
    x = random(1, 5, 4)
    output, attention = layer(x, x, return_attention_scores=True)
    tokens = [numpy(token) for token in layer.dustbin_tokens]
    denses = layer._query_dense, layer._key_dense, layer._value_dense
    heads = [numpy(dense(x)) for dense in denses]
    for head in range(2):
        query, key, value = (y[:, :, head].copy() for y in heads)
        bin_query, bin_key, bin_value = (token[head] for token in tokens)
        plan, part = (
            ops.sinkhorn_tail(
                query,
                key,
                values,
                base_steps=4,
                dustbin=ops.Dustbin(bin_query, bin_key, last, (3.0, 3.0), "block"),
            )
            for values, last in ((np.eye(5, dtype="float32")[None], None), (value, bin_value))
        )
        np.testing.assert_allclose(numpy(attention)[:, head], numpy(plan), atol=1e-6)
        kernel = numpy(layer._output_dense.kernel)[head]
        output = numpy(output) - numpy(part) @ kernel
    np.testing.assert_allclose(output, 0.0, atol=1e-5)


def test_plan_of_the_map_is_doubly_stochastic_and_masked():
    scores = random(2, 2, 4, 4)
    scores[:, :, 1, 2] = -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # that masses are not met
        plan = numpy(SinkhornMap()(5 * scores))
    np.testing.assert_allclose(plan.sum(2), 1, atol=1e-4)
    np.testing.assert_allclose(plan.sum(3), 1, atol=1e-3)
    assert not plan[:, :, 1, 2].any()
    alone = numpy(SinkhornMap(base_steps=100)(scores[:1, :, :3, :2]))
    padded = numpy(
        SinkhornMap(base_steps=100)(
            scores,
            key_mask=np.arange(scores.shape[3]) < np.array([[[2]], [[0]]]),
            query_mask=np.arange(scores.shape[2]) < np.array([[[3]], [[4]]]),
        )
    )
    np.testing.assert_allclose(padded[:1, :, :3, :2], alone, atol=1e-5)
    assert not padded[1].any() and not padded[0, :, 3].any()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: SinkhornTailAttention(2, 3, dustbin="yes"), "dustbin='yes'"),
        (lambda: SinkhornTailAttention(2, 3, epsilon=0.0), "epsilon=0.0"),
        (lambda: SinkhornTailAttention(2, 3, dropout=0.1), "dropout=0.1"),
        (lambda: SinkhornTailAttention(2, 3, tail_steps=-1), "tail_steps=-1"),
        (lambda: SinkhornTailAttention(2, 3, gradient="none"), "gradient='none'"),
        (lambda: SinkhornTailAttention(2, 3, kl_weights=(0.0, None)), "kl_weights"),
        (lambda: SinkhornTailAttention(2, 3)(*[random(2, 3, 4, 5)] * 2), "shapes of query"),
        (lambda: StructuredAttention(2, 3, "sinkhorn", temperature=0), "temperature=0"),
        (lambda: SinkhornMap(base_steps=-1), "base_steps=-1"),
    ],
)
def test_user_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
