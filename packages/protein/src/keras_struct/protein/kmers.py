"""Words of k letters that chains share on one diagonal, found by an inverted list."""

import numpy as np

from keras_struct.ops.compiled import compiled

BAND = 8  # diagonals that count as one: short gaps do not end a match
HALF = np.uint64(0xFFFFFFFF)
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # of Fibonacci hashing


def words(letters, size, k):
    """The number of every word of k letters of a chain, uint32.

    Args:
        letters: Integers below `size`, `(L,)`.
        size: Letters of the alphabet; `size ** k` is at most 2³².
        k: Letters of a word.

    Example:

    >>> import numpy as np
    >>> from keras_struct.protein.kmers import words
    >>> words(np.array([0, 1, 2, 1]), 20, 2)
    array([ 1, 22, 41], dtype=uint32)
    """
    count = max(len(letters) - k + 1, 0)
    found = np.zeros(count, "uint64")
    for place in range(k):
        found = found * np.uint64(size) + letters[place : place + count].astype("uint64")
    return found.astype("uint32")


def inverted(chains):
    """Words of many chains in order, and where they stand: chains and places, of one length."""
    lengths = [len(x) for x in chains]
    numbers = np.concatenate([*chains, np.zeros(0, "uint32")])
    owners = np.repeat(np.arange(len(chains), dtype="uint32"), lengths)
    places = np.concatenate([*map(np.arange, lengths), np.zeros(0)]).astype("uint32")
    order = np.argsort(numbers, kind="stable")
    return numbers[order], owners[order], places[order]


def shared(query, numbers, owners, places, chains, residues):
    """For every chain the weight of the words that it shares with a query on its best diagonals.

    A word weighs more the rarer it is: the logarithm of how many residues there are for each place
    where it stands.

    Args:
        query: Words of the query, see `words`.
        numbers, owners, places: Of `inverted`.
        chains: How many chains there are.
        residues: How many residues.

    Returns:
        float32 `(chains,)`, 0 for chains that share none. The work grows with the places of the
        words of the query, not with the chains.
    """
    left = np.searchsorted(numbers, query, "left")
    right = np.searchsorted(numbers, query, "right")
    weights = np.log(max(residues, 2) / np.maximum(right - left, 1)).astype("float32")
    size = 1 << max(10, int(2 * (right - left).sum()).bit_length())
    return _best_diagonals(left, right, weights, owners, places, chains, size)


@compiled
def _best_diagonals(left, right, weights, owners, places, chains, size):
    """The best sum of weights over a chain's bands of diagonals, kept in a hash table."""
    keys, sums = np.zeros(size, np.uint64), np.zeros(size, np.float32)
    best = np.zeros(chains, np.float32)
    mask = np.uint64(size - 1)
    for place in range(len(left)):
        for k in range(left[place], right[place]):
            chain = owners[k]
            # Each diagonal counts in the band that it lies in and in the one half a band further.
            diagonal = place - np.int64(places[k]) + (1 << 31)
            for shift in range(2):
                band = np.uint64(2 * ((diagonal + shift * (BAND // 2)) // BAND) + shift)
                key = ((np.uint64(chain) + np.uint64(1)) << np.uint64(32)) ^ (band & HALF)
                slot = ((key * MULTIPLIER) >> np.uint64(20)) & mask
                while keys[slot] != 0 and keys[slot] != key:
                    slot = (slot + np.uint64(1)) & mask
                keys[slot] = key
                sums[slot] += weights[place]
                best[chain] = max(best[chain], sums[slot])
    return best
