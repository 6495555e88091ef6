"""Soft-DTW as a loss: equal to `ops` and tslearn, and the divergence of Blondel et al."""

import keras
import numpy as np
import pytest

from keras_struct import ops
from keras_struct.layers.soft_dtw import SoftDTW
from keras_struct.layers.structured_attention_test import needs_gradients, numpy, random

X, Y = random(3, 6, 2), random(3, 5, 2, seed=1)


def losses(loss, x, y):
    return numpy(loss(x, y))


def test_equals_ops_and_tslearn():
    from tslearn.metrics import soft_dtw

    actual = losses(SoftDTW(temperature=0.5, reduction=None), X, Y)
    costs = ((X[:, :, None] - Y[:, None]) ** 2).sum(-1)
    np.testing.assert_allclose(actual, numpy(ops.dtw(costs, temperature=0.5).value()), rtol=1e-5)
    expected = [soft_dtw(x, y, gamma=0.5) for x, y in zip(X, Y, strict=True)]
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    banded = losses(SoftDTW(band=0, temperature=0.5, reduction=None), X, Y)
    np.testing.assert_allclose(banded, numpy(ops.dtw(costs, 0, temperature=0.5).value()), rtol=1e-5)


@pytest.mark.compiles_long
def test_divergence():
    from tslearn.metrics import soft_dtw_normalized as divergence

    loss = SoftDTW(divergence=True, reduction=None)
    np.testing.assert_allclose(losses(loss, X, X), 0.0, atol=1e-5)
    actual = losses(loss, X, Y)
    assert (actual > 0).all()
    expected = [divergence(x, y, gamma=1.0) for x, y in zip(X, Y, strict=True)]
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


@pytest.mark.parametrize("divergence", [False, True])
def test_padding_of_target_and_prediction(divergence):
    """NaN pads the target, the Keras mask the prediction: the loss is that of the short series."""
    loss = SoftDTW(divergence=divergence)
    x, y = np.array(X[:1]), np.array(Y[:1])
    expected = losses(loss, x[:, :4], y[:, :3])
    x[:, 4:], y[:, 3:] = np.nan, 0.0
    masked = keras.layers.Masking()(y)
    np.testing.assert_allclose(losses(loss, x, masked), expected, rtol=1e-5)


@needs_gradients
@pytest.mark.parametrize("divergence", [False, True])
def test_fit(divergence):
    """The mask of the series has another shape than their losses, and sample weights go with it."""
    model = keras.Sequential(
        [keras.Input((None, 2)), keras.layers.Masking(), keras.layers.Dense(2)]
    )
    model.compile(keras.optimizers.Adam(0.1), SoftDTW(0.1, divergence=divergence))
    y = np.array(Y)
    y[1, 3:] = 0.0
    x = np.array(X)
    x[2, 4:] = np.nan
    history = model.fit(y, x, sample_weight=np.ones(3), epochs=15, verbose=0).history["loss"]
    assert np.isfinite(history).all() and history[-1] < history[0]


def test_config():
    loss = SoftDTW(0.5, 2, True, reduction="sum", name="warp", dtype="float64")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert isinstance(again, SoftDTW) and again.get_config() == loss.get_config()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: SoftDTW(temperature=-1.0), "temperature=-1.0"),
        (lambda: SoftDTW(band=0.5), "band=0.5"),
        (lambda: SoftDTW()(X, Y[..., :1]), "shape of y_true"),
        (lambda: SoftDTW()(X[..., 0], Y[..., 0]), "shape of y_pred"),
    ],
)
def test_user_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
