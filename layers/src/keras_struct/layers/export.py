"""SavedModel export from every Keras backend."""

from __future__ import annotations

import importlib.util
import os
import pathlib
from collections.abc import Iterable
from pathlib import Path

import keras

from keras_struct import ops
from keras_struct.layers.annotations import StrPath
from keras_struct.layers.tensorflow_process import call_in_tensorflow
from keras_struct.layers.whole_files import whole_folder


def export_saved_model(
    model: keras.Model,
    path: StrPath,
    *,
    endpoints: dict[str, keras.Model] | None = None,
    overwrite: bool = False,
    import_modules: Iterable[str] = (),
    verbose: bool = False,
) -> Path:
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


def functional(model):
    """A Functional model with the inputs and outputs of a built `Sequential` one."""
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
    models = {name: functional(endpoint) for name, endpoint in models.items()}
    outputs = {name: endpoint.output for name, endpoint in models.items()}
    return keras.Model(models["serve"].input, outputs, name=model.name)


def _write(model, names, path, verbose):
    """Write `model`, or with names the model of each key of its output, under TensorFlow."""
    with ops.use("portable"):
        if not getattr(model, "inputs", None):
            model.export(str(path), format="tf_saved_model", verbose=verbose)
            return
        model = functional(model)
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
    arguments = {"names": names, "path": str(path), "verbose": verbose}
    call_in_tensorflow(_write, model, arguments, path.parent, import_modules, verbose)
