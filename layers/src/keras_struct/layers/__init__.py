"""Structured attention layers, prediction heads, losses and metrics."""

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
from keras_struct.layers.export import export_saved_model
from keras_struct.layers.packed_potentials import (
    ChainPotentials,
    pack_potentials,
    unpack_potentials,
)
from keras_struct.layers.segments import segments_to_spans, spans_to_segments
from keras_struct.layers.semi_markov_crf import SemiMarkovCRF
from keras_struct.layers.sequence_mask import lengths_from_mask, mask_from_lengths
from keras_struct.layers.span_f1 import SpanF1
from keras_struct.layers.structured_attention import StructuredAttention
from keras_struct.layers.structured_decoder import StructuredDecoder, decoding_model
from keras_struct.layers.structured_nll import StructuredNLL
from keras_struct.layers.tag_scheme import TagConstraints, tag_constraints, tag_spans
from keras_struct.layers.viterbi_accuracy import ViterbiAccuracy, ViterbiSequenceAccuracy

__all__ = [
    "CRF",
    "AlignmentMap",
    "AttachMask",
    "AttentionMap",
    "ChainPotentials",
    "DTWMap",
    "LinearChainMap",
    "MonotonicMap",
    "NeedlemanWunschMap",
    "OverlapMap",
    "SemiMarkovCRF",
    "SemiMarkovMap",
    "SmithWatermanMap",
    "SoftmaxMap",
    "SpanF1",
    "StructuredAttention",
    "StructuredDecoder",
    "StructuredNLL",
    "SubsetMap",
    "TagConstraints",
    "ViterbiAccuracy",
    "ViterbiSequenceAccuracy",
    "check_layer",
    "decoding_model",
    "export_saved_model",
    "lengths_from_mask",
    "mask_from_lengths",
    "pack_potentials",
    "segments_to_spans",
    "spans_to_segments",
    "tag_constraints",
    "tag_spans",
    "unpack_potentials",
]
