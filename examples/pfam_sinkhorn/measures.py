"""How near a map is to an alignment, in NumPy."""

import numpy as np

from pfam_sinkhorn.families import NO_TARGET, PAD, VOCABULARY

SMALLEST = 1e-8


def diagonal_map(inputs):
    """The reference: residues of the query to those of the key at the same share of the length."""
    plan = np.zeros((*inputs["query"].shape, inputs["key"].shape[1]), "float32")
    lengths = ((inputs[name] != PAD).sum(1) for name in ("query", "key"))
    for example, (rows, columns) in enumerate(zip(*lengths, strict=True)):
        share = (columns - 1) / max(rows - 1, 1)
        plan[example, np.arange(rows), np.rint(np.arange(rows) * share).astype(int)] = 1.0
    return plan


def measures(inputs, targets, plan):
    """Means over all aligned residues of the query, of the map with its rows normalised.

    Returns:
        reconstruction: Squared error of the transported residues (one-hot).
        cross_entropy: Of the aligned place, in nats; no probability counts as less than 1e-8.
        barycentre_mae: Of the mean place, in residues.
        within_5: Share of mean places that are at most 5 from the aligned one.
        not_monotone: Share of neighbours whose mean places run backwards.
        accuracy: Share of aligned places that have the largest probability.
    """
    plan = plan / np.maximum(plan.sum(2, keepdims=True), SMALLEST)
    valid = targets != NO_TARGET
    places = np.arange(plan.shape[2])
    chosen = np.take_along_axis(plan, np.maximum(targets, 0)[..., None], 2)[..., 0][valid]
    values = np.eye(VOCABULARY, dtype=plan.dtype)[inputs["key"]]
    wanted = np.take_along_axis(values, np.maximum(targets, 0)[..., None], 1)
    error = np.square(plan @ values - wanted).sum(2)[valid]
    barycentre = plan @ places
    away = abs(barycentre - targets)[valid]
    both = valid[:, 1:] & valid[:, :-1]
    return {
        "reconstruction": error.mean(),
        "cross_entropy": -np.log(np.maximum(chosen, SMALLEST)).mean(),
        "barycentre_mae": away.mean(),
        "within_5": (away <= 5).mean(),
        "not_monotone": (np.diff(barycentre) < 0)[both].mean(),
        "accuracy": (plan.argmax(2) == targets)[valid].mean(),
    }
