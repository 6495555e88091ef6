"""Certified factors of one step, by the temperature: on the band in blocks, and of whole plans."""

import numpy as np

from keras_struct import ops
from sinkhorn_validation.problem import Problem

TITLE = "Contraction of one step, blocks of rows on the band"
HEADER = (
    "epsilon",
    "blocks",
    "exact: median",
    "exact: 95%",
    "exact: max",
    "by the range: median",
    "by the range: max",
)


def rows(smoke=False):
    length, seeds = (64, 1) if smoke else (1024, 4)
    for epsilon in (1.0,) if smoke else (8.0, 4.0, 2.0, 1.0, 0.5):
        found = []
        for seed in range(seeds):
            problem = Problem(length=length, band_width=length // 4, epsilon=epsilon, seed=seed)
            query, key = problem.arrays()[:2]
            found.append(
                ops.sinkhorn_contraction(
                    query,
                    key,
                    problem.lengths,
                    epsilon=epsilon,
                    band_width=problem.band_width,
                    block_rows=length // 8,
                )
            )
        exact, bound = (np.concatenate([np.ravel(x[i]) for x in found]) for i in (0, 1))
        exact, bound = exact[bound > 0], bound[bound > 0]
        yield (
            epsilon,
            len(exact),
            *(f"{x:.4f}" for x in np.quantile(exact, (0.5, 0.95, 1.0))),
            *(f"{x:.4f}" for x in np.quantile(bound, (0.5, 1.0))),
        )
