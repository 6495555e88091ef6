"""Multi-head attention whose map is the marginals of a structure."""

from __future__ import annotations

import inspect
import math
from typing import Any

import keras
from keras import ops as K
from keras.src.backend.common.masking import set_keras_mask

from keras_struct.layers.alignment_map import (
    DTWMap,
    MonotonicMap,
    NeedlemanWunschMap,
    OverlapMap,
    SmithWatermanMap,
)
from keras_struct.layers.annotations import Config, Shape, Spec
from keras_struct.layers.attention_map import (
    AttentionMap,
    LinearChainMap,
    SemiMarkovMap,
    SoftmaxMap,
    SubsetMap,
)
from keras_struct.layers.import_hint import ImportHint
from keras_struct.layers.sequence_mask import all_of, as_mask, keras_mask, without_padding
from keras_struct.layers.targets import fits
from keras_struct.layers.transport_map import SinkhornMap
from keras_struct.layers.tree_map import CKYMap, EisnerMap, SpanningTreeMap
from keras_struct.ops.annotations import Tensor

STRUCTURES: dict[str, type[AttentionMap]] = {
    "softmax": SoftmaxMap,
    "linear_chain": LinearChainMap,
    "semi_markov": SemiMarkovMap,
    "subset": SubsetMap,
    "smith_waterman": SmithWatermanMap,
    "needleman_wunsch": NeedlemanWunschMap,
    "overlap": OverlapMap,
    "dtw": DTWMap,
    "monotonic": MonotonicMap,
    "sinkhorn": SinkhornMap,
    "cky": CKYMap,
    "eisner": EisnerMap,
    "spanning_tree": SpanningTreeMap,
}


@keras.saving.register_keras_serializable("keras_struct")
class StructuredAttention(ImportHint, keras.layers.MultiHeadAttention):
    """Multi-head attention whose map is the marginals of a structure.

    `keras.layers.MultiHeadAttention` with another map: for each head and query, a distribution
    over the structures that select keys, and the probability of each key to be selected in place
    of the softmax; or for each head, a distribution over the alignments of the queries with the
    keys, or over the trees of a sequence, and the probability of each pair. With
    `structure="softmax"` the layer is `MultiHeadAttention`, to rounding.

    Args:
        num_heads: Number of heads.
        key_dim: Size of each head for query and key.
        structure: `"softmax"`, one key; `"linear_chain"`, any keys, with learned scores for
            neighbours (`LinearChainMap`); `"semi_markov"`, runs of keys with learned scores for
            their lengths (`SemiMarkovMap`); `"subset"`, exactly k keys (`SubsetMap`). Alignments:
            `"smith_waterman"`, `"needleman_wunsch"` and `"overlap"`, with learned gap scores;
            `"dtw"`, warping paths (`DTWMap`); `"monotonic"`, one key for each query, in order
            (`MonotonicMap`). `"sinkhorn"`, transport of equal masses (`SinkhornMap`; for long
            sequences see `SinkhornTailAttention`). Trees, for self-attention: `"eisner"` and
            `"spanning_tree"`, the head of each query (`EisnerMap`, `SpanningTreeMap`); `"cky"`,
            phrases (`CKYMap`). Or a map, an `AttentionMap` or any layer that is called like one.
            Its structure parameters are weights, learned unless the map has `trainable=False`.
        temperature: Number that divides the scores, 1 by default; 0 is the best structure alone.
            For a structure given by name.
        learn_temperature: Whether each head learns its temperature. For a structure given by name.
        readout: `"marginals"`, by default; `"argmax_st"` or `"perturbed"`, one structure with the
            gradients of the marginals; `"imle"`, one with those of implicit maximum likelihood;
            `"sparse"`, the marginals of few structures (SparseMAP), see `AttentionMap`. For a
            structure given by name.
        **kwargs: All other arguments of `keras.layers.MultiHeadAttention`, whose `seed` is that of
            the noise, too; and, for a structure given by name, those of its map, such as `k=3` for
            `"subset"` or `gap_open=-5.0` for `"smith_waterman"`.

    Call arguments:
        query: `(B, T, F)`.
        value: `(B, S, F)`.
        key: `(B, S, F)`, by default the value.
        query_mask: Boolean `(B, T)`, by default the Keras mask of the query, which the output
            keeps: a query that is masked out is no part of an alignment or a tree.
        value_mask: Boolean `(B, S)`, by default the Keras mask of the value: a key that is masked
            out is no part of the structure, wherever it stands.
        key_mask: The same for the key.
        attention_mask: Boolean that broadcasts against `(B, H, T, S)` or is `(B, T, S)`: where
            False, the query cannot select the key (its score is minus infinity), while the
            structure goes on past it: in a chain the key takes part as not selected. A key that no
            query may see, or a query that may see no key, is padding, as if it were masked out.
        return_attention_scores: Whether to return the map, too.
        training: Whether dropout acts, on the map.
        use_causal_mask: Whether the structure of query t ends with key t. Not for alignments and
            trees.

    Returns:
        `(B, T, F)`, or a pair with the map `(B, H, T, S)`. What lies in the padding, NaN included,
        never matters. The rows of a map need not sum to 1: a structure may select several keys, or
        none. Where no structure exists, such as no alignment with an empty sequence, the map is 0.

    Raises:
        ValueError: For `use_causal_mask` with an alignment or a tree, which need all queries and
            keys; for a tree over queries and keys that are not equally many; for arguments of an
            unknown structure, or several attention axes.

    Example:

    >>> import numpy as np
    >>> from keras_struct import layers
    >>> x = np.ones((2, 5, 8), "float32")
    >>> attend = layers.StructuredAttention(num_heads=2, key_dim=4, structure="subset", k=2)
    >>> y, attention = attend(x, x, return_attention_scores=True)
    >>> tuple(attention.shape), round(float(attention[0, 0, 0, 0]), 3)
    ((2, 2, 5, 5), 0.4)

    Source: Kim, Denton, Hoang and Rush (2017), Structured Attention Networks; Vaswani et al.
    (2017), Attention is all you need.
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        structure: str | keras.layers.Layer = "softmax",
        temperature: float | None = None,
        learn_temperature: bool | None = None,
        readout: str | None = None,
        **kwargs: Any,
    ) -> None:
        given: dict[str, Any] = {
            "temperature": temperature,
            "learn_temperature": learn_temperature,
            "readout": readout,
        }
        given = {name: value for name, value in given.items() if value is not None}
        if isinstance(structure, str):
            if structure not in STRUCTURES:
                raise ValueError(
                    f"Expected a structure among {list(STRUCTURES)}, or a map. "
                    f"Received: structure={structure!r}"
                )
            own = _arguments(STRUCTURES[structure])
            given |= {name: kwargs.pop(name) for name in list(kwargs) if name in own}
            if "seed" in kwargs:  # of dropout and of the noise
                given["seed"] = kwargs["seed"]
            needed = [
                x.name for x in own.values() if x.default is x.empty and x.kind != x.VAR_KEYWORD
            ]
            if not set(needed) <= set(given):
                raise ValueError(
                    f"Expected the arguments {needed} for structure={structure!r}. "
                    f"Received: {given}"
                )
        elif isinstance(structure, dict):
            structure = keras.saving.deserialize_keras_object(structure)
        if not isinstance(structure, str) and given:
            raise ValueError(
                "Expected temperature and readout in the map itself. "
                f"Received: {', '.join(given)} beside structure={structure}"
            )
        if not isinstance(structure, str) and not callable(structure):
            raise ValueError(
                f"Expected the name of a structure, or a map. Received: structure={structure!r}"
            )
        super().__init__(num_heads, key_dim, **kwargs)
        if isinstance(structure, str):
            structure = STRUCTURES[structure](dtype=self.dtype_policy, name=structure, **given)
        self.structure = structure

    def build(self, query_shape: Shape, value_shape: Shape, key_shape: Shape | None = None) -> None:
        super().build(query_shape, value_shape, key_shape)
        if len(self.attention_axes) != 1 and not isinstance(self.structure, SoftmaxMap):
            raise ValueError(
                "Expected a single attention axis, for the keys of a structure form a sequence. "
                f"Received: attention_axes={self.attention_axes}"
            )
        if not self.structure.built:
            self.structure.build((None, self.num_heads, None, None))

    def __call__(
        self, query: Tensor, value: Tensor, key: Tensor | None = None, **kwargs: Any
    ) -> Any:
        # Keras converts each argument by itself: what was one object would be several.
        if value is query and not isinstance(query, keras.KerasTensor):
            same = key is query
            query = value = self._converted(query)
            key = query if same else key
        return super().__call__(query, value, key, **kwargs)

    def _converted(self, x):
        """The tensor that Keras would make of an argument, with its mask."""
        found = K.convert_to_tensor(x)
        if self.autocast and keras.backend.is_float_dtype(found.dtype):
            found = K.cast(found, self.compute_dtype)
        mask = keras_mask(x)
        if mask is not None and keras_mask(found) is None:
            set_keras_mask(found, mask)
        return found

    def call(
        self,
        query: Tensor,
        value: Tensor,
        key: Tensor | None = None,
        query_mask: Tensor | None = None,
        value_mask: Tensor | None = None,
        key_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
        use_causal_mask: bool = False,
    ) -> Tensor:
        if not fits(value.shape[:1], query.shape[:1]):
            raise ValueError(
                "Expected as many examples of query and value. Received: shapes of "
                f"query={tuple(query.shape)}, value={tuple(value.shape)}"
            )
        query_mask, value_mask, key_mask, attention_mask = (
            as_mask(mask) for mask in (query_mask, value_mask, key_mask, attention_mask)
        )
        if attention_mask is not None:
            _check_attention_mask(attention_mask, query, value, self.num_heads)
        alike = query is value and (key is None or key is value)
        query, value, key = (
            without_padding(query, query_mask),
            without_padding(value, value_mask),
            without_padding(*((value, value_mask) if key is None else (key, key_mask))),
        )
        heads = (self.query_dense(query), self.key_dense(key), self.value_dense(value))
        if self._is_softmax():
            mask = self._compute_attention_mask(
                query, value, query_mask, value_mask, key_mask, attention_mask, use_causal_mask
            )
            output, scores = self._softmax_attention(
                *heads, mask, training, return_attention_scores
            )
        else:
            allowed = None if attention_mask is None else _over_heads(attention_mask)
            masks = self._masks(
                query_mask, all_of(value_mask, key_mask), allowed, alike, use_causal_mask, query
            )
            output, scores = self._structured_attention(*heads, allowed, masks, training)
        gate = gate_of(self)
        output = output if gate is None else K.multiply(output, gate(query))
        output = self.output_dense(output)
        return (output, scores) if return_attention_scores else output

    def _is_softmax(self):
        structure = self.structure
        if not isinstance(structure, SoftmaxMap) or structure.readout != "marginals":
            return False
        return structure.temperature != 0

    def _softmax_attention(self, query, key, value, mask, training, return_scores):
        """The attention of Keras, on queries divided by the temperature."""
        temperature = K.convert_to_tensor(self.structure.temperature_of_heads(), "float32")
        query = K.cast(query / K.cast(temperature, query.dtype), query.dtype)
        # The fused attention of JAX fails for float16 on a CPU, and for values of another size.
        half = keras.backend.standardize_dtype(query.dtype) == "float16"
        refused = half or self.value_dim != self.key_dim
        plain = return_scores or (refused and keras.backend.backend() == "jax")
        return self._compute_attention(query, key, value, mask, training, plain)

    def _structured_attention(self, query, key, value, allowed, masks, training):
        query, key, value = (self._heads_first(x) for x in (query, key, value))
        query = query * K.cast(1 / math.sqrt(self.key_dim), query.dtype)
        scores = K.matmul(query, K.swapaxes(key, -2, -1))
        if allowed is not None:
            scores = K.where(allowed, scores, K.cast(-float("inf"), scores.dtype))
        attention = K.cast(self.structure(scores, **masks), scores.dtype)
        dropped = self._dropout_layer(attention, training=training)
        output = K.swapaxes(K.matmul(dropped, value), -3, -2)
        return K.moveaxis(output, -3, self._attention_axis(output)), attention

    def _heads_first(self, x):
        """From `(B, ..., T, ..., H, D)` to `(B, ..., H, T, D)`."""
        return K.swapaxes(K.moveaxis(x, self._attention_axis(x), -3), -3, -2)

    def _attention_axis(self, x):
        """The axis of the queries or keys in a projected sequence; from the end without heads."""
        axis = self.attention_axes[0]
        return axis if axis >= 0 else len(x.shape) - 2 + axis

    def _masks(self, query_mask, key_mask, allowed, alike, causal, query):
        """The masks that the map takes, as keyword arguments; None for all.

        A key that no query may see is not there, nor is a query that may see no key; in
        self-attention (`alike`) a position that is not there as one is not there as the other.
        """
        keys = None if key_mask is None else key_mask[:, None]  # (B, 1, S)
        queries = None if query_mask is None else query_mask[:, None]
        if allowed is not None:
            seen = allowed if queries is None else K.logical_and(allowed, queries[..., None])
            keys = all_of(keys, K.any(seen, axis=-2))
            queries = all_of(queries, K.any(allowed, axis=-1))
            if alike and allowed.shape[-2] == 1:
                queries = all_of(queries, keys)
            elif alike:
                keys = queries = all_of(keys, queries)
        if getattr(self.structure, "over_pairs", False):
            if causal:
                raise ValueError(
                    "Expected use_causal_mask=False: it needs all queries and keys at once. "
                    f"Received: use_causal_mask=True for structure={self.structure.name!r}"
                )
            return {"key_mask": keys, "query_mask": queries}
        keys = None if keys is None else keys[..., None, :]
        if causal:
            size = K.shape(query)[self.attention_axes[0]]
            places = K.arange(size)
            keys = all_of(keys, places[:, None] >= places)
        return {"key_mask": keys}

    def compute_output_spec(
        self,
        query: Tensor,
        value: Tensor,
        key: Tensor | None = None,
        query_mask: Tensor | None = None,
        value_mask: Tensor | None = None,
        key_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
        use_causal_mask: bool = False,
    ) -> Spec:
        shape = self.compute_output_shape(
            query.shape, value.shape, None if key is None else key.shape
        )
        output = keras.KerasTensor(shape, self.compute_dtype)
        if not return_attention_scores:
            return output
        axes = self.attention_axes
        axes = tuple(range(1, len(query.shape) - 1)) if axes is None else axes
        axes = tuple(axis % len(query.shape) for axis in axes)
        batch = [n for axis, n in enumerate(query.shape[:-1]) if axis not in axes]
        queries, keys = ([x.shape[axis] for axis in axes] for x in (query, value))
        scores = keras.KerasTensor((*batch, self.num_heads, *queries, *keys), self.compute_dtype)
        return output, scores

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "structure": keras.saving.serialize_keras_object(self.structure),
            "temperature": None,
            "learn_temperature": None,
            "readout": None,
        }


def _arguments(map_class):
    """The parameters of a map by name, with those that it hands on to `AttentionMap`."""
    shared = inspect.signature(AttentionMap).parameters
    names = ("imle_step", "sparse_steps")
    return {name: shared[name] for name in names} | dict(inspect.signature(map_class).parameters)


def gate_of(attention):
    """The layer of the gate of a `MultiHeadAttention`, which Keras has from 3.14 on, or None."""
    return getattr(attention, "_gate_dense", None)


def _check_attention_mask(mask, query, value, heads):
    """Raise a `ValueError` unless a mask broadcasts, where there is one attention axis."""
    if len(query.shape) != 3:
        return
    wanted, shape = (query.shape[0], heads, query.shape[1], value.shape[1]), tuple(mask.shape)
    wide = (shape[0], 1, *shape[1:]) if len(shape) == 3 else (1,) * (4 - len(shape)) + shape
    fit = [
        have in (1, None, want) or want is None for have, want in zip(wide, wanted, strict=False)
    ]
    if len(shape) > 4 or not all(fit):
        raise ValueError(
            f"Expected an attention mask that broadcasts against (B, H, T, S) = {wanted}, or is "
            f"(B, T, S). Received: shape of attention_mask={shape}"
        )


def _over_heads(mask):
    """Booleans that broadcast against `(B, H, T, S)`, from `(T, S)`, `(B, T, S)` or that."""
    if len(mask.shape) == 3:
        return mask[:, None]
    while len(mask.shape) < 4:
        mask = mask[None]
    return mask
