"""How a lattice is cut into strips for a GPU, and where its messages lie: one schedule for the
kernels of JAX and of PyTorch.

A strip is `lanes * rows` rows of nodes: lane l has `rows` of them, and at time t it is in column
t - l, one behind the lane above it. What a lane needs of the rows above, the lane above had a step
before, so a step moves a few numbers by one lane (see recurrence.md).

The tape holds all messages: (B, strips, times, rows, S, 2, lanes), the number of a node being found
from its row by division, so that each step writes whole lines.
"""

import dataclasses
import functools
from typing import NamedTuple

from keras_struct.ops.alignment.layout import unedge
from keras_struct.ops.alignment.spec import START, Spec
from keras_struct.ops.gpu import Named

PATHS = 32  # that a program walks at once
TIMES = 128  # nodes of a time that a program looks at at once
WARPS = 1000  # pairs from which on a warp does one
PROGRAMS = 64  # pairs up to which long ones are cut into tiles
LONG = 1024  # rows of nodes of a long pair
MOST_ROWS = 8  # in a lane, of one state and moves from the row above: more do not fit in registers


class Sizes(NamedTuple):
    """How a lattice is cut.

    Attributes:
        lanes: Lanes of a strip, those of a whole program.
        rows: Rows of nodes in a lane.
        times: Times of a tile, at least `lanes`, of which several launches do those at once that
            know nothing of each other; None where a program does a whole pair.
    """

    lanes: int
    rows: int
    times: int | None = None

    @classmethod
    def of(cls, spec, batch, rows, columns):
        """For a batch of lattices of so many rows and columns of cells."""
        nodes, halo = rows + 1, max(move.di for move in spec.moves)
        most = max(halo, MOST_ROWS // (spec.states * halo))
        lanes, times = 32, None
        if batch < WARPS:
            while lanes < 256 and lanes * 2 < nodes:
                lanes *= 2
        if batch < PROGRAMS and nodes > LONG:
            lanes, times = 64, 256
        strips = -(-nodes // (lanes * most))
        return cls(lanes, max(halo, -(-nodes // (lanes * strips))), times)


@dataclasses.dataclass(frozen=True)
class Form:
    """How a canonical potential varies.

    Attributes:
        cell: Whether it belongs to cells, not to gaps.
        rows, columns: Whether it varies over them.
        shared: Whether the batch has one.
    """

    cell: bool
    rows: bool
    columns: bool
    shared: bool


@dataclasses.dataclass(frozen=True, repr=False)
class Plan(Named):
    """All that is known of a kernel when it is compiled; indices of blocks that are in registers.

    Attributes:
        spec: The structure.
        forms: Of every canonical potential.
        lanes: Lanes of a strip, those of a whole program.
        rows: Rows of nodes in a lane, at least `halo`.
        approximate: Whether exponentials are those of the special function unit.
        wide: Whether numbers are float64.
        tiled: Whether a program does one tile of one strip, else one pair.
    """

    spec: Spec
    forms: tuple[Form, ...]
    lanes: int
    rows: int
    approximate: bool
    wide: bool
    tiled: bool

    @classmethod
    def of(cls, spec, shapes, batch, sizes, approximate, wide):
        """Of canonical potentials of these shapes."""
        forms = []
        for kind, shape in zip(spec.kinds, shapes, strict=True):
            cell = kind == "cell"
            rows, columns = (cell or n != 1 for n in shape[1:])
            forms.append(Form(cell, rows, columns, shared=bool(shape[0] != batch)))
        tiled = sizes.times is not None
        return cls(spec, tuple(forms), sizes.lanes, sizes.rows, approximate, wide, tiled)

    # Numbers of a strip ---------------------------------------------------------------------------

    @functools.cached_property
    def states(self):
        return self.spec.states

    @functools.cached_property
    def channels(self):
        return len(self.forms)

    @functools.cached_property
    def halo(self):
        """How many rows above a move comes from."""
        return max(move.di for move in self.spec.moves)

    @functools.cached_property
    def reach(self):
        """How many columns before a move comes from."""
        return max(1, *(move.dj for move in self.spec.moves))

    @functools.cached_property
    def height(self):
        """Rows of nodes in a strip."""
        return self.lanes * self.rows

    def split(self, i):
        """Strip, lane and row in the lane of a row of nodes."""
        return i // self.height, i % self.height // self.rows, i % self.rows

    def step(self, parts):
        """Numbers of a step on the tape, with so many of a message."""
        return self.rows * self.states * parts * self.lanes

    def at(self, row, state, part, parts):
        """Where a column, a flat tuple of blocks, has a row (from -halo on)."""
        return ((row + self.halo) * self.states + state) * parts + part

    def column(self, parts):
        """Length of a column."""
        return (self.halo + self.rows) * self.states * parts

    def source_at(self, state, m, row, part, parts):
        """Where the source of a move into a row is: in the column itself, or in the columns before,
        the last one first."""
        move = self.move(state, m)
        columns = max(0, move.dj - 1)
        return columns * self.column(parts) + self.at(row - move.di, move.source, part, parts)

    # Sums of marginals in a lane ------------------------------------------------------------------

    def kind(self, channel):
        """ "cell" or "node" for a marginal of its own in each place; "row", "column", "scalar"."""
        form = self.forms[channel]
        if form.rows and form.columns:
            return "cell" if form.cell else "node"
        return "row" if form.rows else "column" if form.columns else "scalar"

    def sum_at(self, channel):
        """Where the sums of a channel begin: by rows, or one."""
        counts = {"row": self.rows, "column": 1, "scalar": 1}
        return sum(counts.get(self.kind(c), 0) for c in range(channel))

    @property
    def sums(self):
        return self.sum_at(self.channels)

    def pending(self, parts):
        """Blocks of probabilities that wait for their column."""
        return self.reach * self.column(parts)

    def halo_at(self, row, state, part, parts):
        """Where a row above is among what leaves a lane, from 0 on."""
        return (row * self.states + state) * parts + part

    def leaving(self, parts):
        """Blocks of probabilities that go to the lane above."""
        return self.halo * self.states * parts

    def carry(self, parts):
        """Blocks that a tile hands to the one before it in time."""
        return self.pending(parts) + self.leaving(parts) + self.sums

    def pending_at(self, state, m, row, part, parts):
        """Where the source of a move into a row waits, in the column itself or those before."""
        move = self.move(state, m)
        return move.dj * self.column(parts) + self.at(row - move.di, move.source, part, parts)

    @property
    def end_numbers(self):
        """Of each pair, about where paths end: shares of the states, or the log-partition."""
        return self.states if self.spec.end == "corner" else 2

    # Moves into a state ---------------------------------------------------------------------------

    def fan_in(self, state):
        return len(self.spec.into(state))

    def move(self, state, m):
        return self.spec.moves[self.spec.into(state)[m]]

    def straight(self, state, m):
        """Whether a move stays in its column."""
        return self.move(state, m).dj == 0

    def source(self, state, m):
        source = self.move(state, m).source
        return -1 if source == START else source

    def channel(self, state, m):
        channel = self.move(state, m).channel
        return -1 if channel is None else channel

    def shared(self, state):
        """The channel of all moves into a state; -1 if there are several, or none."""
        channel = self.spec.emission(state)
        return -1 if channel is None else channel

    def count(self):
        return len(self.spec.moves)


@dataclasses.dataclass(frozen=True)
class Cut:
    """Lattices of so many rows and columns of cells, cut into strips by a plan.

    Attributes:
        plan: How.
        rows, columns: Of cells.
        size: Times of a tile; None where a program does a whole pair.
    """

    plan: Plan
    rows: int
    columns: int
    size: int | None

    @classmethod
    def of(cls, problem, sizes, approximate):
        """Of the lattices of a problem; `sizes` is None or what `Sizes.of` would say."""
        shapes = [x.shape for x in problem.potentials]
        rows, columns = shapes[0][1:]
        batch, spec = problem.context[0].shape[0], problem.spec
        sizes = sizes or Sizes.of(spec, batch, rows, columns)
        wide = "64" in str(problem.potentials[0].dtype)
        plan = Plan.of(spec, shapes, batch, sizes, approximate and not wide, wide)
        return cls(plan, rows, columns, sizes.times)

    @property
    def strips(self):
        return self.rows // self.plan.height + 1

    @property
    def times(self):
        """Of a strip."""
        return self.columns + self.plan.lanes

    @property
    def tiles(self):
        """Of a strip."""
        return -(-self.times // self.size)

    @property
    def waves(self):
        """How many launches do all tiles: tile c of strip k is in launch 2 k + c."""
        return 2 * (self.strips - 1) + self.tiles

    @property
    def warps(self):
        return max(1, self.plan.lanes // 32)

    # Shapes of arrays, without the batch ----------------------------------------------------------

    def tape(self, *parts):
        plan = self.plan
        return self.strips, self.times, plan.rows, plan.states, *parts, plan.lanes

    def edges(self, parts):
        """What goes from a strip to the one above it."""
        return self.strips, self.plan.leaving(parts), self.columns + 1

    def carries(self, parts):
        """What a tile hands to the one before it in time."""
        return self.strips, self.plan.carry(parts), self.plan.lanes

    def sums(self, channel):
        """What is collected of the marginals of a potential."""
        return {
            "cell": (self.rows, self.columns),
            "node": (self.rows + 1, self.columns + 1),
            "row": (self.rows + 1,),
            "column": (self.strips, self.columns + 1),
            "scalar": (self.strips,),
        }[self.plan.kind(channel)]

    def collected(self, channel, x):
        """A marginal in the shape of its potential, per example; the border reads the first row or
        column."""
        kind = self.plan.kind(channel)
        if kind == "node":
            return unedge(unedge(x, 1), 2)
        if kind == "row":
            return unedge(x[:, :, None], 1)
        if kind == "column":
            return unedge(x.sum(1)[:, None], 2)
        return x.sum(1)[:, None, None] if kind == "scalar" else x

    @property
    def block_of_ends(self):
        """Nodes of a time where paths may end, that a program looks at at once."""
        return 2 if self.plan.spec.end == "border" else TIMES

    @property
    def warps_of_ends(self):
        return max(1, self.block_of_ends // 32)
