"""SavedModel export from every Keras backend."""

import importlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import keras

from keras_struct import ops
from keras_struct.layers.whole_files import whole_folder


def export_saved_model(
    model, path, *, endpoints=None, overwrite=False, import_modules=(), verbose=False
):
    """Write a model as a TensorFlow SavedModel, whatever backend trained it.

    The TensorFlow backend exports the model directly. The JAX, PyTorch and NumPy backends save it
    in `.keras` format and a child process reloads and exports it under the TensorFlow backend, so
    the artefact is the same from every backend: plain TensorFlow operations that need neither
    Keras nor this library to run. The batch size and every dimension that the model leaves at
    `None` stay dynamic. The folder appears whole or not at all.

    Args:
        model: A built `keras.Model`. The inputs of a subclassed model have the shapes of its first
            call; wrap it, `keras.Model(inputs, model(inputs))`, to choose which are dynamic.
        path: Folder to write. Its parent must exist.
        endpoints: Optional dict of further endpoints: name to a functional model on the same
            inputs as `model`, such as `{"decode": decoding_model(model)}`. They share its weights.
        overwrite: Whether to replace an existing folder.
        import_modules: Names of further modules that the child process must import to register
            the custom objects of the model. Those of its layers are found automatically.
        verbose: Whether to print the signature of the endpoints.

    Returns:
        The path, as a `pathlib.Path`. The model itself is the endpoint `serve`, and also the
        signature `serving_default`.

    Raises:
        FileExistsError: If the path exists and `overwrite` is False.
        ImportError: If TensorFlow is not installed.
        ValueError: If an endpoint does not share the inputs of the model, or a class of the model
            cannot be imported by another process.

    Example:

    >>> import keras, tempfile
    >>> from keras_struct import layers
    >>> tokens = keras.Input((None, 3))
    >>> model = keras.Model(tokens, layers.CRF(5)(tokens))
    >>> path = tempfile.mkdtemp() + "/tagger"
    >>> path = layers.export_saved_model(
    ...     model, path, endpoints={"tags": layers.decoding_model(model)}
    ... )
    >>> # Elsewhere: tf.saved_model.load(path).tags(tokens)
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise ImportError(
            "export_saved_model writes a TensorFlow SavedModel and needs TensorFlow, whatever the "
            "Keras backend. Install it with `pip install tensorflow`."
        )
    path = pathlib.Path(os.path.abspath(path))
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"Expected a path that does not exist, or overwrite=True. Received: path={str(path)!r}"
        )
    names = list(endpoints) if endpoints is not None else []
    combined = _combine(model, endpoints) if endpoints is not None else model
    with whole_folder(path) as written:
        if keras.backend.backend() == "tensorflow":
            _write(combined, names, written, verbose)
        else:
            _write_in_child(combined, names, written, import_modules, verbose)
    return path


def _functional(model):
    if isinstance(model, keras.Sequential):
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return model


def _combine(model, endpoints):
    """One functional model whose output is a dict: endpoint to the output of its model."""
    models = {"serve": model, **endpoints}
    if "serve" in endpoints:
        raise ValueError(
            "Expected names other than 'serve', which is the model itself. "
            f"Received: endpoints={list(endpoints)}"
        )
    for name, endpoint in models.items():
        if not isinstance(endpoint, keras.Model) or not getattr(endpoint, "inputs", None):
            raise ValueError(
                f"Expected functional models as endpoints. Received: {name}={endpoint}"
            )
        if [id(t) for t in endpoint.inputs] != [id(t) for t in model.inputs]:
            raise ValueError(
                "Expected endpoints made from the same `inputs` as the model. "
                f"Received: {name}={endpoint} with inputs={endpoint.inputs}"
            )
    models = {name: _functional(endpoint) for name, endpoint in models.items()}
    outputs = {name: endpoint.output for name, endpoint in models.items()}
    return keras.Model(models["serve"].input, outputs, name=model.name)


def _write(model, names, path, verbose):
    """Write `model`, or with names the model of each key of its output, under TensorFlow."""
    with ops.use("portable"):
        if not getattr(model, "inputs", None):
            model.export(str(path), format="tf_saved_model", verbose=verbose)
            return
        model = _functional(model)
        models = {"serve": model}
        if names:
            models = {
                name: keras.Model(model.input, model.output[name]) for name in ["serve", *names]
            }
        archive = keras.export.ExportArchive()
        archive.track(model)
        for name, endpoint in models.items():
            archive.add_endpoint(name, endpoint.__call__, [endpoint.input])
        archive.write_out(str(path), verbose=verbose)


def _write_in_child(model, names, path, import_modules, verbose):
    saved = path.with_name("model.keras")
    model.save(saved)
    request = {
        "model": str(saved),
        "names": names,
        "path": str(path),
        "import_modules": sorted({*custom_modules(model), *import_modules}),
        "floatx": keras.config.floatx(),
        "verbose": verbose,
    }
    environment = {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        # The parent may hold the memory of the GPU, and writing a graph needs none.
        "CUDA_VISIBLE_DEVICES": "-1",
        "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path),
    }
    code = f"from {__name__} import _serve_request; _serve_request()"
    child = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(request),
        env=environment,
        capture_output=True,
        text=True,
    )
    if verbose:
        print(child.stdout, end="")
    if child.returncode != 0:
        raise RuntimeError(
            "The process that reloads the model under TensorFlow and exports it failed:\n"
            f"{child.stderr[-5000:]}"
        )


def _serve_request():
    """What the child process runs: the request comes as JSON on the standard input."""
    request = json.load(sys.stdin)
    for name in request["import_modules"]:
        importlib.import_module(name)
    keras.config.set_floatx(request["floatx"])
    model = keras.saving.load_model(request["model"], compile=False)
    _write(model, request["names"], pathlib.Path(request["path"]), request["verbose"])


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
