"""A picture of the marginals of the word boundaries at several temperatures."""

from pathlib import Path

import matplotlib
import numpy as np
from figures import write_png
from matplotlib.figure import Figure

TRUE, FALSE, INK, GREY, FAINT = "#1b7f79", "#e07a3f", "#222222", "#666666", "#b5b5b5"


def draw_marginals(
    path: Path, letters: str, marginals: dict[float, np.ndarray], true: np.ndarray | None
) -> None:
    """Write a PNG, whole or not at all.

    Args:
        path: File to write.
        letters: The N characters of the sentence, without spaces.
        marginals: Temperature to the probability (N - 1,) that a word ends at each character.
        true: Booleans (N - 1,), where a word really ends; None if that is not known.
    """
    n = len(letters)
    between = np.arange(n - 1) + 0.5
    known = np.ones(n - 1, bool) if true is None else true
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 9}):
        figure = Figure(figsize=(max(6.0, 0.18 * n + 1.2), 3.6), dpi=130, layout="constrained")
        axes = figure.subplots(len(marginals), 1, sharex=True, sharey=True)
        for axis, (temperature, probability) in zip(axes, marginals.items(), strict=True):
            for where, color in ((known, TRUE), (~known, FALSE)):
                axis.bar(between[where], probability[where], 0.6, color=color)
            if true is not None:
                axis.plot(between[true], np.full(true.sum(), 1.13), "v", ms=4, color=TRUE)
            axis.set(ylim=(0, 1.22), yticks=(0, 1), xlim=(-0.7, n - 0.3))
            axis.set_ylabel(f"T = {temperature:g}", rotation=0, ha="right", va="center", labelpad=4)
            axis.spines[["top", "right", "left"]].set_visible(False)
            axis.spines["bottom"].set_color(FAINT)
            axis.tick_params(length=0, labelsize=7.5, labelcolor=GREY)
        axes[-1].set_xticks(range(n), letters, family="DejaVu Sans Mono", fontsize=11, color=INK)
        axes[0].set_title("Probability of a space after each character", loc="left", color=INK)
        if true is not None:
            axes[0].plot([], [], "v", ms=4, color=TRUE, label="where the spaces were")
            axes[0].legend(
                loc="lower right",
                bbox_to_anchor=(1.0, 1.0),
                frameon=False,
                fontsize=8.5,
                handletextpad=0.1,
                borderpad=0.2,
            )
        write_png(path, figure)
