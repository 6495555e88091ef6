"""The Pallas kernels of spanning trees for GPUs: a program eliminates the words of one sentence.

The steps are those of `triton_sweeps.py`. References of a kernel are flat and attributes of `x`; W
is a power of two that is not below the number N of words, and C(N) = N (N - 1) / 2:

    lengths   (1,), 0 where nothing exists if the kernel goes back
    m, e      (N W,) weights, with the root on the diagonal; going back, m are probabilities
    pivots    (2 N,) m and e
    swaps     (N,) which place changed places with k
    choice    (N W,) the weights of the pivot's terms
    shares    (C(N) W,) the part of every arc that goes through k: k lines for each place k

Lines are worked on by some at a time. A line is stored as a whole: columns that are gone, with what
they held. What one thread has stored, others read after a barrier.
"""

import jax
from jax import lax
from jax import numpy as jnp

from keras_struct.ops.gpu_scaled import normalised, over
from keras_struct.ops.numerics import INFEASIBLE
from keras_struct.ops.pallas import power_of_two
from keras_struct.ops.scaled import EMPTY

int32 = jnp.int32


class Elimination:
    """One sentence.

    Args:
        plan: `gpu_plan.Plan`.
        n: Words.
        kernels: `PallasGPU`, which loads, stores and waits.
        x: References.
        op: "logsumexp" or "max".
    """

    def __init__(self, plan, n, kernels, x, op="logsumexp"):
        self.plan, self.n, self.kernels, self.x, self.op = plan, n, kernels, x, op
        self.limit = x.lengths[0]
        self.width = int32(plan.width)
        shape = plan.lines, plan.width
        self.lane = lax.broadcasted_iota(int32, (plan.width,), 0)
        self.line = lax.broadcasted_iota(int32, (plan.lines,), 0)
        self.column = lax.broadcasted_iota(int32, shape, 1)

    def load(self, ref, at, there, other=0.0):
        return self.kernels.load(ref, at, there, other)

    def over_lines(self, end, body, carry):
        """`body(first line, carry)` of all lines before `end`."""
        size = int32(self.plan.lines)
        count = lax.div(end + size - 1, size)
        return lax.fori_loop(int32(0), count, lambda i, carry: body(i * size, carry), carry)

    def lines(self, first, end):
        """Places of some lines (R,); of their numbers, which exist and where they are (R, W)."""
        i = first + self.line
        at = i[:, None] * self.width + self.column
        return i, jnp.broadcast_to((i < end)[:, None], at.shape), at

    def eliminate(self, k, keep):
        """Take away place k; with `keep`, `come_back` reads its shares and choices."""
        x, lane = self.x, self.lane
        at, before = k * self.width + lane, lane <= k
        counts = before
        if self.plan.single_root:
            counts &= (lane < k) | (k == 0)

        def line(swap):
            e = self.load(x.e, at, before, EMPTY)
            return swap, self.load(x.m, at, before), e, jnp.max(jnp.where(counts, e, EMPTY))

        def wait():
            swap = jnp.maximum(self.with_head(k), 0)
            self.exchange([x.m, x.e], swap, k)
            return line(swap)

        found = line(k)
        swap, m, e, peak = lax.cond(found[3] <= INFEASIBLE, wait, lambda: found)
        terms = jnp.where(counts, m * power_of_two(jnp.minimum(e - peak, 0)), 0.0)
        pivot = jnp.max(terms) if self.op == "max" else jnp.sum(terms)
        self.kernels.store(x.pivots, k, pivot)
        self.kernels.store(x.pivots, self.n + k, peak)
        out_m, out_e = normalised(over(m, pivot), e - peak)
        diagonal = jnp.where(lane == k, out_m, 0.0), jnp.where(lane == k, out_e, 0.0)
        root_m, root_e = map(jnp.sum, diagonal)
        start = self.shares_of(k)
        if keep:
            self.kernels.store(x.swaps, k, swap)
            self.kernels.store(x.choice, at, over(terms, pivot))

        def add_paths(first, carry):
            i, there, at = self.lines(first, k)
            m, e = self.load(x.m, at, there), self.load(x.e, at, there, EMPTY)
            column = i * self.width + k
            into_m, into_e = self.load(x.m, column, i < k), self.load(x.e, column, i < k, EMPTY)
            root = i[:, None] == self.column
            path_m = into_m[:, None] * jnp.where(root, root_m, out_m[None])
            path_e = into_e[:, None] + jnp.where(root, root_e, out_e[None])
            peak = jnp.maximum(e, path_e)
            direct = m * power_of_two(e - peak)
            through = path_m * power_of_two(path_e - peak)
            total = jnp.maximum(direct, through) if self.op == "max" else direct + through
            # Mantissas stay between 1/4 and 2.
            large, left = total > 2.0, self.column < k
            new_m = jnp.where(large, 0.25 * total, total)
            self.kernels.store(x.m, at, jnp.where(left, new_m, m), there)
            new_e = jnp.where(large, peak + 2.0, peak)
            self.kernels.store(x.e, at, jnp.where(left, new_e, e), there)
            if keep:
                share = jnp.where(left, over(through, total), 0.0)
                self.kernels.store(x.shares, start + at, share, there)
            return carry

        self.over_lines(k, add_paths, int32(0))
        self.kernels.barrier()

    def shares_of(self, k):
        """Where the shares of a step begin."""
        return lax.shift_right_logical(k * (k - 1), int32(1)) * self.width

    def with_head(self, k):
        """The last place before k that has a head, or -1."""

        def look(first, found):
            i, there, at = self.lines(first, k)
            counts = there & (self.column <= k)
            if self.plan.single_root:
                counts &= self.column != i[:, None]
            m = self.load(self.x.m, at, counts)
            return jnp.maximum(found, jnp.max(jnp.where(jnp.max(m, 1) > 0, i, -1)))

        return self.over_lines(k, look, int32(-1))

    def exchange(self, planes, q, k):
        """Places q and k change, of those up to k."""
        lane, width = self.lane, self.width
        pairs = (q * width + lane, k * width + lane), (lane * width + q, lane * width + k)
        there = lane <= k
        for one, other in pairs:
            self.kernels.barrier()
            found = [(self.load(x, one, there), self.load(x, other, there)) for x in planes]
            self.kernels.barrier()
            for x, (a, b) in zip(planes, found, strict=True):
                self.kernels.store(x, one, b, there)
                self.kernels.store(x, other, a, there)
        self.kernels.barrier()

    def come_back(self, k):
        """Some arcs turn out to go through place k, which gets its heads."""
        x, lane = self.x, self.lane
        start = self.shares_of(k)
        zeros = jnp.zeros(self.column.shape, x.m.dtype)

        def take(first, carry):
            heads, roots = carry
            i, there, at = self.lines(first, k)
            p = self.load(x.m, at, there)
            left = self.column < k
            through = jnp.where(left, p * self.load(x.shares, start + at, there), 0.0)
            root = i[:, None] == self.column
            into = jnp.sum(through, 1)[:, None]
            p = jnp.where(self.column == k, into, p - through)
            self.kernels.store(x.m, at, p, there)
            return heads + jnp.where(root, 0.0, through), roots + jnp.where(root, through, 0.0)

        heads, roots = self.over_lines(k, take, (zeros, zeros))
        out = jnp.where(lane == k, jnp.sum(roots), jnp.sum(heads, 0))
        at = k * self.width + lane
        choice = self.load(x.choice, at, lane <= k)
        out = jnp.maximum(out + choice * (1.0 - jnp.sum(out)), 0.0)
        self.kernels.store(x.m, at, over(out, jnp.sum(out)))
        swap = x.swaps[k]
        lax.cond(swap != k, lambda: self.exchange([x.m], swap, k), lambda: None)
        self.kernels.barrier()


def forward(plan, n, kernels, op, x):
    """Pivots."""
    run = Elimination(plan, n, kernels, x, op)
    _each(run.limit, lambda t: run.eliminate(run.limit - 1 - t, False))


def backward(plan, n, kernels, x):
    """Probabilities: every place comes back, from the first to the last."""
    run = Elimination(plan, n, kernels, x)
    _each(run.limit, lambda t: run.eliminate(run.limit - 1 - t, True))
    _each(run.limit, run.come_back)


def _each(count, step):
    def body(t, carry):
        step(t)
        return carry

    jax.lax.fori_loop(int32(0), count, body, int32(0))
