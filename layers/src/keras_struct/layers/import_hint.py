"""What Keras says where a saved model is loaded before its classes are imported."""

from __future__ import annotations

import keras

from keras_struct.layers.annotations import Config


class ImportHint(keras.layers.Layer):
    """Base class of layers whose saved configuration ends with what must be imported.

    Keras imports no module of a configuration but its own, whatever the configuration says. Where
    it does not know a class, its message ends with the configuration, so that ends with a hint.
    """

    def get_build_config(self) -> Config | None:
        config = super().get_build_config()
        package = ".".join(type(self).__module__.split(".")[:2])
        return config and {**config, "before loading": f"import {package}"}
