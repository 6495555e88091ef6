"""Work that only TensorFlow can do with a model, in a process of its own on other backends."""

import importlib
import json
import os
import pathlib
import subprocess
import sys

import keras

_REFUSED = 3  # the exit code of a child that says on its standard output what is wrong


def call_in_tensorflow(function, model, arguments, folder, import_modules=(), verbose=False):
    """`function(model, **arguments)` where the model runs on TensorFlow.

    Args:
        function: A function of a module of this library that returns nothing.
        model: A `keras.Model`, on any backend.
        arguments: Dict of JSON values.
        folder: Where the child may write a file.
        import_modules: Names of further modules that register custom objects of the model.
        verbose: Whether to print what the child prints.

    Raises:
        ValueError: If the child cannot import a class of the model, or `function` refuses it.
    """
    if keras.backend.backend() == "tensorflow":
        function(model, **arguments)
        return
    saved = pathlib.Path(folder) / "model.keras"
    model.save(saved)
    request = {
        "model": str(saved),
        "function": [function.__module__, function.__name__],
        "arguments": arguments,
        "import_modules": sorted({*custom_modules(model), *import_modules}),
        "floatx": keras.config.floatx(),
    }
    environment = {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        # The parent may hold the memory of the GPU, and writing a graph needs none.
        "CUDA_VISIBLE_DEVICES": "-1",
        "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path),
    }
    child = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import serve; serve()"],
        input=json.dumps(request),
        env=environment,
        capture_output=True,
        text=True,
    )
    if child.returncode == _REFUSED:
        raise ValueError(child.stdout.splitlines()[-1])
    if verbose:
        print(child.stdout, end="")
    if child.returncode != 0:
        raise RuntimeError(
            "The process that reloads the model under TensorFlow and exports it failed:\n"
            f"{child.stderr[-5000:]}"
        )


def serve():
    """What the child process runs: the request comes as JSON on the standard input."""
    request = json.load(sys.stdin)
    for name in request["import_modules"]:
        try:
            importlib.import_module(name)
        except ImportError as error:
            _refuse(
                "Expected the custom classes of the model in modules that another process can "
                f"import. Received: module={name!r}, {type(error).__name__}: {error}"
            )
    keras.config.set_floatx(request["floatx"])
    model = keras.saving.load_model(request["model"], compile=False)
    module, function = request["function"]
    try:
        getattr(importlib.import_module(module), function)(model, **request["arguments"])
    except NotImplementedError as error:
        _refuse(str(error))


def _refuse(message):
    print("\n" + message.replace("\n", " "), flush=True)
    sys.exit(_REFUSED)


def custom_modules(model):
    """Modules that register the custom objects in the configuration of a model."""
    modules = set()

    def visit(node):
        if isinstance(node, dict):
            registered = node.get("registered_name")
            custom = None if registered is None else keras.saving.get_registered_object(registered)
            if custom is not None:
                modules.add(custom.__module__)
            for key, value in node.items():
                if key != "compile_config":
                    visit(value)
        elif isinstance(node, list | tuple):
            for value in node:
                visit(value)

    visit(keras.saving.serialize_keras_object(model))
    if "__main__" in modules:
        raise ValueError(
            "Expected the custom classes of the model in an importable module, for another "
            "process must import them. Received: a class defined in module='__main__'"
        )
    return modules
