"""Where the noise of a sample is drawn: the numbering of `recurrence.md`, section Noise."""

DIRECT, THROUGH, HEAD = 0, 1, 2  # streams
STRIDE = 1 << 15  # more than a sentence has words: noise does not depend on padding


def place_of_arc(eliminated, word):
    """Of the arc of a word, or of that to a head (itself for the root), when a word comes back.

    Words are integers, or int32 arrays that broadcast.
    """
    return eliminated * STRIDE + word
