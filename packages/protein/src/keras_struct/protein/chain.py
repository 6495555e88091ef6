"""One chain of a protein: its residues, their backbone and its letters."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

BACKBONE = ("N", "CA", "C", "O", "CB")
CA = BACKBONE.index("CA")


@dataclasses.dataclass(frozen=True, eq=False)
class Chain:
    """One chain of a protein.

    Args:
        name: What it is called in tables and files, such as `"2gtl:A"`.
        sequence: One-letter codes of the residues that are there, `X` for unknown ones.
        backbone: `(L, 5, 3)`, angstrom: N, CA, C, O, CB of each residue, NaN where an atom is
            missing; None for a bare sequence.
        residue_ids: What the file calls each residue, number and insertion code, `"52A"`.
        atoms: The chain as an `AtomArray` of biotite, every atom of it.

    Raises:
        ValueError: If the sizes do not fit, or a residue of a structure has no CA atom.

    Example:

    >>> from keras_struct import protein
    >>> chain = protein.Chain("insulin B", "FVNQHLCGSHLVEALYLVCGERGFFYTPKT")
    >>> len(chain), chain.backbone is None
    (30, True)
    """

    name: str
    sequence: str
    backbone: np.ndarray | None = None
    residue_ids: tuple[str, ...] | None = None
    atoms: Any = None

    def __post_init__(self):
        if not self.sequence:
            raise ValueError(f"Expected a chain with residues. Received: {self.name}, empty")
        if self.backbone is None:
            return
        if self.backbone.shape != (len(self.sequence), len(BACKBONE), 3):
            raise ValueError(
                f"Expected a backbone of shape ({len(self.sequence)}, {len(BACKBONE)}, 3) of "
                f"{self.name}. Received: shape={self.backbone.shape}"
            )
        without = np.flatnonzero(~np.isfinite(self.backbone[:, CA]).all(axis=1))
        if len(without):
            k = int(without[0])
            residue = self.residue_ids[k] if self.residue_ids else str(k + 1)
            raise ValueError(
                f"Expected a CA atom in every residue. Received: {self.name}, residue "
                f"{self.sequence[k]}{residue} without one"
            )

    def __len__(self):
        return len(self.sequence)

    @property
    def ca(self) -> np.ndarray:
        """`(L, 3)`, angstrom: the CA atoms."""
        return with_coordinates(self).backbone[:, CA]

    @functools.cached_property
    def structural_letters(self) -> str:
        """The 3Di letters of the residues, as Foldseek computes them; `D` where it cannot."""
        backbone = with_coordinates(self).backbone
        import mini3di

        encoder = mini3di.Encoder()
        n, ca, c, _, cb = np.moveaxis(backbone, 1, 0)
        return encoder.build_sequence(encoder.encode_atoms(ca, cb, n, c))


def with_coordinates(chain) -> Any:
    """The chain, or a `ValueError` if it is a bare sequence."""
    if chain.backbone is None:
        raise ValueError(
            f"Expected a chain with coordinates. Received: {chain.name}, a bare sequence; a model "
            "of amino acids (--model sequence) aligns those"
        )
    return chain
