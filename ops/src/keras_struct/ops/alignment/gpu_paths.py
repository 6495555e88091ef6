"""Where paths end and how they came there, on a GPU under JAX: they read messages from the tape.

References are flat and have one pair, see `gpu_strip.py`; those of paths have their number last.
"""

from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl

from keras_struct.ops.alignment.gpu_strip import int32, iota, largest, named
from keras_struct.ops.alignment.paths import CELL, MOVE
from keras_struct.ops.exact_sum import two_sum
from keras_struct.ops.messages import join
from keras_struct.ops.noise import Draws
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE

_IMPOSSIBLE = 4 * FORBIDDEN


class Nodes:
    """The messages of a pair, by node.

    Args:
        gpu: The `PallasGPU` that calls the kernel.
        cut: The `Cut`.
        x: References.
    """

    def __init__(self, gpu, cut, x):
        self.gpu, self.cut, self.plan, self.x = gpu, cut, cut.plan, x
        self.n1, self.n2 = x.lengths[0], x.lengths[1]
        self.dtype = x.tape.dtype
        self.block = cut.block_of_ends

    @property
    def end_states(self):
        return range(1 if self.plan.spec.end == "anywhere" else self.plan.states)

    def message(self, i, j, state, legal):
        """High and low of nodes in states, forbidden where they are not legal."""
        plan = self.plan
        row = lax.div(i, jnp.full_like(i, plan.rows))
        k = lax.div(row, jnp.full_like(i, plan.lanes))
        lane, row = row - k * plan.lanes, i - row * plan.rows
        at = (k * self.cut.times + j + lane) * plan.step(2) + lane
        at = at + (row * plan.states + state) * 2 * plan.lanes
        high = self.gpu.load(self.x.tape, at, legal, FORBIDDEN)
        return high, self.gpu.load(self.x.tape, at + plan.lanes, legal, 0.0)

    def at_time(self, t, number):
        """Nodes of a time where paths may end, a block of them: rows, columns, which there are."""
        lane = iota(self.block)
        if self.plan.spec.end == "border":  # in the last row, and in the last column
            i = jnp.where(lane == 0, jnp.minimum(self.n1, t), t - self.n2)
            legal = jnp.where(lane == 0, self.n1 <= t, (i >= 0) & (i < self.n1))
        else:
            i = number * self.block + lane + jnp.maximum(t - self.n2, 1)
            legal = i <= self.n1
        j = t - i
        return i, j, legal & (i > 0) & (i <= self.n1) & (j > 0) & (j <= self.n2)

    def over(self, t, body, carry):
        """`carry = body(carry, i, j, legal)` for the blocks of nodes of a time."""
        if self.plan.spec.end == "border":
            return body(carry, *self.at_time(t, 0))
        count = jnp.minimum(self.n1, t - 1) - jnp.maximum(t - self.n2, 1) + 1
        blocks = lax.div(jnp.maximum(count, 0) + (self.block - 1), int32(self.block))
        return lax.fori_loop(
            int32(0), blocks, lambda n, carry: body(carry, *self.at_time(t, n)), carry
        )


def ends(gpu, cut, op, x):
    """Into `found` (2 * times,) high and low of the log-weight of all paths that end at a time."""
    nodes, t = Nodes(gpu, cut, x), pl.program_id(1)
    nothing = jnp.full((nodes.block,), FORBIDDEN, nodes.dtype)

    def highest(most, i, j, legal):
        for state in nodes.end_states:
            most = jnp.maximum(most, nodes.message(i, j, state, legal)[0])
        return most

    peak = jnp.max(nodes.over(t, highest, nothing))

    def summed(carry, i, j, legal):
        top, total = carry
        for state in nodes.end_states:
            high, low = nodes.message(i, j, state, legal)
            logit = (high - peak) + low
            higher = jnp.maximum(top, logit)
            if op == "logsumexp":
                total = total * gpu.exp(top - higher) + gpu.exp(logit - higher)
            top = higher
        return top, total

    top, total = nodes.over(t, summed, (nothing, jnp.zeros_like(nothing)))
    rest = jnp.max(top)
    if op == "logsumexp":
        every = jnp.sum(total * gpu.exp(top - rest))
        rest = rest + jnp.log(jnp.where(every > 0, every, jnp.ones_like(every)))
    high, low = join(peak, rest)
    possible, zero = peak > INFEASIBLE, jnp.zeros_like(peak)
    x.found[t] = jnp.where(possible, high, zero + FORBIDDEN)
    x.found[1 + cut.rows + cut.columns + t] = jnp.where(possible, low, zero)


def last_nodes(gpu, cut, noisy, x):
    """Of the time `times` (n,) of the end of a path its node, into `nodes` (3 n,): i, j and state,
    -1 where there is none. `pairs` (2 n,) are high and low of the log-weight of all paths that end
    then, `keys` (2 n,) words of its noise."""
    nodes, path, count = Nodes(gpu, cut, x), pl.program_id(1), x.times.shape[0]
    t = x.times[path]
    high_of_all, low_of_all = x.pairs[path], x.pairs[count + path]
    draws = Draws((x.keys[path], x.keys[count + path]))
    nothing = jnp.full((nodes.block,), -1, int32)
    best = jnp.full((nodes.block,), 2 * _IMPOSSIBLE, nodes.dtype), nothing, nothing

    for state in nodes.end_states:

        def better(best, i, j, legal, state=state):
            high, low = nodes.message(i, j, state, legal)
            logit = (high - high_of_all) + (low - low_of_all)
            if noisy:
                logit = logit + draws.gumbel(CELL, state * (cut.rows + 1) + i, nodes.dtype.name)
            better = legal & (high > INFEASIBLE) & (logit > best[0])
            new = logit, i, jnp.full_like(i, state)
            return tuple(jnp.where(better, x, y) for x, y in zip(new, best, strict=True))

        best = nodes.over(t, better, best)
    logit, i, state = best
    none = int32(1 << 30)
    first = (logit == jnp.max(logit)) & (i >= 0)
    place = jnp.min(jnp.where(first, state * (cut.rows + 1) + i, none))
    state = lax.div(place, int32(cut.rows + 1))
    i = place - state * (cut.rows + 1)
    for n, number in enumerate((i, t - i, state)):
        x.nodes[n * count + path] = jnp.where(place < none, number, -1).astype(int32)


def score_at(gpu, cut, theta, form, i, j, legal):
    """A potential at nodes; no cell is above or left of the first."""
    at = jnp.zeros_like(i)
    if form.rows:
        at = jnp.maximum(i - 1, 0)
    if form.columns:
        at = at * cut.columns + jnp.maximum(j - 1, 0)
    if form.cell:
        return gpu.load(theta, at, legal & (i > 0) & (j > 0), FORBIDDEN)
    return gpu.load(theta, at, legal, 0.0)


def walk(gpu, cut, noisy, block, x):
    """Paths back from their last nodes, `nodes` (3 n,), a block of them in this program: positions,
    into `places` (times * n,), which are -1."""
    nodes, plan, spec = Nodes(gpu, cut, x), cut.plan, cut.plan.spec
    count = x.nodes.shape[0] // 3
    number = pl.program_id(1) * block + iota(block)
    everywhere = number >= 0
    i, j, state = (gpu.load(x.nodes, n * count + number, everywhere, 0) for n in range(3))
    words = (gpu.load(x.keys, n * count + number, everywhere, 0) for n in range(2))
    draws, thetas = Draws(tuple(words)), named(x, "theta", plan.channels)

    def step(_, node):
        i, j, state = node
        here, time = i >= 0, i if spec.by_rows else i + j
        gpu.store(x.places, time * count + number, j if spec.by_rows else i, here)
        terms, zeros = [], jnp.zeros((block,), nodes.dtype)
        for move in spec.moves:
            high, low = zeros, zeros
            if move.source >= 0:
                before = i - move.di, j - move.dj
                legal = here & (before[0] >= 0) & (before[1] >= 0)
                high, low = nodes.message(*before, move.source, legal)
            if move.channel is not None:
                theta, form = thetas[move.channel], plan.forms[move.channel]
                high, error = two_sum(high, score_at(gpu, cut, theta, form, i, j, here))
                low = low + error
            terms.append((state == move.target, high, low))
        peak = largest([jnp.where(fits, high, zeros + _IMPOSSIBLE) for fits, high, _ in terms])
        best, chosen = zeros + 2 * _IMPOSSIBLE, [jnp.zeros_like(i)] * 3
        for m, (move, (fits, high, low)) in enumerate(zip(spec.moves, terms, strict=True)):
            logit = jnp.where(fits, (high - peak) + low, zeros + _IMPOSSIBLE)
            if noisy:
                place = (time - 1) * len(spec.moves) + m
                logit = logit + draws.gumbel(MOVE, place, nodes.dtype.name)
            better = logit > best
            best = jnp.where(better, logit, best)
            step = move.di, move.dj, move.source
            chosen = [jnp.where(better, int32(x), y) for x, y in zip(step, chosen, strict=True)]
        done = state < 0 if spec.start == "anywhere" else i + j == 0
        if spec.start == "border":
            done = (i == 0) | (j == 0)
        gone = done | (i < chosen[0]) | (j < chosen[1])
        i, j = (jnp.where(gone, int32(-1), x - dx) for x, dx in ((i, chosen[0]), (j, chosen[1])))
        return i, j, chosen[2]

    steps = jnp.max(jnp.where(i >= 0, i + j, int32(-1))) + 1
    lax.fori_loop(int32(0), steps, step, (i, j, state))
