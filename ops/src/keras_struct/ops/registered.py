"""Our implementations, family by family, in the order in which they are tried."""

from keras_struct.ops.alignment.checkpointed import Checkpointed
from keras_struct.ops.alignment.jumps import Jumps
from keras_struct.ops.alignment.native_cpp import AlignmentNative
from keras_struct.ops.alignment.pallas_gpu import AlignmentGPU
from keras_struct.ops.alignment.pallas_tpu import AlignmentTPU
from keras_struct.ops.alignment.portable import Wavefront
from keras_struct.ops.alignment.reference import AlignmentReference
from keras_struct.ops.alignment.triton_gpu import AlignmentTriton
from keras_struct.ops.chain.categorical import CategoricalSpec
from keras_struct.ops.chain.categorical.portable import CategoricalPortable
from keras_struct.ops.chain.categorical.reference import CategoricalReference
from keras_struct.ops.chain.ctc import CTCSpec
from keras_struct.ops.chain.ctc.portable import CTCPortable
from keras_struct.ops.chain.ctc.reference import CTCReference
from keras_struct.ops.chain.linear_chain import LinearChainSpec
from keras_struct.ops.chain.linear_chain.divided import DividedChain
from keras_struct.ops.chain.linear_chain.parallel import Parallel
from keras_struct.ops.chain.linear_chain.portable import Sequential
from keras_struct.ops.chain.linear_chain.reference import LinearChainReference
from keras_struct.ops.chain.native_cpp import ChainNative
from keras_struct.ops.chain.pallas_gpu import ChainGPU
from keras_struct.ops.chain.pallas_tpu import ChainTPU
from keras_struct.ops.chain.semi_markov import SemiMarkovSpec
from keras_struct.ops.chain.semi_markov.portable import SemiMarkovPortable
from keras_struct.ops.chain.semi_markov.reference import SemiMarkovReference
from keras_struct.ops.chain.subset import SubsetSpec
from keras_struct.ops.chain.subset.portable import SubsetPortable
from keras_struct.ops.chain.subset.reference import SubsetReference
from keras_struct.ops.chain.triton_gpu import ChainTriton
from keras_struct.ops.chart.cky import CKYSpec
from keras_struct.ops.chart.cky.reference import CKYReference
from keras_struct.ops.chart.eisner import EisnerSpec
from keras_struct.ops.chart.eisner.reference import EisnerReference
from keras_struct.ops.chart.graph_cpu import ChartGraph
from keras_struct.ops.chart.native_cpu import ChartNative
from keras_struct.ops.chart.nussinov import NussinovSpec
from keras_struct.ops.chart.nussinov.reference import NussinovReference
from keras_struct.ops.chart.pallas_gpu import ChartGPU
from keras_struct.ops.chart.pallas_tpu import ChartTPU
from keras_struct.ops.chart.portable import ChartPortable
from keras_struct.ops.chart.triton_gpu import ChartTriton
from keras_struct.ops.dispatch import register_implementation, register_structure
from keras_struct.ops.implementation import BySpec
from keras_struct.ops.pcfg.native_cpu import PCFGNative
from keras_struct.ops.pcfg.pallas_gpu import PCFGGPU
from keras_struct.ops.pcfg.pallas_tpu import PCFGTPU
from keras_struct.ops.pcfg.portable import PCFGPortable
from keras_struct.ops.pcfg.reference import PCFGReference
from keras_struct.ops.pcfg.triton_gpu import PCFGTriton
from keras_struct.ops.spanning_tree.native_cpu import SpanningTreeNative
from keras_struct.ops.spanning_tree.pallas_gpu import SpanningTreeGPU
from keras_struct.ops.spanning_tree.pallas_tpu import SpanningTreeTPU
from keras_struct.ops.spanning_tree.portable import SpanningTreePortable
from keras_struct.ops.spanning_tree.reference import SpanningTreeReference
from keras_struct.ops.spanning_tree.triton_gpu import SpanningTreeTriton
from keras_struct.ops.transport.divided import DividedBand
from keras_struct.ops.transport.pallas_gpu import TransportGPU
from keras_struct.ops.transport.pallas_tpu import TransportTPU
from keras_struct.ops.transport.stored import Stored
from keras_struct.ops.transport.tiled import Tiled
from keras_struct.ops.transport.triton_gpu import TransportTriton

FAMILIES = {
    "chain": ("categorical", "linear_chain", "semi_markov", "ctc", "subset"),
    "alignment": (
        "needleman_wunsch",
        "overlap",
        "smith_waterman",
        "saigo_vert",
        "dtw",
        "monotonic_alignment",
        "levenshtein",
        "osa",
        "damerau",
        "lcs",
    ),
    "chart": ("cky", "nussinov", "eisner"),
    "pcfg": ("pcfg",),
    "spanning_tree": ("spanning_tree",),
    "transport": ("sinkhorn", "sinkhorn_tail"),
}
for family, names in FAMILIES.items():
    for name in names:
        register_structure(name, family)

register_implementation("chain", "divided", DividedChain())
register_implementation("chain", "native_cpu", ChainNative())
register_implementation("chain", "pallas_tpu", ChainTPU())
register_implementation("chain", "pallas_gpu", ChainGPU())
register_implementation("chain", "triton_gpu", ChainTriton())
register_implementation("chain", "parallel", Parallel())
register_implementation(
    "chain",
    "portable",
    BySpec(
        {
            CategoricalSpec: CategoricalPortable(),
            LinearChainSpec: Sequential(),
            SemiMarkovSpec: SemiMarkovPortable(),
            CTCSpec: CTCPortable(),
            SubsetSpec: SubsetPortable(),
        }
    ),
)
register_implementation(
    "chain",
    "reference",
    BySpec(
        {
            CategoricalSpec: CategoricalReference(),
            LinearChainSpec: LinearChainReference(),
            SemiMarkovSpec: SemiMarkovReference(),
            CTCSpec: CTCReference(),
            SubsetSpec: SubsetReference(),
        }
    ),
)

register_implementation("chart", "native_cpu", ChartNative())
register_implementation("chart", "graph_cpu", ChartGraph())
register_implementation("chart", "pallas_tpu", ChartTPU())
register_implementation("chart", "pallas_gpu", ChartGPU())
register_implementation("chart", "triton_gpu", ChartTriton())
register_implementation("chart", "portable", ChartPortable())
register_implementation(
    "chart",
    "reference",
    BySpec(
        {
            CKYSpec: CKYReference(),
            NussinovSpec: NussinovReference(),
            EisnerSpec: EisnerReference(),
        }
    ),
)

register_implementation("alignment", "native_cpu", AlignmentNative())
register_implementation("alignment", "pallas_tpu", AlignmentTPU())
register_implementation("alignment", "pallas_gpu", AlignmentGPU())
register_implementation("alignment", "triton_gpu", AlignmentTriton())
register_implementation(
    "alignment",
    "portable",
    BySpec({False: Wavefront(), True: Jumps()}, kind=lambda spec: spec.jumps),
)
register_implementation("alignment", "checkpointed", Checkpointed())
register_implementation("alignment", "reference", AlignmentReference())

register_implementation("transport", "divided", DividedBand)
register_implementation("transport", "pallas_tpu", TransportTPU())
register_implementation("transport", "pallas_gpu", TransportGPU())
register_implementation("transport", "triton_gpu", TransportTriton())
register_implementation("transport", "stored", Stored)
register_implementation("transport", "tiled", Tiled)
register_implementation("pcfg", "native_cpu", PCFGNative())
register_implementation("pcfg", "pallas_tpu", PCFGTPU())
register_implementation("pcfg", "pallas_gpu", PCFGGPU())
register_implementation("pcfg", "triton_gpu", PCFGTriton())
register_implementation("pcfg", "portable", PCFGPortable())
register_implementation("pcfg", "reference", PCFGReference())

register_implementation("spanning_tree", "native_cpu", SpanningTreeNative())
register_implementation("spanning_tree", "pallas_tpu", SpanningTreeTPU())
register_implementation("spanning_tree", "pallas_gpu", SpanningTreeGPU())
register_implementation("spanning_tree", "triton_gpu", SpanningTreeTriton())
register_implementation("spanning_tree", "portable", SpanningTreePortable())
register_implementation("spanning_tree", "reference", SpanningTreeReference())
