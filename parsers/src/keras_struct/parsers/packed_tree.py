"""The scores of a batch of trees in one tensor, so that they can be the output of a model.

Keras gives a loss or a metric one `y_pred` tensor. The packed tensor is the scores of the parts,
`(B, N, N, K)`, with one row of zeros before them, `(B, 1 + N, N, K)`, whose first number is the
length of the sentence. What a loss must know while its graph is traced, the structure, is in the
rank: as many axes of size 1 stand after the batch as the place of the structure in `STRUCTURES`.
The tensor is float32 or float64, never half precision, which rounds lengths beyond 2,048.
"""

from typing import Any, NamedTuple

import keras
from keras import ops as K

from keras_struct import ops

STRUCTURES = ("cky", "eisner", "spanning_tree", "eisner_multi_root", "spanning_tree_multi_root")


class TreePotentials(NamedTuple):
    """Scores of a batch of trees.

    Attributes:
        scores: `(B, N, N, K)`. Of a constituency tree (`"cky"`): [first word, last word, label] of
            a span. Of a dependency tree: [dependent, head, relation] of an arc, on the diagonal of
            an arc from the root.
        lengths: `(B,)`, int32.
        structure: One of `STRUCTURES`.
    """

    scores: Any
    lengths: Any
    structure: str

    @property
    def constituency(self):
        """Whether the parts are spans, not arcs."""
        return self.structure == "cky"

    def distribution(self, temperature=1.0):
        """The `ops.cky`, `ops.eisner` or `ops.spanning_tree` distribution of these scores.

        Its labels are the last axis of the scores, also where there is only one.
        """
        options = {"lengths": self.lengths, "temperature": temperature}
        parts = K.zeros_like(self.scores[..., 0])
        if self.constituency:
            return ops.cky(parts, labels=self.scores, **options)
        structure = self.structure.removesuffix("_multi_root")
        options["single_root"] = structure == self.structure
        return getattr(ops, structure)(parts, labels=self.scores, **options)


def pack_tree(scores, lengths=None, structure="cky"):
    """Pack the scores of a batch of trees in one tensor (see the module's docstring).

    Args:
        scores: `(B, N, N, K)`, see `TreePotentials`; K static.
        lengths: Integers `(B,)`, or None for N.
        structure: `"cky"`, `"eisner"`, `"spanning_tree"`, or one of the last two with
            `"_multi_root"` after it.

    Returns:
        `(B, 1 + N, N, K)`, with axes of size 1 after the batch for other structures than `"cky"`;
        float32 at least.

    Raises:
        ValueError: For a structure or a shape that does not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct.parsers import pack_tree, unpack_tree
    >>> packed = pack_tree(np.ones((2, 5, 5, 3), "float32"), lengths=[5, 2], structure="eisner")
    >>> tuple(packed.shape), unpack_tree(packed).structure
    ((2, 1, 6, 5, 3), 'eisner')
    """
    if structure not in STRUCTURES:
        raise ValueError(
            f"Expected a structure among {STRUCTURES}. Received: structure={structure!r}"
        )
    scores = K.convert_to_tensor(scores)
    if len(scores.shape) != 4 or scores.shape[-1] is None:
        raise ValueError(
            "Expected scores (B, N, N, K) with a static K. "
            f"Received: shape of scores={tuple(scores.shape)}"
        )
    dtype = keras.backend.result_type(scores.dtype, "float32")
    scores = K.cast(scores, dtype)
    batch, n, _, k = K.shape(scores)
    if lengths is None:
        lengths = K.broadcast_to(K.convert_to_tensor(n, "int32"), (batch,))
    first = K.reshape(K.cast(lengths, dtype), (batch, 1, 1, 1))
    header = K.pad(first, [(0, 0), (0, 0), (0, n - 1), (0, k - 1)])
    packed = K.concatenate([header, scores], axis=1)
    singletons = [1] * STRUCTURES.index(structure)
    return K.reshape(packed, (batch, *singletons, n + 1, n, k)) if singletons else packed


def unpack_tree(packed):
    """The `TreePotentials` in a packed tensor.

    Args:
        packed: What `pack_tree` returned.

    Raises:
        ValueError: If it has another shape, or is neither float32 nor float64.
    """
    packed = K.convert_to_tensor(packed)
    dtype = keras.backend.standardize_dtype(packed.dtype)
    if dtype not in ("float32", "float64") or not is_packed_tree(packed):
        raise ValueError(
            "Expected packed scores (B, 1 + N, N, K) of trees, float32 or float64, of pack_tree. "
            f"Received: shape={tuple(packed.shape)}, dtype={dtype}"
        )
    kind = len(packed.shape) - 4
    for _ in range(kind):
        packed = K.squeeze(packed, 1)
    lengths = K.cast(K.round(packed[:, 0, 0, 0]), "int32")
    return TreePotentials(packed[:, 1:], lengths, STRUCTURES[kind])


def is_packed_tree(x):
    """Whether a tensor has the shape of what `pack_tree` returns."""
    kind = len(x.shape) - 4
    return 0 <= kind < len(STRUCTURES) and all(size == 1 for size in x.shape[1 : 1 + kind])


def packed_spec(shape, structure, dtype):
    """The `KerasTensor` of `pack_tree` for scores of this shape."""
    batch, n, _, k = shape
    singletons = [1] * STRUCTURES.index(structure)
    return keras.KerasTensor((batch, *singletons, None if n is None else n + 1, n, k), dtype)
