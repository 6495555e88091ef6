"""Runs every structure through every compiler and file format, and records what came out right.

    python ci/works_run.py [BACKEND...] [STRUCTURE...]

One process for each backend, and all structures, unless some are named: the value, the marginals
and the best structure of a small case, whose potentials are exact in half precision, beside those
of NumPy. Writes `works.json`, which `works_table.py` makes a table of.
"""

import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
from importlib import metadata

import numpy as np

RECORD = pathlib.Path(__file__).with_name("works.json")
BACKENDS = {
    "numpy": ("half",),
    "torch": ("compile", "half", "trace"),
    "jax": ("jit", "half"),
    "tensorflow": ("xla", "half", "saved_model", "onnx"),
}
RESULT = "result: "
PACKAGES = ("keras", "jax", "tensorflow", "torch", "numpy", "numba", "tf2onnx", "onnxruntime")


def functions():
    """For each structure a function of named tensors to a dict of tensors, and its arrays."""
    from keras_struct import ops
    from keras_struct.ops.structure_cases import smallest

    def of_case(build):
        def readouts(tensors):
            d = build(tensors)
            marginals = {f"marginals {k}": x for k, x in d.marginals("all").items()}
            return {"value": d.value(), **marginals, "argmax": d.argmax()}

        return readouts

    cases = smallest()
    found = {op: (of_case(case.build), case.arrays()) for op, case in cases.items()}
    # Sources are data, which a program has before it runs.
    rng, shape = np.random.default_rng(0), cases["damerau"].arrays()["substitutions"].shape
    words = [rng.integers(0, 2, (shape[0], n)) for n in shape[1:]]
    sources = ops.transposition_sources(*words)
    found["damerau"] = of_case(lambda x: ops.damerau(sources=sources, **x)), found["damerau"][1]
    sides = rng.normal(size=(3, 2, 5, 4))
    names = dict(zip(("query", "key", "value"), sides, strict=True))
    found["sinkhorn"] = (
        lambda x: dict(zip("fg", ops.sinkhorn(**x)[:2], strict=True)),
        {name: names[name] for name in ("query", "key")},
    )
    found["sinkhorn_tail"] = lambda x: {"output": ops.sinkhorn_tail(**x)}, names
    return {op: (function, _rounded(arrays)) for op, (function, arrays) in found.items()}


def _rounded(arrays):
    """Numbers that every half precision holds."""
    return {
        name: np.where(np.isinf(x), x, np.clip(np.round(64 * x) / 64, -3.9, 3.9)).astype("float32")
        for name, x in arrays.items()
    }


def run(way, function, arrays):
    """The outputs of a function, as NumPy arrays, one way or another."""
    import keras

    dtype = "float32"
    if way == "half":
        dtype = "float16" if keras.backend.backend() == "numpy" else "bfloat16"
    tensors = {name: keras.ops.convert_to_tensor(x, dtype) for name, x in arrays.items()}
    outputs = globals().get(f"_{way}", lambda f, x: f(x))(function, tensors)
    return {
        name: keras.ops.convert_to_numpy(keras.ops.cast(x, "float32"))
        for name, x in outputs.items()
    }


def _jit(function, tensors):
    import jax

    return jax.jit(function)(tensors)


def _half(function, tensors):
    import keras

    return _jit(function, tensors) if keras.backend.backend() == "jax" else function(tensors)


def _compile(function, tensors):
    import torch

    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend="aot_eager")(tensors)


def _breaks(function, tensors):
    import torch

    torch._dynamo.reset()
    return torch.compile(function, backend="aot_eager")(tensors)


def _module(function, tensors):
    """A PyTorch module of tensors to a tuple of tensors, and the names of these."""
    import torch

    outputs = list(function(tensors))

    class Module(torch.nn.Module):
        def forward(self, *given):
            found = function(dict(zip(tensors, given, strict=True)))
            return tuple(found[name] for name in outputs)

    return Module(), outputs


def _trace(function, tensors):
    import io

    import torch

    module, names = _module(function, tensors)
    file = io.BytesIO()
    with torch.no_grad():
        torch.jit.save(torch.jit.trace(module, tuple(tensors.values()), check_trace=False), file)
        file.seek(0)
        return dict(zip(names, torch.jit.load(file)(*tensors.values()), strict=True))


def _xla(function, tensors):
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False)(tensors)


def _saved_model(function, tensors):
    import tensorflow as tf

    module = tf.Module()
    module.serve = tf.function(function, autograph=False)
    module.serve.get_concrete_function(tensors)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder)
        return tf.saved_model.load(folder).serve(tensors)


def _onnx(function, tensors):
    import onnxruntime
    import tensorflow as tf

    from keras_struct.layers.onnx_export import translate

    names = sorted(function(tensors))
    inputs = [tf.TensorSpec(x.shape, x.dtype, name=name) for name, x in tensors.items()]
    plain = {name: f"output_{i}" for i, name in enumerate(names)}

    def outputs(*given):
        found = function(dict(zip(tensors, given, strict=True)))
        return {plain[name]: y for name, y in found.items()}

    content = translate(outputs, inputs, list(plain.values()))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = session.run(list(plain.values()), {name: np.asarray(x) for name, x in tensors.items()})
    return {name: tf.convert_to_tensor(x) for name, x in zip(names, found, strict=True)}


def _wrong(way, found, expected):
    """What differs, or None."""
    near = {"rtol": 2e-2, "atol": 2e-2} if way == "half" else {"rtol": 1e-4, "atol": 1e-4}
    for name, want in expected.items():
        got = found[name]
        if got.shape != want.shape or not np.allclose(got, want, **near, equal_nan=True):
            return f"{name} differs"
    return None


def _result(way, function, arrays, expected):
    """What is wrong with one way, or None."""
    try:
        return _wrong(way, run(way, function, arrays), expected)
    except Exception as error:  # what it is, is the result
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"


def child(folder, backend, *named):
    """Run all ways of the active backend; NumPy's results are what the others are compared with."""
    for op, (function, arrays) in functions().items():
        if named and op not in named:
            continue
        path = pathlib.Path(folder) / f"{op}.npz"
        if backend == "numpy":
            np.savez(path, **run("eager", function, arrays))
        with np.load(path) as file:
            expected = dict(file)
        for way in BACKENDS[backend]:
            wrong = _result(way, function, arrays, expected)
            if way == "compile" and wrong and not _result("breaks", function, arrays, expected):
                wrong = "graph breaks"
            print(RESULT + json.dumps([op, f"{backend} {way}", wrong]), flush=True)


def main(words):
    named = [word for word in words if word not in BACKENDS]
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {"cells": {}}
    installed = metadata.packages_distributions()  # TensorFlow for CPUs has another name
    record["versions"] = {name: metadata.version(installed[name][0]) for name in PACKAGES}
    record["versions"]["python"] = platform.python_version()
    backends = [word for word in words if word in BACKENDS] or list(BACKENDS)
    with tempfile.TemporaryDirectory() as folder:
        for backend in ["numpy", *(name for name in backends if name != "numpy")]:
            environment = {**os.environ, "KERAS_BACKEND": backend, "EVERY_CASE": "1"}
            command = [sys.executable, "-W", "ignore", __file__, "--child", folder, backend, *named]
            with subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, text=True
            ) as process:
                for line in process.stdout or ():
                    if line.startswith(RESULT):
                        op, cell, wrong = json.loads(line.removeprefix(RESULT))
                        print(op, cell, wrong or "ok", flush=True)
                        record["cells"].setdefault(op, {})[cell] = wrong
                        RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
            if process.returncode:
                sys.exit(f"{backend} failed")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        main(sys.argv[1:])
