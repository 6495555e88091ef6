"""Where the noise of a sample is drawn: the numbering of `recurrence.md`, section Noise.

Functions of integers, or of int32 arrays that broadcast; the numbers are taken modulo 2**32.
"""

ROOT, PAIR, CUT = 0, 1, 2  # streams
STRIDE = 1 << 15  # more than a sentence has words: noise does not depend on padding


def place_of_pair(first, last, pair, pairs):
    """Of a pair of symbols (left * S + right, of S * S) of the span of these words."""
    return (last * (last + 1) // 2 + first) * pairs + pair


def place_of_cut(width, word):
    """Of the cut after a word, in a span of this width less one.

    Spans of one width that are used together are disjoint, so the start need not be told.
    """
    return width * STRIDE + word
