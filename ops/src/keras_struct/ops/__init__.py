from keras_struct.ops.chart.cky import cky
from keras_struct.ops.chart.eisner import eisner
from keras_struct.ops.chart.nussinov import nussinov
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
