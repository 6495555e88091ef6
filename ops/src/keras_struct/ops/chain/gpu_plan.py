"""How a chain is laid out on a GPU, for the kernels of JAX and of PyTorch, and their tape."""

import dataclasses
import math
from typing import Any, NamedTuple

from keras_struct.ops.chain.form import Form
from keras_struct.ops.chain.linear_chain.parallel import FEW_TAGS
from keras_struct.ops.gpu import power, warps_for

MOST_STATES = 128  # of chains whose states are all linked
MOST_WAYS = 1 << 14  # into all states of a step
# A level of a tree takes some ten launches of 5 us, a step of a loop half a microsecond.
LONG = 2048
MOST_PRODUCTS = 1 << 24  # numbers of the leaves of trees


@dataclasses.dataclass(frozen=True)
class Plan(Form):
    """How a chain is laid out: both sizes of a step are powers of two."""

    @property
    def rows(self):
        return power(self.states)

    @property
    def ways(self):
        return power(self.terms)

    @property
    def slots(self):
        """Times of the ring: those that are read, and as many that are written meanwhile."""
        return 2 if self.moves else 2 * self.ways

    @property
    def warps(self):
        """A thread has some 16 numbers of each array."""
        pairs = self.rows**2 if self.links else 0
        return warps_for(max(pairs, self.rows * self.ways))

    def too_large(self):
        """None, or why a step does not fit in registers."""
        if self.links and self.states > MOST_STATES:
            return f"all pairs of more than {MOST_STATES} tags do not fit in registers"
        return self.too_many_ways()

    def too_many_ways(self):
        """The same, of the ways into states."""
        if self.rows * self.ways > MOST_WAYS:
            return f"a step has more than {MOST_WAYS} ways into its states, too many for registers"
        return None

    def better_as_products(self, batch):
        """None, or why `parallel` takes less time for a batch of this size."""
        few = self.links and self.terms == 1 and self.states <= FEW_TAGS
        if few and self.steps >= LONG and batch * self.steps * self.states**2 <= MOST_PRODUCTS:
            return (
                f"it takes {self.steps} steps one after the other, and products of so few tags, in "
                f"{math.ceil(math.log2(self.steps))} levels, fill the device"
            )
        return None


class Tape(NamedTuple):
    """What the forward sweep leaves behind.

    Attributes:
        g: Messages before every step, (B, 2, N + 1, rows).
        ends: High and low (B, K) of the messages of the last step.
    """

    g: Any
    ends: tuple
