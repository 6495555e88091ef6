"""Potentials and marginals of every cell on a TPU: between their own layout and that of a tile.

In HBM columns lie on the lanes, (blocks, L1, examples, L2). A tile needs them with examples on the
lanes and by time, where row r of a strip is r columns behind the first one. The kernel fetches
(rows, examples, `span` columns), turns every row of it around, (span, LANES), and puts it into a
window in VMEM, row by row. There time is a matter of addresses: node (i, j) reads cell (i-1, j-1),
so the nodes of a time are places that are one column less than a row of the window apart, which is
one access with a stride.

    window of one row    │ end of the block of columns before │ block of columns │
                         │◀──────────── `tail` ─────────────▶ │◀───── `span` ───▶│

A strip that goes back meets the blocks of columns from the last to the first, so it has the block
before the present one as a whole, and one grid step more, which fetches the last one.
"""

import functools
import itertools

from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl

from keras_struct.ops.alignment.tpu_tile import tile_of
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE
from keras_struct.ops.pallas_tpu import LANES, SUBLANES


class _Window:
    """A window (rows * (tail + span), LANES) and where a tile finds its nodes in it."""

    def __init__(self, tile, ref, tail):
        self.tile, self.tiling, self.ref, self.tail = tile, tile.tiling, ref, tail
        self.width = tail + self.tiling.span
        # Rows that are turned around in one step of a loop.
        self.together = min(8, self.tiling.rows // 4)

    def nodes(self, t):
        start = self.tail + self.tile.offset + t - 1
        return pl.ds(start, self.tiling.rows, stride=self.width - 1)

    def columns(self, row, start, count):
        """Of a row; `start` counts from the first place of the window."""
        return pl.ds(pl.multiple_of(row * self.width + start, SUBLANES), count)

    def move(self, start, to, count, rows):
        """Columns of every row."""

        def one(r, _):
            self.ref[self.columns(r, to, count), :] = self.ref[self.columns(r, start, count), :]

        lax.fori_loop(0, rows, one, None)


class Cells(_Window):
    """A potential of every cell.

    Args:
        tile: The tile of this grid step.
        kind: "cell", which is `fill` on the border; or "gap", which repeats its first row and
            column there.
        fill: What it is where nothing is, as behind its last row and column.
        x: Reference (rows, examples, span): rows of this strip; in the columns of this tile, or
            going back in those before.
        above: Reference (examples, span): the row in front of them.
        window: Reference.
    """

    def __init__(self, tile, kind, fill, x, above, window):
        super().__init__(tile, window, tile.tiling.tail(tile.back))
        self.kind, self.fill, self.x, self.above = kind, fill, x, above

    def read(self, t):
        return self.ref[self.nodes(t), :]

    def load(self):
        """Where this tile is the first one in a block of columns."""
        tile, span = self.tile, self.tiling.span
        rows = self.tiling.rows + 1

        def begin_of_row():
            self._before_first_column()
            if self.kind == "gap":
                self._repeat_first_column()

        if not tile.back:

            @pl.when(tile.enters & tile.reaches(tile.block))
            def _():
                pl.when(tile.block > 0)(lambda: self.move(span, 0, self.tail, rows))
                self._turn(tile.block, self.tail)
                pl.when(tile.block == 0)(begin_of_row)

            return
        before = tile.block - 1

        @pl.when(tile.enters)
        def _():
            @pl.when((tile.c < self.tiling.tiles) & tile.reaches(tile.block))
            def _():
                self.move(0, span, span, rows)
                pl.when(tile.block == 0)(begin_of_row)

            pl.when((before >= 0) & tile.reaches(before))(lambda: self._turn(before, 0))

    def _turn(self, block, start):
        """A block of columns into the window."""
        tile, tiling = self.tile, self.tiling
        beyond = tiling.width - block * tiling.span
        column = lax.broadcasted_iota(jnp.int32, (tiling.span, LANES), 0)

        def put(row, x, there):
            x = jnp.where(column < jnp.where(there, beyond, 0), self._wide(x), self.fill)
            self.ref[self.columns(row, start, tiling.span), :] = x

        def some(n, _):
            for m in range(self.together):
                r = n * self.together + m
                put(r + 1, self.x[r], tile.first + r < tiling.height)

        lax.fori_loop(0, tiling.rows // self.together, some, None)
        top = self.above[...]
        if self.kind == "gap":
            top = jnp.where(tile.k == 0, self.x[0], top)
        there = tile.first <= tiling.height
        put(0, top, there if self.kind == "gap" else there & (tile.k > 0))

    def _wide(self, x):
        """Of a row, examples on the lanes, in the dtype of the arithmetic."""
        if x.dtype == self.ref.dtype:
            return _on_lanes(x)
        x = _on_lanes(x.astype(self.ref.dtype))
        return jnp.where(x < INFEASIBLE, FORBIDDEN, x)

    def _before_first_column(self):
        """What rows have in front of the first block of columns."""
        rows = self.tiling.rows

        def one(r, _):
            x = jnp.full((rows, LANES), self.fill, self.ref.dtype)
            self.ref[self.columns(r, self.tail - rows, rows), :] = x

        lax.fori_loop(0, rows + 1, one, None)

    def _repeat_first_column(self):
        def one(r, _):
            place = r * self.width + self.tail
            self.ref[pl.ds(place - 1, 1), :] = self.ref[pl.ds(place, 1), :]

        lax.fori_loop(0, self.tiling.rows + 1, one, None)


class Sums(_Window):
    """A marginal of every cell, or of every column; strips and tiles go back.

    Args:
        tile: The tile of this grid step.
        kind: "cell" or "gap", as for `Cells`.
        out: Reference (rows, examples, span), or of columns (all of them, LANES).
        window: Reference.
        kept: Reference (columns, LANES): what the strip below has for the last row of this one;
            None for a marginal of columns.
    """

    def __init__(self, tile, kind, out, window, kept=None):
        super().__init__(tile, window, tile.tiling.rows)
        self.kind, self.out, self.kept = kind, out, kept

    def begin(self):
        """Before anything is stored, in the last tile of the last strip."""
        ref = self.out if self.kept is None else self.kept

        def clear(n, _):
            at = pl.ds(pl.multiple_of(n * SUBLANES, SUBLANES), SUBLANES)
            ref[at, :] = jnp.zeros((SUBLANES, LANES), ref.dtype)

        lax.fori_loop(0, ref.shape[0] // SUBLANES, clear, None)

    def store(self, t, x):
        self.ref[self.nodes(t), :] = x

    def skip(self):
        """Instead of `store` in a tile that is not active."""
        zeros = self.tile.zeros()
        lax.fori_loop(0, self.tiling.times, lambda t, _: self.store(t, zeros), None)

    def end(self):
        """Once the tile is done."""
        tile, tiling = self.tile, self.tiling

        @pl.when(tile.leaves)
        def _():
            reaches = tile.reaches(tile.block)

            @pl.when(reaches)
            def _():
                if self.kind == "gap":
                    pl.when(tile.block == 0)(self._add_border)
                self._turn() if self.kept is not None else self._add_rows()

            @pl.when(jnp.logical_not(reaches))
            def _():
                if self.kept is not None:
                    self._nothing()

            self.move(0, tiling.span, tiling.rows, tiling.rows)

    @property
    def _here(self):
        """This block of columns, of all of them."""
        start = pl.multiple_of(self.tile.block * self.tiling.span, SUBLANES)
        return pl.ds(start, self.tiling.span)

    def _row(self, r):
        return self.ref[self.columns(r, self.tail, self.tiling.span), :]

    def _add_border(self):
        """Column 0 is read by the first two columns of nodes."""

        def one(r, _):
            place = r * self.width + self.tail
            x = self.ref[pl.ds(place - 1, 1), :]
            self.ref[pl.ds(place, 1), :] = self.ref[pl.ds(place, 1), :] + x

        lax.fori_loop(0, self.tiling.rows, one, None)

    def _add_rows(self):
        total = lax.fori_loop(
            1, self.tiling.rows, lambda r, total: total + self._row(r), self._row(0)
        )
        self.out[self._here, :] += total

    def _turn(self):
        examples, last = self.out.shape[1], self.tiling.rows - 1
        if self.kind == "gap":
            # Row 0 is read by the first two rows of nodes.
            @pl.when(self.tile.k == 0)
            def _():
                at = self.columns(1, self.tail, self.tiling.span)
                self.ref[at, :] = self.ref[at, :] + self._row(0)

        def put(r, x):
            self.out[r] = x.T[:examples]

        def some(n, _):
            for m in range(self.together):
                put(n * self.together + m, self._row(n * self.together + m + 1))

        # The last row of all is one too many, and is put once more.
        lax.fori_loop(0, self.tiling.rows // self.together, some, None)
        put(last, self.kept[self._here, :])
        self.kept[self._here, :] = self._row(0)

    def _nothing(self):
        def one(n, _):
            self.out[n] = jnp.zeros(self.out.shape[1:], self.out.dtype)

        lax.fori_loop(0, self.out.shape[0], one, None)
        self.kept[self._here, :] = jnp.zeros((self.tiling.span, LANES), self.kept.dtype)


def _on_lanes(x):
    """(examples, columns) to (columns, LANES); one example is that of all lanes."""
    examples, columns = x.shape
    if examples == 1:
        x = jnp.broadcast_to(x, (LANES, columns))
    elif examples < LANES:
        x = jnp.concatenate([x, jnp.zeros((LANES - examples, columns), x.dtype)])
    return x.T


class Scores:
    """Every potential, see `Tiling.given`."""

    def __init__(self, tile, fill, refs, windows):
        refs, windows, self.tile, self.parts = iter(refs), iter(windows), tile, []
        for kind, varies in zip(tile.spec.kinds, tile.kinds, strict=True):
            x = next(refs)
            if varies == "full":
                x = Cells(tile, kind, fill, x, next(refs), next(windows))
                x.load()
            self.parts.append((varies, x))

    def at(self, t):
        """Every potential at a time, to be broadcast to (R, LANES)."""
        tile, found = self.tile, []
        for varies, x in self.parts:
            if varies == "full":
                found.append(x.read(t))
            elif varies == "column":
                start = tile.tiling.all_times - 1 - (tile.begin + t)
                found.append(x[pl.ds(start, tile.tiling.rows), :])
            else:
                found.append(x[...])
        return found


class Marginals:
    """Every marginal, see `Tiling.made`."""

    def __init__(self, tile, outs, scratch):
        scratch, self.tile, self.parts = iter(scratch), tile, []
        for kind, varies, out in zip(tile.spec.kinds, tile.kinds, outs, strict=True):
            if varies in ("full", "column"):
                more = itertools.islice(scratch, 2 if varies == "full" else 1)
                out = Sums(tile, kind, out, *more)
            self.parts.append((varies, out))

    @property
    def _windows(self):
        return [x for _, x in self.parts if isinstance(x, Sums)]

    def begin(self):
        """In every tile first."""
        tile, tiling = self.tile, self.tile.tiling
        last_tile = tile.c == tiling.tiles - 1
        for varies, x in self.parts:
            first = last_tile if varies == "row" else last_tile & (tile.k == tiling.strips - 1)
            clear = x.begin if isinstance(x, Sums) else functools.partial(_clear, x)
            pl.when(first)(clear)

        @pl.when(jnp.logical_not(tile.active))
        def _():
            for x in self._windows:
                x.skip()

    def add(self, channel, t, x):
        varies, out = self.parts[channel]
        if varies in ("full", "column"):
            out.store(t, x)
        else:
            out[...] += x

    def end(self):
        """In every tile last."""
        for x in self._windows:
            x.end()


def _clear(ref):
    ref[...] = jnp.zeros(ref.shape, ref.dtype)


def on_tiles(kernel, tiling, kinds, given, made, inputs, outputs, back):
    """`kernel(tile, scores, ...)`, with `Marginals` too if they are made, as a function of all
    references: limits, lengths, what is given, inputs, what is made, outputs, scratch."""

    def run(*refs):
        rest = iter(refs)

        def take(count):
            return list(itertools.islice(rest, count))

        limits, lengths = take(2)
        arrays = [take(len(x.triples)) for x in given]
        read = take(inputs)
        outs = [take(len(x.triples)) for x in made]
        written = take(outputs)
        windows = [take(len(x.scratch)) for x in given]
        sums = [take(len(x.scratch)) for x in made]
        tile = tile_of(tiling, kinds, limits, lengths, given[0].dtype, back)
        fills = [x.fill for x in given]
        scores = [Scores(tile, *x) for x in zip(fills, arrays, windows, strict=True)]
        marginals = [Marginals(tile, *x) for x in zip(outs, sums, strict=True)]

        # Going back, the first step of a strip only fetches.
        @pl.when(tile.c < tiling.tiles)
        def _():
            kernel(tile, *scores, *marginals, *read, *written, *rest)

    return run
