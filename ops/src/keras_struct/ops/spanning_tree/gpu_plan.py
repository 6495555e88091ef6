"""How the elimination of a sentence is divided on a GPU, for the kernels of JAX and of PyTorch."""

import dataclasses
from typing import Any, NamedTuple

from keras_struct.ops import array
from keras_struct.ops.gpu import filling, power
from keras_struct.ops.numerics import INFEASIBLE

EACH = 8  # arcs of a thread at a time
NARROWEST = 16  # columns: 64 bytes, two sectors of memory
# A line is in registers of the program that takes all steps of a sentence by itself. Beyond this,
# the framework's operations on the whole device are as fast (see `recurrence.md`).
MOST_WORDS = 1024


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that is known of a kernel when it is compiled.

    Attributes:
        width: Columns of a line, a power of two.
        lines: How many are worked on at a time, a power of two.
        single_root: As in the spec.
        approximate: Whether powers of two are those of the special function unit.
        wide: Whether numbers are float64.
    """

    width: int
    lines: int
    single_root: bool
    approximate: bool = False
    wide: bool = False


class Tape(NamedTuple):
    """Backward eliminates again.

    Attributes:
        lengths: (B,), 0 where nothing exists.
    """

    lengths: Any

    @classmethod
    def of(cls, total, lengths):
        return cls(array.where(total[0] > INFEASIBLE, lengths, 0))


def width_of(n):
    return max(power(n), NARROWEST)


def warps_for(batch, n):
    """Warps of a sentence of n words: one if there are enough sentences, else what has work."""
    return filling(batch, n * width_of(n) // (32 * EACH))


def lines_of(n, warps, each=EACH):
    return max(1, 32 * warps * each // width_of(n))


def too_long(n):
    """None, or why a program does not take sentences of n words."""
    return f"a program takes {MOST_WORDS:,} words at most" if n > MOST_WORDS else None
