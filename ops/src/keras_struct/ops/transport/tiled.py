"""The implementation that takes every pair: sums over tiles, and no array of size L1 x L2."""

import dataclasses
from typing import ClassVar

from keras_struct.ops.transport import tiles
from keras_struct.ops.transport.solver import plain_steps


@dataclasses.dataclass(frozen=True)
class Tiled:
    """Streams over tiles of scores.

    An implementation of transport says what it `rejects` and `avoids` and has `log_sums`, `plan`
    and `steps`; a kernel inherits from this one what it lacks. All three are autodiff's to
    differentiate, but for the tail, whose adjoint is made of `plan`s.

    Attributes:
        support: `Support`, which pairs exist.
        half: Whether all features (before rows are scaled) and values were given in bfloat16.
    """

    support: tiles.Support
    half: bool = False
    sweeps: ClassVar = ()  # none of those of `Implementation`

    @classmethod
    def made_for(cls, call):
        """What makes this implementation of a support, where this call will run."""
        return cls

    @staticmethod
    def rejects(call):
        """None, or a sentence that says why it does not take this call."""
        return None

    @staticmethod
    def avoids(call):
        """None, or why it takes this call on request only."""
        return None

    def log_sums(self, side, features, offsets, lengths, near):
        """`log sum_j exp(rows_i . columns_j + offsets_j)` (B, L1), 0 for a row without any pair.

        Args:
            side: 0; or 1 for sums over the rows, (B, L2).
            features: Of the rows and of the columns.
            offsets: (B, L2), or (B, L1) for side 1.
            lengths: Of both sides.
            near: Numbers that the sums are near to, when steps are near to their end.
        """
        ours, theirs = features[side], features[1 - side]
        back = lengths if side == 0 else lengths[::-1]
        return tiles.log_sums(self.support, ours, theirs, offsets, back)

    def plan(self, rows, columns, potentials, lengths):
        """`P_ij = exp(rows_i . columns_j + f_i + g_j)`, to be multiplied: see `TiledPlan`."""
        return TiledPlan(self.support, rows, columns, potentials, lengths)

    def steps(self, solver, sides, start, number):
        """f and g after a number of steps of `Solver` from f and g."""
        return plain_steps(solver, sides, start, number)


class TiledPlan:
    """A plan that is made again for each product, a tile at a time."""

    def __init__(self, support, rows, columns, potentials, lengths):
        self.support, self.lengths = support, lengths
        self.here = rows, columns, potentials
        self.there = columns, rows, potentials[::-1]

    def times(self, values):
        """`sum_j P_ij values_j` (B, L1, V)."""
        return tiles.apply_plan(self.support, *self.here, values, self.lengths)

    def transposed_times(self, values):
        """`sum_i P_ij values_i` (B, L2, V)."""
        return tiles.apply_plan(self.support, *self.there, values, self.lengths[::-1])

    def modulated(self, left, right):
        """`sum_j P_ij (left_i . right_j) columns_j` (B, L1, D), and the same of the rows."""
        support, back = self.support, self.lengths[::-1]
        rows, columns, _ = self.here
        return (
            tiles.modulated_plan(support, *self.here, left, right, columns, self.lengths),
            tiles.modulated_plan(support, *self.there, right, left, rows, back),
        )
