"""A model that aligns two sequences by transport between their residues."""

import dataclasses

import keras
from keras import ops as K

from keras_struct import ops
from pfam_sinkhorn.families import NO_TARGET, PAD, VOCABULARY

SMALLEST = 1e-8


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a configuration changes.

    Attributes:
        objective: `"reconstruction"`, as published: the squared error of the transported residues;
            `"cross_entropy"` of the places; `"place"`, that and the error of the mean place.
        dustbin: Whether residues may match nothing.
        prior: Initial a of a learned prior for the diagonal, -a² (i - j)² / 2 with j scaled to the
            length of the query, in the score; None for no prior.
        band_width: Half of the width of the band; None for all pairs.
        epsilon: Temperature to start from.
        learn_epsilon: Whether it is learned, through the tail.
    """

    objective: str = "cross_entropy"
    dustbin: bool = False
    prior: float | None = None
    band_width: int | None = None
    epsilon: float = 1.0
    learn_epsilon: bool = False


CONFIGURATIONS = {
    "published": Settings(objective="reconstruction"),
    "cross_entropy": Settings(),
    "dustbin": Settings(dustbin=True),
    "prior": Settings(dustbin=True, prior=1.0, learn_epsilon=True),
    "band": Settings("place", dustbin=True, prior=1.0, band_width=16, learn_epsilon=True),
    "band_balanced": Settings("place", prior=1.0, band_width=16, learn_epsilon=True),
}


class ResidueEncoder(keras.layers.Layer):
    """Embedded residues with residual convolutions: (B, L) to (B, L, depth)."""

    def __init__(self, depth=64, blocks=3, width=9, **kwargs):
        super().__init__(**kwargs)
        self.embedding = keras.layers.Embedding(VOCABULARY, depth)
        self.convolutions = [
            keras.layers.Conv1D(depth, width, padding="same", activation="gelu")
            for _ in range(blocks)
        ]
        self.norms = [keras.layers.LayerNormalization() for _ in range(blocks + 1)]

    def call(self, residues):
        valid = K.cast(residues != PAD, self.compute_dtype)[..., None]
        x = self.embedding(residues) * valid
        for norm, convolution in zip(self.norms, self.convolutions, strict=False):
            x = x + convolution(norm(x) * valid)
        return self.norms[-1](x) * valid


class ESMResidues(keras.layers.Layer):
    """KerasHub's `ESMBackbone` of a preset: (B, L) to (B, L, depth)."""

    def __init__(self, preset, **kwargs):
        super().__init__(**kwargs)
        import keras_hub

        from keras_struct import protein

        self.encoder = protein.ESMEncoder(keras_hub.models.ESMBackbone.from_preset(preset))

    def call(self, residues):
        return self.encoder(K.where(residues == PAD, 0, residues))


class PairAligner(keras.Model):
    """Transport plan between the residues of a query and a key.

    Call arguments:
        inputs: `{"query": (B, L1), "key": (B, L2)}`, residues, padded with 1 on the right.

    Returns:
        (B, L1, L2), the plan, without the dustbin.
    """

    def __init__(self, settings, encoder=None, depth=64, **kwargs):
        super().__init__(**kwargs)
        self.settings = settings
        self.encoder = ResidueEncoder(depth) if encoder is None else encoder
        self.projection = keras.layers.Dense(depth, use_bias=False)
        self.depth = depth
        self.log_epsilon = self.add_weight(
            shape=(), initializer="zeros", trainable=settings.learn_epsilon, name="log_epsilon"
        )
        if settings.prior is not None:
            self.slope = self.add_weight(
                shape=(), initializer=keras.initializers.Constant(settings.prior), name="slope"
            )
        if settings.dustbin:
            self.tokens = self.add_weight(shape=(2, depth), initializer="zeros", name="dustbin")

    def call(self, inputs):
        query, key = (self.projection(self.encoder(inputs[x])) for x in ("query", "key"))
        lengths = [K.sum(K.cast(inputs[x] != PAD, "int32"), axis=1) for x in ("query", "key")]
        size = self.depth
        if self.settings.prior is not None:
            query, key = self._with_places(query, key, *lengths)
            size += 3
        dustbin = None
        if self.settings.dustbin:
            tokens = K.pad(self.tokens, [[0, 0], [0, size - self.depth]])
            longest = float(query.shape[1])
            dustbin = ops.Dustbin(tokens[0], tokens[1], capacities=(longest / 8, longest / 8))
        columns = K.shape(key)[1]
        every = K.zeros_like(key[:, :, :1]) + K.eye(columns, dtype=key.dtype)
        return ops.sinkhorn_tail(
            query,
            key,
            every,
            lengths=lengths,
            epsilon=self.settings.epsilon * K.exp(self.log_epsilon),
            band_width=self.settings.band_width,
            base_steps=20,
            tail_steps=2,
            dustbin=dustbin,
        )

    def _with_places(self, query, key, rows, columns):
        """Features whose products are the scores and the prior, -a² (i - j)² / 2.

        Its parts in i and in j alone would be taken up by the potentials, in many more steps.
        """
        share = K.cast(K.maximum(rows - 1, 1) / K.maximum(columns - 1, 1), key.dtype)
        i, j = (
            self.slope * (K.zeros_like(x[:, :, 0]) + K.arange(x.shape[1], dtype=x.dtype))
            for x in (query, key)
        )
        j = j * share[:, None]
        factor = float(self.depth + 3) ** 0.5  # what `sinkhorn_tail` divides by
        ours = K.stack([i, -0.5 * i * i, K.ones_like(i)], axis=2)
        theirs = K.stack([j, K.ones_like(j), -0.5 * j * j], axis=2)
        return K.concatenate([query, factor * ours], 2), K.concatenate([key, theirs], 2)


def losses(objective):
    """Loss of targets (B, L1) and a plan, given the residues of the key for `"reconstruction"`."""

    def cross_entropy(targets, plan):
        targets = K.cast(targets, "int32")
        valid = K.cast(targets != NO_TARGET, plan.dtype)
        chosen = K.take_along_axis(plan, K.maximum(targets, 0)[..., None], axis=2)[..., 0]
        return -K.sum(valid * K.log(chosen + SMALLEST)) / K.maximum(K.sum(valid), 1.0)

    def place(targets, plan):
        valid = K.cast(targets != NO_TARGET, plan.dtype)
        places = K.arange(plan.shape[2], dtype=plan.dtype)
        mean = K.sum(plan * places, axis=2) / (K.sum(plan, axis=2) + SMALLEST)
        away = K.abs(mean - K.cast(targets, plan.dtype))
        error = K.sum(valid * away) / K.maximum(K.sum(valid), 1.0)
        return cross_entropy(targets, plan) + error

    def reconstruction(targets, plan):
        # Residues of the key stand behind the targets: values are their one-hot vectors.
        targets, length = K.cast(targets, "int32"), plan.shape[1]
        key, targets = targets[:, length:], targets[:, :length]
        values = K.one_hot(key, VOCABULARY, dtype=plan.dtype)
        valid = K.cast(targets != NO_TARGET, plan.dtype)
        wanted = K.take_along_axis(values, K.maximum(targets, 0)[..., None], axis=1)
        error = K.sum(K.square(K.matmul(plan, values) - wanted), axis=2)
        return K.sum(valid * error) / K.maximum(K.sum(valid), 1.0)

    return {"cross_entropy": cross_entropy, "place": place, "reconstruction": reconstruction}[
        objective
    ]
