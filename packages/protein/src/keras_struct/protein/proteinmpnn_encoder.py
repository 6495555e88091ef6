"""The structure encoder of ProteinMPNN: message passing on the graph of nearest residues."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops as K

from keras_struct.layers.annotations import Config, Shape, Spec
from keras_struct.ops.annotations import Tensor
from keras_struct.ops.numerics import all_over
from keras_struct.protein.chain import Chain, with_coordinates

ATOMS = ("N", "CA", "C", "O", "CB")
# The order in which ProteinMPNN lists the distances of an edge.
DISTANCES = (
    *("CA-CA", "N-N", "C-C", "O-O", "CB-CB"),
    *("CA-N", "CA-C", "CA-O", "CA-CB", "N-C", "N-O", "N-CB", "CB-C", "CB-O", "O-C"),
    *("N-CA", "C-CA", "O-CA", "CB-CA", "C-N", "O-N", "CB-N", "C-CB", "O-CB", "C-O"),
)
BASES = 16  # radial basis functions of a distance, between 2 and 22 angstrom
NEAREST, FARTHEST = 2.0, 22.0
OFFSETS = 32  # residues along the chain, beyond which edges look alike
POSITIONS = 16
SCALE = 30.0  # of the sum of messages
BEYOND = 1e6  # angstrom: where residues that are not there lie
EPSILON = 1e-6


@keras.saving.register_keras_serializable("keras_struct")
class ProteinMPNNEncoder(keras.layers.Layer):
    """States of residues from the backbone around them, as the encoder of ProteinMPNN makes them.

    Each residue is joined to its nearest ones by CA distance. An edge starts from the distances of
    all pairs of backbone atoms (CB is put where it would be) and from the distance along the chain;
    layers of messages then change nodes and edges in turn. The states do not depend on where the
    chain lies or how it is turned, nor on its amino acids. `load_proteinmpnn` fills the weights.

    Args:
        hidden_dim: Size of the states of nodes and edges.
        num_layers: How many layers of messages.
        num_neighbors: How many nearest residues, itself included, send messages.
        dropout: Rate, in training.
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: Coordinates `(B, L, A, 3)` in angstrom, `A >= 4`: N, CA, C, O of each residue; more
            atoms are ignored. A residue with an atom that is not finite is left out.
        mask: Boolean `(B, L)`, True for residues; None for all.
        residue_index: Integers `(B, L)`, the place along the chain; None for 0, 1, 2, ...
        chain_index: Integers `(B, L)`, equal for residues of one chain; None for one chain.

    Returns:
        States `(B, L, hidden_dim)`, 0 where no residue is.

    Raises:
        ValueError: For arguments or shapes that do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct import protein
    >>> coordinates = np.random.default_rng(0).normal(0, 10, (2, 12, 4, 3)).astype("float32")
    >>> encoder = protein.ProteinMPNNEncoder(hidden_dim=16, num_layers=1)
    >>> tuple(encoder(coordinates).shape)
    (2, 12, 16)

    Source: Dauparas et al. (2022), Robust deep learning-based protein sequence design using
    ProteinMPNN.
    """

    batch_residues = 1024  # an edge has 400 distances

    def __init__(
        self,
        hidden_dim: int = 128,
        num_layers: int = 3,
        num_neighbors: int = 48,
        dropout: float = 0.1,
        **kwargs: Any,
    ) -> None:
        # Distances are differences of large numbers: in float32 whatever the layers compute in.
        super().__init__(autocast=False, **kwargs)
        for name, value, least in (
            ("hidden_dim", hidden_dim, 1),
            ("num_layers", num_layers, 0),
            ("num_neighbors", num_neighbors, 1),
        ):
            if value < least:
                raise ValueError(f"Expected an integer >= {least}. Received: {name}={value}")
        self.hidden_dim = hidden_dim
        self.num_layers = num_layers
        self.num_neighbors = num_neighbors
        self.dropout = dropout
        policy = self.dtype_policy
        self.position_embedding = keras.layers.Embedding(
            2 * OFFSETS + 2, POSITIONS, dtype=policy, name="position_embedding"
        )
        self.edge_embedding = keras.layers.Dense(
            hidden_dim, use_bias=False, dtype=policy, name="edge_embedding"
        )
        self.edge_norm = _norm(policy, "edge_norm")
        self.edge_projection = keras.layers.Dense(hidden_dim, dtype=policy, name="edge_projection")
        self.message_layers = [
            # Nobody reads the edges after the last one.
            _MessageLayer(hidden_dim, dropout, k < num_layers - 1, dtype=policy, name=f"layer_{k}")
            for k in range(num_layers)
        ]
        self.supports_masking = True

    @property
    def input_specs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape of a residue and dtype of the input, by name."""
        return {"backbone": ((4, 3), "float32")}

    def chain_inputs(self, chain: Chain) -> dict[str, np.ndarray]:
        """The input of a `Chain`, an array `(L, 4, 3)` by name.

        Raises:
            ValueError: If the chain has no coordinates.
        """
        return {"backbone": with_coordinates(chain).backbone[:, :4].astype("float32")}

    def build(self, input_shape: Shape) -> None:
        if len(input_shape) != 4 or input_shape[2] is None or input_shape[2] < 4:
            raise ValueError(
                "Expected coordinates (B, L, A, 3) of N, CA, C and O. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        if input_shape[3] != 3:
            raise ValueError(
                f"Expected three coordinates an atom. Received: input_shape={tuple(input_shape)}"
            )
        batch, length = input_shape[:2]
        edges = (batch, length, self.num_neighbors)
        self.position_embedding.build(edges)
        self.edge_embedding.build((*edges, POSITIONS + BASES * len(DISTANCES)))
        self.edge_norm.build((*edges, self.hidden_dim))
        self.edge_projection.build((*edges, self.hidden_dim))
        for layer in self.message_layers:
            layer.build((batch, length, self.hidden_dim))

    def call(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        residue_index: Tensor | None = None,
        chain_index: Tensor | None = None,
        training: bool | None = None,
    ) -> Tensor:
        x = K.cast(inputs[:, :, :4], "float32")
        batch, length = K.shape(x)[0], K.shape(x)[1]
        inside = all_over(K.isfinite(x), (2, 3))
        if mask is not None:
            inside = K.logical_and(inside, K.cast(mask, "bool"))
        x = _with_cb(K.where(inside[:, :, None, None], x, 0.0))
        neighbors, joined = self._neighbors(x[:, :, 1], inside)

        # Into the residues of all chains, one after the other.
        neighbors += (K.arange(batch, dtype="int32") * K.cast(length, "int32"))[:, None, None]
        if residue_index is None:
            residue_index = K.broadcast_to(K.arange(length, dtype="int32"), (batch, length))
        index = K.cast(residue_index, "int32")
        offset = index[:, :, None] - _gather(index, neighbors)
        position = K.clip(offset + OFFSETS, 0, 2 * OFFSETS)
        if chain_index is not None:
            chain = K.cast(chain_index, "int32")
            position = K.where(
                chain[:, :, None] == _gather(chain, neighbors), position, 2 * OFFSETS + 1
            )
        features = [
            self.position_embedding(position),
            K.cast(_radial_basis(x, _gather(x, neighbors)), self.compute_dtype),
        ]
        edges = self.edge_norm(self.edge_embedding(K.concatenate(features, axis=-1)))
        edges = self.edge_projection(edges)
        nodes = K.zeros((batch, length, self.hidden_dim), self.compute_dtype)
        inside = K.cast(inside, self.compute_dtype)[..., None]
        joined = K.cast(joined, self.compute_dtype)[..., None]
        for layer in self.message_layers:
            nodes, edges = layer(
                nodes,
                edges,
                neighbors=neighbors,
                inside=inside,
                joined=joined,
                training=training,
            )
        return nodes

    def _neighbors(self, ca, inside):
        """Indices `(B, L, num_neighbors)` of the nearest residues, and which of them are there."""
        difference = ca[:, :, None] - ca[:, None, :]
        distance = K.sqrt(K.sum(difference**2, axis=-1) + EPSILON)
        distance = K.where(inside[:, None, :], distance, BEYOND)
        # As many columns beyond everything, so that there are always enough to choose from.
        none = K.full_like(distance[:, :, :1], 2 * BEYOND)
        none = K.repeat(none, self.num_neighbors, axis=2)
        found, index = K.top_k(-K.concatenate([distance, none], axis=2), self.num_neighbors)
        joined = K.logical_and(-found < BEYOND / 2, inside[:, :, None])
        return K.minimum(K.cast(index, "int32"), K.shape(ca)[1] - 1), joined

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None = None) -> Tensor | None:
        return previous_mask

    def compute_output_spec(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        residue_index: Tensor | None = None,
        chain_index: Tensor | None = None,
        training: bool | None = None,
    ) -> Spec:
        return keras.KerasTensor((*inputs.shape[:2], self.hidden_dim), self.compute_dtype)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "num_layers": self.num_layers,
            "num_neighbors": self.num_neighbors,
            "dropout": self.dropout,
        }


class _MessageLayer(keras.layers.Layer):
    """Messages from edges and neighbors change the nodes, then nodes change the edges.

    The first product of a message, of node, edge and neighbor side by side, is the sum of three, so
    that those of nodes are computed once a node and not once an edge.
    """

    def __init__(self, dim, dropout, changes_edges, **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy

        def dense(name, size=dim, use_bias=True, activation=None):
            return keras.layers.Dense(size, activation, use_bias=use_bias, dtype=policy, name=name)

        def message(to):
            return {
                "node": dense(f"{to}_from_node", use_bias=False),
                "edge": dense(f"{to}_from_edge"),
                "neighbor": dense(f"{to}_from_neighbor", use_bias=False),
                "hidden": dense(f"{to}_hidden", activation=_gelu),
                "output": dense(f"{to}_output"),
            }

        # Not in one list: Keras below 3.15 does not save the layers of a container in another.
        self.to_nodes = message("node")
        self.to_edges = message("edge") if changes_edges else {}
        self.feed_forward = [
            dense("feed_forward_in", 4 * dim, activation=_gelu),
            dense("feed_forward_out"),
        ]
        self.norms = [_norm(policy, f"norm_{k}") for k in range(2 + changes_edges)]
        self.drop = keras.layers.Dropout(dropout, dtype=policy)
        self.dim = dim
        self.changes_edges = changes_edges

    def build(self, shape):
        for layer in (*self.to_nodes.values(), *self.to_edges.values()):
            layer.build((*shape[:-1], self.dim))
        for layer, size in zip(self.feed_forward, (self.dim, 4 * self.dim), strict=True):
            layer.build((*shape[:-1], size))
        for norm in self.norms:
            norm.build(shape)

    def call(self, nodes, edges, neighbors, inside, joined, training=None):
        messages = _message(self.to_nodes, nodes, edges, neighbors) * joined
        change = K.sum(messages, axis=2) / SCALE
        nodes = self.norms[0](nodes + self.drop(change, training=training))
        change = self.feed_forward[1](self.feed_forward[0](nodes))
        nodes = self.norms[1](nodes + self.drop(change, training=training)) * inside
        if not self.changes_edges:
            return nodes, edges
        change = _message(self.to_edges, nodes, edges, neighbors)
        return nodes, self.norms[2](edges + self.drop(change, training=training))


def _message(layers, nodes, edges, neighbors):
    x = layers["node"](nodes)[:, :, None] + layers["edge"](edges)
    x = _gelu(x + _gather(layers["neighbor"](nodes), neighbors))
    return layers["output"](layers["hidden"](x))


def _gather(values, neighbors):
    """Of `(B, L, ...)` what the neighbors have, `(B, L, num_neighbors, ...)`."""
    return K.take(K.reshape(values, (-1, *values.shape[2:])), neighbors, axis=0)


def _gelu(x):
    return keras.activations.gelu(x, approximate=False)


def _norm(policy, name):
    return keras.layers.LayerNormalization(epsilon=1e-5, dtype=policy, name=name)


def _with_cb(x):
    """N, CA, C, O, and CB where an ideal residue has it, `(B, L, 5, 3)`."""
    n, ca, c = (x[:, :, k] for k in range(3))
    b, c = ca - n, c - ca
    a = K.cross(b, c, axis=-1)
    cb = -0.58273431 * a + 0.56802827 * b - 0.54067466 * c + ca
    return K.concatenate([x, cb[:, :, None]], axis=2)


def _radial_basis(x, neighbors):
    """`(B, L, K, 400)`: the distances of all pairs of atoms in radial basis functions."""
    difference = x[:, :, None, :, None] - neighbors[:, :, :, None]
    squared = K.sum(difference**2, axis=-1)
    shape = K.shape(squared)[:3]
    places = [
        len(ATOMS) * ATOMS.index(a) + ATOMS.index(b) for a, b in (d.split("-") for d in DISTANCES)
    ]
    squared = K.take(K.reshape(squared, (*shape, len(ATOMS) ** 2)), places, axis=-1)
    distance = K.sqrt(squared + EPSILON)
    centers = K.linspace(NEAREST, FARTHEST, BASES, dtype="float32")
    width = (FARTHEST - NEAREST) / BASES
    basis = K.exp(-(((distance[..., None] - centers) / width) ** 2))
    return K.reshape(basis, (*shape, BASES * len(DISTANCES)))
