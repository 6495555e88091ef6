"""A query against an index: few chains by words and vectors, then soft alignments, then details."""

from typing import Any

import numpy as np

from keras_struct.protein import kmers
from keras_struct.protein.alignment import Alignment
from keras_struct.protein.chain import Chain
from keras_struct.protein.local_scores import LocalScores
from keras_struct.protein.null_scores import NullScores, shuffled
from keras_struct.protein.search import Hit
from keras_struct.protein.structure_index import IndexPart, StructureIndex, words_of

CANDIDATES = 1000
SHUFFLED = 200  # chains for the null distribution
MANY, SAMPLED = 1000, 400  # chains of an index of which so many are such a sample
RELATED = 0.1  # of a sample, at most
NULL_SEED = 0


class IndexSearch:
    """Searches of an index by one model.

    A search looks at the chains that share rare words with the query on a diagonal, and at those
    whose mean states are near its own; then it scores the best of both by soft alignments, and
    aligns those that score best.

    Args:
        aligner: `ProteinAligner` that the index was made by.
        index: `StructureIndex`, of a chain or more.

    Raises:
        ValueError: If the index was made by another model, or is empty.

    Example:

    >>> import pathlib, tempfile, tmtools
    >>> from keras_struct import protein
    >>> file = pathlib.Path(tmtools.__file__).parent / "data" / "2gtl.cif"
    >>> aligner = protein.ProteinAligner.from_preset("structure")
    >>> query, = protein.read_chains(file, ["A"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     count = protein.build_index(aligner, [file], folder)
    ...     search = protein.IndexSearch(aligner, protein.StructureIndex(folder))
    ...     hits = search(query, top=3)
    >>> hits[0].alignment.second.name, hits[0].e_value < 1e-3
    ('2gtl:A', True)
    """

    def __init__(self, aligner: Any, index: StructureIndex) -> None:
        index.check_model(aligner)
        if not len(index):
            raise ValueError(f"Expected an index of chains. Received: {index.folder} without any")
        self.aligner, self.index = aligner, index
        self.scores = LocalScores(aligner)

    def __call__(self, query: Chain, top: int = 20, candidates: int = CANDIDATES) -> list[Hit]:
        """The best hits of a `Chain`.

        Args:
            query: `Chain`.
            top: Most hits.
            candidates: Chains that are aligned.

        Returns:
            List of `Hit` by increasing E-value.
        """
        (states,) = self.aligner.encode([query])
        numbers, _, values = self.ranked(query, states, candidates)
        return self.hits(query, states, numbers[:top], values[:top])

    def ranked(
        self, query: Chain, states: np.ndarray, candidates: int = CANDIDATES
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers, scores and E-values of the chains that are aligned, best first."""
        chosen = self.candidates(query, states, candidates)
        scores = self._scores(states, map(self._states, chosen))
        lengths = self.index.lengths[chosen]
        values = self.null(states).e_values(scores, lengths, len(self.index))
        order = np.lexsort((chosen, -scores, values))
        return chosen[order], scores[order], values[order]

    def candidates(self, query: Chain, states: np.ndarray, most: int = CANDIDATES) -> np.ndarray:
        """Numbers of the chains that words or vectors show, at most so many."""
        return merged(self.prefiltered(query, states, most), self.index.starts, most)

    def prefiltered(self, query: Chain, states: np.ndarray, most: int) -> list[tuple]:
        """What `prefilter` finds in every part, in their order."""
        return [prefilter(self.index, part, query, states, most) for part in self.index.parts]

    def null(self, states: np.ndarray) -> NullScores:
        """The null distribution of a query: its scores with chains of the index, taken at random.

        Of an index of fewer than 1,000 chains they are shuffled, for many of them may be related.
        """
        generator, many = np.random.default_rng(NULL_SEED), len(self.index) >= MANY
        if many:
            chosen = generator.choice(len(self.index), SAMPLED, replace=False)
            others = [self._states(k) for k in chosen]
        else:
            chosen = generator.choice(len(self.index), SHUFFLED)
            others = [shuffled(generator, *self._states(k)) for k in chosen]
        scores, lengths = self._scores(states, others), self.index.lengths[chosen]
        return NullScores.fitted(scores, lengths, RELATED if many else 0.0)

    def _scores(self, states, others):
        """Scores with chains of which states and how common they are are given."""
        pairs = list(others)
        return self.scores(
            states,
            [x for x, _ in pairs],
            self.scores.common(states, self.index.background),
            [common for _, common in pairs],
        )

    def hits(
        self, query: Chain, states: np.ndarray, numbers: np.ndarray, values: np.ndarray
    ) -> list[Hit]:
        """The alignments of chains with given E-values."""
        found: list = [None] * len(numbers)
        others = [np.asarray(self._states(k)[0], "float32") for k in numbers]
        for k, pairs, map, score in self.aligner.match([states] * len(others), others):
            part, place = self.index.place(numbers[k])
            probabilities = map[tuple(pairs.T)].astype("float64")
            alignment = Alignment(query, part.chain(place), pairs, probabilities, score)
            found[k] = Hit(part.file(place), alignment, float(values[k]))
        return found

    def _states(self, k):
        part, place = self.index.place(k)
        return part.states_of(place)


def prefilter(
    index: StructureIndex, part: IndexPart, query: Chain, states: np.ndarray, most: int
) -> tuple:
    """Of a part: chains and weights by words, and chains and distances by vectors."""
    numbers, owners, places = part.inverted
    query_words = words_of(query, index.head["alphabet"])
    residues = int(index.lengths.sum())
    weights = kmers.shared(query_words, numbers, owners, places, len(part), residues)
    by_words = best(-weights, most)
    by_words = by_words[weights[by_words] > 0]
    mean, map = index.space
    near = part.vectors.search((states.mean(axis=0) - mean) @ map, min(most, len(part)))
    return by_words, weights[by_words], near.keys.astype("int64"), near.distances


def merged(found, starts, most):
    """The best chains of all parts by words and by vectors in turn, at most so many, in order."""
    orders = []
    for side, sign in ((0, -1.0), (2, 1.0)):
        numbers = np.concatenate(
            [part[side] + start for part, start in zip(found, starts[:-1], strict=True)]
        )
        keys = np.concatenate([sign * part[side + 1] for part in found])
        orders.append(numbers[np.lexsort((numbers, keys))])
    ranks: dict[int, int] = {}
    for order in orders:
        for rank, number in enumerate(order.tolist()):
            ranks[number] = min(rank, ranks.get(number, rank))
    return np.array(sorted(sorted(ranks, key=lambda k: (ranks[k], k))[:most]), "int64")


def best(keys, most):
    """The places of the smallest keys, in their order."""
    near = np.argpartition(keys, most - 1)[:most] if len(keys) > most else np.arange(len(keys))
    return near[np.lexsort((near, keys[near]))]
