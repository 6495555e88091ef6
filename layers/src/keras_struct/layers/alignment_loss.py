"""What the losses of alignments share: which reference they take, and how it is read."""

import keras
from keras import ops as K

from keras_struct.layers.packed import unpack
from keras_struct.layers.potentials import AlignmentPotentials

REFERENCES = ("path", "pairs")


class AlignmentLoss(keras.losses.Loss):
    """Base class of losses that give one number for the packed potentials of an `Aligner`.

    A subclass implements `alignment_loss(y_true, potentials, alignments)`, with the reference, the
    `AlignmentPotentials` and their distribution, and returns `(B,)`.
    """

    def __init__(self, reference, reduction, name, dtype):
        super().__init__(
            name=name, reduction=reduction, dtype="float32" if dtype is None else dtype
        )
        self.reference = check_reference(reference)

    def call(self, y_true, y_pred):
        check_reference(self.reference, y_true)
        potentials = unpack(y_pred, AlignmentPotentials)
        return self.alignment_loss(y_true, potentials, potentials.distribution())

    def alignment_loss(self, y_true, potentials, alignments):
        """The losses `(B,)`, see the class."""
        raise NotImplementedError

    def get_config(self):
        return {**super().get_config(), "dtype": self.dtype, "reference": self.reference}


def reference_pairs(reference, y_true, potentials, alignments):
    """A reference as a matrix `(B, L1, L2)` of matched pairs, 0 in the padding."""
    if reference == "path":
        return alignments.parts(K.cast(y_true, "int32"))["scores"]
    return K.where(pair_mask(potentials), y_true, K.zeros_like(y_true))


def check_reference(reference, y_true=None):
    """The reference, or a `ValueError`, also for a target of another shape."""
    if reference not in REFERENCES:
        raise ValueError(
            f"Expected a reference among {REFERENCES}. Received: reference={reference!r}"
        )
    path = reference == "path"
    if y_true is not None and (len(y_true.shape) != 3 or (path and y_true.shape[-1] != 2)):
        raise ValueError(
            f"Expected {'a path (B, N, 2)' if path else 'pairs (B, L1, L2)'} as "
            f"reference={reference!r}. Received: shape of y_true={tuple(y_true.shape)}"
        )
    return reference


def pair_mask(potentials):
    """Booleans `(B, L1, L2)`: the pairs of tokens that there are."""
    rows, columns = potentials.positions()
    return K.logical_and(K.expand_dims(rows, 2), K.expand_dims(columns, 1))
