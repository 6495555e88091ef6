"""One test that checks a layer against the whole Keras contract."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np

from keras_struct.layers.attach_mask import AttachMask
from keras_struct.layers.export import export_saved_model
from keras_struct.layers.tensorflow_process import custom_modules
from keras_struct.ops.annotations import ArrayLike, Tensor

CHECKS = ("config", "spec", "masks", "mixed_precision", "fit", "reload", "saved_model")

# Plain TensorFlow first, while nothing else is imported; then Keras, on the backend of the parent.
_FRESH_PROCESS = """
import importlib, json, sys
import numpy as np
request = json.load(sys.stdin)
def load(name):
    with np.load(request["folder"] + "/" + name) as arrays:
        return dict(arrays)
def save(name, outputs):
    np.savez(request["folder"] + "/" + name, *[np.asarray(y, "float32") for y in outputs])
if "saved_model" in request["checks"]:
    import tensorflow as tf
    module = tf.saved_model.load(request["folder"] + "/saved_model")
    inputs = {name: tf.constant(x) for name, x in load("longer.npz").items()}
    save("saved_model.npz", tf.nest.flatten(module.serve(inputs)))
    loaded = sorted(name for name in sys.modules if name.startswith("keras_struct"))
    assert not loaded, f"plain TensorFlow should suffice, and {loaded} were imported"
if "reload" in request["checks"]:
    for name in request["modules"]:
        importlib.import_module(name)
    import keras
    model = keras.saving.load_model(request["folder"] + "/model.keras", compile=False)
    save("reload.npz", keras.tree.flatten(model.predict_on_batch(load("inputs.npz"))))
"""


class _ReadMask(keras.layers.Layer):
    """The Keras mask of a tensor, of length 0 if it has none."""

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.supports_masking = True

    def call(self, inputs, mask=None):
        nothing = keras.ops.zeros((keras.ops.shape(inputs)[0], 0), "bool")
        return nothing if mask is None else keras.ops.cast(mask, "bool")

    def compute_mask(self, inputs, previous_mask=None):
        return None

    def compute_output_spec(self, inputs, mask=None):
        return keras.KerasTensor((None, None), "bool")


def check_layer(
    layer: keras.layers.Layer | Callable[[], keras.layers.Layer],
    inputs: ArrayLike | dict[str, ArrayLike],
    *,
    mask: ArrayLike | dict[str, ArrayLike] | None = None,
    padding: float = float("nan"),
    dynamic_axes: Sequence[int] = (1,),
    loss: Callable[..., Tensor] | None = None,
    targets: ArrayLike | None = None,
    frozen: Iterable[str] = (),
    import_modules: Iterable[str] = (),
    checks: Iterable[str] = CHECKS,
) -> dict[str, str]:
    """Check any Keras layer against everything that Keras expects of a layer.

    - `config`: the class is registered; `get_config` holds every constructor argument, is JSON,
      and `from_config` gives an equal layer.
    - `spec`: `compute_output_spec` agrees with the call in shape and dtype, both for concrete
      dimensions and for a batch and lengths of `None`.
    - `masks`: what lies in the padding, NaN included, changes no valid output, and a sequence
      alone, without its padding, gives the same. Outputs that carry no mask are valid as a whole.
    - `mixed_precision`: under `mixed_float16` and `mixed_bfloat16` the layer computes in that
      dtype, its weights stay float32, and its outputs are finite where they are in float32. The
      NumPy backend has no bfloat16: there only the first.
    - `fit`: one step of `model.fit`, with `padding` in the padded positions: the loss is finite
      and every trainable weight moves to a finite value.
    - `reload`: a fresh process loads the `.keras` file and gives the same outputs.
    - `saved_model`: a fresh process with plain TensorFlow, without Keras or this library, loads
      what `export_saved_model` wrote; same outputs, for another batch size and other lengths.

    Args:
        layer: A `keras.Layer`, or a callable that returns a new one.
        inputs: Array, or dict from call argument to array; the first axis is the batch.
        mask: Boolean array `(batch, length)`, the right-padded mask of every input, or a dict from
            call argument to mask. None if the layer takes none.
        padding: Value of the padded positions. Layers that multiply padded positions by zero, as
            most of Keras does, do not bear NaN; give a number for them.
        dynamic_axes: Axes of the inputs, besides the batch, that may have any length.
        loss: Loss of the `fit` check; None for the squared distance to `targets`.
        targets: Targets of the loss; None for ones.
        frozen: Names of trainable weights that this loss does not reach.
        import_modules: Modules to import in the fresh process, see `export_saved_model`.
        checks: Which checks to run, among `CHECKS`.

    Returns:
        Dict from the name of each check to `"passed"` or `"not applicable: <reason>"`. Not
        applicable are: `masks` without a mask; `fit` on the NumPy backend, which has no gradients,
        for a layer without trainable weights, and for integer outputs; `saved_model` where
        TensorFlow is not installed.

    Raises:
        AssertionError: If a check fails, with its name, what was expected and what came.

    Example:

    >>> import keras, numpy as np
    >>> from keras_struct.layers import check_layer
    >>> check_layer(keras.layers.LSTM(4), np.ones((2, 5, 3), "float32"), checks=["config", "spec"])
    {'config': 'passed', 'spec': 'passed'}
    """
    if not set(checks) <= set(CHECKS):
        raise ValueError(f"Expected checks among {CHECKS}. Received: checks={checks}")
    case = _Case(layer, inputs, mask, padding, dynamic_axes)
    run = {
        "config": case.config,
        "spec": case.spec,
        "masks": case.masks_honoured,
        "mixed_precision": case.mixed_precision,
        "fit": lambda: case.fit(loss, targets, frozen),
        "reload": lambda: None,
        "saved_model": case.no_saved_model,
    }
    report = {name: run[name]() or "passed" for name in CHECKS if name in checks}
    fresh = [name for name in ("reload", "saved_model") if report.get(name) == "passed"]
    if fresh:
        case.fresh_process(fresh, import_modules)
    return report


class _Case:
    def __init__(self, layer, inputs, mask, padding, dynamic_axes):
        self.layer = layer if isinstance(layer, keras.layers.Layer) else layer()
        self.single = not isinstance(inputs, dict)
        self.inputs = {"inputs": inputs} if self.single else inputs
        masks = mask if isinstance(mask, dict) or mask is None else dict.fromkeys(self.inputs, mask)
        self.masks = {} if masks is None else {f"{k}_valid": m for k, m in masks.items()}
        self.padding = padding
        self.axes = (0, *dynamic_axes)
        self.probes: dict[keras.Model, keras.Model] = {}
        self.model = self.model_of(self.layer)
        self.feed = {**self.inputs, **self.masks}

    def expect(self, condition, check, message):
        if not condition:
            name = self.layer.__class__.__name__
            raise AssertionError(f"check_layer({name}), {check}: {message}")

    def model_of(self, layer):
        """Functional model from the dict of the inputs and their masks to the outputs."""
        tensors = {}
        for name, x in {**self.inputs, **self.masks}.items():
            axes = range(1, x.ndim)
            shape = [None if i in self.axes or name in self.masks else x.shape[i] for i in axes]
            tensors[name] = keras.Input(shape, dtype=str(x.dtype), name=name)
        masked = {name: tensors[name] for name in self.inputs}
        for name in self.inputs:
            if f"{name}_valid" in tensors:
                attach = AttachMask(name=f"{name}_masked", dtype=str(self.inputs[name].dtype))
                masked[name] = attach([tensors[name], tensors[f"{name}_valid"]])
        return keras.Model(tensors, layer(masked["inputs"]) if self.single else layer(**masked))

    def run(self, model, feed):
        """Outputs as arrays, and the mask of each or None, by a compiled call."""
        if model not in self.probes:
            outputs = keras.tree.flatten(model.output)
            masks = [_ReadMask()(y) for y in outputs]
            self.probes[model] = keras.Model(model.input, {"y": outputs, "mask": masks})
        found = self.probes[model].predict_on_batch(feed)
        return found["y"], [m if m.shape[-1] else None for m in found["mask"]]

    def padded(self, value):
        """The feed with `value` in the padded positions."""
        feed = dict(self.feed)
        for name, x in self.inputs.items():
            if f"{name}_valid" in feed and np.issubdtype(x.dtype, np.floating):
                feed[name] = np.array(x)
                feed[name][~feed[f"{name}_valid"]] = value
        return feed

    def longer(self):
        """The feed with one more example and three more steps."""
        feed = {}
        for name, x in self.feed.items():
            more = [0 if i not in self.axes else 1 if i == 0 else 3 for i in range(x.ndim)]
            widths = [(0, n) for n in more]
            edge = name in self.masks
            feed[name] = np.pad(x, widths, mode="edge") if edge else np.pad(x, widths, mode="wrap")
        return feed

    def close(self, check, message, actual, expected, masks=None):
        for a, e, m in zip(actual, expected, masks or [None] * len(actual), strict=True):
            a, e = (np.asarray(y if m is None else y[m], "float32") for y in (a, e))
            self.expect(a.shape == e.shape, check, f"{message}: shapes {a.shape} and {e.shape}")
            differ = a != e
            error = np.max(np.abs(a[differ] - e[differ]), initial=0.0)
            self.expect(
                np.allclose(a, e, rtol=1e-4, atol=2e-5), check, f"{message}: they differ by {error}"
            )

    def config(self):
        cls = type(self.layer)
        config = self.layer.get_config()
        if not cls.__module__.startswith("keras."):
            name = keras.saving.get_registered_name(cls)
            self.expect(
                keras.saving.get_registered_object(name) is cls,
                "config",
                "expected a class registered with keras.saving.register_keras_serializable",
            )
            for parameter in list(inspect.signature(cls.__init__).parameters.values())[1:]:
                self.expect(
                    parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
                    or parameter.name in config,
                    "config",
                    f"expected the constructor argument {parameter.name!r} in get_config",
                )
        text = json.dumps(keras.saving.serialize_keras_object(self.layer)["config"])
        clone = cls.from_config(keras.saving.deserialize_keras_object(json.loads(text)))
        again = json.dumps(keras.saving.serialize_keras_object(clone)["config"])
        self.expect(text == again, "config", f"from_config of {text} gave {again}")

    def spec(self):
        for feed in (self.feed, self.longer()):
            actual, _ = self.run(self.model, feed)
            concrete = {name: feed[name].shape for name in self.inputs}
            dynamic = {
                name: tuple(None if i in self.axes else n for i, n in enumerate(shape))
                for name, shape in concrete.items()
            }
            for shapes in (concrete, dynamic):
                x = {k: keras.KerasTensor(s, str(self.inputs[k].dtype)) for k, s in shapes.items()}
                compute = self.layer.compute_output_spec
                expected = keras.tree.flatten(compute(x["inputs"]) if self.single else compute(**x))
                promised = [(tuple(s.shape), _dtype(s)) for s in expected]
                found = [(tuple(y.shape), _dtype(y)) for y in actual]
                self.expect(
                    len(promised) == len(found)
                    and all(
                        p_dtype == dtype and _fits(shape, p, shapes is dynamic)
                        for (p, p_dtype), (shape, dtype) in zip(promised, found, strict=True)
                    ),
                    "spec",
                    f"for inputs {shapes} compute_output_spec gave {promised}, the call {found}",
                )

    def masks_honoured(self):
        if not self.masks:
            return "not applicable: no mask was given"
        expected, valid = self.run(self.model, self.feed)
        for value in (100.0, self.padding):
            actual, _ = self.run(self.model, self.padded(value))
            message = f"valid outputs depend on the padding, here {value}"
            self.close("masks", message, actual, expected, valid)
        fixed = all(None not in y.shape[1:] for y in self.model.outputs)
        for b in range(len(next(iter(self.inputs.values())))):
            feed = {name: x[b : b + 1] for name, x in self.feed.items()}
            for name in self.inputs:
                if f"{name}_valid" in feed:
                    keep = feed[f"{name}_valid"][0]
                    feed |= {k: feed[k][:, keep] for k in (name, f"{name}_valid")}
            if any(x.shape[1:] != self.feed[name].shape[1:] for name, x in feed.items()):
                self.same_alone(feed, [y[b : b + 1] for y in expected], valid, b, fixed)
        return None

    def same_alone(self, feed, expected, valid, b, fixed):
        actual, kept = self.run(self.model, feed)
        for a, k, e, v in zip(actual, kept, expected, valid, strict=True):
            message = f"example {b} without its padding gives other outputs"
            if v is not None:
                a, e = a[k], e[v[b : b + 1]]
                # A further axis may have the length of another input, which is shorter, too.
                self.close("masks", message, [a], [e[(slice(None), *map(slice, a.shape[1:]))]])
            elif fixed:
                self.close("masks", message, [a], [e])

    def mixed_precision(self):
        expected, valid = self.run(self.model, self.feed)
        numpy = keras.backend.backend() == "numpy"
        for dtype in ("float16",) if numpy else ("float16", "bfloat16"):
            config = {**self.layer.get_config(), "dtype": f"mixed_{dtype}"}
            clone = type(self.layer).from_config(config)
            model = self.model_of(clone)
            clone.set_weights(self.layer.get_weights())
            check = f"mixed_precision, mixed_{dtype}"
            self.expect(clone.compute_dtype == dtype, check, f"computes in {clone.compute_dtype}")
            stored = {w.path: w.dtype for w in clone.trainable_weights if w.dtype != "float32"}
            self.expect(not stored, check, f"expected float32 weights, and found {stored}")
            actual, _ = self.run(model, self.feed)
            found = [_dtype(y) for y in actual]
            promised = [_dtype(y) for y in keras.tree.flatten(model.outputs)]
            self.expect(found == promised, check, f"outputs are {found}, their spec {promised}")
            for a, e, m in zip(actual, expected, valid, strict=True):
                a, e = (np.asarray(y if m is None else y[m], "float32") for y in (a, e))
                lost = np.isfinite(e) & ~np.isfinite(a)
                self.expect(not lost.any(), check, f"{lost.sum()} outputs are not finite")

    def fit(self, loss, targets, frozen):
        if keras.backend.backend() == "numpy":
            return "not applicable: the NumPy backend has no gradients"
        if not self.layer.trainable_weights:
            return "not applicable: the layer has no trainable weights"
        if not any(keras.backend.is_float_dtype(y.dtype) for y in self.model.outputs):
            return "not applicable: integer outputs have no gradients"
        clone = type(self.layer).from_config(self.layer.get_config())
        model = self.model_of(clone)
        clone.set_weights(self.layer.get_weights())
        before = [_numpy(w) for w in clone.trainable_weights]
        feed = self.padded(self.padding)
        if targets is None:
            outputs, _ = self.run(self.model, feed)
            targets = keras.tree.pack_sequence_as(model.output, [np.ones_like(y) for y in outputs])
        if loss is None:
            loss = keras.tree.map_structure(lambda y: _squared_distance, targets)
        model.compile(optimizer=keras.optimizers.Adam(0.01), loss=loss)
        value = model.fit(feed, targets, batch_size=1000, verbose=0).history["loss"][0]
        self.expect(np.isfinite(value), "fit", f"the loss is {value}")
        for weight, old in zip(clone.trainable_weights, before, strict=True):
            new = _numpy(weight)
            self.expect(np.isfinite(new).all(), "fit", f"{weight.path} became {new}")
            moves = (new != old).any() or weight.name in frozen
            self.expect(moves, "fit", f"{weight.path} did not move")
        return None

    def no_saved_model(self):
        if importlib.util.find_spec("tensorflow") is None:
            return "not applicable: TensorFlow is not installed"
        return None

    def fresh_process(self, checks, import_modules):
        feeds = {"reload": self.feed, "saved_model": self.longer()}
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            np.savez(folder / "inputs.npz", **feeds["reload"])
            np.savez(folder / "longer.npz", **feeds["saved_model"])
            self.model.save(folder / "model.keras")
            if "saved_model" in checks:
                export_saved_model(
                    self.model, folder / "saved_model", import_modules=import_modules
                )
            modules = [*custom_modules(self.model), *import_modules]
            request = {"folder": name, "modules": modules}
            backend = keras.backend.backend()
            if backend == "tensorflow":
                self.child({**request, "checks": checks}, backend)
            else:
                # PyTorch loads Triton, whose copy of LLVM ends a process that has TensorFlow's.
                for check in checks:
                    only = "tensorflow" if check == "saved_model" else backend
                    self.child({**request, "checks": [check]}, only)
            for check in checks:
                with np.load(folder / f"{check}.npz") as arrays:
                    actual = list(arrays.values())
                expected, _ = self.run(self.model, feeds[check])
                self.close(check, "the fresh process gives other outputs", actual, expected)

    def child(self, request, backend):
        environment = {
            **os.environ,
            "KERAS_BACKEND": backend,
            "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path),
        }
        child = subprocess.run(
            [sys.executable, "-c", _FRESH_PROCESS],
            input=json.dumps(request),
            env=environment,
            capture_output=True,
            text=True,
        )
        self.expect(child.returncode == 0, "fresh process", child.stderr[-5000:])


def _squared_distance(y_true, y_pred):
    finite = keras.ops.where(keras.ops.isfinite(y_pred), y_pred, 0.0)
    return keras.ops.mean(keras.ops.square(finite - keras.ops.cast(y_true, finite.dtype)))


def _fits(shape, promised, dynamic):
    return len(shape) == len(promised) and all(
        n == m or (dynamic and m is None) for n, m in zip(shape, promised, strict=True)
    )


def _numpy(x):
    return keras.ops.convert_to_numpy(keras.ops.cast(x, "float32"))


def _dtype(x):
    return keras.backend.standardize_dtype(x.dtype)
