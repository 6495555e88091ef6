"""Pictures of the examples."""

import io
import os
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from keras_struct.layers import plots


def write_png(path: Path, figure: Figure) -> None:
    """Write a figure, whole or not at all."""
    image = io.BytesIO()
    figure.savefig(image, format="png")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(image.getvalue())
    os.replace(partial, path)


def alignment_figure(
    maps: dict[float, np.ndarray], names: list[str], pairs: list[tuple[int, int]]
) -> Figure:
    """Alignment maps side by side, the best alignment as a thin line over each.

    Args:
        maps: Temperature to probabilities (L1, L2); 0 is the best alignment itself.
        names: Of the two sequences.
        pairs: Matched (row, column) of the best alignment.
    """
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 9}):
        figure = Figure(figsize=(3.6 * len(maps), 3.2), dpi=130, layout="constrained")
        axes = figure.subplots(1, len(maps), sharex=True, sharey=True)
        for axis, (temperature, probabilities) in zip(axes, maps.items(), strict=True):
            plots.alignment(probabilities, np.array(pairs) + 1, ax=axis)
            axis.set_title(f"T = {temperature:g}" + (" (the best)" if temperature == 0 else ""))
            axis.set_xlabel(names[1])
        axes[0].set_ylabel(names[0])
    return figure


def prototypes_figure(series: np.ndarray, classes: np.ndarray, prototypes: np.ndarray) -> Figure:
    """The series (B, L, 1) of each class in grey, its prototype (L, 1) over them."""
    figure = Figure(figsize=(3.0 * len(prototypes), 2.6), dpi=130, layout="constrained")
    axes = figure.subplots(1, len(prototypes), sharey=True)
    for label, (axis, prototype) in enumerate(zip(axes, prototypes, strict=True)):
        axis.plot(series[classes == label, :, 0].T, color="#b5b5b5", lw=0.5)
        axis.plot(prototype[:, 0], color="#1b7f79", lw=1.8)
        axis.set_title(f"class {label}")
    return figure
