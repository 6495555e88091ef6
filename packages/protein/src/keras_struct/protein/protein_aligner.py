"""The model that aligns proteins: letters in, alignments out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np

from keras_struct import layers
from keras_struct.layers.annotations import Spec, StrPath
from keras_struct.layers.whole_files import whole_folder
from keras_struct.ops.annotations import Tensor
from keras_struct.protein.alignment import Alignment
from keras_struct.protein.batches import batch_rows, batches_by_shape, padded
from keras_struct.protein.chain import Chain
from keras_struct.protein.paths import matched_pairs
from keras_struct.protein.pretrained_encoder import PretrainedEncoder
from keras_struct.protein.refinement import refine as refined
from keras_struct.protein.residue_encoder import ALPHABETS, ResidueEncoder
from keras_struct.protein.transport_aligner import PlanDecoder, TransportAligner
from keras_struct.runs.model_data import check_model, models_folder, reading_model

SHIPPED, MODELS = ("proteinmpnn", "sequence", "structure"), "keras_struct.protein_models"
ENDING = ".keras"
SIDES = ("first", "second")


@keras.saving.register_keras_serializable("keras_struct")
class AlignmentReadout(keras.layers.Layer):
    """Path, soft map and score of packed potentials, from one distribution.

    Args:
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: Packed potentials, see `layers.pack`.

    Returns:
        Dictionary: `path` `(B, L1 + L2 + 1, 2)`, `map` `(B, L1, L2)`, `score` `(B,)`; see
        `layers.AlignmentDecoder`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)

    def call(self, inputs: Tensor) -> Tensor:
        potentials = layers.unpack(inputs, layers.AlignmentPotentials)
        alignments = potentials.distribution()
        return {
            "path": potentials.distribution(temperature=0).argmax(),
            "map": alignments.marginals(),
            "score": alignments.value(),
        }

    def compute_output_spec(self, inputs: Tensor) -> Spec:
        return {
            mode: layers.AlignmentDecoder(mode).compute_output_spec(inputs)
            for mode in ("path", "map", "score")
        }


class ProteinAligner:
    """Aligns proteins by learned scores of their residues and learned gaps.

    Both chains go through one encoder, `ResidueEncoder` or `PretrainedEncoder`; a local alignment
    with affine gaps, `layers.Aligner`, is scored on the states, or the residues are transported,
    `TransportAligner`. The alignment comes with the probability of each pair.

    Args:
        model: `keras.Model` of two chains, as `ProteinAligner.create` makes it.

    Example:

    >>> import pathlib, tmtools
    >>> from keras_struct import protein
    >>> file = pathlib.Path(tmtools.__file__).parent / "data" / "2gtl.cif"
    >>> first, second = protein.read_chains(file, ["A", "B"])
    >>> aligner = protein.ProteinAligner.from_preset("structure")
    >>> alignment, = aligner.align([(first, second)])
    >>> alignment.measures()["tm_score_first"] > 0.8
    True

    Source: Morton et al. (2020), Protein structural alignments from sequence (the soft map as a
    layer); van Kempen et al. (2024), Foldseek (structural letters).
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        (self.encoder,) = (layer for layer in model.layers if hasattr(layer, "chain_inputs"))
        self.aligner = model.get_layer("aligner")
        inputs = chain_inputs(self.encoder.input_specs)
        self.encoding_model = keras.Model(
            by_name_or_only(inputs), encoded(self.encoder, inputs), name="encode"
        )
        states = {side: keras.Input((None, self.encoder.dim), name=side) for side in SIDES}
        masks = {
            f"{side}_mask": keras.Input((None,), dtype="bool", name=f"{side}_mask")
            for side in SIDES
        }
        decoder = PlanDecoder() if self.transports else AlignmentReadout()
        found = decoder(self.aligner(states["first"], states["second"], **masks))
        self.matching_model = keras.Model({**states, **masks}, found, name="align")

    @property
    def transports(self) -> bool:
        """Whether the map is a transport plan, and no alignment's."""
        return isinstance(self.aligner, TransportAligner)

    @classmethod
    def create(
        cls,
        encoder: ResidueEncoder | PretrainedEncoder | None = None,
        gap_open: float = -3.0,
        gap_extend: float | None = -0.3,
        contextual_gaps: bool = True,
        structure: str = "smith_waterman",
        learn_temperature: bool = False,
    ) -> Self:
        """A new model to train.

        Args:
            encoder: `ResidueEncoder` or `PretrainedEncoder`; None for the former as it is.
            gap_open, gap_extend, contextual_gaps: Of `layers.GapPenalties`.
            structure, learn_temperature: Of `layers.Aligner`; or `"sinkhorn"`, a
                `TransportAligner`, without gaps, whose temperature is always learned.

        Returns:
            `ProteinAligner`. The inputs of its model are those of the encoder for either chain,
            such as `first_letters` `(B, L1, A)` and `second_letters` `(B, L2, A)`; it returns
            packed potentials, for `layers.AlignmentCrossEntropy` and its like, or a plan.
        """
        encoder = ResidueEncoder() if encoder is None else encoder
        if structure == "sinkhorn":
            aligner = TransportAligner(name="aligner")
        else:
            gaps = layers.GapPenalties(gap_open, gap_extend, contextual=contextual_gaps)
            aligner = layers.Aligner(
                structure, gaps=gaps, learn_temperature=learn_temperature, name="aligner"
            )
        return cls(pair_model(encoder, aligner, encoder.input_specs))

    @classmethod
    def from_preset(cls, preset: StrPath) -> Self:
        """A shipped model, `"structure"`, `"sequence"`, `"proteinmpnn"`, or one that `save` wrote.

        Raises:
            ValueError: If there is no such model, or it is damaged.
            ImportError: If the shipped models are not installed.
        """
        path = Path(preset)
        if str(preset) in SHIPPED:
            folder = models_folder(MODELS)
            check_model(folder, f"{preset}{ENDING}")
            path = folder / f"{preset}{ENDING}"
        if not path.is_file():
            raise ValueError(
                f"Expected a file, or one of {list(SHIPPED)}. Received: preset={str(preset)!r}"
            )
        with reading_model(path):
            return cls(keras.saving.load_model(path, compile=False))

    def save(self, path: StrPath) -> None:
        """Write the model as one `.keras` file, whole or not at all."""
        path = Path(path)
        if path.suffix != ENDING:
            raise ValueError(f"Expected a file ending in {ENDING}. Received: path={str(path)!r}")
        with whole_folder(path) as new:
            self.model.save(new)

    def encode(
        self, chains: Sequence[Chain], batch_residues: int | None = None
    ) -> list[np.ndarray]:
        """List of states `(L, dim)`, float32, of chains.

        Args:
            chains: List of `Chain`.
            batch_residues: Most residues, padding included, that are encoded at a time; None for
                what the encoder holds in some hundred MB.

        Raises:
            ValueError: If the model needs coordinates that a chain does not have.
        """
        inputs = [self.encoder.chain_inputs(chain) for chain in chains]
        return run_in_batches(
            self.encoding_model, inputs, batch_residues or self.encoder.batch_residues
        )

    def match(
        self, first: Sequence[np.ndarray], second: Sequence[np.ndarray], batch_cells: int = 2**21
    ) -> Iterator[Any]:
        """Align encoded chains, lazily and in the order of their size.

        Args:
            first, second: Lists of states `(L, dim)`, one pair after the other.
            batch_cells: Most cells of the maps, padding included, of a batch.

        Yields:
            Index of the pair, its aligned residues `(N, 2)`, its map `(L1, L2)` and its score.
        """
        lengths = np.array([(len(x), len(y)) for x, y in zip(first, second, strict=True)])
        for shape, batch in batches_by_shape(lengths.tolist(), batch_cells):
            inputs, rows = {}, batch_rows(batch)
            for axis, (side, states) in enumerate(zip(SIDES, (first, second), strict=True)):
                inputs[side] = padded([states[k] for k in rows], shape[axis])
                inputs[f"{side}_mask"] = np.arange(shape[axis]) < lengths[rows, axis, None]
            outputs = self.matching_model.predict_on_batch(inputs)
            for row, k in enumerate(batch):
                n, m = lengths[k]
                yield (
                    k,
                    matched_pairs(outputs["path"][row]),
                    outputs["map"][row, :n, :m],
                    float(outputs["score"][row]),
                )

    def align(
        self, pairs: Sequence[tuple[Chain, Chain]], maps: bool = False, refine: int = 0
    ) -> list[Alignment]:
        """The best alignments of pairs of chains.

        Args:
            pairs: List of pairs of `Chain`.
            maps: Whether the alignments keep the marginals of all pairs of residues.
            refine: Steps of `refine` afterwards, which needs coordinates; 0 for none.

        Returns:
            List of `Alignment`, in the order of the pairs.

        Raises:
            ValueError: If a chain does not have the coordinates that the model, or `refine`, needs.
        """
        chains = list({id(chain): chain for pair in pairs for chain in pair}.values())
        states = {id(c): x for c, x in zip(chains, self.encode(chains), strict=True)}
        first, second = ([states[id(pair[k])] for pair in pairs] for k in range(2))
        found: list[Any] = [None] * len(pairs)
        for k, matched, map, score in self.match(first, second):
            probabilities = map[tuple(matched.T)].astype("float64")
            kept = map.copy() if maps or refine else None
            first_chain, second_chain = pairs[k]
            found[k] = Alignment(first_chain, second_chain, matched, probabilities, score, kept)
        found = refined(found, refine) if refine else found
        return found if maps else [dataclasses.replace(a, map=None) for a in found]

    def export(self, path: StrPath, overwrite: bool = False) -> Path:
        """Write two SavedModels that run in plain TensorFlow: `path/encode` and `path/align`.

        The first takes what the encoder does, letters `(B, L, A)` or a dictionary, and returns
        states; the second takes the states of two batches, `first` and `second`, with `first_mask`
        and `second_mask`, and returns a dictionary of `path`, `map` and `score`.
        `path/alphabets.json` says which number is which letter.

        Raises:
            FileExistsError: If the folder exists and `overwrite` is False.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise FileExistsError(
                "Expected a path that does not exist, or overwrite=True. "
                f"Received: path={str(path)!r}"
            )
        with whole_folder(path) as new:
            new.mkdir()
            for name, model in (("encode", self.encoding_model), ("align", self.matching_model)):
                layers.export_saved_model(
                    model, new / name, import_modules=("keras_struct.protein",)
                )
            letters = {name: ALPHABETS[name] for name in self.encoder.alphabets}
            (new / "alphabets.json").write_text(json.dumps(letters, indent=1) + "\n")
        return path


def chain_inputs(specs, side=None):
    """`keras.Input` of every input of a chain, by its name or by side and name."""
    prefix = "" if side is None else f"{side}_"
    return {
        f"{prefix}{name}": keras.Input((None, *shape), dtype=dtype, name=f"{prefix}{name}")
        for name, (shape, dtype) in specs.items()
    }


def by_name_or_only(inputs):
    """A dictionary as it is, or the only value of one."""
    return inputs if len(inputs) > 1 else next(iter(inputs.values()))


def encoded(encoder, inputs):
    """What an encoder makes of its inputs."""
    return encoder(by_name_or_only(inputs))


def pair_model(encoder, aligner, specs):
    """The model of two chains of which an encoder reads the inputs of some shapes and dtypes."""
    inputs: dict[str, Any] = {}
    states = []
    for side in SIDES:
        found = chain_inputs(specs, side)
        inputs |= found
        states.append(encoded(encoder, dict(zip(specs, found.values(), strict=True))))
    return keras.Model(inputs, aligner(*states))


def run_in_batches(model, inputs, batch_residues):
    """Of each chain, a dictionary of arrays `(L, ...)`, what the model makes of it, float32."""
    lengths = [len(next(iter(arrays.values()))) for arrays in inputs]
    found = [None] * len(inputs)
    for (length,), batch in batches_by_shape([(n,) for n in lengths], batch_residues):
        rows = batch_rows(batch)
        x = {name: padded([inputs[k][name] for k in rows], length) for name in inputs[batch[0]]}
        outputs = model.predict_on_batch(by_name_or_only(x))
        for row, k in enumerate(batch):
            found[k] = np.array(outputs[row, : lengths[k]], "float32")
    return found
