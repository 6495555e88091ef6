"""The sweeps of alignments on a GPU under JAX, by strips (see `gpu_plan.py` and recurrence.md).

A program does one pair, strip by strip; or, if the cut has tiles, one tile of a strip, of those
that a launch (`wave`) may do at once: tile c of strip k where 2 k + c is the wave. `wave` (1,) is a
reference beside those of `gpu_strip.py`; what the sweeps write is said where they do.
"""

from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl

from keras_struct.ops.alignment.gpu_strip import Strip, int32, named
from keras_struct.ops.numerics import FORBIDDEN


def extent(cut, x):
    """Strips of this program, the first one and the one after the last, and its times."""
    plan, n1, n2 = cut.plan, x.lengths[0], x.lengths[1]
    stop, end = lax.div(n1, int32(plan.height)) + 1, n2 + plan.lanes
    if cut.size is None:
        return int32(0), stop, int32(0), end
    first = pl.program_id(1)
    tile = x.wave[0] - 2 * first
    known = (tile >= 0) & (tile < cut.tiles) & (first < stop)
    begin = jnp.where(known, tile, 0) * cut.size
    end = jnp.where(known, jnp.minimum(end, begin + cut.size), begin)
    return first, first + known.astype(int32), begin, end


def forward(gpu, cut, op, x):
    """All messages, on `tape`."""
    first, stop, begin, end = extent(cut, x)

    def strip(k, _):
        s = Strip(gpu, cut, x, k)
        plan, thetas = s.plan, named(x, "theta", s.plan.channels)

        def step(t, old):
            new, scores = s.halo_of(old, x.tape, t, 2), s.scores(thetas, t, FORBIDDEN)
            at = s.place(t, 2) + s.lane
            for row in range(plan.rows):
                for state in range(plan.states):
                    high, low, _ = s.node(state, row, new, old, scores, op)
                    pair = s.begun(high, low, state, row, t)
                    for part in range(2):
                        gpu.store(x.tape, at + s.number(row, state, part, 2), pair[part])
                    new += pair
            return new + old[: (plan.reach - 1) * plan.column(2)]

        lax.fori_loop(begin, end, step, s.columns_before(x.tape, begin, 2))
        gpu.barrier()  # the next strip reads the last rows of this one

    lax.fori_loop(first, stop, strip, None)


def tangent(gpu, cut, x):
    """Tangents of all messages, on `dtape`, and that of the log-partition by strips, added to
    `dend` (strips,)."""
    first, stop, begin, end = extent(cut, x)

    def strip(k, _):
        s = Strip(gpu, cut, x, k)
        plan = s.plan
        thetas, dthetas = (named(x, name, plan.channels) for name in ("theta", "dtheta"))

        def step(t, carry):
            old, dold, moved = carry
            new, scores = s.halo_of(old, x.tape, t, 2), s.scores(thetas, t, FORBIDDEN)
            dnew, dscores = s.halo_of(dold, x.dtape, t, 1), s.scores(dthetas, t, 0.0)
            at = s.place(t, 1) + s.lane
            for row in range(plan.rows):
                for state in range(plan.states):
                    high, low, weights = s.node(state, row, new, old, scores, "logsumexp")
                    high, low = s.begun(high, low, state, row, t)
                    rates = s.rates(state, row, dnew, dold, dscores)
                    rate = s.inner(weighted(weights, rates), row, t)
                    moved += s.end_weight(high, low, state, row, t) * rate
                    gpu.store(x.dtape, at + s.number(row, state, 0, 1), rate)
                    new, dnew = (*new, high, low), (*dnew, rate)
            new += old[: (plan.reach - 1) * plan.column(2)]
            return new, dnew + dold[: (plan.reach - 1) * plan.column(1)], moved

        before = (s.columns_before(tape, begin, n) for tape, n in ((x.tape, 2), (x.dtape, 1)))
        *_, moved = lax.fori_loop(begin, end, step, (*before, s.zeros()))
        x.dend[k] = x.dend[k] + jnp.sum(moved)
        gpu.barrier()

    lax.fori_loop(first, stop, strip, None)


def weighted(weights, rates):
    terms = [weight * rate for weight, rate in zip(weights, rates, strict=True)]
    return sum(terms[1:], terms[0])


def backward(gpu, cut, rate, x):
    """Marginals, into `grad0`, `grad1`, ... (see `Cut.sums`), which are zeros; with `rate` the
    tangents of marginals.

    Probabilities of nodes, and with `rate` their tangents, wait in registers until their column has
    come; between strips they go through `edges`, between tiles through `carries`.
    """
    first, stop, begin, end = extent(cut, x)

    def strip(turn, _):
        s = Back(gpu, cut, x, stop - 1 - turn, rate)
        plan, parts = s.plan, s.parts
        sizes = plan.pending(parts), plan.leaving(parts), plan.sums
        near = s.columns_before(x.tape, end, 2)
        dnear = s.columns_before(x.dtape, end, 1) if rate else ()
        waiting = s.read_carries(sizes)

        def step(n, carry):
            near, dnear, waiting = carry
            t = end - 1 - n
            near += s.column(x.tape, t - plan.reach, 2)
            if rate:
                dnear += s.column(x.dtape, t - plan.reach, 1)
            waiting = s.step(t, near, dnear, *waiting)
            return near[plan.column(2) :], dnear[plan.column(1) :], waiting

        *_, waiting = lax.fori_loop(int32(0), end - begin, step, (near, dnear, waiting))
        if cut.size is None:
            s.flush(waiting[2])
        else:
            s.write_carries(waiting)
            pl.when(begin == 0)(lambda: s.flush(waiting[2]))
        gpu.barrier()  # the next strip reads what this one has written into `edges`

    lax.fori_loop(int32(0), stop - first, strip, None)


class Back(Strip):
    """A strip on the way back.

    Args:
        gpu, cut, x, k: Of `Strip`.
        rate: Whether tangents go back, too.
    """

    def __init__(self, gpu, cut, x, k, rate):
        super().__init__(gpu, cut, x, k)
        self.rate, self.parts = rate, 2 if rate else 1
        self.thetas, self.grads = (named(x, n, self.plan.channels) for n in ("theta", "grad"))
        self.dthetas = named(x, "dtheta", self.plan.channels) if rate else []

    def step(self, t, near, dnear, pending, leaving, sums):
        """A column back; what then waits for others."""
        plan, parts = self.plan, self.parts
        size, dsize = plan.column(2), plan.column(1)
        new, old, dnew, dold = near[:size], near[size:], dnear[:dsize], dnear[dsize:]
        scores = self.scores(self.thetas, t, FORBIDDEN)
        dscores = self.scores(self.dthetas, t, 0.0) if self.rate else []
        pending = [*pending, *[self.zeros()] * plan.column(parts)]
        self.arrived(pending, leaving, t)
        sums = list(sums)
        last = self.lane == plan.lanes - 1
        for c in self.channels("column"):  # moves up with its column
            at = plan.sum_at(c)
            sums[at] = jnp.where(last, self.zeros(), self.below(sums[at]))
        for row in reversed(range(plan.rows)):
            given = self.row_back(row, t, new, old, dnew, dold, scores, dscores, pending)
            self.give(row, t, given, sums)
        j = t - self.lane
        for c in self.channels("column"):
            legal = (self.lane == 0) & (j >= 0) & (j <= self.n2)
            at = self.k * (self.cut.columns + 1) + j
            self.gpu.store(self.grads[c], at, sums[plan.sum_at(c)], legal)
        leaving = self.departed(pending, t)
        return tuple(pending[plan.column(parts) :]), leaving, tuple(sums)

    def channels(self, kind):
        return [c for c in range(self.plan.channels) if self.plan.kind(c) == kind]

    def edge(self, k, t):
        """Where `edges` (strips, halo, S, parts, L2 + 1) has the columns of a time."""
        numbers = self.plan.leaving(self.parts)
        return k * numbers * (self.cut.columns + 1) + t - self.lane

    def leaving_places(self):
        """Row, state and part of what leaves a lane, and its number."""
        plan, parts = self.plan, self.parts
        for row in range(plan.halo):
            for state in range(plan.states):
                for part in range(parts):
                    yield row, state, part, plan.halo_at(row, state, part, parts)

    def arrived(self, pending, leaving, t):
        """Adds what the lane below had taken from the last rows; below the last lane, the strip
        below had."""
        plan, j = self.plan, t - self.lane
        last = self.lane == plan.lanes - 1
        strips = lax.div(self.n1, int32(plan.height)) + 1
        known = last & (self.k + 1 < strips) & (j >= 0) & (j <= self.n2)
        edge = self.edge(self.k + 1, t)
        for row, state, part, n in self.leaving_places():
            strip_below = self.gpu.load(self.x.edges, edge + n * (self.cut.columns + 1), known, 0.0)
            came = jnp.where(last, strip_below, self.below(leaving[n]))
            pending[plan.at(plan.rows - plan.halo + row, state, part, self.parts)] += came

    def departed(self, pending, t):
        """What a column took from the rows above, for the lane above; of lane 0 into `edges`."""
        plan, j = self.plan, t - self.lane
        known = (self.lane == 0) & (self.k > 0) & (j >= 0) & (j <= self.n2)
        edge, found = self.edge(self.k, t), []
        for row, state, part, n in self.leaving_places():
            p = pending[plan.at(row - plan.halo, state, part, self.parts)]
            self.gpu.store(self.x.edges, edge + n * (self.cut.columns + 1), p, known)
            found.append(p)
        return tuple(found)

    def row_back(self, row, t, new, old, dnew, dold, scores, dscores, pending):
        """One row of a column back: adds to what waits for rows and columns before; returns for
        every channel the probability of its moves into this row (with `rate`, its tangent)."""
        plan, parts = self.plan, self.parts
        given = [self.zeros()] * plan.channels
        for state in range(plan.states):
            _, _, weights = self.node(state, row, new, old, scores, "logsumexp")
            high, low = (new[plan.at(row, state, part, 2)] for part in range(2))
            end_p = self.end_weight(high, low, state, row, t)
            p = self.inner(pending[plan.at(row, state, 0, parts)] + end_p, row, t)
            if self.rate:
                rate = dnew[plan.at(row, state, 0, 1)]
                dp = pending[plan.at(row, state, 1, parts)] + end_p * (rate - self.x.moved[0])
                dp = self.inner(dp, row, t)
                rates = self.rates(state, row, dnew, dold, dscores)
            for m, weight in enumerate(weights):
                used = [weight * p]
                if self.rate:
                    used.append(weight * dp + used[0] * (rates[m] - rate))
                if plan.source(state, m) >= 0:
                    for part, x in enumerate(used):
                        pending[plan.pending_at(state, m, row, part, parts)] += x
                if plan.channel(state, m) >= 0:
                    given[plan.channel(state, m)] += used[-1]
        return given

    def give(self, row, t, given, sums):
        """What the channels get in a row, into its places; adds to sums over places."""
        plan, cut, i, j = self.plan, self.cut, self.i + row, t - self.lane
        for c, (grad, x) in enumerate(zip(self.grads, given, strict=True)):
            kind = plan.kind(c)
            if kind == "cell":
                legal = (j >= 1) & (j <= self.n2) & (i >= 1) & (i <= self.n1)
                self.gpu.store(grad, (i - 1) * cut.columns - 1 + j, x, legal)
            elif kind == "node":
                legal = (j >= 0) & (j <= self.n2) & (i <= self.n1)
                self.gpu.store(grad, i * (cut.columns + 1) + j, x, legal)
            else:
                sums[plan.sum_at(c) + (row if kind == "row" else 0)] += x

    def flush(self, sums):
        """The sums of rows, and those of all places of a strip."""
        for c in self.channels("row"):
            for row in range(self.plan.rows):
                i, x = self.i + row, sums[self.plan.sum_at(c) + row]
                self.gpu.store(self.grads[c], i, x, i <= self.n1)
        for c in self.channels("scalar"):
            self.grads[c][self.k] = jnp.sum(sums[self.plan.sum_at(c)])

    # Between tiles --------------------------------------------------------------------------------

    def read_carries(self, sizes):
        """Groups of vectors, of so many each, that the tile after this one has left."""
        if self.cut.size is None:
            return tuple((self.zeros(),) * size for size in sizes)
        places, everywhere = self.places_of_carries(sizes), self.lane >= 0
        return tuple(
            tuple(self.gpu.load(self.x.carries, at, everywhere, 0.0) for at in group)
            for group in places
        )

    def write_carries(self, groups):
        places = self.places_of_carries([len(group) for group in groups])
        for group, at in zip(groups, places, strict=True):
            for x, place in zip(group, at, strict=True):
                self.gpu.store(self.x.carries, place, x)

    def places_of_carries(self, sizes):
        lanes, found = self.plan.lanes, []
        start = self.k * self.plan.carry(self.parts) * lanes + self.lane
        for size in sizes:
            found.append([start + n * lanes for n in range(size)])
            start = start + size * lanes
        return found
