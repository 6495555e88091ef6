"""From the scores of queries against keys to an attention map: the marginals of a structure."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, Self

import keras
from keras import initializers
from keras import ops as K

from keras_struct import ops
from keras_struct.layers.annotations import Config, Initializer, Shape, Spec
from keras_struct.layers.import_hint import ImportHint
from keras_struct.layers.potentials import potential_dtype
from keras_struct.layers.segments import token_marginals, window_sums
from keras_struct.layers.sequence_mask import kept_first
from keras_struct.ops import sparsemap
from keras_struct.ops.annotations import Tensor
from keras_struct.ops.noise import Noise, flat_places, key_of

READOUTS = ("marginals", "argmax_st", "perturbed", "imle", "sparse")
NOISY = ("perturbed", "imle")
MARGINALS = operator.methodcaller("marginals")  # of a distribution


class AttentionMap(ImportHint):
    """Base class of the maps of `StructuredAttention`.

    A map is a layer: its structure parameters are weights, learned unless `trainable=False`. A
    subclass implements `marginals(scores, key_mask, temperature, read)` and, if it has weights of
    its own, `build`; `read` is a function from its distribution to the marginals, or what stands
    for them. Any layer with the same call arguments serves as a map.

    Here each query has a structure over the keys, with a `key_mask` that broadcasts against
    `(..., H, T, S)`. A map whose attribute `over_pairs` is True has one structure over all queries
    and keys of a head (see `AlignmentMap`, `TreeMap`): it is called with one more argument,
    `query_mask`, and the masks broadcast against `(..., H, S)` and `(..., H, T)`.

    Args:
        temperature: Number >= 0 that divides the scores; 0 is the best structure alone, without
            gradients.
        learn_temperature: Whether each head learns its temperature, starting from `temperature`.
        readout: `"marginals"`; or one structure, as a map of zeros and ones, with the gradients of
            the marginals (straight through): `"argmax_st"`, the best one; `"perturbed"`, in
            training the best one for scores with Gumbel noise times the temperature, whose
            gradients are those of the marginals for these scores, and else the best one. With
            `SoftmaxMap` that is an exact sample; with others it is one of perturb-and-MAP, since
            the noise is that of the pairs and not of the structures.
            `"imle"`: as `"perturbed"`, with the gradients of implicit maximum likelihood: the
            difference to the best structure that is found one step against the gradient of the
            loss (`ops.Distribution.implicit_mle`). Or `"sparse"`: the marginals of few structures,
            SparseMAP, with exact zeros (`ops.Distribution.sparse_marginals`); for `SoftmaxMap` the
            sparsemax.
        imle_step: Lambda of `"imle"`, a positive number: the step, in units of the scores over the
            temperature.
        sparse_steps: The most steps of `"sparse"`, which bound its memory, too; None for 100.
        seed: Integer or `keras.random.SeedGenerator` of the noise.
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        scores: `(..., H, T, S)` of heads, queries and keys; minus infinity where a query must not
            attend to a key.
        key_mask: Booleans that broadcast against `(..., H, T, S)`: which keys there are, wherever
            they stand; None for all.
        training: Whether there is noise.

    Returns:
        `(..., H, T, S)` in the dtype of the scores, exactly 0 for keys that are not there.

    Source: Jang, Gu and Poole (2017), Categorical reparameterization with Gumbel-softmax; Paulus,
    Choi, Tarlow, Krause and Maddison (2020), Gradient estimation with stochastic softmax tricks;
    Niepert, Minervini and Franceschi (2021), Implicit MLE; Niculae, Martins, Blondel and Cardie
    (2018), SparseMAP.
    """

    over_pairs = False

    def __init__(
        self,
        temperature: float = 1.0,
        learn_temperature: bool = False,
        readout: str = "marginals",
        seed: int | keras.random.SeedGenerator | None = None,
        imle_step: float = 1.0,
        sparse_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= temperature < math.inf or (learn_temperature and temperature == 0):
            raise ValueError(
                "Expected a number >= 0, and > 0 to learn it. "
                f"Received: temperature={temperature}, learn_temperature={learn_temperature}"
            )
        if readout not in READOUTS:
            raise ValueError(f"Expected a readout among {READOUTS}. Received: readout={readout!r}")
        if readout != "marginals" and temperature == 0:
            raise ValueError(
                "Expected a temperature > 0 for gradients, which the best structure alone has not. "
                f"Received: readout={readout!r}, temperature=0"
            )
        self.temperature = temperature
        self.learn_temperature = learn_temperature
        self.readout = readout
        self.seed = seed
        self.seed_generator = None
        if not 0 < imle_step < math.inf:
            raise ValueError(f"Expected a positive number. Received: imle_step={imle_step}")
        sparsemap.checked(sparse_steps, "sparse_steps")
        self.imle_step = imle_step
        self.sparse_steps = sparse_steps
        if readout in NOISY:
            given = isinstance(seed, keras.random.SeedGenerator)
            self.seed_generator = seed if given else keras.random.SeedGenerator(seed)

    def build(self, scores_shape: Shape, key_mask_shape: Shape | None = None) -> None:
        if self.learn_temperature:
            start = initializers.Constant(math.log(self.temperature))
            self.log_temperature = self.add_head_weight("log_temperature", (), start, scores_shape)

    def add_head_weight(
        self, name: str, shape: tuple[int, ...], initializer: Initializer, scores_shape: Shape
    ) -> Tensor:
        """A weight `(H, *shape)`, not rounded to half precision."""
        return self.add_weight(
            name=name,
            shape=(scores_shape[-3], *shape),
            initializer=initializer,
            autocast=False,
        )

    def temperature_of_heads(self) -> float | Tensor:
        """The number that was given, or if learned a tensor `(H, 1)`, over pairs `(H,)`."""
        if not self.learn_temperature:
            return self.temperature
        temperature = K.exp(K.cast(self.log_temperature, "float32"))
        return temperature if self.over_pairs else K.expand_dims(temperature, -1)

    def call(
        self, scores: Tensor, key_mask: Tensor | None = None, *, training: bool | None = None
    ) -> Tensor:
        return self.read(scores, key_mask, training)

    def read(self, scores: Tensor, masks: Any, training: bool | None) -> Tensor:
        """What `readout` asks for."""
        temperature = self.temperature_of_heads()
        if self.readout == "marginals":
            return self.marginals(scores, masks, temperature)
        if self.readout == "sparse":
            return self.marginals(scores, masks, temperature, self.sparse_marginals())
        if training and self.readout in NOISY:
            noise = Noise.of(key_of(self.seed_generator), scores, 1).draws(0)
            noise = noise.gumbel(0, flat_places(K.shape(scores)[1:]), "float32")
            if self.learn_temperature:
                size = K.stop_gradient(K.reshape(temperature, (-1, 1, 1)))
            else:
                size = temperature
            scores = scores + K.cast(noise * size, scores.dtype)
        if self.readout == "imle":
            best = operator.methodcaller("implicit_mle", self.imle_step)
            return self.marginals(scores, masks, temperature, best)
        soft = self.marginals(scores, masks, temperature)
        best = K.stop_gradient(self.marginals(K.stop_gradient(scores), masks, 0))
        return best + (soft - K.stop_gradient(soft))

    def sparse_marginals(self) -> Callable[[ops.Distribution], Tensor]:
        """What reads the sparse marginals of a distribution."""
        return operator.methodcaller("sparse_marginals", steps=self.sparse_steps)

    def marginals(
        self,
        scores: Tensor,
        key_mask: Tensor | None,
        temperature: float,
        read: Callable[[ops.Distribution], Tensor] = MARGINALS,
    ) -> Tensor:
        """The attention map, see the class."""
        raise NotImplementedError

    def compute_output_spec(
        self, scores: Tensor, key_mask: Tensor | None = None, *, training: bool | None = None
    ) -> Spec:
        return keras.KerasTensor(scores.shape, self.compute_dtype)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "learn_temperature": self.learn_temperature,
            "readout": self.readout,
            "seed": keras.saving.serialize_keras_object(self.seed),
            "imle_step": self.imle_step,
            "sparse_steps": self.sparse_steps,
        }

    @classmethod
    def from_config(cls, config: Config) -> Self:
        config = dict(config)
        if isinstance(config.get("seed"), dict):
            config["seed"] = keras.saving.deserialize_keras_object(config["seed"])
        return super().from_config(config)


@keras.saving.register_keras_serializable("keras_struct")
class SoftmaxMap(AttentionMap):
    """Each query attends to one key: the softmax.

    Args:
        temperature: See `AttentionMap`.
        learn_temperature: See `AttentionMap`.
        alpha: Of `readout="sparse"`: 2, sparsemax, or 1.5, the entmax between it and the softmax.
        **kwargs: `name`, `dtype`, `trainable`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_struct import layers
    >>> scores = np.array([[[0.0, 0.0, -np.inf]]], "float32")  # one head, one query, three keys
    >>> keras.ops.convert_to_numpy(layers.SoftmaxMap()(scores)).tolist()
    [[[0.5, 0.5, 0.0]]]

    Source: Vaswani et al. (2017), Attention is all you need; Peters, Niculae and Martins (2019),
    Sparse sequence-to-sequence models (entmax).
    """

    def __init__(
        self,
        temperature: float = 1.0,
        learn_temperature: bool = False,
        alpha: float = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(temperature, learn_temperature, **kwargs)
        if alpha not in (1.5, 2):
            raise ValueError(f"Expected 1.5 or 2. Received: alpha={alpha}")
        self.alpha = alpha

    def sparse_marginals(self) -> Callable[[ops.Distribution], Tensor]:
        return operator.methodcaller("sparse_marginals", alpha=self.alpha)

    def get_config(self) -> Config:
        return {**super().get_config(), "alpha": self.alpha}

    def marginals(
        self,
        scores: Tensor,
        key_mask: Tensor | None,
        temperature: float,
        read: Callable[[ops.Distribution], Tensor] = MARGINALS,
    ) -> Tensor:
        return read(ops.categorical(scores, mask=key_mask, temperature=temperature))


@keras.saving.register_keras_serializable("keras_struct")
class LinearChainMap(AttentionMap):
    """Each query selects any keys, and neighbouring keys influence each other.

    The keys form a chain of binary states, selected or not. The score of a selection is the sum of
    the scores of the selected keys and of a learned score for the states of each two neighbours,
    so a head can learn to select phrases. While those `pairwise` scores are zero, the map is the
    sigmoid of the scores.

    Args:
        temperature: See `AttentionMap`.
        learn_temperature: See `AttentionMap`.
        pairwise_initializer: Initializer of the `(H, 2, 2)` scores, from the state of a key to
            that of the next; state 1 is selected.
        **kwargs: `name`, `dtype`, `trainable`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_struct import layers
    >>> scores = np.zeros((1, 1, 3), "float32")  # one head, one query, three keys
    >>> keras.ops.convert_to_numpy(layers.LinearChainMap()(scores)).tolist()
    [[[0.5, 0.5, 0.5]]]

    Source: Kim, Denton, Hoang and Rush (2017), Structured Attention Networks, section 3.1.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        learn_temperature: bool = False,
        pairwise_initializer: Initializer = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(temperature, learn_temperature, **kwargs)
        self.pairwise_initializer = initializers.get(pairwise_initializer)

    def build(self, scores_shape: Shape, key_mask_shape: Shape | None = None) -> None:
        super().build(scores_shape)
        self.pairwise = self.add_head_weight(
            "pairwise", (2, 2), self.pairwise_initializer, scores_shape
        )

    def marginals(
        self,
        scores: Tensor,
        key_mask: Tensor | None,
        temperature: float,
        read: Callable[[ops.Distribution], Tensor] = MARGINALS,
    ) -> Tensor:
        unary = K.stack([K.zeros_like(scores), scores], axis=-1)
        pairwise = K.reshape(self.pairwise, (scores.shape[-3], 1, 2, 2))
        pairwise = K.broadcast_to(pairwise, (*K.shape(scores)[:-1], 2, 2))
        chain = ops.linear_chain(unary, pairwise, mask=key_mask, temperature=temperature)
        return read(chain)[..., 1]

    def get_config(self) -> Config:
        initializer = initializers.serialize(self.pairwise_initializer)
        return {**super().get_config(), "pairwise_initializer": initializer}


@keras.saving.register_keras_serializable("keras_struct")
class SemiMarkovMap(AttentionMap):
    """Each query selects runs of up to `max_length` keys, whose lengths have learned scores.

    Two runs never touch, so every selection of keys without a longer run is counted once. Its
    score is the sum of the scores of the selected keys and of a learned score for the length of
    each run. While those `length_scores` are zero and no run can be too long, the map is the
    sigmoid of the scores.

    Args:
        max_length: Length of the longest run.
        temperature: See `AttentionMap`.
        learn_temperature: See `AttentionMap`.
        length_initializer: Initializer of the `(H, max_length)` scores of the lengths.
        **kwargs: `name`, `dtype`, `trainable`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_struct import layers
    >>> scores = np.zeros((1, 1, 2), "float32")  # one head, one query, two keys
    >>> apart = layers.SemiMarkovMap(max_length=1)(scores)  # none, the first, or the second
    >>> print(np.round(keras.ops.convert_to_numpy(apart), 3))
    [[[0.333 0.333]]]

    Source: Sarawagi and Cohen (2004), Semi-Markov conditional random fields.
    """

    def __init__(
        self,
        max_length: int = 8,
        temperature: float = 1.0,
        learn_temperature: bool = False,
        length_initializer: Initializer = "zeros",
        **kwargs: Any,
    ) -> None:
        super().__init__(temperature, learn_temperature, **kwargs)
        if not isinstance(max_length, int) or max_length < 1:
            raise ValueError(f"Expected a positive integer. Received: max_length={max_length}")
        self.max_length = max_length
        self.length_initializer = initializers.get(length_initializer)

    def build(self, scores_shape: Shape, key_mask_shape: Shape | None = None) -> None:
        super().build(scores_shape)
        self.length_scores = self.add_head_weight(
            "length_scores", (self.max_length,), self.length_initializer, scores_shape
        )

    def marginals(
        self,
        scores: Tensor,
        key_mask: Tensor | None,
        temperature: float,
        read: Callable[[ops.Distribution], Tensor] = MARGINALS,
    ) -> Tensor:
        dtype = potential_dtype(scores.dtype)
        given, lengths = scores.dtype, None
        if key_mask is not None:  # a run goes on behind a key that is not there
            scores, lengths, back = kept_first(scores, key_mask)
        runs = window_sums(K.expand_dims(K.cast(scores, dtype), -1), self.max_length)[..., 0]
        learned = K.cast(self.length_scores, dtype)
        runs = runs + K.reshape(learned, (scores.shape[-3], 1, 1, self.max_length))
        # Label 0 is a key that is not selected, one at a time; label 1 a run of selected keys.
        single = K.cast(K.arange(self.max_length) == 0, "bool")
        skipped = K.where(single, K.zeros_like(runs), -float("inf"))
        apart = K.convert_to_tensor([[0.0, 0.0], [0.0, -float("inf")]], dtype)
        chain = ops.semi_markov(
            K.stack([skipped, runs], axis=-1), apart, lengths=lengths, temperature=temperature
        )
        selected = K.cast(token_marginals(read(chain)[..., 1:])[..., 0], given)
        return selected if key_mask is None else back(selected)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "max_length": self.max_length,
            "length_initializer": initializers.serialize(self.length_initializer),
        }


@keras.saving.register_keras_serializable("keras_struct")
class SubsetMap(AttentionMap):
    """Each query selects exactly k keys (all of them where there are no more than k).

    The score of a selection is the sum of the scores of its keys; each row of the map sums to k.

    Args:
        k: Number of keys.
        temperature: See `AttentionMap`.
        learn_temperature: See `AttentionMap`.
        **kwargs: `name`, `dtype`, `trainable`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_struct import layers
    >>> scores = np.zeros((1, 1, 4), "float32")  # one head, one query, four keys
    >>> print(np.round(keras.ops.convert_to_numpy(layers.SubsetMap(k=2)(scores)), 3))
    [[[0.5 0.5 0.5 0.5]]]
    """

    def __init__(
        self, k: int, temperature: float = 1.0, learn_temperature: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(temperature, learn_temperature, **kwargs)
        if not isinstance(k, int) or k < 1:
            raise ValueError(f"Expected a positive integer. Received: k={k}")
        self.k = k

    def marginals(
        self,
        scores: Tensor,
        key_mask: Tensor | None,
        temperature: float,
        read: Callable[[ops.Distribution], Tensor] = MARGINALS,
    ) -> Tensor:
        allowed = scores > -float("inf")
        if key_mask is not None:
            allowed = K.logical_and(allowed, key_mask)
        every = K.cast(allowed, scores.dtype)
        few = K.sum(K.cast(allowed, "int32"), axis=-1, keepdims=True) <= self.k
        chosen = read(ops.subset(scores, self.k, mask=key_mask, temperature=temperature))
        return K.where(few, every, chosen)

    def get_config(self) -> Config:
        return {**super().get_config(), "k": self.k}
