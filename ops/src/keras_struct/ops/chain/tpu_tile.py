"""One tile of a chain on a TPU in log space: what happens at a step (see `tpu_plan.py`).

References of a kernel are attributes of `x`; all end in (rows, LANES), those with a time begin with
it. Pairs stand in front, high and low.

    g       (2, past + times, front + rows)   messages before a step; at `past - 1 + t` for step t
    f       (2, times, rows)                  messages of a step; for moves a part of g
    shares  (times, terms, rows)              weights of the ways into a state, if there are several
    links   (rows^2), row i rows + j          transitions from i to j, or (times, rows^2)
    cells   (rows^2)                          of a step: logits of the links, then weights
    planes  (3, times, rows)                  how they became weights: peak, top, 1 / total

Messages are pairs (see `messages.py`), by the same formulas as in the portable implementations.
"""

import functools
from typing import Any

from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl

from keras_struct.ops.exact_sum import two_sum
from keras_struct.ops.messages import join
from keras_struct.ops.numerics import FORBIDDEN
from keras_struct.ops.pallas_tpu import LANES, SUBLANES

FEW = 8  # terms that are held in registers


def over(count, step, carry=None, unrolled=FEW, size=SUBLANES):
    """`carry = step(n, carry)` for n below a count, unrolled by `size` if there are many."""
    whole = 0 if count <= unrolled else count // size

    def group(m, carry):
        first = pl.multiple_of(m * size, size)
        for n in range(size):
            carry = step(first + n, carry)
        return carry

    if whole:
        carry = lax.fori_loop(0, whole, group, carry)
    for n in range(whole * size, count):
        carry = step(n, carry)
    return carry


def fill(ref, value):
    """Every element of (..., rows, LANES) with a value, in loops where it is large."""
    size, *inner = ref.shape
    if len(inner) > 1:
        over(size, lambda n, _: fill(ref.at[n], value))
        return

    def write(n, _):
        at = pl.ds(n if isinstance(n, int) else pl.multiple_of(n, SUBLANES), SUBLANES)
        ref[at, :] = jnp.full((SUBLANES, LANES), value, ref.dtype)

    if size % SUBLANES:
        ref[...] = jnp.full(ref.shape, value, ref.dtype)
    else:
        over(size // SUBLANES, lambda n, _: write(n * SUBLANES, None))


def at_once(rows):
    """How many planes of so many rows are worked on at once."""
    return max(1, min(SUBLANES, 256 // rows))


def summed(count, term, cells, op):
    """Log-sum of terms n, `term(n)` being (high, low, score), as a pair, and `(peak, top, 1 /
    total)`; leaves the weights times the total in the cells `cells[n]`, if not for a maximum."""
    first, _, score = term(0)
    first = first + score
    over_all = functools.partial(over, size=at_once(first.shape[0]))
    peak = over_all(count, lambda n, x: jnp.maximum(x, _plain(term(n))), first)

    def logit(n):
        high, low, score = term(n)
        if op == "max":  # see `messages.log_sum`
            return ((high - peak) + score) + low
        high, error = two_sum(high, score)
        return (high - peak) + (error + low)

    if op == "max":
        top = over_all(count, lambda n, x: jnp.maximum(x, logit(n)), logit(0))
        return join(peak, top), None

    def store(n, top):
        cells[n] = logit(n)
        return jnp.maximum(top, cells[n])

    top = over_all(count, store, logit(0))

    def add(n, total):
        weight = jnp.exp(cells[n] - top)
        cells[n] = weight
        return weight if total is None else total + weight

    total = over_all(count - 1, lambda n, total: add(n + 1, total), add(0, None))
    return join(peak, top + jnp.log(total)), (peak, top, pl.reciprocal(total, full_range=False))


def _plain(term):
    high, _, score = term
    return high + score


class Cells:
    """Planes of a reference that are `size` sublanes each, or `count` of these from `start` on."""

    def __init__(self, ref, size, start=0, count=None):
        self.ref, self.size, self.start, self.count = ref, size, start, count or size

    def _at(self, n):
        start = n * self.size + self.start
        return pl.ds(
            start if isinstance(start, int) else pl.multiple_of(start, SUBLANES), self.count
        )

    def __getitem__(self, n):
        return self.ref[self._at(n), :]

    def __setitem__(self, n, value):
        self.ref[self._at(n), :] = value


class Tile:
    """The tile of a grid step; `back` where the last one comes first."""

    def __init__(self, plan, x, op="logsumexp", back=False):
        self.plan, self.x, self.op = plan, x, op
        number = pl.program_id(1)
        self.first_call = number == 0
        self.c = plan.tiles - 1 - number if back else number
        self.begin = self.c * plan.times
        self.first_end, self.last_end = x.limits[0, 0], x.limits[0, 1]
        self.active = self.begin < self.last_end
        self.rows = pl.ds(plan.front, plan.rows)

    @property
    def lengths(self):
        return self.x.lengths[...]

    def last(self, t):
        """Where a path has its last step, (1, LANES)."""
        return self.lengths - 1 == self.begin + t

    def ended(self, t, values):
        return jnp.where(self.last(t), values, 0.0)

    def loop(self, step, back=False):
        times = self.plan.times

        def at(n, _):
            step(times - 1 - n if back else n)

        lax.fori_loop(0, times, at, None)

    def ends(self, step):
        """`step(t)` for the times at which examples of the block end."""
        low = jnp.clip(self.first_end - 1 - self.begin, 0, self.plan.times)
        high = jnp.clip(self.last_end - self.begin, 0, self.plan.times)
        lax.fori_loop(low, high, lambda t, _: step(t), None)

    # Messages -------------------------------------------------------------------------------------

    def before(self, t):
        """Index of g at step t, after the axis of pairs."""
        return self.plan.past - 1 + t, self.rows

    def start(self):
        """What stands before the first step: state 0, or any label."""
        g, plan = self.x.g, self.plan
        for n, nothing in enumerate((FORBIDDEN, 0.0)):
            over(plan.past, lambda t, _, n=n, nothing=nothing: fill(g.at[n, t], nothing))
        self._clear_front()
        count = 1 if plan.moves else plan.rows
        g[0, plan.past - 1, pl.ds(plan.front, count), :] = jnp.zeros((count, LANES), g.dtype)

    def _clear_front(self):
        g, plan = self.x.g, self.plan
        if plan.front:

            def clear(t, _):
                for n, nothing in enumerate((FORBIDDEN, 0.0)):
                    g[n, t, : plan.front, :] = jnp.full((plan.front, LANES), nothing, g.dtype)

            lax.fori_loop(0, g.shape[1], clear, None)

    def resume(self):
        """What stands before the tile, from the tape."""
        g, heads = self.x.g, self.x.heads

        def read(t, _):
            for n in range(2):
                g[n, t, self.rows, :] = heads[n, t]

        over(self.plan.past, read)

        @pl.when(self.first_call)
        def _():
            self._clear_front()

    def f(self, t, at=slice(None)):
        """High and low of the messages of a step; of some rows, of links only."""
        if self.plan.moves:
            return tuple(self.x.g[n, self.plan.past + t, self.rows, :] for n in range(2))
        return tuple(self.x.f[n, t, at, :] for n in range(2))

    def score(self, ref, t, n, start=0, size=None):
        """A score of a step, to be broadcast to (rows, LANES), or from `start` on."""
        if self.plan.alike:
            return ref[t, pl.ds(n, 1), :]
        return ref[t, n, pl.ds(start, size or self.plan.rows), :]

    def source(self, plane, t, n, start=0, size=None):
        """Of a plane like g without pairs, what a way comes from."""
        plan = self.plan
        size = size or plan.rows
        if plan.moves:
            return plane[t, pl.ds(plan.front + start - n, size), :]
        return plane[plan.past - 1 + t - n, pl.ds(start, size), :]

    def chunks(self, step, carry=None, size=None):
        """`carry = step(start, size, carry)` over all rows."""
        size = size or self.plan.chunk

        def at(n, carry):
            return step(pl.multiple_of(n * size, SUBLANES), size, carry)

        if self.plan.rows == size:
            return step(0, size, carry)
        return lax.fori_loop(0, self.plan.rows // size, at, carry)

    def linked(self, step, carry=None):
        """The same, by as many rows as links are worked on at once."""
        return self.chunks(step, carry, self.plan.linked)

    def enter(self, t, keep=False):
        """Messages of a step from those before it; `keep` the weights of the ways."""
        plan, x = self.plan, self.x
        high_of, low_of = x.g.at[0], x.g.at[1]

        def term(n, start=0, size=None):
            score = self.score(x.scores, t, n, start, size)
            high, low = (self.source(ref, t, n, start, size) for ref in (high_of, low_of))
            return high, low, score

        if plan.terms == 1:

            def add(start, size, _):
                high, low, score = term(0, start, size)
                high, error = two_sum(high, score)
                at = pl.ds(start, size)
                x.f[0, t, at, :], x.f[1, t, at, :] = join(high, error + low)

            self.linked(add)
            return

        def chunk(start, size, _):
            at = pl.ds(start, size)
            cells: Any = _Shares(x.shares, t if keep else 0, at)
            if plan.terms <= FEW and not keep:
                cells = [None] * plan.terms
            pair, sums = summed(plan.terms, lambda n: term(n, start, size), cells, self.op)
            if plan.moves:
                to = plan.past + t, pl.ds(plan.front + start, size)
                x.g[0, *to, :], x.g[1, *to, :] = pair
            else:
                x.f[0, t, at, :], x.f[1, t, at, :] = pair
            if keep and sums is not None:

                def divide(n, _):
                    cells[n] = cells[n] * sums[2]

                over(plan.terms, divide)

        self.chunks(chunk)

    def link(self, t, keep=False):
        """Messages before the next step; `keep` how logits become weights."""
        plan, x = self.plan, self.x
        if plan.moves:
            return

        def chunk(start, size, _):
            links = Cells(self.links(x.links, t), plan.rows, start, size)

            def term(n):
                return x.f[0, t, pl.ds(n, 1), :], x.f[1, t, pl.ds(n, 1), :], links[n]

            cells = None if self.op == "max" else Cells(x.cells, plan.rows, start, size)
            pair, sums = summed(plan.states, term, cells, self.op)
            at = pl.ds(start, size)
            x.g[0, plan.past + t, at, :], x.g[1, plan.past + t, at, :] = pair
            if keep:
                for n, plane in enumerate(sums):
                    x.planes[n, t, at, :] = plane

        self.linked(chunk)

    def links(self, ref, t):
        return ref.at[t] if self.plan.links == "over_time" else ref

    def column(self, name, j, t=0, start=0, size=None):
        """Links from all states (on the sublanes), or some, to state j, of x.<name>."""
        rows = self.plan.rows
        size = size or rows
        turned = getattr(self.x, f"{name}_turned", None)
        if turned is not None:
            return Cells(turned, rows, start, size)[j]
        ref = getattr(self.x, name)
        ref = self.links(ref, t) if name != "e" else ref
        return ref[pl.ds(start * rows + j, size, stride=rows), :]

    def turn(self, name):
        """Links by column, which are read faster than strided rows, if there is room for them."""
        turned = getattr(self.x, f"{name}_turned", None)
        if turned is None:
            return
        ref, cells, rows = getattr(self.x, name), Cells(turned, self.plan.rows), self.plan.rows

        def write(j, _):
            cells[j] = ref[pl.ds(j, rows, stride=rows), :]

        over(rows, write)

    def move_on(self, plane):
        """The last times of a tile are the first ones of the next; `plane` is time-first."""

        def move(n, _):
            plane[n] = plane[self.plan.times + n]

        over(self.plan.past, move)

    def move_back(self, plane):
        """The first times of a tile are the last ones of the one before."""
        past = self.plan.past

        def move(n, _):
            plane[self.plan.times + past - 1 - n] = plane[past - 1 - n]

        over(past, move)


class _Shares:
    def __init__(self, ref, t, at):
        self.ref, self.t, self.at = ref, t, at

    def __getitem__(self, n):
        return self.ref[self.t, n, self.at, :]

    def __setitem__(self, n, value):
        self.ref[self.t, n, self.at, :] = value
