"""The alignment of two chains, and how it is written."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from keras_struct.protein import scores
from keras_struct.protein.chain import Chain

WIDTH = 60  # letters of a printed line


@dataclasses.dataclass(frozen=True, eq=False)
class Alignment:
    """The best alignment of two chains, and how sure the model is of each pair.

    Args:
        first, second: The two `Chain`.
        pairs: `(N, 2)`, increasing: indices of aligned residues.
        probabilities: `(N,)`: the marginal of each pair over all alignments; None for alignments
            that come from elsewhere.
        score: Soft maximum of the scores of all alignments, in nats; NaN for others.
        map: `(L1, L2)`: the marginals of all pairs, or None.

    Raises:
        ValueError: If the pairs do not increase, or are not within the chains.

    Example:

    >>> import numpy as np
    >>> from keras_struct import protein
    >>> first, second = protein.Chain("a", "HEAGAWGHEE"), protein.Chain("b", "PAWHEAE")
    >>> found = protein.Alignment(first, second, np.array([[4, 1], [5, 2], [7, 3], [8, 4]]))
    >>> found.cigar()
    '4D1I2M1D2M1D2I'
    >>> print(*found.rows(), sep=chr(10))
    HEAG-AWGHEE--
    ----PAW-HE-AE
    """

    first: Chain
    second: Chain
    pairs: np.ndarray
    probabilities: np.ndarray | None = None
    score: float = float("nan")
    map: np.ndarray | None = None

    def __post_init__(self):
        scores.checked_pairs(self.first.sequence, self.second.sequence, self.pairs, 0)
        if (np.diff(self.pairs, axis=0) < 1).any():
            raise ValueError(
                "Expected pairs that increase in both chains. Received: alignment of "
                f"{self.first.name} and {self.second.name} with pairs that do not"
            )

    @classmethod
    def from_rows(cls, first: Chain, second: Chain, rows: Sequence[str]) -> Self:
        """The alignment that two rows with `-` for gaps show, as TM-align and FASTA do.

        Raises:
            ValueError: If the rows are of different lengths, or show other chains.
        """
        if len(rows) != 2 or len(rows[0]) != len(rows[1]):
            raise ValueError(f"Expected two rows of one length. Received: {[len(r) for r in rows]}")
        for chain, row in zip((first, second), rows, strict=True):
            if row.replace("-", "") != chain.sequence:
                raise ValueError(
                    f"Expected the residues of {chain.name}. Received: {row.replace('-', '')}"
                )
        letters = [np.array([x != "-" for x in row], bool) for row in rows]
        index = [np.cumsum(x) - 1 for x in letters]
        both = letters[0] & letters[1]
        return cls(first, second, np.stack([x[both] for x in index], axis=1))

    def moves(self) -> str:
        """`M` for a pair, `D` for a residue of the first alone, `I` for one of the second."""
        moves, before = [], (-1, -1)
        for i, j in [*self.pairs.tolist(), (len(self.first), len(self.second))]:
            moves += ["D"] * (i - before[0] - 1) + ["I"] * (j - before[1] - 1) + ["M"]
            before = (i, j)
        return "".join(moves[:-1])

    def cigar(self) -> str:
        """Both chains from end to end: M aligned pair, D residue of the first, I of the second."""
        return "".join(f"{len(list(run))}{move}" for move, run in itertools.groupby(self.moves()))

    def rows(self) -> tuple[str, str]:
        """Both chains from end to end as rows of one length, `-` for gaps."""
        letters = iter(self.first.sequence), iter(self.second.sequence)
        columns = [
            (next(letters[0]) if move != "I" else "-", next(letters[1]) if move != "D" else "-")
            for move in self.moves()
        ]
        first, second = ("".join(column[k] for column in columns) for k in range(2))
        return first, second

    def measures(self) -> dict[str, float | None]:
        """Dictionary of what can be said of the alignment, see `scores`.

        `aligned` pairs, `identity`, `coverage_first`, `coverage_second`; with coordinates also
        `tm_score_first` and `tm_score_second` (normalised by the length of that chain), `rmsd` in
        angstrom, and `lddt`. What needs three pairs is None with fewer.
        """
        n = len(self.pairs)
        found: dict[str, float | None] = {
            "aligned": n,
            "identity": scores.identity(self.first, self.second, self.pairs),
            "coverage_first": scores.coverage(len(self.first), self.pairs),
            "coverage_second": scores.coverage(len(self.second), self.pairs),
        }
        if self.first.backbone is None or self.second.backbone is None:
            return found
        ca = self.first.ca, self.second.ca
        lengths = len(self.first), len(self.second)
        return found | {
            "tm_score_first": scores.tm_score(*ca, self.pairs, lengths[0]),
            "tm_score_second": scores.tm_score(*ca, self.pairs, lengths[1]),
            "rmsd": scores.rmsd(*ca, self.pairs) if n >= scores.LEAST_PAIRS else None,
            "lddt": scores.lddt(*ca, self.pairs),
        }

    def transformation(self) -> tuple[np.ndarray, np.ndarray]:
        """The superposition of the second chain on the first, of the best TM-score.

        Returns:
            Rotation `(3, 3)` and translation `(3,)` in angstrom: `rotation @ x + translation`.

        Raises:
            ValueError: If a chain has no coordinates, or fewer than three pairs are aligned.
        """
        return scores.superposition(self.first, self.second, self.pairs)

    def as_fasta(self) -> str:
        """Aligned FASTA of two records."""
        chains = (self.first, self.second)
        return "".join(
            f">{chain.name}\n{row}\n" for chain, row in zip(chains, self.rows(), strict=True)
        )

    def as_json(self) -> dict[str, Any]:
        """Dictionary of numbers, strings and lists: all but the map.

        With coordinates also the `rotation` and the `translation` of `transformation`, or None with
        fewer than three pairs.
        """
        probabilities = None if self.probabilities is None else self.probabilities.tolist()
        moves = {}
        if self.first.backbone is not None and self.second.backbone is not None:
            known = len(self.pairs) >= scores.LEAST_PAIRS
            found = [x.tolist() for x in self.transformation()] if known else [None, None]
            moves = dict(zip(("rotation", "translation"), found, strict=True))
        return {
            "first": self.first.name,
            "second": self.second.name,
            "score": None if np.isnan(self.score) else self.score,
            "cigar": self.cigar(),
            "pairs": self.pairs.tolist(),
            "probabilities": probabilities,
            **self.measures(),
            **moves,
        }

    def as_json_line(self) -> str:
        """`as_json` as one line."""
        return json.dumps(self.as_json()) + "\n"

    def as_text(self) -> str:
        """The rows in lines of 60, with what joins them and the probabilities in tenths.

        `|` joins equal residues and `:` other pairs; below, 9 means a probability of 0.9 or more.
        """
        found = self.measures()
        head = [f"{self.first.name} ({len(self.first)}), {self.second.name} ({len(self.second)})"]
        shown = {"score": self.score, **found}
        head.append(
            ", ".join(
                f"{name.replace('_', ' ')} {value:.3f}"
                if isinstance(value, float)
                else f"{name.replace('_', ' ')} {value}"
                for name, value in shown.items()
                if value is not None and value == value
            )
        )
        rows, marks, digits = self.rows(), [], []
        probabilities = iter([] if self.probabilities is None else self.probabilities.tolist())
        for a, b in zip(*rows, strict=True):
            pair = a != "-" and b != "-"
            marks.append(" " if not pair else "|" if a == b != "X" else ":")
            known = pair and self.probabilities is not None
            digits.append(str(min(9, int(10 * next(probabilities)))) if known else " ")
        lines = [rows[0], "".join(marks), rows[1], "".join(digits)]
        blocks = [
            "\n".join(line[k : k + WIDTH].rstrip() for line in lines).rstrip("\n")
            for k in range(0, len(rows[0]), WIDTH)
        ]
        return "\n".join(head) + "\n\n" + "\n\n".join(blocks) + "\n"

    def as_cigar(self) -> str:
        """Names and CIGAR, tab-separated."""
        return f"{self.first.name}\t{self.second.name}\t{self.cigar()}\n"


FORMATS = {
    "text": Alignment.as_text,
    "fasta": Alignment.as_fasta,
    "cigar": Alignment.as_cigar,
    "json": Alignment.as_json_line,
}
