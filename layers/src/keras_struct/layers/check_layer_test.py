"""`check_layer` passes a sound layer, and each of its checks fails a layer broken on purpose."""

import keras
import numpy as np
import pytest

from keras_struct.layers.check_layer import CHECKS, check_layer
from keras_struct.ops.testing import EXPORTS_BY_CHILD

X = np.random.default_rng(0).normal(size=(3, 5, 4)).astype("float32")
MASK = np.arange(5) < np.array([[5], [2], [3]])
serializable = keras.saving.register_keras_serializable("keras_struct_test")


@serializable
class Sound(keras.layers.Layer):
    """Scales every position, zero in the padding."""

    def __init__(self, scale=2.0, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale
        self.supports_masking = True

    def build(self, input_shape):
        self.weight = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="weight")

    def transform(self, x):
        return x * self.weight * self.scale

    def call(self, inputs, mask=None):
        if mask is not None:
            inputs = keras.ops.where(keras.ops.expand_dims(mask, -1), inputs, 0.0)
        return self.transform(inputs)

    def compute_output_spec(self, inputs, mask=None):
        return keras.KerasTensor(inputs.shape, self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


class Unregistered(Sound):
    pass


@serializable
class LosesArgument(Sound):
    def get_config(self):
        return keras.layers.Layer.get_config(self)


@serializable
class AltersArgument(Sound):
    def get_config(self):
        return {**super().get_config(), "scale": self.scale + 1.0}


@serializable
class WrongShape(Sound):
    def compute_output_spec(self, inputs, mask=None):
        return keras.KerasTensor((*inputs.shape[:-1], 1), self.compute_dtype)


@serializable
class WrongDtype(Sound):
    def compute_output_spec(self, inputs, mask=None):
        return keras.KerasTensor(inputs.shape, "float16")


@serializable
class LosesLength(Sound):
    def compute_output_spec(self, inputs, mask=None):
        return keras.KerasTensor((None, None, inputs.shape[-1]), self.compute_dtype)


@serializable
class IgnoresMask(Sound):
    def transform(self, x):
        return super().transform(x - keras.ops.mean(x, axis=1, keepdims=True))


@serializable
class LetsPaddingIn(Sound):
    def call(self, inputs, mask=None):
        return self.transform(
            keras.ops.flip(keras.ops.cumsum(keras.ops.flip(inputs, 1), axis=1), 1)
        )


@serializable
class OverflowsInHalf(Sound):
    def transform(self, x):
        return super().transform(x * 1e4) * 1e3


@serializable
class HalfWeights(Sound):
    def build(self, input_shape):
        self.weight = self.add_weight(
            shape=(input_shape[-1],), initializer="ones", dtype=self.compute_dtype
        )


@serializable
class IgnoresPolicy(Sound):
    def __init__(self, scale=2.0, **kwargs):
        super().__init__(scale=scale, **kwargs | {"dtype": "float32"})


@serializable
class UnusedWeight(Sound):
    def transform(self, x):
        return x * self.scale + 0.0 * keras.ops.sum(self.weight)


@serializable
class PaddingPoisonsGradient(Sound):
    def call(self, inputs, mask=None):
        y = self.transform(inputs)
        return y if mask is None else keras.ops.where(keras.ops.expand_dims(mask, -1), y, 0.0)


@serializable
class UnsavedState(Sound):
    def build(self, input_shape):
        super().build(input_shape)
        self.offset = np.random.default_rng().normal()

    def transform(self, x):
        return super().transform(x) + self.offset


@serializable
class BakesLength(Sound):
    def transform(self, x):
        return super().transform(x) / (x.shape[1] or 5)


BROKEN = [
    (Unregistered, "config"),
    (LosesArgument, "config"),
    (AltersArgument, "config"),
    (WrongShape, "spec"),
    (WrongDtype, "spec"),
    (LosesLength, "spec"),
    (IgnoresMask, "masks"),
    (LetsPaddingIn, "masks"),
    (OverflowsInHalf, "mixed_precision"),
    (HalfWeights, "mixed_precision"),
    (IgnoresPolicy, "mixed_precision"),
    (UnusedWeight, "fit"),
    (PaddingPoisonsGradient, "fit"),
    (UnsavedState, "reload"),
    (BakesLength, "saved_model"),
]


CHECKED = CHECKS if EXPORTS_BY_CHILD else CHECKS[:-1]


def test_a_sound_layer_passes_every_check():
    report = check_layer(Sound, X, mask=MASK, checks=CHECKED)
    assert tuple(report) == CHECKED
    applicable = {name for name, result in report.items() if result == "passed"}
    unavailable = {"fit"} if keras.backend.backend() == "numpy" else set()
    assert applicable == set(CHECKED) - unavailable


@pytest.mark.parametrize("broken, check", BROKEN, ids=lambda x: getattr(x, "__name__", x))
def test_each_check_fails_a_broken_layer(broken, check):
    if check not in CHECKED:
        pytest.skip("the same child process exports for JAX")
    if check == "fit" and keras.backend.backend() == "numpy":
        report = check_layer(broken(), X, mask=MASK, checks=[check])
        assert report == {"fit": "not applicable: the NumPy backend has no gradients"}
        return
    with pytest.raises(AssertionError, match=rf"check_layer\({broken.__name__}\), {check}"):
        check_layer(broken(), X, mask=MASK, checks=[check])


def test_what_does_not_apply_says_why():
    report = check_layer(keras.layers.Softmax(), X, checks=["masks", "fit"])
    assert report["masks"] == "not applicable: no mask was given"
    assert report["fit"].startswith("not applicable: the ")


def test_several_inputs_and_layers_of_keras():
    attention = keras.layers.MultiHeadAttention(2, 3)
    inputs = {"query": X, "value": X[:, :4]}
    masks = {"query": MASK, "value": MASK[:, :4]}
    checks = ["config", "spec", "masks"]
    report = check_layer(attention, inputs, mask=masks, padding=7.0, checks=checks)
    assert set(report.values()) == {"passed"}


def test_unknown_check():
    with pytest.raises(ValueError, match="Received: checks="):
        check_layer(Sound(), X, checks=["speed"])
