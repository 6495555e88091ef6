"""All potentials of a batch of chains in one tensor, so that they can be the output of a model.

Keras gives a loss or a metric one `y_pred` tensor. A chain needs scores per position, transitions,
start and end scores, and lengths. The packed tensor is the scores with a header of a few more rows
along time, so its size is that of the scores, whatever the number of tags:

    linear chain    (B, H + N, K)        scores (B, N, K)
    semi-Markov     (B, H + N, D, K)     scores (B, N, D, K)

The header, read row by row, holds the transitions (K·K), the start scores (K), the end scores (K),
zeros, and as its last number the length of the sequence. Transitions, start and end scores are
shared by the batch: they are read from the first example. The tensor is float32 or float64, never
half precision: a float16 counts to 2,048, and sequences are longer.
"""

import math
from typing import Any, NamedTuple

import keras
from keras import ops as K

from keras_struct import ops


class ChainPotentials(NamedTuple):
    """Potentials of a batch of linear or semi-Markov chains.

    Attributes:
        scores: `(B, N, K)`, of tag k at position n, or `(B, N, D, K)`, of the segment that starts
            at n, has length d + 1 and label k.
        transitions: `(K, K)`, from the first tag to the second.
        start: `(K,)`, of the first tag.
        end: `(K,)`, of the last tag.
        lengths: `(B,)`, int32.
    """

    scores: Any
    transitions: Any
    start: Any
    end: Any
    lengths: Any

    def distribution(self, temperature=1.0):
        """The `ops.linear_chain` or `ops.semi_markov` distribution of these potentials."""
        structure = ops.linear_chain if len(self.scores.shape) == 3 else ops.semi_markov
        return structure(*self, temperature=temperature)


def pack_potentials(scores, transitions, start=None, end=None, lengths=None):
    """Pack the potentials of a batch of chains in one tensor (see the module's docstring).

    Args:
        scores: `(B, N, K)` or `(B, N, D, K)`; D and K static.
        transitions: `(K, K)`, shared by the batch.
        start: `(K,)`, or None for zeros.
        end: `(K,)`, or None for zeros.
        lengths: Integers `(B,)`, or None for N.

    Returns:
        `(B, H + N, K)` or `(B, H + N, D, K)`, float32 at least.

    Example:

    >>> import numpy as np
    >>> from keras_struct.layers import pack_potentials, unpack_potentials
    >>> packed = pack_potentials(np.ones((2, 5, 3), "float32"), np.eye(3), lengths=[5, 2])
    >>> tuple(packed.shape), np.asarray(unpack_potentials(packed).lengths).tolist()
    ((2, 11, 3), [5, 2])
    """
    scores = K.convert_to_tensor(scores)
    rows = header_rows(scores.shape)
    dtype = keras.backend.result_type(scores.dtype, "float32")
    k = scores.shape[-1]
    inner = tuple(scores.shape[2:])
    batch, n = K.shape(scores)[:2]
    given = ((transitions, k * k), (start, k), (end, k))
    parts = [K.zeros(m) if x is None else K.reshape(x, (m,)) for x, m in given]
    filler = rows * math.prod(inner) - sum(m for _, m in given) - 1
    shared = K.concatenate([K.cast(x, dtype) for x in parts] + [K.zeros(filler, dtype)])
    if lengths is None:
        lengths = K.broadcast_to(K.convert_to_tensor(n, "int32"), (batch,))
    header = K.concatenate(
        [
            K.broadcast_to(shared, (batch, shared.shape[0])),
            K.expand_dims(K.cast(lengths, dtype), -1),
        ],
        axis=1,
    )
    header = K.reshape(header, (batch, rows, *inner))
    return K.concatenate([header, K.cast(scores, dtype)], axis=1)


def unpack_potentials(packed):
    """The `ChainPotentials` in a packed tensor.

    Args:
        packed: `(B, H + N, K)` or `(B, H + N, D, K)`, as `pack_potentials` returns it.

    Raises:
        ValueError: If it is not float32 or float64, or too short for its header.
    """
    packed = K.convert_to_tensor(packed)
    dtype = keras.backend.standardize_dtype(packed.dtype)
    if dtype not in ("float32", "float64"):
        raise ValueError(
            "Expected packed potentials in float32 or float64, which count beyond 2,048. "
            f"Received: dtype={dtype}"
        )
    rows = header_rows(packed.shape)
    if packed.shape[1] is not None and packed.shape[1] < rows:
        raise ValueError(
            f"Expected packed potentials with {rows} rows of header before the positions. "
            f"Received: shape={tuple(packed.shape)}"
        )
    k = packed.shape[-1]
    header = K.reshape(packed[:, :rows], (-1, rows * math.prod(packed.shape[2:])))
    shared = K.sum(header[:1], axis=0)
    return ChainPotentials(
        scores=packed[:, rows:],
        transitions=K.reshape(shared[: k * k], (k, k)),
        start=shared[k * k : k * k + k],
        end=shared[k * k + k : k * k + 2 * k],
        lengths=K.cast(K.round(header[:, -1]), "int32"),
    )


def header_rows(shape):
    """Number of rows of the header for scores, or a packed tensor, of this shape."""
    inner = tuple(shape[2:])
    if len(shape) not in (3, 4) or None in inner:
        raise ValueError(
            "Expected potentials of shape (B, N, K) or (B, N, D, K), with K and D known. "
            f"Received: shape={tuple(shape)}"
        )
    k = inner[-1]
    return math.ceil((k * k + 2 * k + 1) / math.prod(inner))
