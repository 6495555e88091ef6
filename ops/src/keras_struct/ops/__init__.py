from keras_struct.ops.alignment.edit import (
    adjacent_swaps,
    damerau,
    lcs,
    levenshtein,
    osa,
    transposition_sources,
)
from keras_struct.ops.alignment.gapped import (
    needleman_wunsch,
    overlap,
    saigo_vert,
    smith_waterman,
)
from keras_struct.ops.alignment.warping import dtw, monotonic_alignment
from keras_struct.ops.chart.cky import cky
from keras_struct.ops.chart.eisner import eisner
from keras_struct.ops.chart.nussinov import nussinov
from keras_struct.ops.pcfg import pcfg
from keras_struct.ops.spanning_tree import spanning_tree
from keras_struct.ops.chain.semi_markov import semi_markov
from keras_struct.ops.chain.subset import subset
from keras_struct.ops.chain.linear_chain import linear_chain
from keras_struct.ops.chain.ctc import ctc
from keras_struct.ops.chain.categorical import categorical
from keras_struct.ops.dispatch import Call, Choice, explain, implementations, use, target, register_implementation
from keras_struct.ops.implementation import Implementation
from keras_struct.ops.distribution import Distribution, TopK
from keras_struct.ops.validation import validation
import keras_struct.ops.registered
