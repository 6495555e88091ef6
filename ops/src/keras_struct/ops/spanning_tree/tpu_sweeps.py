"""The Pallas kernels of spanning trees: elimination of 128 examples side by side (`recurrence.md`).

Place k is eliminated when it is the last of those that are left, so what is left is a leading
block; where its pivot is 0, a place before it changes places with it. Lines have the root first,
then all places; after them, up to a whole number of registers, nothing. References:

    limits     the longest length of every block, in SMEM
    lengths    (1, LANES)
    weights    (2, N width, LANES) m and e of the weights, line by line
    m, e       (N width, LANES) what is left of them; going back, m are probabilities
    swaps      (N, LANES) which place changed places with k
    pivots     (2, N, LANES) m and e
    share      (.., LANES) the part of every arc that goes through k, for k from the last to the
               first: k lines, without the registers in which no place before k is, so that what is
               behind the end of a line is the begin of the next one
    choice     (N width, LANES) the weights of the pivot's terms
    out        (2, width, LANES) m and e of the line of place k over its pivot
    zeros      (width, LANES)
"""

from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl

from keras_struct.ops import scaled
from keras_struct.ops.pallas import power_of_two
from keras_struct.ops.pallas_tpu import LANES, SUBLANES
from keras_struct.ops.scaled import EMPTY
from keras_struct.ops.spanning_tree.pallas_tpu import kept_width, width_of


class Elimination:
    """One block of examples.

    Args:
        n: Words.
        single_root: As in the spec.
        op: "logsumexp" or "max".
        x: Namespace of references.
    """

    def __init__(self, n, single_root, op, x):
        self.n, self.single_root, self.op, self.x = n, single_root, op, x
        self.width = width_of(n)
        self.columns = lax.broadcasted_iota(jnp.int32, (self.width, LANES), 0)
        self.limit = x.limits[0, 0]

    def line(self, i):
        return pl.ds(pl.multiple_of(i * self.width, SUBLANES), self.width)

    def place(self, i, column):
        return pl.ds(i * self.width + column, 1)

    def counts(self, k, last):
        """The columns up to `last` of which the pivot of the places left with k is the sum."""
        first = jnp.where(k > 0, 1, 0) if self.single_root else 0
        return (self.columns <= last) & (self.columns >= first)

    def eliminate(self, keep):
        """All pivots, from the last place to the first; with `keep`, shares and choices, too.

        Returns the end of the shares.
        """
        x = self.x

        def copy(i, _):
            at = self.line(i)
            x.m[at, :], x.e[at, :] = x.weights[0, at, :], x.weights[1, at, :]

        lax.fori_loop(0, self.n, copy, None)
        x.pivots[0] = jnp.ones_like(x.pivots[0])
        x.pivots[1] = jnp.zeros_like(x.pivots[1])
        return lax.fori_loop(
            0, self.limit, lambda t, start: self.step(self.limit - 1 - t, start, keep), jnp.int32(0)
        )

    def step(self, k, start, keep):
        x, here = self.x, pl.ds(k, 1)
        active, counts = x.lengths[...] > k, self.counts(k, k)
        x.swaps[here, :] = jnp.zeros((1, LANES), jnp.int32) + k
        waits = active & ~self.has_head(k, counts)

        @pl.when(_any(waits))
        def _():
            def look(q, _):
                found = waits & self.has_head(q, self.counts(k, k + 1))
                x.swaps[here, :] = jnp.where(found, q, x.swaps[here, :])

            lax.fori_loop(0, k, look, None)
            self.exchange([x.m, x.e], k)

        m, e = x.m[self.line(k), :], x.e[self.line(k), :]
        counts = counts & active
        terms, exponents = jnp.where(counts, m, 0.0), jnp.where(counts, e, EMPTY)
        peak = jnp.max(exponents, 0, keepdims=True)
        terms = terms * power_of_two(exponents - peak)
        pivot = (jnp.max if self.op == "max" else jnp.sum)(terms, 0, keepdims=True)
        x.pivots[0, here, :] = jnp.where(active, pivot, 1.0)
        x.pivots[1, here, :] = jnp.where(active, peak, 0.0)
        exists = (self.columns <= k) & active & (pivot > 0) & (m > 0)
        safe = jnp.where(pivot > 0, pivot, 1.0)
        out = scaled.normalise(jnp.where(exists, m / safe, 1.0), jnp.where(exists, e - peak, 0.0))
        x.out[0], x.out[1] = jnp.where(exists, out.m, 0.0), jnp.where(exists, out.e, EMPTY)
        if keep:
            x.choice[self.line(k), :] = terms / safe

        def add_paths(i, _):
            at, into = self.line(i), self.place(i, k + 1)
            m, e = x.m[at, :], x.e[at, :]
            itself = self.columns == i + 1
            path_m = jnp.where(itself, 0.0, x.m[into, :] * x.out[0])
            path_e = jnp.where(itself, EMPTY, x.e[into, :] + x.out[1])
            peak = jnp.maximum(e, path_e)
            direct, through = m * power_of_two(e - peak), path_m * power_of_two(path_e - peak)
            total = jnp.maximum(direct, through) if self.op == "max" else direct + through
            # Mantissas stay between 1/2 and 2.
            change = jnp.where(total > 2.0, 2.0, jnp.where(total < 0.5, -2.0, 0.0))
            x.m[at, :] = total * jnp.where(change > 0, 0.25, jnp.where(change < 0, 4.0, 1.0))
            x.e[at, :] = peak + change
            if keep:
                share = through / jnp.where(total > 0, total, 1.0)
                x.share[self.share(k, start, i), :] = share

        lax.fori_loop(0, k, add_paths, None)
        return start + k * kept_width(k)

    def share(self, k, start, i):
        return pl.ds(pl.multiple_of(start + i * kept_width(k), SUBLANES), self.width)

    def has_head(self, i, counts):
        found = jnp.where(counts, self.x.m[self.line(i), :], 0.0)
        return jnp.max(found, 0, keepdims=True) > 0

    def exchange(self, planes, k):
        """Place k and that in `swaps` change places."""
        swap = self.x.swaps[pl.ds(k, 1), :]

        def one(q, _):
            here = swap == q

            def change(plane, this, other):
                a, b = plane[this, :], plane[other, :]
                plane[this, :], plane[other, :] = jnp.where(here, b, a), jnp.where(here, a, b)

            def column(i, _):
                for plane in planes:
                    change(plane, self.place(i, q + 1), self.place(i, k + 1))

            def lines_and_columns():
                for plane in planes:
                    change(plane, self.line(q), self.line(k))
                lax.fori_loop(0, k + 1, column, None)

            pl.when(_any(here))(lines_and_columns)

        lax.fori_loop(0, k, one, None)


def forward(n, single_root, op, x):
    """Pivots."""
    Elimination(n, single_root, op, x).eliminate(False)


def backward(n, single_root, x):
    """Probabilities: every place comes back, from the first to the last."""
    run = Elimination(n, single_root, "logsumexp", x)
    end = run.eliminate(True)
    x.zeros[...] = jnp.zeros_like(x.zeros[...])

    def clear(i, _):
        x.m[run.line(i), :] = x.zeros[...]

    lax.fori_loop(run.limit, n, clear, None)

    def come_back(k, end):
        start = end - k * kept_width(k)

        def take(i, out):
            at = run.line(i)
            p = x.m[at, :]
            share = x.share[run.share(k, start, i), :]
            through = jnp.where(run.columns <= k, p * share, 0.0)
            x.m[at, :] = p - through
            x.m[run.place(i, k + 1), :] = jnp.sum(through, 0, keepdims=True)
            return out + through

        out = lax.fori_loop(0, k, take, x.zeros[...])
        rest = 1.0 - jnp.sum(out, 0, keepdims=True)
        heads = jnp.maximum(out + x.choice[run.line(k), :] * rest, 0.0)
        total = jnp.sum(heads, 0, keepdims=True)
        x.m[run.line(k), :] = heads / jnp.where(total > 0, total, 1.0)
        moved = x.swaps[pl.ds(k, 1), :] != k
        pl.when(_any(moved))(lambda: run.exchange([x.m], k))
        return start

    lax.fori_loop(0, run.limit, come_back, end)


def _any(mask):
    return jnp.max(jnp.where(mask, 1.0, 0.0)) > 0
