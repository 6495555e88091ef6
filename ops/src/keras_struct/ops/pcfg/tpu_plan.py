"""How a grammar and its chart lie in the VMEM of a TPU: symbols on the sublanes, 128 sentences on
the lanes.

A plane of spans holds the preterminals of each word, `words` rows for each, then the nonterminals
of each longer span, `phrases` rows for each, by width and start.

A plane of pairs holds a number for every left symbol, and for each of these a row for every right
symbol. Only preterminals are over words and only nonterminals over longer spans, so there are four
kinds of pairs, in three segments: two words (all that a span of width 2 has), a word beside a
phrase on either side (all that one of width 3 has), two phrases. A wider span has the last two
segments. Rules lie like pairs, for each parent.
"""

import dataclasses
import functools
import math

from keras_struct.ops.pallas import rounded
from keras_struct.ops.pallas_tpu import LANES, MEGABYTE, SUBLANES

RANGE = 60  # binary digits between the largest and the smallest rule, or pair, of plain sums
SMALLEST = 90  # a plain sum above 2^-90 is exact, whatever its smallest terms are
MOST = 2.0**22  # largest exponent of plain sums
# Planes of spans, of pairs and of rules, with what goes out.
SWEEPS = {"forward": (4, 3, 2), "backward": (5, 3, 3), "curvature": (7, 4, 4), "walk": (4, 4, 2)}


@dataclasses.dataclass(frozen=True)
class Kind:
    """Pairs of left and right parts, each of words or of phrases.

    Attributes:
        left: Whether left parts are words.
        right: Whether right parts are.
        start: The first row of a plane of pairs.
        size: Left symbols.
        tile: How many of these are worked on at a time.
        tiles: How many tiles; what is behind the last symbol is nothing.
        rows: Rows for each left symbol.
    """

    left: bool
    right: bool
    start: int
    size: int
    tile: int
    tiles: int
    rows: int

    @property
    def stop(self):
        return self.start + self.tiles * self.tile * self.rows


@dataclasses.dataclass(frozen=True)
class Plan:
    """Sizes.

    Attributes:
        n: Words.
        k: Nonterminals.
        p: Preterminals.
        registers: Of pairs that are read at a time.
        parents: For so many symbols.
        sums: Registers of sums over cuts.
    """

    n: int
    k: int
    p: int
    registers: int = 8
    parents: int = 4
    sums: int = 16

    @property
    def chunk(self):
        """Pairs that are read at a time."""
        return self.registers * SUBLANES

    @property
    def words(self):
        return rounded(self.p, SUBLANES)

    @property
    def phrases(self):
        return rounded(self.k, SUBLANES)

    def row(self, w, i):
        """The first row of a span of more than one word, a multiple of 8."""
        before = (w - 2) * (self.n + 1) - (((w - 1) * w) >> 1) + 1
        return self.n * self.words + (before + i) * self.phrases

    @property
    def spans(self):
        """Shape of a plane of spans."""
        return self.n * self.words + self.n * (self.n - 1) // 2 * self.phrases, LANES

    @functools.cached_property
    def kinds(self):
        """By whether the left and the right part are words."""
        found, start = {}, 0
        for left, right in ((True, True), (True, False), (False, True), (False, False)):
            kind = self._kind(left, right, start)
            found[left, right] = kind
            start = kind.stop if (left, right) == (True, False) else rounded(kind.stop, self.chunk)
        return found

    def _kind(self, left, right, start):
        size, rows = self.p if left else self.k, self.words if right else self.phrases
        most = max(1, self.sums * SUBLANES // rows)
        tiles = [
            (-(-size // tile), tile)
            for tile in range(min(4, most, size), min(most, size) + 1)
            if rounded(size, tile) <= rounded(size, SUBLANES)
        ]
        count, tile = min(tiles or [(size, 1)], key=lambda x: (x[0] * x[1], -x[1]))
        return Kind(left, right, start, size, tile, count, rows)

    @functools.cached_property
    def segments(self):
        """Where each segment of pairs begins, and where the last one ends."""
        kinds = self.kinds
        return (
            0,
            kinds[True, False].start,
            kinds[False, False].start,
            rounded(kinds[False, False].stop, self.chunk),
        )

    @property
    def pairs(self):
        """Shape of a plane of pairs."""
        return self.segments[-1], LANES

    def megabytes(self, sweep):
        """What a sweep takes of VMEM."""
        spans, pairs, rules = SWEEPS[sweep]
        numbers = spans * math.prod(self.spans) + pairs * math.prod(self.pairs)
        numbers += (rules * self.k) * math.prod(self.pairs)
        numbers += 2 * self.n * self.words * LANES  # scores of words, or what they get
        return 4 * numbers / MEGABYTE

    @property
    def largest(self):
        return max(map(self.megabytes, SWEEPS))


def longest(k, p, megabytes):
    """How many words sentences may have for all sweeps."""
    n = 0
    while Plan(n + 1, k, p).largest <= megabytes:
        n += 1
    return n
