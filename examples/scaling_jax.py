"""How the time of a training step falls with devices, and what it costs to speak between them.

    python examples/scaling_jax.py [--devices 1 2] [--batch 64] [--length 256] [--steps 20]

Trains a tagger with a CRF and an alignment model with `keras.distribution.DataParallel` on JAX,
each time the same batches on another number of devices: cores of this machine, each of which is
one device and no more. Then prints the bytes that each device sends in a step, and how long that
takes over links of several speeds: only gradients are summed, so the bytes are those of the
weights, whatever the batch and the length.
"""

import argparse
import json
import os
import subprocess
import sys
import time

LINKS = {"ICI of TPU v5e": 200e9, "NVLink of H100": 450e9, "Ethernet, 100 Gb/s": 12.5e9}  # bytes/s
WORDS, FEATURES, TAGS = 1000, 64, 16


def models(length):
    """Functions to compiled models, and to inputs and targets of a batch."""
    import keras
    import numpy as np

    from keras_struct import layers

    rng = np.random.default_rng(0)

    def tagger():
        words = keras.Input((length,), dtype="int32")
        states = keras.layers.Embedding(WORDS, FEATURES)(words)
        for _ in range(2):
            states = keras.layers.Conv1D(FEATURES, 5, padding="same", activation="gelu")(states)
        return words, layers.CRF(TAGS)(states), layers.StructuredNLL()

    def aligner():
        pair = [keras.Input((length,), dtype="int32") for _ in range(2)]
        embed = keras.layers.Embedding(WORDS, FEATURES)
        convolve = keras.layers.Conv1D(FEATURES, 5, padding="same", activation="gelu")
        potentials = layers.Aligner("smith_waterman")(*[convolve(embed(x)) for x in pair])
        return pair, potentials, layers.AlignmentCrossEntropy("pairs")

    def words_of(batch):
        return rng.integers(1, WORDS, (batch, length))

    def tags_of(batch):
        return rng.integers(0, TAGS, (batch, length))

    def pairs_of(batch):
        return np.broadcast_to(np.eye(length, dtype="float32"), (batch, length, length))

    return {
        "CRF tagger": (tagger, words_of, tags_of),
        "smith_waterman aligner": (aligner, lambda b: [words_of(b), words_of(b)], pairs_of),
    }


def measure(arguments):
    """Prints milliseconds of a step and the number of weights of each model."""
    import keras
    import numpy as np

    keras.distribution.set_distribution(keras.distribution.DataParallel())
    for name, (parts, inputs, targets) in models(arguments.length).items():
        keras.utils.set_random_seed(0)
        x, outputs, loss = parts()
        model = keras.Model(x, outputs)
        model.compile("adam", loss)
        batch = inputs(arguments.batch), targets(arguments.batch)
        times = []
        losses = [float(model.train_on_batch(*batch))]
        for _ in range(arguments.steps):
            start = time.perf_counter()
            losses.append(float(model.train_on_batch(*batch)))
            times.append(time.perf_counter() - start)
        found = {"ms": 1e3 * float(np.median(times)), "weights": model.count_params()}
        print(json.dumps([name, {**found, "loss": losses[-1]}]), flush=True)


def on(devices, arguments):
    """What `measure` prints in a process with so many devices, each a core."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "OMP_NUM_THREADS": "1",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} "
        "--xla_cpu_multi_thread_eigen=false",
    }
    options = [f"--{n}={getattr(arguments, n)}" for n in ("batch", "length", "steps")]
    command = [sys.executable, "-W", "ignore", __file__, "--child", str(devices), *options]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(line) for line in done.stdout.splitlines())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cores = sorted(os.sched_getaffinity(0))
    powers = [2**i for i in range(10) if 2**i <= len(cores)]
    parser.add_argument("--devices", type=int, nargs="+", default=powers)
    parser.add_argument("--batch", type=int, default=64, help="a multiple of the devices")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        os.sched_setaffinity(0, cores[: arguments.child])
        measure(arguments)
        os._exit(0)  # XLA's threads sometimes wait for ever for each other to end
    wrong = [n for n in arguments.devices if not 1 <= n <= len(cores) or arguments.batch % n]
    if wrong:
        parser.error(
            f"Expected at most {len(cores)} devices, one for each core, that divide the batch. "
            f"Received: devices={wrong}, batch={arguments.batch}"
        )
    found = {n: on(n, arguments) for n in arguments.devices}
    first = arguments.devices[0]
    print("| model | devices | ms a step | times as fast | loss |\n|---|---:|---:|---:|---:|")
    for name in found[first]:
        for n, results in found.items():
            row = results[name]
            faster = found[first][name]["ms"] / row["ms"]
            print(f"| {name} | {n} | {row['ms']:.0f} | {faster:.2f} | {row['loss']:.4f} |")
    names = " | ".join(LINKS)
    print(f"\n| model | devices | MB sent by each a step | ms: {names} |\n|---|---:|---:|", end="")
    print("---:|" * len(LINKS))
    for name, row in found[first].items():
        for n in (8, 256):
            sent = 2 * (n - 1) / n * 4 * row["weights"]  # a sum over a ring, of float32
            times = " | ".join(f"{1e3 * sent / speed:.3f}" for speed in LINKS.values())
            print(f"| {name} | {n} | {sent / 1e6:.2f} | {times} |")


if __name__ == "__main__":
    main()
