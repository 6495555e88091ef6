"""Training of an aligner on labelled pairs, and its scores on others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np

from keras_struct import layers
from keras_struct.layers.annotations import StrPath
from keras_struct.protein.batches import batches_by_shape, padded
from keras_struct.protein.labelled_pairs import LabelledPair, read_labelled_pairs
from keras_struct.protein.paths import path_of_pairs
from keras_struct.protein.pretrained_encoder import STATES
from keras_struct.protein.protein_aligner import (
    SIDES,
    ProteinAligner,
    chain_inputs,
    pair_model,
    run_in_batches,
)
from keras_struct.protein.scores import lddt, pair_scores
from keras_struct.protein.transport_aligner import plan_cross_entropy, plan_f1_loss
from keras_struct.runs import claim, digest, digest_of_weights, fit, without_names
from keras_struct.runs.checks import check_count, check_positive, check_seed

LOSSES = {"path": layers.AlignmentCrossEntropy(), "f1": layers.AlignmentF1Loss()}
PLAN_LOSSES = {"path": plan_cross_entropy, "f1": plan_f1_loss}
# Their alignments end at the ends of chains, references where the last residues are aligned.
GLOBAL = ("needleman_wunsch", "overlap")
MODEL = "model.keras"
MOST, FEW = 32, 4  # pairs of a batch; of one through a trunk that learns
COARSE = 64  # what padded lengths are multiples of: coarser than in use, so batches are full


def train(
    train_files: Sequence[StrPath],
    dev_files: Sequence[StrPath],
    output: StrPath,
    aligner: ProteinAligner | None = None,
    epochs: int = 10,
    learning_rate: float = 1e-3,
    batch_cells: int = 2**20,
    loss: str = "path",
    longest: int = 512,
    seed: int = 0,
    limit: int | None = None,
    restart: bool = False,
    skipped: Callable[[Exception], object] | None = None,
    progress: Callable[[str], None] = print,
) -> ProteinAligner:
    """Train an aligner on labelled pairs.

    After each epoch the state of the training is stored in `output/checkpoint`, and the model in
    `output/model.keras` if it is the best so far on the dev pairs (without any, always). A training
    that was interrupted, at any moment and in any way, goes on after its last epoch, to the same
    result. What decides it is in `output/training.json`.

    Args:
        train_files: Paths of tables, see `read_labelled_pairs`.
        dev_files: The same, scored after each epoch; may be empty.
        output: Folder, made if need be.
        aligner: `ProteinAligner` to train; None for `ProteinAligner.create()`.
        epochs: How often to see every pair.
        learning_rate: Highest learning rate of AdamW, reached after a tenth of the steps.
        batch_cells: Most cells of the maps of a batch, padding included.
        loss: `"path"`, the negative log-likelihood of the reference, for each of its pairs, or
            `"f1"`, one minus the expected F1. Aligners with a global structure (`needleman_wunsch`,
            `overlap`) need the latter: a reference that begins or ends within its chains has no
            likelihood there.
        longest: Residues; pairs with a longer chain are left out of training.
        seed: Seed of everything.
        limit: Most pairs to train on; None for all.
        restart: Whether to begin anew where `output` holds a training, this one or another.
        skipped: Called with the error of a row of a table that cannot be used; None raises.
        progress: Called with a line of text after each epoch.

    Returns:
        The `ProteinAligner` as it was after its best epoch.

    Raises:
        ValueError: For arguments that do not fit, before anything is read; if `output` holds
            another training: the message names what differs.
        FileNotFoundError: If a file does not exist, the same.
    """
    if loss not in LOSSES:
        raise ValueError(f"Expected one of {list(LOSSES)}. Received: loss={loss!r}")
    missing = [str(f) for f in [*train_files, *dev_files] if not Path(f).is_file()]
    if missing:
        raise FileNotFoundError(f"Expected existing files. Received: {missing}")
    if not train_files:
        raise ValueError(f"Expected files to train on. Received: train_files={train_files}")
    counts = {"epochs": epochs, "batch_cells": batch_cells, "longest": longest, "limit": limit}
    for name, count in counts.items():
        check_count(name, count, none=name == "limit")
    check_positive("learning_rate", learning_rate)
    check_seed(seed)
    structure = getattr(getattr(aligner, "aligner", None), "structure", None)
    if loss == "path" and structure in GLOBAL:
        raise ValueError(
            f"Expected loss='f1' for an aligner with structure={structure!r}, whose alignments end "
            "where the chains do. Received: loss='path'"
        )
    keras.utils.set_random_seed(seed)
    aligner = ProteinAligner.create() if aligner is None else aligner
    read = [pair for file in train_files for pair in read_labelled_pairs(file, skipped)][:limit]
    dev = [pair for file in dev_files for pair in read_labelled_pairs(file, skipped)]
    pairs = usable_pairs(read, longest)
    output = Path(output)
    decisions = {
        "train pairs": _digest_of_pairs(pairs),
        "dev pairs": _digest_of_pairs(dev),
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_cells": batch_cells,
        "loss": loss,
        "seed": seed,
        "encoder": digest([str(without_names(aligner.encoder.get_config()))]),
        "aligner": digest([str(without_names(aligner.aligner.get_config()))]),
        "trunk learns": learning_trunk(aligner.encoder),
        "weights at the start": digest_of_weights(aligner.model.weights),
        "backend": keras.backend.backend(),
        "dtype policy": keras.config.dtype_policy().name,
    }
    claim(output, decisions, restart)
    model, inputs = trained_part(aligner, pairs, progress)
    most = FEW if learning_trunk(aligner.encoder) else MOST
    batches = Batches(pairs, inputs, batch_cells, most, loss, seed)
    steps = len(batches) * epochs
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=learning_rate, warmup_steps=max(1, steps // 10)
    )
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=0.01, global_clipnorm=1.0),
        loss=(PLAN_LOSSES if aligner.transports else LOSSES)[loss],
    )

    def publish(rows):
        if not dev or rows[-1]["f1"] > max((row["f1"] for row in rows[:-1]), default=-1.0):
            aligner.save(output / MODEL)

    progress(f"{len(pairs)} pairs to train on, {len(dev)} to score")
    if len(pairs) < len(read):
        unfit = f"of more than {longest} residues, or without aligned pairs"
        progress(f"not trained on: {len(read) - len(pairs)} {unfit}")
    fit(
        *(model, batches, epochs, seed, output),
        score=lambda: evaluate(aligner, dev) if dev else {},
        publish=publish,
        progress=progress,
    )
    return ProteinAligner.from_preset(output / MODEL)


def _digest_of_pairs(pairs):
    parts = []
    for pair in pairs:
        found = pair.alignment
        for chain in (found.first, found.second):
            parts += [chain.sequence, b"" if chain.backbone is None else chain.backbone.tobytes()]
        parts += [found.pairs.tobytes(), str(pair.weight)]
    return digest(parts)


def evaluate(
    aligner: ProteinAligner, pairs: Sequence[LabelledPair], refine: int = 0
) -> dict[str, float]:
    """Mean scores of an aligner on labelled pairs, each weighted as its pair.

    Args:
        aligner: `ProteinAligner`.
        pairs: List of `LabelledPair`.
        refine: Steps of `refine` after it; 0 for none.

    Returns:
        Dictionary: `precision`, `recall` and `f1` of the pairs of residues against the reference;
        with coordinates also `lddt` of the alignments, and `reference_lddt` of the references.
    """
    found = aligner.align([(p.alignment.first, p.alignment.second) for p in pairs], refine=refine)
    rows = []
    for ours, pair in zip(found, pairs, strict=True):
        reference = pair.alignment
        row = pair_scores(ours.pairs, reference.pairs)
        if reference.first.backbone is not None and reference.second.backbone is not None:
            row["lddt"] = lddt(ours.first, ours.second, ours.pairs)
            row["reference_lddt"] = lddt(ours.first, ours.second, reference.pairs)
        rows.append(row)
    weights = [pair.weight for pair in pairs]
    return {
        name: float(np.average([row[name] for row in rows], weights=weights)) for name in rows[0]
    }


def usable_pairs(pairs, longest):
    """Those that have aligned residues, and no chain that is too long."""
    usable = [
        pair
        for pair in pairs
        if len(pair.alignment.pairs)
        and max(len(pair.alignment.first), len(pair.alignment.second)) <= longest
    ]
    if not usable:
        raise ValueError(f"Expected pairs of chains of at most {longest} residues. Received: none")
    return usable


def learning_trunk(encoder):
    """Whether an encoder has a trunk that learns."""
    return hasattr(encoder, "trunk") and encoder.trunk.trainable


def trained_part(aligner, pairs, progress):
    """The model to train, and by the identity of each chain its inputs.

    A trunk that does not learn is run here, once for each chain, and is no part of the model.
    """
    chains = {id(c): c for p in pairs for c in (p.alignment.first, p.alignment.second)}
    encoder = aligner.encoder
    specs = encoder.input_specs
    inputs = [encoder.chain_inputs(chain) for chain in chains.values()]
    trunk = getattr(encoder, "trunk", None)
    if trunk is not None and not learning_trunk(encoder):
        x = chain_inputs(specs)
        frozen = keras.Model(x, encoder.trunk_states(x))
        progress(f"{len(chains)} chains to encode")
        states = run_in_batches(frozen, inputs, trunk.batch_residues)
        specs = {**encoder.letters.input_specs, STATES: ((trunk.hidden_dim,), "float32")}
        inputs = [{**x, STATES: y} for x, y in zip(inputs, states, strict=True)]
        inputs = [{name: x[name] for name in specs} for x in inputs]
    model = pair_model(encoder, aligner.aligner, specs)
    return model, dict(zip(chains, inputs, strict=True))


class Batches(keras.utils.PyDataset):
    """Batches of pairs of like sizes, in another order each epoch."""

    def __init__(self, pairs, inputs, budget, most, loss, seed):
        super().__init__()
        mean = float(np.mean([pair.weight for pair in pairs]))
        self.examples = []
        for pair in pairs:
            first, second = inputs[id(pair.alignment.first)], inputs[id(pair.alignment.second)]
            matched = pair.alignment.pairs
            # The likelihood of a path grows with its length; F1 does not.
            weight = pair.weight / mean / (len(matched) if loss == "path" else 1)
            self.examples.append((first, second, path_of_pairs(matched), weight))
        self.lengths = [(len(p.alignment.first), len(p.alignment.second)) for p in pairs]
        self.budget, self.most = budget, most
        self.seed = seed
        self.start_epoch(0)

    def __len__(self):
        return len(self.batches)

    def start_epoch(self, number):
        generator = np.random.default_rng([self.seed, number])
        self.batches = batches_by_shape(
            self.lengths, self.budget, self.most, COARSE, generator.permutation
        )
        generator.shuffle(self.batches)

    def __getitem__(self, index):
        shape, members = self.batches[index]
        *chains, paths, weights = zip(*[self.examples[k] for k in members], strict=True)
        x = {
            f"{side}_{name}": padded([inputs[name] for inputs in chain], length)
            for side, chain, length in zip(SIDES, chains, shape, strict=True)
            for name in chain[0]
        }
        return x, padded(paths, sum(shape) + 1, -1), np.array(weights, "float32")
