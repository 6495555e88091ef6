"""The generator against JAX's, and the noise it makes."""

import keras
import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops import array as primitives
from keras_struct.ops.noise import Noise, _gumbel, flat_places, key_of, threefry
from keras_struct.ops.testing import BACKEND, array, float64, tensor

pytestmark = pytest.mark.everywhere

# Threefry-2x32, 20 rounds, of the authors' Random123: key, counter, result.
KNOWN = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]


def words(*values):
    return tuple(tensor(np.array([x], "uint32").view("int32"), "int32") for x in values)


@pytest.mark.parametrize(("key", "counter", "expected"), KNOWN)
def test_known_answers(key, counter, expected):
    found = threefry(words(*key), words(*counter))
    assert tuple(array(x).view("uint32")[0] for x in found) == expected


def test_compiled_noise_is_the_same():
    compiled = pytest.importorskip("keras_struct.ops.compiled")
    for key, counter, expected in KNOWN:
        assert compiled.threefry(*key, *counter) == expected
    noise = Noise.of(key_of(11), np.zeros(2), 3)
    keys = array(noise.keys)
    for dtype in ("float32",) if BACKEND == "jax" else ("float32", "float64"):
        drawn = array(noise.every().gumbel(4, flat_places((1, 50)), dtype))
        for b, i, place in ((0, 0, 0), (1, 2, 49), (0, 1, 7)):
            sample = compiled.key_of_sample(*keys[b], i)
            found = compiled.gumbel(*sample, 4, place, dtype == "float64")
            np.testing.assert_allclose(found, drawn[b, i, place], rtol=2e-6, atol=2e-6)


def test_noise_is_finite_at_both_ends_and_standard_gumbel():
    ends = tensor(np.array([0, -1, 2**31 - 1, -(2**31)], "int32"), "int32")
    for dtype in ("float32", "float64"):
        with float64():
            assert np.isfinite(array(_gumbel(ends, ends, dtype))).all()
    noise = Noise.of(key_of(3), np.zeros(4), 5).every()
    x = array(noise.gumbel(0, flat_places((1, 2000)), "float32"))
    assert x.shape == (4, 5, 2000)
    assert abs(x.mean() - np.euler_gamma) < 5 * np.pi / np.sqrt(6 * x.size)
    assert abs(x.var() - np.pi**2 / 6) < 0.05


def test_noise_is_a_function_of_key_example_sample_stream_and_place():
    places = flat_places((7,))
    noise = Noise.of(key_of(3), np.zeros(3), 4)
    every = array(noise.every().gumbel(1, places[:, None], "float32"))
    for i in range(4):
        np.testing.assert_allclose(  # TensorFlow's logarithm depends on the shape
            array(noise.draws(i).gumbel(1, places, "float32")), every[:, i], rtol=1e-6
        )
    block = array(noise.block(1, 2).gumbel(1, places, "float32"))
    np.testing.assert_allclose(block.reshape(2, 3, 7), every[:, 1:3].swapaxes(0, 1), rtol=1e-6)
    streams = array(noise.draws(0).gumbel(2, places, "float32"))
    kinds = [every[0, 0], every[0, 1], every[1, 0], streams[0]]
    assert len({x.tobytes() for x in kinds}) == 4
    wide = array(noise.draws(0).gumbel(1, places, "float64")) if BACKEND != "jax" else None
    if wide is not None:
        np.testing.assert_allclose(wide, every[:, 0], atol=1e-5)


def test_seeds_of_every_kind():
    """Integers, generators, integer tensors and keys; anything else is an error."""
    d = ops.categorical(np.zeros((2, 50), "float32"))
    first = array(d.sample(5, 4))
    np.testing.assert_array_equal(first, array(d.sample(np.int64(5), 4)))
    traced = primitives.words(tensor(np.array([5, 0]), "int32"))
    np.testing.assert_array_equal(first, array(d.sample(traced, 4)))
    assert (first != array(d.sample(6, 4))).any()
    assert (array(d.sample(2**32 + 5, 4)) != first).any()
    generator = keras.random.SeedGenerator(5)
    assert (array(d.sample(generator, 4)) != array(d.sample(generator, 4))).any()
    for seed in (None, 0.5, "5", True, np.zeros(3, "int32")):
        with pytest.raises(ValueError, match="as seed"):
            d.sample(seed)


@pytest.mark.skipif(BACKEND != "jax", reason="keys and tracing of JAX")
def test_keys_and_traced_seeds_on_jax():
    import jax

    d = ops.categorical(np.zeros((2, 50), "float32"))
    key = jax.random.key(7)
    expected = array(d.sample(jax.random.key_data(key), 3))
    np.testing.assert_array_equal(array(d.sample(key, 3)), expected)
    traced = jax.jit(lambda key: d.sample(key, 3))(key)
    np.testing.assert_array_equal(array(traced), expected)
    number = jax.jit(lambda seed: d.sample(seed, 3))(np.int32(5))
    np.testing.assert_array_equal(array(number), array(d.sample(5, 3)))
