"""How high chains score that are not related: E-values from the scores of shuffled ones."""

import dataclasses

import numpy as np

BLOCK = 10  # residues that a shuffle leaves together: about a helix, or a strand with its turn
LEAST = 20  # scores for a fit
WIDTHS = np.geomspace(0.2, 5.0, 400)  # tried, in standard deviations


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

    Source: Karlin and Altschul (1990), Methods for assessing the statistical significance of
    molecular sequence features; Eddy (2008), A probabilistic model of local sequence alignment that
    simplifies statistical significance estimation (sums over alignments).
    """

    mode: float
    width: float

    @classmethod
    def fitted(cls, scores, lengths):
        """By maximum likelihood.

        Args:
            scores: `(N,)`, of shuffled chains.
            lengths: `(N,)`, their residues.

        Raises:
            ValueError: If there are fewer than 20 scores, or they are all the same.
        """
        x = np.asarray(scores, "float64") / np.sqrt(lengths)
        if len(x) < LEAST or np.ptp(x) == 0:
            raise ValueError(f"Expected at least {LEAST} scores that differ. Received: {len(x)}")
        widths = WIDTHS * x.std()
        # For a width the best mode is known, and so is the likelihood.
        z = x / widths[:, None]
        least = z.min(axis=1, keepdims=True)
        modes = least[:, 0] - np.log(np.exp(least - z).mean(axis=1))
        best = int((-np.log(widths) - (z - modes[:, None]).mean(axis=1)).argmax())
        return cls(float(modes[best] * widths[best]), float(widths[best]))

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
