"""How a chain is laid out on a GPU, for the kernels of JAX and of PyTorch, and their tape."""

import dataclasses
import math
from typing import Any, NamedTuple

from keras_struct.ops.chain.form import Form
from keras_struct.ops.chain.linear_chain.parallel import FEW_TAGS
from keras_struct.ops.gpu import power, warps_for

MOST_HELD = 64  # states whose links a program holds in registers; those of more it reads in tiles
MOST_STATES = 256  # of chains whose states are all linked
EACH = 16  # numbers of a thread
MOST_WAYS = 1 << 14  # into all states of a step
# A level of a tree takes some ten launches of 5 us, a step of a loop half a microsecond.
LONG = 2048
MOST_PRODUCTS = 1 << 24  # numbers of the leaves of trees
MOST_LINKS = 1 << 25  # of a step, of all examples: a product of matrices does more of them sooner


@dataclasses.dataclass(frozen=True)
class Plan(Form):
    """How a chain is laid out: both sizes of a step are powers of two.

    Attributes:
        block: States of a tile of links; None for what the number of states asks for.
    """

    block: int | None = None

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
        if self.links and self.rows > MOST_HELD:
            return self.rows // EACH
        pairs = self.rows**2 if self.links else 0
        return warps_for(max(pairs, self.rows * self.ways), EACH)

    @property
    def tile(self):
        """How many states' links to all are worked on at a time, 0 for all at once."""
        if not self.links:
            return 0
        if self.block is None and self.rows > MOST_HELD:
            return 32 * self.warps * EACH // self.rows
        return self.block or 0

    def too_large(self):
        """None, or why a step is not for a program."""
        if self.links and self.states > MOST_STATES:
            return f"a step of all pairs of more than {MOST_STATES} tags takes a program too long"
        if self.rows * self.ways > MOST_WAYS:
            return f"a step has more than {MOST_WAYS} ways into its states, too many for registers"
        return None

    def better_as_products(self, batch):
        """None, or why `parallel` or `portable` take less time for a batch of this size."""
        if self.tile and self.links == "shared" and batch * self.rows**2 > MOST_LINKS:
            return (
                f"it adds up {self.states} x {self.states} terms for each of {batch} examples, "
                "which are products of large matrices where scores are in range"
            )
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
