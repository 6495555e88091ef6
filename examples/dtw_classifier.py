"""Classifies time series by their soft-DTW distance to one learned prototype per class.

    python examples/dtw_classifier.py

The series (the UCR data set Trace, which the package tslearn ships) have the same shapes at other
times, so point by point they are far from each other. The prototypes start as one training series
of each class and are trained by `model.fit` through the gradient of the soft-DTW; the temperature,
the gamma of soft-DTW, is learned with them. With a band of radius 0, which allows no warping, the
same model is a classifier by Euclidean distance.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from figures import prototypes_figure, write_png
from keras import ops as K
from rich.console import Console
from rich.table import Table
from tslearn.datasets import CachedDatasets

from keras_struct import ops

ROOT = Path(__file__).resolve().parents[1]
SEED = 0


def main() -> None:
    options = parse()
    if keras.config.backend() == "numpy":
        raise SystemExit("Expected a backend with gradients. Received: KERAS_BACKEND=numpy")
    x, y, x_test, y_test = read_series(every=8 if options.smoke else 3)
    first = np.array([np.flatnonzero(y == label)[0] for label in range(y.max() + 1)])

    table = Table("distance", title=f"Trace, {len(x_test)} held-out series", title_justify="left")
    for column in ("temperature", "accuracy before", "accuracy after"):
        table.add_column(column, justify="right")
    for name, band in (("Euclidean (band 0)", 0), ("soft-DTW", None)):
        keras.utils.set_random_seed(SEED)
        classifier = Prototypes(x[first], band)
        series = keras.Input(x.shape[1:])
        model = keras.Model(series, classifier(series))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"])
        before = model.evaluate(x_test, y_test, batch_size=25, verbose=0)[1]
        print(name)
        model.fit(x, y, batch_size=20, epochs=1 if options.smoke else 15, verbose=2)
        after = model.evaluate(x_test, y_test, batch_size=25, verbose=0)[1]
        temperature = f"{float(K.convert_to_numpy(classifier.temperature())):.2f}"
        table.add_row(name, temperature, f"{before:.0%}", f"{after:.0%}")
    Console().print(table)
    path = options.output / "prototypes.png"
    write_png(path, prototypes_figure(x, y, K.convert_to_numpy(classifier.prototypes)))
    print(f"prototypes: {path}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "dtw_classifier")
    parser.add_argument("--smoke", action="store_true", help="short series, one epoch")
    return parser.parse_args()


def read_series(every: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Standardised series (B, L, 1) and classes (B,), for training and held out.

    Args:
        every: Keep the mean of so many neighbouring points.
    """
    x, y, x_test, y_test = CachedDatasets().load_dataset("Trace")
    parts = []
    for series in (x, x_test):
        points = series.shape[1] // every * every
        short = series[:, :points].reshape(len(series), -1, every).mean(2, keepdims=True)
        short = (short - short.mean(1, keepdims=True)) / short.std(1, keepdims=True)
        parts.append(short.astype("float32"))
    classes, y = np.unique(y, return_inverse=True)
    return parts[0], y, parts[1], np.searchsorted(classes, y_test)


@keras.saving.register_keras_serializable("examples")
class Prototypes(keras.layers.Layer):
    """Minus the soft-DTW of a series to each of K prototypes, as logits: (B, L, F) to (B, K)."""

    def __init__(self, prototypes, band=None, **kwargs):
        super().__init__(**kwargs)
        self.start, self.band = np.asarray(prototypes, "float32"), band

    def build(self, shape):
        start = keras.initializers.Constant(self.start)
        self.prototypes = self.add_weight(shape=self.start.shape, initializer=start)
        self.log_temperature = self.add_weight(shape=(), initializer="zeros")

    def temperature(self):
        return K.exp(self.log_temperature)

    def call(self, series):
        differences = series[:, None, :, None] - self.prototypes[None, :, None]
        costs = K.mean(K.square(differences), axis=-1)
        return -ops.dtw(costs, band=self.band, temperature=self.temperature()).value()

    def get_config(self):
        return {**super().get_config(), "prototypes": self.start.tolist(), "band": self.band}


if __name__ == "__main__":
    main()
