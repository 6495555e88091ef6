"""Soft edit distance as a loss: the classical one at temperature 0, enumeration above."""

import keras
import numpy as np
import pytest

from keras_struct.layers.soft_edit_distance import SoftEditDistance
from keras_struct.layers.structured_attention_test import needs_gradients, numpy, random

TOKENS = 4


def strings(seed, n, longest):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, n)
    tokens = rng.integers(0, TOKENS, (n, longest))
    return np.where(np.arange(longest) < lengths[:, None], tokens, -1)


def test_one_hot_at_temperature_zero_is_the_levenshtein_distance():
    from rapidfuzz.distance import Levenshtein

    x, y = strings(0, 20, 6), strings(1, 20, 5)
    one_hot = np.eye(TOKENS, dtype="float32")[y] * (y >= 0)[..., None]
    loss = SoftEditDistance(2.0, 1.0, 3.0, temperature=0, reduction=None)
    plain = [[row[row >= 0].tolist() for row in z] for z in (x, y)]
    expected = [Levenshtein.distance(a, b, weights=(3, 1, 2)) for a, b in zip(*plain, strict=True)]
    assert numpy(loss(x, keras.layers.Masking()(one_hot))).tolist() == expected


def test_expected_costs():
    """One target token and one position: substitution, or deletion and insertion in two orders."""
    p = np.array([[[0.7, 0.1, 0.1, 0.1]]], "float32")
    loss = SoftEditDistance(temperature=0.5)
    costs = np.array([0.3, 2.0, 2.0])
    expected = -0.5 * np.log(np.exp(-costs / 0.5).sum())
    np.testing.assert_allclose(float(loss(np.array([[0]]), p)), expected, rtol=1e-5)
    logits = SoftEditDistance(temperature=0.5, from_logits=True)
    np.testing.assert_allclose(float(logits(np.array([[0]]), np.log(p))), expected, rtol=1e-5)


@needs_gradients
def test_fit_with_masks_and_sample_weights():
    x = strings(2, 16, 5)
    words = np.where(x < 0, 0, x + 1)
    words[:, 0] = 1
    model = keras.Sequential(
        [keras.layers.Embedding(TOKENS + 1, 8, mask_zero=True), keras.layers.Dense(TOKENS)]
    )
    model.compile(keras.optimizers.Adam(0.1), SoftEditDistance(from_logits=True))
    history = model.fit(
        words, words - 1, sample_weight=np.ones(16), epochs=20, batch_size=16, verbose=0
    ).history["loss"]
    assert np.isfinite(history).all() and history[-1] < 0.5 * history[0]


def test_config():
    loss = SoftEditDistance(2.0, 1.0, 3.0, 0.5, True, padding=0, reduction="sum")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert isinstance(again, SoftEditDistance) and again.get_config() == loss.get_config()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: SoftEditDistance(deletion=-1.0), "'deletion': -1.0"),
        (lambda: SoftEditDistance(temperature=-1.0), "temperature=-1.0"),
        (lambda: SoftEditDistance()(random(2, 3, 4), random(2, 3, 4)), "shape of y_true"),
    ],
)
def test_user_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
