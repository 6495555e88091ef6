"""Compiles training steps of Keras models for a 2x2 mesh of TPUs, and reads what was compiled.

    python ci/tpu_mesh.py [--only WORD]

The batch is divided over the chips, the weights are on all of them. No TPU is needed (see
`tpu_compile.py`). A step must contain the kernels of its structures, forward and backward, and no
collective but sums over all examples, no larger than the weights: nothing is gathered, and nothing
of an example leaves its chip.
"""

import argparse
import math
import os
import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from tpu_compile import COMPILER, TOPOLOGIES

CHIP = "v5e"
KERNEL = re.compile(r"keras_struct_(\w+)")
COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)
SHAPE = re.compile(r"\w+\[([\d,]*)\]")


class Step(NamedTuple):
    """A training step.

    Attributes:
        name: Unique name.
        family: Of the structure, whose kernels the step must contain.
        model: Function to a compiled model.
        inputs: Shapes and dtypes of its inputs by name; of a single one the name does not matter.
        target: Shape and dtype of its target.
    """

    name: str
    family: str
    model: Callable[[], Any]
    inputs: dict[str, tuple[tuple[int, ...], str]]
    target: tuple[tuple[int, ...], str]


def tagger():
    import keras

    from keras_struct import layers

    x = keras.Input((128, 32))
    model = keras.Model(x, layers.CRF(9)(keras.layers.Dense(32, "relu")(x)))
    model.compile("adam", layers.StructuredNLL())
    return model


def attention(layer, shape):
    import keras

    x = keras.Input(shape)
    model = keras.Model(x, layer(x, x))
    model.compile("adam", "mse")
    return model


def structured(structure, **options):
    from keras_struct import layers

    return attention(layers.StructuredAttention(2, 16, structure, **options), (64, 32))


def transport():
    from keras_struct import layers

    return attention(layers.SinkhornTailAttention(2, 64, band_width=128), (16384, 64))


def aligner():
    from keras_struct import layers, protein

    model = protein.ProteinAligner.create().model
    model.compile("adam", layers.AlignmentCrossEntropy())
    return model


def steps():
    sequences = (256, 64, 32), "float32"
    long = ((8, 16384, 64), "float32")
    letters = (512, 96, 21), "float32"
    return [
        Step("tagger", "chain", tagger, {"x": ((512, 128, 32), "float32")}, ((512, 128), "int32")),
        Step(
            "attention by smith_waterman",
            "alignment",
            lambda: structured("smith_waterman", gap_open=-1.0),
            {"x": sequences},
            sequences,
        ),
        Step(
            "attention by eisner",
            "chart",
            lambda: structured("eisner"),
            {"x": sequences},
            sequences,
        ),
        Step("attention by transport", "transport", transport, {"x": long}, long),
        Step(
            "protein aligner",
            "alignment",
            aligner,
            {"first_letters": letters, "second_letters": letters},
            ((512, 193, 2), "int32"),
        ),
    ]


def compiled(step):
    """The text of the compiled step, and the model."""
    import jax
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from keras_struct import ops

    devices = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[CHIP]).devices
    mesh = Mesh(np.array(devices).reshape(2, 2), ("x", "y"))
    whole = NamedSharding(mesh, PartitionSpec())
    divided = NamedSharding(mesh, PartitionSpec(("x", "y")))

    def described(x, sharding):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    model = step.model()
    model.optimizer.build(model.trainable_variables)
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = [[described(v.value, whole) for v in group] for group in groups]
    x, y = (
        {
            name: jax.ShapeDtypeStruct(shape, dtype, sharding=divided)
            for name, (shape, dtype) in given.items()
        }
        for given in (step.inputs, {"y": step.target})
    )
    if len(x) == 1:
        (x,) = x.values()
    with ops.target("tpu", CHIP):
        lowered = jax.jit(model.train_step).lower(state, (x, y["y"]))
    return lowered.compile().as_text(), model


def faults(step):
    """Sentences about what should not be so."""
    from keras_struct.ops import dispatch

    text, model = compiled(step)
    kernels = sorted(set(KERNEL.findall(text)))
    weights = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    collectives = COLLECTIVE.findall(text)
    found = []
    for shapes, kind in collectives:
        sizes = [math.prod(int(n) for n in x.split(",") if n) for x in SHAPE.findall(shapes)]
        if kind != "all-reduce" or sum(sizes) > 2 * weights:
            found.append(f"{step.name}: {kind} of {shapes}")
    kernel = any(name.startswith(step.family) for name in kernels)
    if not kernel and "pallas_tpu" in dispatch.candidates(step.family):
        found.append(f"{step.name}: no kernel of the family {step.family}, but {kernels}")
    names = ", ".join(kernels) or "no kernel"
    print(f"{step.name}: {names}; {len(collectives)} sums over chips", flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of the names of steps")
    arguments = parser.parse_args()
    os.environ.update(COMPILER)
    found = [x for step in steps() if arguments.only in step.name for x in faults(step)]
    print("\n".join(found) if found else "kernels in every step, and no collective of theirs")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
