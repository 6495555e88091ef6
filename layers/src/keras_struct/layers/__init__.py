"""Structured attention layers, prediction heads, losses and metrics."""

from keras_struct.layers.aligner import Aligner
from keras_struct.layers.alignment_cross_entropy import AlignmentCrossEntropy
from keras_struct.layers.alignment_decoder import AlignmentDecoder
from keras_struct.layers.alignment_f1 import AlignmentF1
from keras_struct.layers.alignment_f1_loss import AlignmentF1Loss
from keras_struct.layers.alignment_map import (
    AlignmentMap,
    DTWMap,
    MonotonicMap,
    NeedlemanWunschMap,
    OverlapMap,
    SmithWatermanMap,
)
from keras_struct.layers.attach_mask import AttachMask
from keras_struct.layers.attention_map import (
    AttentionMap,
    LinearChainMap,
    SemiMarkovMap,
    SoftmaxMap,
    SubsetMap,
)
from keras_struct.layers.check_layer import check_layer
from keras_struct.layers.crf import CRF
from keras_struct.layers.ctc import CTC
from keras_struct.layers.ctc_decoder import CTCDecoder
from keras_struct.layers.ctc_loss import CTCLoss
from keras_struct.layers.decoding_model import DecodingModel, decoding_model
from keras_struct.layers.export import export_saved_model
from keras_struct.layers.gap_penalties import GapPenalties
from keras_struct.layers.label_error_rate import LabelErrorRate
from keras_struct.layers.onnx_export import export_onnx
from keras_struct.layers.packed import Header, header, pack, pack_potentials, unpack
from keras_struct.layers.potentials import AlignmentPotentials, ChainPotentials, TreePotentials
from keras_struct.layers.segments import segments_to_spans, spans_to_segments
from keras_struct.layers.semi_markov_crf import SemiMarkovCRF
from keras_struct.layers.sequence_mask import lengths_from_mask, mask_from_lengths
from keras_struct.layers.sinkhorn_tail_attention import SinkhornTailAttention
from keras_struct.layers.soft_dtw import SoftDTW
from keras_struct.layers.soft_edit_distance import SoftEditDistance
from keras_struct.layers.span_f1 import SpanF1
from keras_struct.layers.structured_attention import StructuredAttention
from keras_struct.layers.structured_decoder import StructuredDecoder
from keras_struct.layers.structured_nll import StructuredNLL
from keras_struct.layers.tag_scheme import (
    TagConstraints,
    convert_tags,
    spans_to_tags,
    tag_constraints,
    tag_spans,
)
from keras_struct.layers.transport_map import SinkhornMap
from keras_struct.layers.tree_map import CKYMap, EisnerMap, SpanningTreeMap, TreeMap
from keras_struct.layers.viterbi_accuracy import ViterbiAccuracy, ViterbiSequenceAccuracy

__all__ = [
    "CRF",
    "CTC",
    "Aligner",
    "AlignmentCrossEntropy",
    "AlignmentDecoder",
    "AlignmentF1",
    "AlignmentF1Loss",
    "AlignmentMap",
    "AlignmentPotentials",
    "AttachMask",
    "AttentionMap",
    "CKYMap",
    "CTCDecoder",
    "CTCLoss",
    "ChainPotentials",
    "DTWMap",
    "DecodingModel",
    "EisnerMap",
    "GapPenalties",
    "Header",
    "LabelErrorRate",
    "LinearChainMap",
    "MonotonicMap",
    "NeedlemanWunschMap",
    "OverlapMap",
    "SemiMarkovCRF",
    "SemiMarkovMap",
    "SinkhornMap",
    "SinkhornTailAttention",
    "SmithWatermanMap",
    "SoftDTW",
    "SoftEditDistance",
    "SoftmaxMap",
    "SpanF1",
    "SpanningTreeMap",
    "StructuredAttention",
    "StructuredDecoder",
    "StructuredNLL",
    "SubsetMap",
    "TagConstraints",
    "TreeMap",
    "TreePotentials",
    "ViterbiAccuracy",
    "ViterbiSequenceAccuracy",
    "check_layer",
    "convert_tags",
    "decoding_model",
    "export_onnx",
    "export_saved_model",
    "header",
    "lengths_from_mask",
    "mask_from_lengths",
    "pack",
    "pack_potentials",
    "segments_to_spans",
    "spans_to_segments",
    "spans_to_tags",
    "tag_constraints",
    "tag_spans",
    "unpack",
]


def __dir__() -> list[str]:
    return __all__
