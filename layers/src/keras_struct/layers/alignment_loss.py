"""What the losses of alignments share: which reference they take, and how it is read."""

from __future__ import annotations

from keras import ops as K

from keras_struct.layers.annotations import Config
from keras_struct.layers.packed import unpack
from keras_struct.layers.potentials import AlignmentPotentials
from keras_struct.layers.targets import (
    StructuredLoss,
    check_numbers,
    check_shape,
    check_where,
    integers,
    not_below_0,
)
from keras_struct.ops.annotations import Tensor
from keras_struct.ops.numerics import all_over

REFERENCES = ("path", "pairs")


class AlignmentLoss(StructuredLoss):
    """Base class of losses that give one number for the packed potentials of an `Aligner`.

    A subclass implements `alignment_loss(y_true, potentials, alignments)`, with the reference, the
    `AlignmentPotentials` and their distribution, and returns `(B,)`.
    """

    def __init__(self, reference, reduction, name, dtype, zero_infinity):
        super().__init__(reduction, name, dtype, zero_infinity)
        self.reference = check_reference(reference)

    def losses(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_true, potentials, exists = read_reference(self.reference, y_true, y_pred)
        losses = self.alignment_loss(y_true, potentials, potentials.distribution())
        return K.where(exists, not_below_0(losses), float("inf"))

    def alignment_loss(self, y_true, potentials, alignments):
        """The losses `(B,)`, see the class."""
        raise NotImplementedError

    def get_config(self) -> Config:
        return {**super().get_config(), "reference": self.reference}


def reference_pairs(reference, y_true, potentials, alignments):
    """A reference as a matrix `(B, L1, L2)` of matched pairs, 0 in the padding."""
    if reference == "path":
        return alignments.parts(y_true)["scores"]
    return K.where(pair_mask(potentials), y_true, K.zeros_like(y_true))


def check_reference(reference):
    """The reference, or a `ValueError`."""
    if reference not in REFERENCES:
        raise ValueError(
            f"Expected a reference among {REFERENCES}. Received: reference={reference!r}"
        )
    return reference


def read_reference(reference, y_true, y_pred):
    """A target whose shape was checked, the potentials, and whether it can be.

    Returns:
        The target: pairs, 0 where there is no probability, or paths, empty where there is a node
        that does not exist; the `AlignmentPotentials`; and booleans `(B,)`.
    """
    if reference == "path":
        expected = f"a path (B, N, 2), B = {y_pred.shape[0]}, as reference='path'"
        check_shape("y_true", y_true, expected, y_pred.shape[0], None, 2)
    potentials = unpack(y_pred, AlignmentPotentials)
    batch, *sizes = potentials.scores.shape
    if reference == "pairs":
        expected = f"pairs (B, L1, L2) = {(batch, *sizes)} as reference='pairs'"
        check_shape("y_true", y_true, expected, batch, *sizes)
        # Where sizes were unknown: not broadcast.
        y_true = K.reshape(y_true, K.shape(potentials.scores))
        valid, right = pair_mask(potentials), _probabilities(y_true)
        check_where("y_true", "pairs from 0 to 1", y_true, valid, _probabilities)
        exists = all_over(K.logical_or(right, K.logical_not(valid)), (1, 2))
        return K.where(right, y_true, K.zeros_like(y_true)), potentials, exists
    y_true = integers(y_true)
    for axis, size in enumerate(sizes):
        nodes, end = y_true[..., axis], None if size is None else size + 1
        check_numbers("y_true", f"nodes of axis {axis}", nodes, nodes >= 0, 0, end)
    last = K.stack([K.convert_to_tensor(n, "int32") for n in K.shape(potentials.scores)[1:]])
    exists = all_over(y_true <= last, (1, 2))
    return K.where(exists[:, None, None], y_true, -1), potentials, exists


def _probabilities(x):
    """Which numbers are probabilities, up to rounding."""
    return (x >= -1e-3) & (x <= 1 + 1e-3)


def pair_mask(potentials):
    """Booleans `(B, L1, L2)`: the pairs of tokens that there are."""
    rows, columns = potentials.positions()
    return K.logical_and(K.expand_dims(rows, 2), K.expand_dims(columns, 1))
