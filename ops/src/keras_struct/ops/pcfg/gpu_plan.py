"""Sizes of the kernels of grammars for GPUs, whatever they are written in.

Symbols are worked on by tiles: first those of the nonterminals, then those of the preterminals, so
that every tile has symbols of one kind. Only preterminals are over words and only nonterminals over
longer spans, so the tile of a pair of symbols says which cuts it has. Pairs, and rules for each
parent, lie tile by tile.
"""

import dataclasses
from typing import Any, NamedTuple

from keras_struct.ops import scaled
from keras_struct.ops.gpu import power
from keras_struct.ops.scaled import Scaled

MOST_TILE = 32
FULL = 256  # programs that are enough for a device
MOST_OUT = 1 << 28  # numbers of what rules get, of which each program has its own
MOST_NUMBERS = 1 << 31  # places in the chart and the rules of a sentence have 32 bits
MOST_WORDS = 1 << 15  # the places of noise


@dataclasses.dataclass(frozen=True)
class Plan:
    """Sizes.

    Attributes:
        k: Nonterminals.
        p: Preterminals.
        tile: Symbols of a tile, a power of two.
        parents: Nonterminals that are worked on at a time, a power of two that is not above it.
    """

    k: int
    p: int
    tile: int
    parents: int

    @staticmethod
    def sizes(k, p):
        """Tile and parents for a grammar."""
        tile = min(MOST_TILE, power(max(k, p)))
        return tile, min(2, tile)

    @property
    def s(self):
        return self.k + self.p

    @property
    def phrase_tiles(self):
        return -(-self.k // self.tile)

    @property
    def tiles(self):
        return self.phrase_tiles - (-self.p // self.tile)

    @property
    def words(self):
        """Where the preterminals of a span begin."""
        return self.phrase_tiles * self.tile

    @property
    def symbols(self):
        """Numbers of a span."""
        return self.tiles * self.tile

    @property
    def phrases(self):
        """Nonterminals, with those that are worked on beside the last ones."""
        return -(-self.k // self.parents) * self.parents

    @property
    def block(self):
        """Pairs of a tile."""
        return self.tile**2

    @property
    def cells(self):
        """Pairs."""
        return self.symbols**2

    @property
    def warps(self):
        return max(1, self.block // 256)

    def programs(self, batch, n):
        """For each sentence of n words: as many as fill a device, if they have room and work."""
        size = max(batch, 1)
        room = MOST_OUT // (size * self.phrases * self.cells)
        return max(1, min(FULL // size, room, n - 1))

    def too_large(self, n):
        """None, or why sentences of n words are not taken."""
        if n >= MOST_WORDS:
            return f"it numbers the words of sentences of {MOST_WORDS - 1:,} words at most"
        if 2 * max(n * n * self.symbols, self.phrases * self.cells) >= MOST_NUMBERS:
            return "its rules, or the chart of a sentence, would have 2^30 numbers or more"
        return None


class Tape(NamedTuple):
    """What the forward sweep leaves behind (see `gpu_sweeps.py`).

    Attributes:
        parts: (B, 2, N, N, S).
        sums: (B, 2, N, N, K).
        trees: Values m, e of all trees with each root, (B, K) each.
    """

    parts: Any
    sums: Any
    trees: Any

    def shares(self):
        """Of each root, zeros where no tree exists."""
        trees = Scaled(*self.trees)
        whole = scaled.raw_total(trees, 1)
        return scaled.ratio(trees, whole.map(lambda x, _: x[:, None]))
