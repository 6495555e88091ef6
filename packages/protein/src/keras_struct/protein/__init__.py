"""Protein structures or sequences in, alignments out; differentiable in between."""

from keras_struct.protein.alignment import Alignment
from keras_struct.protein.chain import Chain
from keras_struct.protein.convert_proteinmpnn import load_proteinmpnn, proteinmpnn_weights
from keras_struct.protein.esm_encoder import ESMEncoder
from keras_struct.protein.index_search import IndexSearch
from keras_struct.protein.labelled_pairs import LabelledPair, read_labelled_pairs
from keras_struct.protein.picture import draw
from keras_struct.protein.pretrained_encoder import PretrainedEncoder
from keras_struct.protein.protein_aligner import AlignmentReadout, ProteinAligner
from keras_struct.protein.proteinmpnn_encoder import ProteinMPNNEncoder
from keras_struct.protein.ray_engine import search_dataset
from keras_struct.protein.refinement import refine
from keras_struct.protein.residue_encoder import ResidueEncoder, letter_ids
from keras_struct.protein.scores import (
    coverage,
    identity,
    lddt,
    pair_scores,
    rmsd,
    superposition,
    tm_score,
)
from keras_struct.protein.search import Hit, protein_files, search
from keras_struct.protein.structure_files import read_chain, read_chains
from keras_struct.protein.structure_index import StructureIndex, build_index
from keras_struct.protein.superposed_files import write_superposed, write_transformed
from keras_struct.protein.training import evaluate, train
from keras_struct.protein.transport_aligner import (
    PlanDecoder,
    TransportAligner,
    plan_cross_entropy,
    plan_f1_loss,
)

__all__ = [
    "Alignment",
    "AlignmentReadout",
    "Chain",
    "ESMEncoder",
    "Hit",
    "IndexSearch",
    "LabelledPair",
    "PlanDecoder",
    "PretrainedEncoder",
    "ProteinAligner",
    "ProteinMPNNEncoder",
    "ResidueEncoder",
    "StructureIndex",
    "TransportAligner",
    "build_index",
    "coverage",
    "draw",
    "evaluate",
    "identity",
    "lddt",
    "letter_ids",
    "load_proteinmpnn",
    "pair_scores",
    "plan_cross_entropy",
    "plan_f1_loss",
    "protein_files",
    "proteinmpnn_weights",
    "read_chain",
    "read_chains",
    "read_labelled_pairs",
    "refine",
    "rmsd",
    "search",
    "search_dataset",
    "superposition",
    "tm_score",
    "train",
    "write_superposed",
    "write_transformed",
]


def __dir__() -> list[str]:
    return __all__
