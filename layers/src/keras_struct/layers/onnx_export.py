"""ONNX export from every Keras backend, compared with the model before the file appears."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_struct import ops
from keras_struct.layers.annotations import StrPath
from keras_struct.layers.export import functional
from keras_struct.layers.tensorflow_process import call_in_tensorflow
from keras_struct.layers.whole_files import open_whole

NEEDED = ("tensorflow", "tf2onnx", "onnx", "onnxruntime")


def export_onnx(
    model: keras.Model,
    path: StrPath,
    *,
    examples: Sequence[Any] | None = None,
    overwrite: bool = False,
    opset: int = 18,
    tolerance: float = 1e-4,
    import_modules: Iterable[str] = (),
    verbose: bool = False,
) -> Path:
    """Write a model as an ONNX file, whatever backend trained it, that was seen to give the same.

    The graph is made under TensorFlow (in a child process on other backends) and translated by
    tf2onnx; it needs neither Keras nor this library to run. The batch size and every dimension that
    the model leaves at `None` stay dynamic. Then ONNX Runtime runs it beside the model, on batches
    of different sizes and lengths; only if all outputs agree does the file appear.

    Args:
        model: A Functional or built `Sequential` model, such as `decoding_model(model)` for tags.
            Wrap a subclassed one: `keras.Model(inputs, model(inputs))`.
        path: File to write. Its folder must exist.
        examples: List of batches to compare on, each as the model takes it; None for two of random
            numbers, where integers are 0 or 1 and booleans masks of different lengths.
        overwrite: Whether to replace an existing file.
        opset: Version of the ONNX operators.
        tolerance: Largest difference of a floating-point output, absolute and relative; integers
            must be equal.
        import_modules: Names of further modules that the child process must import to register
            the custom objects of the model. Those of its layers are found automatically.
        verbose: Whether to print what the child prints.

    Returns:
        The path, as a `pathlib.Path`. Inputs and outputs have the names that they have in the
        model.

    Raises:
        FileExistsError: If the path exists and `overwrite` is False.
        ImportError: If TensorFlow, tf2onnx, onnx or onnxruntime is not installed.
        ValueError: If the model has operations that ONNX has not, by name, or is subclassed, or if
            the outputs differ.

    Example:

    >>> import keras, tempfile
    >>> from keras_struct import layers
    >>> tokens = keras.Input((None, 3), name="tokens")
    >>> model = keras.Model(tokens, layers.CRF(5)(tokens))
    >>> path = tempfile.mkdtemp() + "/tagger.onnx"
    >>> # layers.export_onnx(layers.decoding_model(model), path)
    >>> # Elsewhere: onnxruntime.InferenceSession(path).run(None, {"tokens": tokens})
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            "export_onnx makes the graph under TensorFlow, whatever the Keras backend, and "
            f"compares it under ONNX Runtime. Install {missing}, as by "
            "`pip install keras-struct-layers[onnx]`."
        )
    path = pathlib.Path(os.path.abspath(path))
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"Expected a path that does not exist, or overwrite=True. Received: path={str(path)!r}"
        )
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise ValueError(
            "Expected a Functional or built Sequential model; keras.Model(inputs, model(inputs)) "
            f"makes one. Received: model={model}"
        )
    model = functional(model)
    with tempfile.TemporaryDirectory() as folder:
        written = pathlib.Path(folder) / "model.onnx"
        arguments = {"path": str(written), "opset": opset}
        call_in_tensorflow(_translate, model, arguments, folder, import_modules, verbose)
        content = written.read_bytes()
    _compare(model, content, _examples(model) if examples is None else examples, tolerance)
    with open_whole(path, "wb") as stream:
        stream.write(content)
    return path


def _translate(model, path, opset):
    """Write a model that runs on TensorFlow as an ONNX file."""
    import tensorflow as tf

    names = output_names(model)
    inputs = [tf.TensorSpec(x.shape, x.dtype, name=x.name) for x in model.inputs]

    def outputs(*given):
        tensors = keras.tree.flatten(model(keras.tree.pack_sequence_as(model.input, given)))
        return dict(zip(names, tensors, strict=True))

    pathlib.Path(path).write_bytes(translate(outputs, inputs, names, opset))


def translate(function, inputs, names, opset=18):
    """The ONNX file of a function of TensorFlow's tensors, as bytes.

    Args:
        function: Of tensors, to a dict of tensors.
        inputs: List of the `tf.TensorSpec` of its arguments, with names.
        names: Names of the outputs, in their order.
        opset: Version of the ONNX operators.
    """
    import logging

    import onnx
    import tensorflow as tf
    import tf2onnx

    from keras_struct.ops.array.tensorflow import translated

    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # the errors below say more

    def outputs(*given):
        return {name: tf.identity(y) for name, y in function(*given).items()}

    with ops.use("portable"), translated():
        graph = tf.function(outputs, input_signature=inputs, autograph=False)
        proto, _ = tf2onnx.convert.from_function(
            graph,
            input_signature=inputs,
            opset=opset,
            custom_op_handlers={"SelectV2": (_where, [])},
        )
    unknown = sorted(set(_unknown_operators(proto.graph, onnx.defs.has)))
    if unknown:
        listed = ", ".join(f"{operator} (in {place})" for operator, place in unknown)
        raise NotImplementedError(
            f"Expected operations that ONNX has. Received: {listed}. Leave them out of the model, "
            "or do them outside of it."
        )
    order = {name: position for position, name in enumerate(names)}
    found = sorted(proto.graph.output, key=lambda y: order[y.name])
    del proto.graph.output[:]
    proto.graph.output.extend(found)
    return proto.SerializeToString()


def _where(context, node, name, args):
    """`Where` for `SelectV2`: tf2onnx multiplies by 0 and 1, which gives NaN beside infinity.

    ONNX Runtime has no `Where` for booleans.
    """
    import onnx

    shapes, dtypes = node.output_shapes, node.output_dtypes
    inputs, operator = list(node.input), "Where"
    context.remove_node(node.name)
    if dtypes == [onnx.TensorProto.BOOL]:
        condition, x, y = inputs
        otherwise = context.make_node("Not", [condition]).output[0]
        inputs = [
            context.make_node("And", pair).output[0] for pair in ([condition, x], [otherwise, y])
        ]
        operator = "Or"
    return context.make_node(
        operator, inputs, name=name, outputs=node.output, shapes=shapes, dtypes=dtypes
    )


def _unknown_operators(graph, known):
    """Operators of a graph and of those inside of it that ONNX has not, with the layers they are
    in."""
    for node in graph.node:
        if not node.domain and not known(node.op_type):
            yield node.op_type, node.name.rsplit("/", 1)[0]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _unknown_operators(inner, known)


def output_names(model):
    """A name for each output of a Functional model: keys of a dict, or names of layers."""
    if isinstance(model.output, dict) and all(hasattr(y, "shape") for y in model.output.values()):
        names = sorted(model.output)
    else:
        names = list(model.output_names)
    return [name if names.count(name) == 1 else f"{name}_{n}" for n, name in enumerate(names)]


def _examples(model):
    """Two batches of random numbers, of different sizes."""
    rng = np.random.default_rng(0)
    batches = []
    for batch, n in ((2, 5), (3, 8)):
        shapes = [[n if size is None else size for size in x.shape[1:]] for x in model.inputs]
        inputs = [
            _random(rng, x.dtype, (batch, *rest))
            for x, rest in zip(model.inputs, shapes, strict=True)
        ]
        batches.append(keras.tree.pack_sequence_as(model.input, inputs))
    return batches


def _random(rng, dtype, shape):
    dtype = keras.backend.standardize_dtype(dtype)
    if dtype == "bool":
        return np.arange(shape[-1]) < rng.integers(1, shape[-1] + 1, (*shape[:-1], 1))
    if "int" in dtype:
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.normal(size=shape).astype(dtype)


def _compare(model, content, examples, tolerance):
    """Raise a `ValueError` unless ONNX Runtime gives what the model gives."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented as error:
        raise NotImplementedError(
            f"Expected operations that ONNX Runtime has. Received: {error}"
        ) from error
    names = output_names(model)
    for batch in examples:
        expected = keras.tree.flatten(model.predict_on_batch(batch))
        given = zip(model.inputs, keras.tree.flatten(batch), strict=True)
        feed = {
            x.name: np.asarray(value, keras.backend.standardize_dtype(x.dtype))
            for x, value in given
        }
        for name, want, got in zip(names, expected, session.run(names, feed), strict=True):
            want = np.asarray(want)
            exact = not np.issubdtype(want.dtype, np.floating)
            same = want.shape == got.shape and (
                np.array_equal(want, got)
                if exact
                else np.allclose(want, got, rtol=tolerance, atol=tolerance, equal_nan=True)
            )
            if not same:
                raise ValueError(
                    "Expected the ONNX file to give what the model gives. Received: output "
                    f"{name!r} of shape {got.shape} that differs, by {_difference(want, got)}, "
                    f"for inputs of shapes {[x.shape for x in feed.values()]}; nothing was written"
                )


def _difference(want, got):
    if want.shape != got.shape:
        return f"its shape, not {want.shape}"
    with np.errstate(invalid="ignore"):
        return f"up to {np.nanmax(np.abs(want.astype('float64') - got)):.3g}"
