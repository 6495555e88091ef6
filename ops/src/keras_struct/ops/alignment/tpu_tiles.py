"""How the lattice is cut into tiles for the Pallas kernels, and how arrays get there and back.

128 examples lie on the lanes. A strip is `rows` rows of nodes, on the sublanes; within it, time is
t = j + (row in the strip), so that its rows advance together and a move of lag di + dj reads
rows of an earlier time. A tile is `times` times of a strip. Kernels run over a grid of (blocks of
examples, strips, tiles) and see one tile at once, so no sequence is too long for VMEM.

A potential arrives as it varies: "full" (blocks, L1, examples, L2), of which a kernel sees blocks
of `rows` rows and `span` columns (see `tpu_windows.py`); "row" (blocks, strips, rows, LANES);
"column" (blocks, Q, LANES), from the last column to the first, so that rows of growing number read
growing places; "scalar" (blocks, 1, LANES).
"""

import dataclasses
from typing import NamedTuple

from keras_struct.ops.alignment.layout import edge, unedge
from keras_struct.ops.alignment.spec import START, Spec
from keras_struct.ops.numerics import FORBIDDEN
from keras_struct.ops.pallas import rounded
from keras_struct.ops.pallas_tpu import LANES, MEGABYTE, SUBLANES, blocks_of, off_lanes, on_lanes

FRONT = SUBLANES  # sublanes before the rows of a strip, of which the last ones are the rows above


@dataclasses.dataclass(frozen=True)
class Tiling:
    """The tiles of lattices of L1 x L2 cells.

    Attributes:
        spec: The structure.
        height, width: L1 and L2.
        rows: Rows of nodes in a strip, a multiple of 8.
        times: Times in a tile, a power of two of at least 8.
        span: Columns in a block, at least as many as rows: a power of two times `times`.
        together: Times in the body of a loop, at most.
    """

    spec: Spec
    height: int
    width: int
    rows: int
    times: int
    span: int
    together: int

    @classmethod
    def of(cls, spec, shapes, sizes, memory):
        """The first of the sizes whose tiles fit into VMEM, or None.

        Args:
            spec: The structure.
            shapes: Of the canonical potentials.
            sizes: Rows, times, span and together; the first two are cut down to the lattice.
            memory: Megabytes of VMEM that a kernel may take.
        """
        height, width = shapes[0][1:]
        for rows, times, span, together in sizes:
            rows = min(rows, rounded(height + 1, SUBLANES))
            while times // 2 >= rounded(width + rows, SUBLANES):
                times //= 2
            together = min(together, times)
            tiling = cls(spec, height, width, rows, times, span, together)
            if tiling.memory(shapes) <= memory * MEGABYTE:
                return tiling
        return None

    def memory(self, shapes):
        """Bytes of VMEM that the kernel of the curvature and that of the forward sweep take at
        most; blocks of arrays lie there twice."""
        states, rows, span = self.spec.states, self.rows, self.span
        plane = (self.past + self.times) * (FRONT + rows)
        kinds = self.kinds(shapes)
        full, column = (sum(kind == x for kind in kinds) for x in ("full", "column"))
        line = self.all_times + rows
        columns = (self.last_block + 1) * span
        edges = states * (self.halo * self.times + self.past * (FRONT + rows))
        inputs = full * (2 * (rows + 1) * span + (rows + 1) * 2 * span) + 2 * column * line
        outputs = (full + column) * (rows + 1) * (rows + span)
        outputs += full * (2 * rows * span + columns) + 2 * column * columns
        curvature = (3 * states + 2 * len(self.stored)) * plane
        curvature += 2 * len(self.down) * self.halo * line
        curvature += 2 * inputs + outputs + 2 * 3 * edges
        ends = 0 if self.spec.end == "corner" else 2 * self.diagonals
        forward = 2 * states * (plane + self.halo * line) + inputs + 2 * (2 * edges + ends)
        return 4 * LANES * max(curvature, forward)

    @property
    def strips(self):
        return -(-(self.height + 1) // self.rows)

    @property
    def tiles(self):
        return -(-(self.width + self.rows) // self.times)

    @property
    def in_span(self):
        """Tiles in a block of columns."""
        return self.span // self.times

    @property
    def last_block(self):
        """The block of columns of the last tile."""
        return (self.tiles - 1) // self.in_span

    def tail(self, back):
        """Columns before a block that a window has."""
        return self.span if back else self.rows

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

    def given(self, potentials, batch, dtype, back, fill=FORBIDDEN):
        """`Given` of canonical potentials, or of their tangents; there is `fill` outside."""
        triples, windows = [], []
        for kind, x in zip(self.spec.kinds, potentials, strict=True):
            varies = self.varies(kind, x.shape)
            if varies == "full":
                x = _in_blocks(x, batch)
                triples += [self._cells(x, back), self._cells_above(x, back)]
                places = (self.rows + 1) * (self.tail(back) + self.span)
                windows.append(_plane(places, dtype))
            else:
                x = getattr(self, f"_{varies}")(kind, x, fill, batch)
                triples.append(self.triple(x, varies))
        return Given(triples, windows, dtype, fill)

    def triple(self, x, varies):
        if varies == "row":
            return x, (None, None, self.rows, LANES), lambda n, k, c: (n, k, 0, 0)
        return x, (None, *x.shape[1:]), lambda n, k, c: (n, 0, 0)

    def _cells(self, x, back):
        block = None, self.rows, x.shape[2], self.span
        return x, block, lambda n, k, c: (n, self._rows_of(k), 0, self._load(c, back))

    def _cells_above(self, x, back):
        """The row above the strip; of the first strip, any."""
        from jax import numpy as jnp

        def index(n, k, c):
            return n, jnp.maximum(k * self.rows - 1, 0), 0, self._load(c, back)

        return x, (None, None, x.shape[2], self.span), index

    def _rows_of(self, k):
        """The block of rows of a strip; there may be none for the last strip."""
        from jax import numpy as jnp

        return jnp.minimum(k, (self.height - 1) // self.rows)

    def _columns_of(self, block):
        from jax import numpy as jnp

        return jnp.clip(block, 0, (self.width - 1) // self.span)

    def _block(self, c):
        from jax import lax
        from jax import numpy as jnp

        return lax.shift_right_logical(jnp.int32(c), jnp.int32(self.in_span.bit_length() - 1))

    def tile(self, c):
        """Of a grid step, which may be the one behind the last tile."""
        from jax import numpy as jnp

        return jnp.minimum(c, self.tiles - 1)

    def block(self, c):
        """The block of columns of a tile; one more than the last of all for the tile behind it."""
        from jax import numpy as jnp

        return jnp.where(c == self.tiles, self.last_block + 1, self._block(c))

    def _load(self, c, back):
        """The block of columns that is fetched for a tile: going back, the one before."""
        return self._columns_of(self.block(c) - (1 if back else 0))

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

    def made(self, kinds, dtype, batch):
        """`Given` of the marginals, before `collected`."""
        import jax

        blocks, triples, scratch = blocks_of(batch), [], []
        columns = (self.last_block + 1) * self.span
        shapes = {
            "full": (blocks, self.height, examples_of(batch, dtype), self.width),
            "column": (blocks, columns, LANES),
            "row": (blocks, self.strips, self.rows, LANES),
            "scalar": (blocks, self.rows, LANES),
        }
        for varies in kinds:
            x = jax.ShapeDtypeStruct(shapes[varies], dtype)
            triples.append(self._cells_out(x) if varies == "full" else self.triple(x, varies))
            if varies in ("full", "column"):
                scratch.append(_plane((self.rows + 1) * (self.rows + self.span), dtype))
            if varies == "full":
                scratch.append(_plane(columns, dtype))
        return Given(triples, scratch, dtype)

    def _cells_out(self, x):
        def index(n, k, c):
            block = self.block(self.tile(c))
            return n, self._rows_of(k), 0, self._columns_of(block)

        return x, (None, self.rows, x.shape[2], self.span), index

    def collected(self, varies, x, batch):
        """A marginal in the shape of its canonical potential."""
        if varies == "full":
            x = x.swapaxes(1, 2)
            return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])[:batch]
        x = off_lanes(x, batch)
        if varies == "scalar":
            return x.sum(1)[:, None, None]
        if varies == "column":
            return x[:, None, : self.width]
        return unedge(x.reshape(batch, -1)[:, : self.height + 1, None], 1)


class Given(NamedTuple):
    """Potentials or marginals of a kernel.

    Attributes:
        triples: For `PallasTPU.call`; of a "full" potential two.
        scratch: What `tpu_windows.py` needs for them, (places, LANES).
        dtype: Of the arrays.
        fill: What is outside of them.
    """

    triples: list
    scratch: list
    dtype: str
    fill: float = 0.0


def examples_of(batch, dtype):
    """Examples that a block has room for in the layout of the potentials."""
    small = isinstance(batch, int) and batch < LANES
    return rounded(batch, SUBLANES * (4 // min(4, dtype.itemsize))) if small else LANES


def _in_blocks(x, batch):
    """(B, L1, L2) to (blocks, L1, examples, L2); one example for all stays alone.

    XLA does this where it prepares the scores, in the same pass over them.
    """
    from jax import numpy as jnp

    blocks, examples = blocks_of(batch), examples_of(batch, x.dtype)
    if x.shape[0] == 1:
        return x.swapaxes(0, 1)[None]
    x = jnp.pad(x, [(0, blocks * examples - batch), (0, 0), (0, 0)])
    return x.reshape(blocks, examples, *x.shape[1:]).swapaxes(1, 2)


def _plane(places, dtype):
    import jax

    return jax.ShapeDtypeStruct((places, LANES), dtype)
