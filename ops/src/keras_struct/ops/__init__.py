"""Exact marginals, samples and decoding of combinatorial structures, on every Keras backend."""

from keras_struct.ops import registered  # noqa: F401  (our implementations)
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
from keras_struct.ops.chain.categorical import categorical
from keras_struct.ops.chain.ctc import ctc
from keras_struct.ops.chain.linear_chain import linear_chain
from keras_struct.ops.chain.semi_markov import semi_markov
from keras_struct.ops.chain.subset import subset
from keras_struct.ops.chart.cky import cky
from keras_struct.ops.chart.eisner import eisner
from keras_struct.ops.chart.nussinov import nussinov
from keras_struct.ops.dispatch import (
    Call,
    Choice,
    explain,
    implementations,
    register_implementation,
    target,
    use,
)
from keras_struct.ops.distribution import Distribution, TopK
from keras_struct.ops.division import divided
from keras_struct.ops.implementation import Implementation
from keras_struct.ops.pcfg import pcfg
from keras_struct.ops.problem import Problem
from keras_struct.ops.spanning_tree import spanning_tree
from keras_struct.ops.transport.certificates import (
    CertifiedTail,
    Contraction,
    SinkhornOrbit,
    TailBias,
    certified_tail_steps,
    rescaled_plan,
    sinkhorn_contraction,
    sinkhorn_orbit,
    sinkhorn_tail_bias,
)
from keras_struct.ops.transport.plan import SinkhornPlan, sinkhorn_plan
from keras_struct.ops.transport.sinkhorn import Dustbin, Sinkhorn, sinkhorn, sinkhorn_tail
from keras_struct.ops.validation import validation

__all__ = [
    "Call",
    "CertifiedTail",
    "Choice",
    "Contraction",
    "Distribution",
    "Dustbin",
    "Implementation",
    "Problem",
    "Sinkhorn",
    "SinkhornOrbit",
    "SinkhornPlan",
    "TailBias",
    "TopK",
    "adjacent_swaps",
    "categorical",
    "certified_tail_steps",
    "cky",
    "ctc",
    "damerau",
    "divided",
    "dtw",
    "eisner",
    "explain",
    "implementations",
    "lcs",
    "levenshtein",
    "linear_chain",
    "monotonic_alignment",
    "needleman_wunsch",
    "nussinov",
    "osa",
    "overlap",
    "pcfg",
    "register_implementation",
    "rescaled_plan",
    "saigo_vert",
    "semi_markov",
    "sinkhorn",
    "sinkhorn_contraction",
    "sinkhorn_orbit",
    "sinkhorn_plan",
    "sinkhorn_tail",
    "sinkhorn_tail_bias",
    "smith_waterman",
    "spanning_tree",
    "subset",
    "target",
    "transposition_sources",
    "use",
    "validation",
]


def __dir__() -> list[str]:
    return __all__
