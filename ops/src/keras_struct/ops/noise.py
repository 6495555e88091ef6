"""Noise as a pure function of (key, example, sample, stream, place), the same on every backend.

The generator is Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror and Shaw, 2011, Parallel random
numbers: as easy as 1, 2, 3). Nothing is stored and nothing has an order: an implementation draws
where it needs, at the places that the `recurrence.md` of its structure numbers, so all of them give
the same samples for the same key. A compiled kernel repeats `threefry` and `_gumbel` (see
`compiled.gumbel`).

    key of an example   = threefry(key, (0, b))
    key of its sample   = threefry(key of the example, (1, i))
    noise at a place    = Gumbel of threefry(key of the sample, (stream, place))
"""

import dataclasses
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_struct.ops import array

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def threefry(key, counter):
    """Two words of random bits, int32, from two of a key and two of a counter (they broadcast)."""
    k0, k1 = key
    schedule = (k0, k1, k0 ^ k1 ^ _PARITY)
    x, y = counter[0] + k0, counter[1] + k1
    for block in range(5):
        for r in _ROTATIONS[block % 2]:
            x = x + y
            y = array.rotate_left(y, r) ^ x
        x = x + schedule[(block + 1) % 3]
        y = y + schedule[(block + 2) % 3] + (block + 1)
    return x, y


@dataclasses.dataclass(frozen=True, eq=False)
class Noise:
    """The noise of `count` samples of every example.

    Attributes:
        keys: (B, 2) int32, of every example.
        count: Number of samples.
    """

    keys: Any
    count: int

    @classmethod
    def of(cls, key, examples, count):
        """From a key (2,) int32, for a tensor whose first axis is that of the examples (B, ...)."""
        examples = array.arange(ops.shape(examples)[0])
        words = threefry((key[:1], key[1:]), (array.zeros_like(examples), examples))
        return cls(array.stack(words, 1), count)

    def draws(self, i):
        """The noise of sample i (an integer, or a scalar int32 tensor)."""
        first, second = self.keys[:, 0], self.keys[:, 1]
        number = array.zeros_like(first) + i
        return Draws(threefry((first, second), (array.zeros_like(first) + 1, number)))

    def every(self):
        """The noise of all samples, with key words (B, n)."""
        first, second = self.keys[:, :1], self.keys[:, 1:]
        number = array.arange(self.count)[None] + array.zeros_like(first)
        return Draws(threefry((first, second), (array.zeros_like(number) + 1, number)))

    def block(self, first, count):
        """The noise of samples `first`, ... of a batch (count B), the sample as slower index."""
        examples = ops.shape(self.keys)[0]
        key = tuple(ops.concatenate([self.keys[:, word]] * count) for word in range(2))
        number = first + ops.repeat(array.arange(count), examples)
        return Draws(threefry(key, (array.zeros_like(number) + 1, number)))


@dataclasses.dataclass(frozen=True)
class Draws:
    """The noise of one sample of every example, key words (B,); or of several, (B, n)."""

    key: tuple

    def gumbel(self, stream, places, dtype):
        """Standard Gumbel noise, finite.

        Args:
            stream: Python integer that tells kinds of draws apart.
            places: int32 tensor (B or 1, ...), or (B or 1, n or 1, ...): where the draws are.
            dtype: "float32" or "float64".

        Returns:
            (B, ...) or (B, n, ...) in the dtype.
        """
        more = (1,) * (len(places.shape) - len(self.key[0].shape))
        key = tuple(array.reshape(word, (*ops.shape(word), *more)) for word in self.key)
        x, y = threefry(key, (array.zeros_like(places) + stream, places))
        return _gumbel(x, y, dtype)


def perturbed(logits, draws, stream, places):
    """Logits (B, ...) with noise at their places (B or 1, ...); without draws as they are."""
    if draws is None:
        return logits
    dtype = keras.backend.standardize_dtype(logits.dtype)
    return logits + draws.gumbel(stream, places, dtype)


def flat_places(shape, first=0):
    """int32 (1, *shape): `first`, `first + 1`, ... in C order; `shape` may hold unknown sizes."""
    size = math.prod(shape) if all(isinstance(n, int) for n in shape) else None
    if size is None:
        size = shape[0]
        for n in shape[1:]:
            size = size * n
    return array.reshape(array.arange(size), (1, *shape)) + first


def _gumbel(x, y, dtype):
    """From 23 bits of x, or in float64 24 of x and 28 of y, as the exact middle of an interval of
    (0, 1): neither end is ever reached."""
    if dtype == "float64":
        high = ops.cast(array.shift_right(x, 8), dtype)
        low = ops.cast(array.shift_right(y, 4), dtype)
        uniform = (high * 2.0**28 + (low + 0.5)) * 2.0**-52
    else:
        uniform = (ops.cast(array.shift_right(x, 9), dtype) + 0.5) * 2.0**-23
    return -array.log(-array.log(uniform))


def key_of(seed):
    """The key (2,) int32 of whatever a user gives as a seed.

    Args:
        seed: Integer, `keras.random.SeedGenerator` (a fresh key at each call), integer tensor () or
            (2,), or a key of `jax.random`.
    """
    if isinstance(seed, keras.random.SeedGenerator):
        seed = seed.next()
    elif isinstance(seed, (int, np.integer)) and not isinstance(seed, bool):
        words = np.array([seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF], "uint32")
        return ops.convert_to_tensor(words.view("int32"), dtype="int32")
    elif hasattr(seed, "dtype") and "key<" in str(seed.dtype):
        import jax

        seed = jax.random.key_data(seed)
    shape = tuple(getattr(seed, "shape", (-1,)))
    if shape not in ((), (2,), (4,)) or "int" not in str(getattr(seed, "dtype", "")):
        raise ValueError(
            "Expected an integer, a SeedGenerator, an integer tensor () or (2,), or a JAX key as "
            f"seed. Received: seed={seed}"
        )
    words = array.words(ops.convert_to_tensor(seed))
    if shape == ():
        return array.stack([words, array.zeros_like(words)], 0)
    return words[:2]


if keras.backend.backend() == "jax":
    import jax

    jax.tree_util.register_dataclass(Noise, data_fields=["keys"], meta_fields=["count"])
