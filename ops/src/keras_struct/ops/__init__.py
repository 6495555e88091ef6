"""Exact marginals, samples and decoding of combinatorial structures, on every Keras backend."""

from keras_struct.ops.chain.categorical import categorical
from keras_struct.ops.chain.ctc import ctc
from keras_struct.ops.chain.linear_chain import linear_chain
from keras_struct.ops.chain.semi_markov import semi_markov
from keras_struct.ops.chain.subset import subset
from keras_struct.ops.dispatch import Call, Choice, explain, implementations, use
from keras_struct.ops.distribution import Distribution, TopK

__all__ = [
    "Call",
    "Choice",
    "Distribution",
    "TopK",
    "categorical",
    "ctc",
    "explain",
    "implementations",
    "linear_chain",
    "semi_markov",
    "subset",
    "use",
]
