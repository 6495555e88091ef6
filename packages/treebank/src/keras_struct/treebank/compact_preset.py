"""Parsers over MiniLM in a few megabytes: only what training changed is stored, in half precision.

A compact preset is a folder of `config.json` and `weights.safetensors`. The embeddings and the
layers of the backbone that stayed frozen come from the installed MiniLM. The matrices of the other
layers are stored as they are, or as a product of two thin ones, to be added to MiniLM's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np
from safetensors.numpy import load_file, save_file

from keras_struct.layers.annotations import StrPath
from keras_struct.layers.whole_files import whole_folder
from keras_struct.runs.model_data import check_model, models_folder, reading_model
from keras_struct.treebank.minilm import MODELS, minilm_backbone, minilm_tokenizer
from keras_struct.treebank.preprocessor import ParserPreprocessor

if TYPE_CHECKING:
    from keras_struct.treebank.parser_task import ParserTask

SHIPPED = ("constituency_en", "dependency_en")
CONFIG, WEIGHTS = "config.json", "weights.safetensors"
LEFT, RIGHT = " left", " right"  # factors of a change, after the path of the matrix
OURS = (
    "labels",
    "tags",
    "dropout",
    "decoding",
    "temperature",
    "threshold",
    "boundary_dim",
    "structure",
    "arc_dim",
    "relation_dim",
)


def preset_folder(preset):
    """The folder of a compact preset, shipped or the user's; None for what KerasHub may know.

    Raises:
        ImportError: If the shipped models are not installed.
        ValueError: If the shipped model is damaged.
    """
    folder = Path(preset)
    if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
        return folder
    if str(preset) not in SHIPPED:
        return None
    models = models_folder(MODELS)
    check_model(models, str(preset))
    return models / str(preset)


def save_compact_preset(
    parser: ParserTask, folder: StrPath, about: str = "", rank: int | None = None
) -> None:
    """Store a parser over MiniLM, whole or not at all.

    Args:
        parser: `ConstituencyParser` or `DependencyParser` over `minilm_backbone()`; what still has
            the weights of MiniLM is not stored.
        folder: Path; a compact preset that is there is replaced.
        about: What it was trained on, for its readers.
        rank: Of what is kept of the change of every matrix of the backbone, the best such
            approximation (Eckart and Young, 1936); None to store the matrices.

    Raises:
        ValueError: If the rank is not positive.
    """
    check_rank(rank)
    folder = Path(folder)
    weights = {
        w.path: keras.ops.convert_to_numpy(w)
        for w in parser.weights
        if "seed_generator" not in w.path
    }
    for w in minilm_backbone(parser.backbone.num_layers).weights:
        before = keras.ops.convert_to_numpy(w)
        if np.array_equal(weights[w.path], before):
            del weights[w.path]
        elif rank is not None and w.path.endswith("/kernel"):
            left, right = _factors(weights.pop(w.path) - before, rank)
            weights[w.path + LEFT], weights[w.path + RIGHT] = left, right
    # Contiguous: safetensors writes memory as it lies.
    weights = {path: np.ascontiguousarray(x, "float16") for path, x in weights.items()}
    config = parser.get_config()
    config = {
        "class": type(parser).__name__,
        "about": about,
        "num_layers": parser.backbone.num_layers,
        "config": {name: config[name] for name in OURS if name in config},
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as new:
        new.mkdir()
        (new / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
        save_file(weights, new / WEIGHTS)


def load_compact_preset(cls, folder, load_weights=True):
    """The parser that `save_compact_preset` stored.

    Raises:
        ValueError: If it is one of another class, or its weights do not fit.
        ImportError: If MiniLM is not installed.
    """
    with reading_model(folder):
        stored = json.loads((Path(folder) / CONFIG).read_text())
        name, num_layers, config = (stored[key] for key in ("class", "num_layers", "config"))
        weights = load_file(Path(folder) / WEIGHTS) if load_weights else {}
    if name != cls.__name__:
        raise ValueError(f"Expected a {cls.__name__}. Received: {folder} with a {name}")
    backbone = minilm_backbone(num_layers, load_weights=load_weights)
    with reading_model(folder):
        parser = cls(backbone, ParserPreprocessor(minilm_tokenizer()), **config)
    if load_weights:
        variables = {w.path: w for w in parser.weights}
        weights = {path: value.astype("float32") for path, value in weights.items()}
        paths = {path.removesuffix(LEFT).removesuffix(RIGHT) for path in weights}
        if unknown := sorted(paths - set(variables)):
            raise ValueError(f"Expected weights of this parser. Received: {unknown[:3]}")
        for path in [path.removesuffix(LEFT) for path in weights if path.endswith(LEFT)]:
            change = weights.pop(path + LEFT) @ weights.pop(path + RIGHT)
            before = keras.ops.convert_to_numpy(variables[path])
            weights[path] = before + change.reshape(before.shape)
        for path, value in weights.items():
            variables[path].assign(value)
    return parser


def check_rank(rank):
    if rank is not None and rank < 1:
        raise ValueError(f"Expected a positive rank, or None. Received: rank={rank}")


def _factors(x, rank):
    """Two matrices whose product is nearest to an array, seen as the squarest matrix."""
    rows = min(np.cumprod(x.shape[:-1]), key=lambda rows: abs(rows - x.size // rows))
    u, s, v = np.linalg.svd(x.reshape(rows, -1), full_matrices=False)
    root = np.sqrt(s[:rank])
    return u[:, :rank] * root, root[:, None] * v[:rank]
