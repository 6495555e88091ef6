"""How the lattice is cut into tiles for the Pallas kernels, and how arrays get there and back.

128 examples lie on the lanes. A strip is `rows` rows of nodes, on the sublanes; within it, time is
t = j + (row in the strip), so that its rows advance together and a move of lag di + dj reads
rows of an earlier time. A tile is `times` times of a strip. Kernels run over a grid of (blocks of
examples, strips, tiles) and see one tile at once, so no sequence is too long for VMEM.

A potential arrives as it varies: "full" (blocks, strips, T, rows, LANES), by time already; "row"
(blocks, strips, rows, LANES); "column" (blocks, Q, LANES), from the last column to the first, so
that rows of growing number read growing places; "scalar" (blocks, 1, LANES).
"""

import dataclasses

from keras_struct.ops.alignment.layout import edge, unedge
from keras_struct.ops.alignment.spec import START, Spec
from keras_struct.ops.numerics import FORBIDDEN
from keras_struct.ops.pallas import rounded
from keras_struct.ops.pallas_tpu import LANES, MEGABYTE, SUBLANES, blocks_of, off_lanes, on_lanes

MEMORY = 60 * MEGABYTE  # of VMEM; v5p and 7x have 64, v5e and v6e 128
FRONT = SUBLANES  # sublanes before the rows of a strip, of which the last ones are the rows above


@dataclasses.dataclass(frozen=True)
class Tiling:
    """The tiles of lattices of L1 x L2 cells.

    Attributes:
        spec: The structure.
        height, width: L1 and L2.
        rows: Rows of nodes in a strip, a multiple of 8.
        times: Times in a tile, a multiple of 8.
    """

    spec: Spec
    height: int
    width: int
    rows: int
    times: int

    @classmethod
    def of(cls, spec, shapes, sizes):
        """The first of the sizes (rows, times) whose tiles fit into VMEM, or None.

        Args:
            spec: The structure.
            shapes: Of the canonical potentials.
            sizes: Pairs of rows and times, which are cut down to the lattice.
        """
        height, width = shapes[0][1:]
        for rows, times in sizes:
            rows = min(rows, rounded(height + 1, SUBLANES))
            times = min(times, rounded(width + rows, SUBLANES))
            tiling = cls(spec, height, width, rows, times)
            if tiling.memory(shapes) <= MEMORY:
                return tiling
        return None

    def memory(self, shapes):
        """Bytes of VMEM that the kernel of the curvature and that of the forward sweep take at
        most; blocks of arrays lie there twice."""
        states, tile = self.spec.states, self.times * self.rows
        plane = (self.past + self.times) * (FRONT + self.rows)
        kinds = self.kinds(shapes)
        full, column = (sum(kind == x for kind in kinds) for x in ("full", "column"))
        line = self.all_times + self.rows
        inputs = full * tile + column * line
        edges = states * (self.halo * self.times + self.past * (FRONT + self.rows))
        curvature = (3 * states + 2 * len(self.stored)) * plane
        curvature += 2 * len(self.down) * self.halo * line
        curvature += 2 * (2 * inputs + (full + column) * tile + 3 * edges)
        ends = 0 if self.spec.end == "corner" else 2 * self.diagonals
        forward = 2 * states * (plane + self.halo * line) + 2 * (inputs + 2 * edges + ends)
        return 4 * LANES * max(curvature, forward)

    @property
    def strips(self):
        return -(-(self.height + 1) // self.rows)

    @property
    def tiles(self):
        return -(-(self.width + self.rows) // self.times)

    @property
    def all_times(self):
        """Times of a strip, all tiles together."""
        return self.tiles * self.times

    @property
    def diagonals(self):
        """Places for a number per time of the lattice, i + j."""
        return rounded(self.strips * self.rows + self.all_times, SUBLANES)

    @property
    def halo(self):
        """Rows above a strip that moves come from."""
        return max(move.di for move in self.spec.moves)

    @property
    def past(self):
        """Earlier times that moves come from."""
        return max(self.lag(move) for move in self.spec.moves)

    def lag(self, move):
        return move.di + move.dj

    @property
    def stored(self):
        """Indices of the moves that come from a node."""
        return [k for k, move in enumerate(self.spec.moves) if move.source != START]

    @property
    def down(self):
        """Indices of the moves that come from a row above."""
        return [k for k in self.stored if self.spec.moves[k].di > 0]

    def varies(self, kind, shape):
        """How a canonical potential of this kind and shape varies."""
        by_row, by_column = shape[1] != 1, shape[2] != 1
        if kind == "cell" or (by_row and by_column):
            return "full"
        return "row" if by_row else "column" if by_column else "scalar"

    def kinds(self, shapes):
        pairs = zip(self.spec.kinds, shapes, strict=True)
        return tuple(self.varies(*pair) for pair in pairs)

    # In ------------------------------------------------------------------------------------------

    def inputs(self, potentials, batch, fill=FORBIDDEN):
        """Triples for `PallasTPU.call` of canonical potentials; there is `fill` outside."""
        made = []
        for kind, x in zip(self.spec.kinds, potentials, strict=True):
            varies = self.varies(kind, x.shape)
            made.append(self.triple(getattr(self, f"_{varies}")(kind, x, fill, batch), varies))
        return made

    def triple(self, x, varies):
        rows, blocks = self.rows, {"column": x.shape[1:], "scalar": x.shape[1:]}
        if varies == "full":
            block = (None, None, self.times, rows, LANES)
            return x, block, lambda n, k, c: (n, k, c, 0, 0)
        if varies == "row":
            return x, (None, None, rows, LANES), lambda n, k, c: (n, k, 0, 0)
        return x, (None, *blocks[varies]), lambda n, k, c: (n, 0, 0)

    def _full(self, kind, x, fill, batch):
        from jax import numpy as jnp

        x = (
            jnp.pad(x, [(0, 0), (1, 0), (1, 0)], constant_values=fill)
            if kind == "cell"
            else edge(edge(x, 1), 2)
        )
        rows, times = self.rows, self.all_times
        below = self.strips * rows - x.shape[1]
        widths = [(0, 0), (0, below), (0, times + 1 - x.shape[2])]
        x = jnp.pad(x, widths, constant_values=fill)
        x = x.reshape(x.shape[0], self.strips, rows * (times + 1))[..., : rows * times]
        x = x.reshape(x.shape[0], self.strips, rows, times)
        return on_lanes(x.swapaxes(2, 3), batch)

    def _row(self, kind, x, fill, batch):
        from jax import numpy as jnp

        x = edge(x, 1)[:, :, 0]
        widths = [(0, 0), (0, self.strips * self.rows - x.shape[1])]
        x = jnp.pad(x, widths, constant_values=fill)
        return on_lanes(x.reshape(x.shape[0], self.strips, self.rows), batch)

    def _column(self, kind, x, fill, batch):
        from jax import numpy as jnp

        x = edge(x, 2)[:, 0]
        widths = [(0, 0), (self.rows, self.all_times - x.shape[1])]
        return on_lanes(jnp.pad(x, widths, constant_values=fill)[:, ::-1], batch)

    def _scalar(self, kind, x, fill, batch):
        return on_lanes(x[:, 0], batch)

    # Out -----------------------------------------------------------------------------------------

    def output(self, varies, dtype, batch):
        """Triple of a marginal, before `collected`; per column it is full."""
        import jax

        blocks = blocks_of(batch)
        shapes = {
            "full": (blocks, self.strips, self.all_times, self.rows, LANES),
            "row": (blocks, self.strips, self.rows, LANES),
            "scalar": (blocks, self.rows, LANES),
        }
        if varies == "column":
            varies = "full"
        return self.triple(jax.ShapeDtypeStruct(shapes[varies], dtype), varies)

    def collected(self, kind, varies, x, batch):
        """A marginal in the shape of its canonical potential."""
        from jax import numpy as jnp

        x = off_lanes(x, batch)
        if varies == "scalar":
            return x.sum(1)[:, None, None]
        if varies == "row":
            x = x.reshape(batch, -1)[:, : self.height + 1, None]
            return unedge(x, 1)
        rows, times = self.rows, self.all_times
        x = x.swapaxes(2, 3).reshape(batch, self.strips, rows * times)
        x = jnp.pad(x, [(0, 0), (0, 0), (0, rows)])
        x = x.reshape(batch, self.strips * rows, times + 1)
        x = x[:, : self.height + 1, : self.width + 1]
        if kind == "cell":
            return x[:, 1:, 1:]
        if varies == "column":
            return unedge(x.sum(1, keepdims=True), 2)
        return unedge(unedge(x, 1), 2)
