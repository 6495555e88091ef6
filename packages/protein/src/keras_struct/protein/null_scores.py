"""How high chains score that are not related: E-values, by a distribution that is fitted."""

import dataclasses

import numpy as np

BLOCK = 10  # residues that a shuffle leaves together: about a helix, or a strand with its turn
LEAST = 20  # scores for a fit
WIDTHS = np.geomspace(0.3, 3.0, 80)  # tried, in standard deviations
MODES = np.linspace(-1.5, 1.0, 120)  # tried, in standard deviations from the median


@dataclasses.dataclass(frozen=True)
class NullScores:
    """A Gumbel distribution of the scores of unrelated chains over the root of their lengths.

    Scores with chains that share helices and strands but no fold grow with length, faster than the
    logarithm of Karlin and Altschul, and so does their spread; over the root, neither does.

    Args:
        mode, width: Of the distribution, in nats over the root of residues.

    Example:

    >>> from keras_struct.protein.null_scores import NullScores
    >>> null = NullScores(mode=2.0, width=1.0)
    >>> [float(round(x, 3)) for x in null.e_values([20.0, 120.0], [100, 100], chains=1000)]
    [632.121, 0.045]

    Source: Pearson (1998), Empirical statistical estimates for sequence similarity searches (a fit
    to what is searched); Karlin and Altschul (1990), Methods for assessing the statistical
    significance of molecular sequence features; Eddy (2008), A probabilistic model of local
    sequence alignment that simplifies statistical significance estimation (sums over alignments).
    """

    mode: float
    width: float

    @classmethod
    def fitted(cls, scores, lengths, related=0.0):
        """By maximum likelihood.

        Args:
            scores: `(N,)`, of chains that are shuffled, or taken at random.
            lengths: `(N,)`, their residues.
            related: Share of the scores, the highest, of which no more is believed than that they
                are the highest: they may be of related chains.

        Raises:
            ValueError: If there are fewer than 20 scores, or they are all the same.
        """
        x = np.sort(np.asarray(scores, "float64") / np.sqrt(lengths))
        if len(x) < LEAST or np.ptp(x) == 0:
            raise ValueError(f"Expected at least {LEAST} scores that differ. Received: {len(x)}")
        censored = round(related * len(x))
        low = x[: len(x) - censored]
        spread = low.std() or x.std()
        widths, modes = np.meshgrid(WIDTHS * spread, np.median(low) + MODES * spread, indexing="ij")
        z = (low - modes[..., None]) / widths[..., None]
        likelihood = -len(low) * np.log(widths) - (z + np.exp(-z)).sum(axis=-1)
        if censored:
            highest = (low[-1] - modes) / widths
            likelihood += censored * np.log(-np.expm1(-np.exp(-highest)))
        best = np.unravel_index(likelihood.argmax(), likelihood.shape)
        return cls(float(modes[best]), float(widths[best]))

    def e_values(self, scores, lengths, chains):
        """How many of so many unrelated chains would score as much.

        Args:
            scores, lengths: `(N,)`, of hits.
            chains: How many were searched.
        """
        x = (np.asarray(scores, "float64") / np.sqrt(lengths) - self.mode) / self.width
        return chains * -np.expm1(-np.exp(np.minimum(-x, 50.0)))


def shuffled(generator, *arrays, block=BLOCK):
    """Arrays of the residues of a chain in one other order, `block` neighbours at a time."""
    starts = np.arange(0, len(arrays[0]), block)
    order = [np.arange(k, min(k + block, len(arrays[0]))) for k in generator.permutation(starts)]
    return tuple(x[np.concatenate(order)] for x in arrays)
