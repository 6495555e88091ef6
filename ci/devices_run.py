"""Trains every layer and loss on simulated devices, and records what came out.

    python ci/devices_run.py [--engine data model mirrored] [--only WORD] [--print]

Engines, each a process of its own: `keras.distribution.DataParallel` on eight devices of JAX,
`ModelParallel` with embeddings and matrices divided over two devices and the batch over four, and
`tf.distribute.MirroredStrategy` on two devices of TensorFlow. Two batches of each model of
`devices_steps.py`, in `fit`: its weights and history beside those of one device, and on JAX the
collectives of the step that was compiled. Writes `devices.json`, which `devices_table.py` makes a
table of.
"""

import argparse
import functools
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import NamedTuple

RECORD = pathlib.Path(__file__).with_name("devices.json")
DEVICES = 8
REPLICAS = 2
ENGINES = ("data", "model", "mirrored")
RESULT = "result: "
COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)
SHAPE = re.compile(r"\w+\[([\d,]*)\]")
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
CALLED = re.compile(r"(?:body|condition|to_apply|calls|\w+_computation)=%?([\w.\-]+)")


class Collective(NamedTuple):
    """One of a compiled program.

    Attributes:
        kind: Such as "all-reduce".
        numbers: How many are sent.
        decides: Whether they are booleans, by which all devices take the same branch.
        looped: Whether it stands in a loop.
        name: What it was made of.
    """

    kind: str
    numbers: int
    decides: bool
    looped: bool
    name: str


def collectives(text: str) -> list[Collective]:
    """Those of the text of a compiled program."""
    bodies: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if computation := COMPUTATION.match(line.strip()):
            lines = bodies.setdefault(computation[1], [])
        lines.append(line)
    waiting = [
        name
        for lines in bodies.values()
        for line in lines
        if " while(" in line
        for name in CALLED.findall(line)
    ]
    looped: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in looped:
            looped.add(name)
            waiting += [x for line in bodies.get(name, ()) for x in CALLED.findall(line)]
    found = []
    for computation_name, lines in bodies.items():
        for line in lines:
            if match := COLLECTIVE.search(line):
                sizes = [x.split(",") for x in SHAPE.findall(match[1])]
                count = sum(math.prod(int(n) for n in x if n) for x in sizes)
                source = re.search(r'op_name="([^"]*)"', line)
                decides = "pred[" in match[1] or "reduce_and" in line
                found.append(
                    Collective(
                        match[2],
                        count,
                        decides,
                        computation_name in looped,
                        source[1] if source else "",
                    )
                )
    return found


def foreign(engine: str, found: list[Collective], weights: int) -> list[Collective]:
    """Collectives that are not the model's own. With the batch divided, these are sums outside of
    loops: of gradients, as many numbers as there are weights, of losses and metrics. With weights
    divided the compiler puts products of matrices together, too, but nothing in a loop."""
    if engine == "model":
        return [x for x in found if x.looped and not x.decides]
    return [
        x
        for x in found
        if not x.decides and (x.looped or x.kind != "all-reduce" or x.numbers > 2 * weights + 16)
    ]


def train(step):
    """The weights after two batches, and the history."""
    import keras
    from devices_steps import BATCH

    keras.utils.clear_session()  # weights are named alike each time
    keras.utils.set_random_seed(0)
    model = step.model()
    weights = step.weights and step.weights()
    history = model.fit(
        step.inputs(),
        step.targets(),
        sample_weight=weights,
        batch_size=BATCH,
        shuffle=False,
        verbose=0,
    )
    return model, history.history


def differences(one, many):
    """What differs, or None."""
    import numpy as np

    for before, after in zip(one[0].weights, many[0].weights, strict=True):
        x, y = (np.asarray(v) for v in (before.numpy(), after.numpy()))
        if not np.allclose(x, y, rtol=1e-4, atol=1e-6):
            return f"{before.path} differs by {np.max(np.abs(x - y)):.1e}"
    for name, numbers in one[1].items():
        if not np.allclose(numbers, many[1][name], rtol=1e-4, atol=1e-6):
            return f"{name}: {numbers} and {many[1][name]}"
    return None


@functools.cache
def mirrored():
    """The strategy of this process: two would number their sums alike."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(REPLICAS)])


def scope(engine, weights):
    """The context that divides what is made and trained in it."""
    return mirrored().scope() if engine == "mirrored" else distribution(engine, weights).scope()


def distribution(engine, weights):
    """The `keras.distribution` of an engine, for a model with such weights."""
    import keras

    if engine == "data":
        return keras.distribution.DataParallel(keras.distribution.DeviceMesh((DEVICES,), ["batch"]))
    mesh = keras.distribution.DeviceMesh((DEVICES // 2, 2), ["batch", "model"])
    layout = keras.distribution.LayoutMap(mesh)
    for weight in weights:
        if weight.path.endswith("embeddings"):
            layout[weight.path] = (None, "model")
        if weight.path.endswith("kernel") and weight.shape[0] % 2 == 0:
            layout[weight.path] = ("model", *[None] * (len(weight.shape) - 1))
    return keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")


def result_of(engine, step, dump, show):
    """What came out of a model, as `devices.json` has it."""
    one = train(step)
    for file in dump.glob("*after_optimizations.txt"):
        file.unlink()
    with scope(engine, one[0].weights):
        many = train(step)
    if engine == "mirrored":
        return {"differs": differences(one, many)}
    (file,) = dump.glob("*after_optimizations.txt")
    found = collectives(file.read_text())
    if show:
        print(*found, sep="\n")
    weights = sum(math.prod(x.shape) for x in many[0].trainable_variables)
    return {
        "differs": differences(one, many),
        "collectives": len(found),
        "decisions": sum(x.decides for x in found),
        "foreign": sorted({x.kind for x in foreign(engine, found, weights)}),
    }


def child(arguments):
    from devices_steps import steps

    (engine,), dump = arguments.engine, pathlib.Path(os.environ["DUMP"])
    if engine == "mirrored":
        import tensorflow as tf

        (cpu,) = tf.config.list_physical_devices("CPU")
        devices = [tf.config.LogicalDeviceConfiguration()] * REPLICAS
        tf.config.set_logical_device_configuration(cpu, devices)
    for name, step in steps().items():
        if arguments.only in name:
            try:
                result = result_of(engine, step, dump, arguments.print)
            except Exception as error:  # what it is, is the result
                result = {"differs": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
            print(RESULT + json.dumps([name, result]), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--only", default="", help="part of the names of models")
    parser.add_argument("--print", action="store_true", help="print collectives, too")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        os._exit(0)  # XLA's threads sometimes wait for ever for each other to end
    for engine in arguments.engine:
        with tempfile.TemporaryDirectory() as dump:
            run(engine, arguments, dump)


def environment(engine, dump):
    """Variables of a process with so many devices, which leaves compiled steps in a folder."""
    flags = (
        f"--xla_force_host_platform_device_count={DEVICES} --xla_dump_to={dump} "
        "--xla_dump_hlo_as_text --xla_dump_hlo_module_re=jit_train_step "
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    )
    return {
        **os.environ,
        "KERAS_BACKEND": "tensorflow" if engine == "mirrored" else "jax",
        "JAX_PLATFORMS": "cpu",
        "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0",
        "DUMP": dump,
        "XLA_FLAGS": flags,
    }


def run(engine, arguments, dump):
    """All models of an engine in a process of its own, and the record of each."""
    command = [sys.executable, "-W", "ignore", __file__, "--child", "--engine", engine]
    command += ["--only", arguments.only, *["--print"] * arguments.print]
    with subprocess.Popen(
        command, env=environment(engine, dump), stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout or ():
            if not line.startswith(RESULT):
                print(line, end="", flush=True)
                continue
            name, result = json.loads(line.removeprefix(RESULT))
            print(engine, name, result, flush=True)
            record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
            record.setdefault(engine, {})[name] = result
            RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    if process.returncode:
        sys.exit(f"{engine} failed")


if __name__ == "__main__":
    main()
