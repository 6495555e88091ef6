"""The Pallas kernels of chains: what is done with one tile (see `tpu_plan.py`, `tpu_tile.py`).

The forward sweep writes the messages before every tile to the tape, and every other sweep runs a
tile again from there. Beside the references of `tpu_tile.py`:

    heads, theads    messages before the tile, and their tangents (the tape)
    ends, tends      messages of the last step of every example, and their tangents
    final, dfinal    probabilities of the state of the last step, and their tangents
    q, dq            (past + times, rows) probabilities of the nodes of g, and their tangents
    dscores, dlinks  what goes out; dlinks with the state that is left on the sublanes
    tscores, tlinks  the tangents that come in
    dg, df           tangents of g and f
    moved            (2, terms, rows + 8) probabilities of moves, with zeros behind
"""

from jax import numpy as jnp
from jax.experimental import pallas as pl

from keras_struct.ops.chain import tpu_scaled
from keras_struct.ops.chain.tpu_tile import Cells, Tile, at_once, fill, over
from keras_struct.ops.exact_sum import two_sum
from keras_struct.ops.numerics import FORBIDDEN
from keras_struct.ops.pallas_tpu import LANES


def scales(plan, op):
    """Whether tiles are tried as products of plain numbers."""
    return op == "logsumexp" and plan.links == "shared" and plan.terms == 1


def run(tile, scaled, log, keep=False):
    """A tile from what stands before it: `scaled()` or, out of range, `log()` after its steps."""

    def steps():
        def step(t):
            tile.enter(t, keep)
            tile.link(t, keep)

        tile.loop(step)
        log()

    if not scales(tile.plan, tile.op):
        steps()
        return
    in_range = tpu_scaled.run(tile)
    pl.when(in_range)(scaled)
    pl.when(jnp.logical_not(in_range))(steps)


def prepare(tile):
    """What is done once for a block of examples."""

    @pl.when(tile.first_call)
    def _():
        tile.turn("links")
        tile.turn("tlinks")

    if scales(tile.plan, tile.op):
        tpu_scaled.prepare(tile)


def forward(plan, op, x):
    """To messages before every tile, and those of the last step of every example."""
    tile = Tile(plan, x, op)
    prepare(tile)

    @pl.when(tile.first_call)
    def _():
        tile.start()
        for n, nothing in enumerate((FORBIDDEN, 0.0)):
            fill(x.ends.at[n], nothing)
        x.ends[0, pl.ds(0, 1), :] = jnp.zeros((1, LANES), x.ends.dtype)

    def collect(t):
        for n, value in enumerate(tile.f(t)):
            x.ends[n] = jnp.where(tile.last(t), value, x.ends[n])

    def scaled():
        def unpack(t):
            tpu_scaled.unpack(tile, t)
            collect(t)

        tile.ends(unpack)
        tpu_scaled.finish(tile)

    @pl.when(tile.active)
    def _():
        write_heads(tile)
        run(tile, scaled, lambda: tile.ends(collect))
        for n in range(2):
            tile.move_on(x.g.at[n])


def write_heads(tile):
    """What stands before a tile, to the tape."""
    x = tile.x

    def write(t, _):
        for n in range(2):
            x.heads[n, t] = x.g[n, t, tile.rows, :]

    over(tile.plan.past, write)


def begin_back(tile, queues, outputs):
    """Nothing comes from beyond the last tile, nor from a tile that is not active."""
    x = tile.x

    @pl.when(tile.first_call)
    def _():
        for ref in queues:
            fill(ref, 0.0)
        if tile.plan.links == "shared":
            fill(x.dlinks, 0.0)

    @pl.when(jnp.logical_not(tile.active))
    def _():
        for ref in outputs:
            fill(ref, 0.0)


def outputs(plan, x):
    return [x.dscores] + ([x.dlinks] if plan.links == "over_time" else [])


def clear(tile, queue):
    """Where segments are longer than a step, their probabilities are added up."""
    if not tile.plan.moves and tile.plan.terms > 1:
        tile.loop(lambda t: fill(queue.at[t], 0.0))


def backward(plan, op, x):
    """To the marginals."""
    tile = Tile(plan, x, back=True)
    prepare(tile)
    begin_back(tile, [x.q] + ([x.moved] if plan.moves else []), outputs(plan, x))

    @pl.when(tile.active)
    def _():
        tile.resume()
        clear(tile, x.q)

        def log():
            tile.loop(Back(tile).step, back=True)

        run(tile, lambda: tpu_scaled.backward(tile), log, keep=True)
        tile.move_back(x.q)


class Back:
    """What goes back through a step in log space: probabilities, or their tangents, too."""

    def __init__(self, tile, tangents=False):
        self.tile, self.plan, self.x = tile, tile.plan, tile.x
        self.tangents = tangents

    def step(self, t):
        if self.plan.moves:
            self.moves(t)
            return
        leave = self.leave_tangents if self.tangents else self.leave
        self.tile.linked(
            lambda start, size, _: self.segments(t, start, size, *leave(t, start, size))
        )

    def weights(self, t, j, start, size):
        """Posterior weights of the links into j from some states, times what `q` has there."""
        x, row = self.x, pl.ds(j, 1)
        high, low = self.tile.f(t, pl.ds(start, size))
        high, error = two_sum(high, self.tile.column("links", j, t, start, size))
        peak, top, inverse = (x.planes[n, t, row, :] for n in range(3))
        logits = (high - peak) + (error + low)
        return jnp.exp(logits - top) * inverse

    def leave(self, t, start, size):
        """Probabilities of some states of a step, through the links to the next one."""
        x, plan = self.x, self.plan
        out = self._links_out(t, start, size)
        following = plan.past + t

        def add(j, p):
            pair = self.weights(t, j, start, size) * x.q[following, pl.ds(j, 1), :]
            self._put(out, j, pair)
            return p + pair

        end = self.tile.ended(t, x.final[pl.ds(start, size), :])
        return (over(plan.states, add, end, size=at_once(size)),)

    def _links_out(self, t, start, size):
        """The cells of `dlinks`; over time, those of no state hold zeros."""
        x, plan = self.x, self.plan
        out = Cells(self.tile.links(x.dlinks, t), plan.rows, start, size)
        if plan.links == "over_time":
            for j in range(plan.states, plan.rows):
                out[j] = jnp.zeros((size, LANES), x.dlinks.dtype)
        return out

    def _put(self, out, j, pair):
        out[j] = pair if self.plan.links == "over_time" else out[j] + pair

    def leave_tangents(self, t, start, size):
        """The same, and their tangents."""
        x, plan, at = self.x, self.plan, pl.ds(start, size)
        out = self._links_out(t, start, size)
        following = plan.past + t

        def add(j, sums):
            p, dp = sums
            row = pl.ds(j, 1)
            weights, q = self.weights(t, j, start, size), x.q[following, row, :]
            rate = x.df[t, at, :] + self.tile.column("tlinks", j, t, start, size)
            dpair = weights * (x.dq[following, row, :] + q * (rate - x.dg[following, row, :]))
            self._put(out, j, dpair)
            return p + weights * q, dp + dpair

        ends = self.tile.ended(t, x.final[at, :]), self.tile.ended(t, x.dfinal[at, :])
        return over(plan.states, add, ends, size=at_once(2 * size))

    def segments(self, t, start, size, p, dp=None):
        """To the nodes where the segments that end at a step begin, and to the marginals."""
        x, plan, at = self.x, self.plan, pl.ds(start, size)
        if plan.terms == 1:
            x.q[t, at, :] = p
            x.dscores[t, 0, at, :] = p if dp is None else dp
            if dp is not None:
                x.dq[t, at, :] = dp
            return

        def use(n, _):
            weight, begin = x.shares[t, n, at, :], plan.past - 1 + t - n
            used = weight * p
            x.q[begin, at, :] += used
            if dp is None:
                x.dscores[t, n, at, :] = used
                return
            dused = weight * dp + used * self.rate(t, n, start, size)
            x.dq[begin, at, :] += dused
            x.dscores[t, n, at, :] = dused

        over(plan.terms, use)

    def rate(self, t, n, start=0, size=None):
        """Tangent of the logit of a way into a state."""
        tile, x = self.tile, self.x
        rate = tile.source(x.dg, t, n, start, size) + tile.score(x.tscores, t, n, start, size)
        return rate - self._df(t, start, size)

    def _df(self, t, start, size):
        size = size or self.plan.rows
        if self.plan.moves:
            return self.x.dg[1 + t, pl.ds(self.plan.front + start, size), :]
        return self.x.df[t, pl.ds(start, size), :]

    def moves(self, t):
        """The same for moves; every path moves once at every step, so no rounding adds up."""
        x, plan, tile = self.x, self.plan, self.tile
        last = tile.last(t)

        def arrive(start, size, mass):
            at = pl.ds(start, size)
            p = x.q[1 + t, at, :] + jnp.where(last, x.final[at, :], 0.0)
            x.q[1 + t, at, :] = p
            if self.tangents:
                x.dq[1 + t, at, :] += jnp.where(last, x.dfinal[at, :], 0.0)
            x.mass[...] += jnp.sum(p, 0, keepdims=True)
            return mass

        x.mass[...] = jnp.zeros(x.mass.shape, x.mass.dtype)
        tile.chunks(arrive)
        scale = 1.0 / jnp.maximum(x.mass[...], 0.5)
        if plan.alike:
            fill(x.dscores.at[t], 0.0)

        def use(start, size, _):
            at = pl.ds(start, size)
            p = x.q[1 + t, at, :] * scale
            for n in range(plan.terms):
                weight = x.shares[t, n, at, :]
                used = weight * p
                x.moved[0, n, at, :] = used
                if self.tangents:
                    used = weight * x.dq[1 + t, at, :] + used * self.rate(t, n, start, size)
                    x.moved[1, n, at, :] = used
                if plan.alike:
                    x.dscores[t, pl.ds(n, 1), :] += jnp.sum(used, 0, keepdims=True)
                else:
                    x.dscores[t, n, at, :] = used

        tile.chunks(use)

        def pull(start, size, _):
            for k, queue in enumerate([x.q, x.dq] if self.tangents else [x.q]):
                found = [x.moved[k, n, pl.ds(start + n, size), :] for n in range(plan.terms)]
                queue[t, pl.ds(start, size), :] = sum(found[1:], found[0])

        tile.chunks(pull)


class Tangents:
    """Tangents of the messages of a step in log space, once its messages are there."""

    def __init__(self, tile):
        self.tile, self.plan, self.x = tile, tile.plan, tile.x

    def enter(self, t):
        tile, plan, x = self.tile, self.plan, self.x
        if plan.terms == 1:

            def add(start, size, _):
                at = pl.ds(start, size)
                x.df[t, at, :] = x.dg[t, at, :] + tile.score(x.tscores, t, 0, start, size)

            tile.linked(add)
            return

        def chunk(start, size, _):
            at = pl.ds(start, size)

            def way(n):
                rate = tile.source(x.dg, t, n, start, size)
                return x.shares[t, n, at, :] * (rate + tile.score(x.tscores, t, n, start, size))

            found = over(plan.terms - 1, lambda n, x: x + way(n + 1), way(0))
            if plan.moves:
                x.dg[1 + t, pl.ds(plan.front + start, size), :] = found
            else:
                x.df[t, at, :] = found

        tile.chunks(chunk)

    def link(self, t):
        """From the weights of the links that are in `cells`."""
        tile, plan, x = self.tile, self.plan, self.x
        if plan.moves:
            return

        def chunk(start, size, _):
            at = pl.ds(start, size)
            tlinks = Cells(tile.links(x.tlinks, t), plan.rows, start, size)
            cells = Cells(x.cells, plan.rows, start, size)

            def way(i):
                return cells[i] * (x.df[t, pl.ds(i, 1), :] + tlinks[i])

            found = over(plan.states - 1, lambda n, x: x + way(n + 1), way(0), size=at_once(size))
            x.dg[plan.past + t, at, :] = found * x.planes[2, t, at, :]

        tile.linked(chunk)


def steps_with_tangents(tile):
    """A tile in log space with its tangents, from those before it."""
    tangents = Tangents(tile)

    def step(t):
        tile.enter(t, keep=True)
        tangents.enter(t)
        tile.link(t, keep=True)
        tangents.link(t)

    tile.loop(step)


def run_with_tangents(tile, scaled, log):
    def by_logs():
        steps_with_tangents(tile)
        log()

    if not scales(tile.plan, tile.op):
        by_logs()
        return
    in_range = tpu_scaled.run(tile)

    @pl.when(in_range)
    def _():
        tpu_scaled.tangent(tile)
        scaled()

    pl.when(jnp.logical_not(in_range))(by_logs)


def tangent(plan, op, x):
    """To the tangents of messages before every tile, and of those of the last steps."""
    tile = Tile(plan, x)
    prepare(tile)

    @pl.when(tile.first_call)
    def _():
        fill(x.dg, 0.0)
        fill(x.tends, 0.0)

    def collect(t):
        df = x.dg[1 + t, tile.rows, :] if plan.moves else x.df[t]
        x.tends[...] = jnp.where(tile.last(t), df, x.tends[...])

    @pl.when(tile.active)
    def _():
        tile.resume()
        # What all paths gain alike changes no weight; without it tangents stay small.
        x.mean[...] = jnp.mean(x.dg[plan.past - 1, tile.rows, :], 0, keepdims=True)

        def centre(t, _):
            x.dg[t, tile.rows, :] = x.dg[t, tile.rows, :] - x.mean[...]
            x.theads[t] = x.dg[t, tile.rows, :]

        over(plan.past, centre)
        run_with_tangents(tile, lambda: tile.ends(collect), lambda: tile.ends(collect))
        tile.move_on(x.dg)


def curvature(plan, op, x):
    """To the tangents of the marginals."""
    tile = Tile(plan, x, back=True)
    prepare(tile)
    queues = [x.q, x.dq, *([x.moved, x.dg] if plan.moves else [])]
    begin_back(tile, queues, outputs(plan, x))

    @pl.when(tile.active)
    def _():
        tile.resume()

        def read(t, _):
            x.dg[t, tile.rows, :] = x.theads[t]

        over(plan.past, read)
        clear(tile, x.q)
        clear(tile, x.dq)

        def log():
            tile.loop(Back(tile, tangents=True).step, back=True)

        run_with_tangents(tile, lambda: tpu_scaled.curvature(tile), log)
        tile.move_back(x.q)
        tile.move_back(x.dq)
