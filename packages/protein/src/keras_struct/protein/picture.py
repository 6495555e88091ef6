"""A picture of an alignment map."""

from __future__ import annotations

from keras_struct.layers.annotations import StrPath
from keras_struct.layers.whole_files import open_whole
from keras_struct.protein.alignment import Alignment

ENDINGS = ("png", "svg", "pdf")


def draw(alignment: Alignment, path: StrPath) -> None:
    """Draw the marginals of all pairs with the best alignment over them.

    Args:
        alignment: `Alignment` with its map, see `ProteinAligner.align`.
        path: `.png`, `.svg` or `.pdf`, written whole or not at all.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the alignment has no map, or for another ending.
    """
    ending = check_picture_output(path)
    if alignment.map is None:
        raise ValueError("Expected an alignment with its map; align with maps=True")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Pictures need matplotlib: pip install 'keras-struct-protein[plot]'"
        ) from error
    figure = Figure(
        figsize=(6, 6 * max(0.4, min(1.6, len(alignment.first) / len(alignment.second))))
    )
    axes = figure.subplots()
    image = axes.imshow(alignment.map, cmap="magma_r", vmin=0, vmax=1, origin="upper")
    axes.plot(alignment.pairs[:, 1], alignment.pairs[:, 0], ".", markersize=1, color="tab:cyan")
    axes.set_xlabel(f"residue of {alignment.second.name}")
    axes.set_ylabel(f"residue of {alignment.first.name}")
    figure.colorbar(image, label="probability of the pair", shrink=0.7)
    figure.tight_layout()
    with open_whole(path, "wb") as stream:
        figure.savefig(stream, format=ending, dpi=150)


def check_picture_output(path):
    """The ending of the path of a picture; a `ValueError` for another one."""
    ending = str(path).rpartition(".")[2].lower()
    if ending not in ENDINGS:
        raise ValueError(f"Expected a file ending in .png, .svg or .pdf. Received: {path}")
    return ending
