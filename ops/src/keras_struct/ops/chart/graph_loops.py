"""The passes over a chart of `spec.py` as loops of a TensorFlow graph, in float64 and log space.

A slice in a graph may have another size at each turn of a loop, so every width has exactly its
spans and cuts, and one loop serves all widths. Tables are (N + 1, N + 1, B), the batch last:

    by width and start    [w, i]
    by end                [N - w, e]: the right parts of the cuts of a span, from left to right,
                          are rows that follow each other

TensorFlow copies a whole table for a functional update of one row, so rows are written in place.
What a step writes into a table follows, through the data, from all that is read of its cells.

Letters: i start, w width, e = i + w end of a span, u width of the left part of a cut. Rows are
(spans, B), terms are (cuts, spans, B).
"""

from typing import NamedTuple

import tensorflow as tf

from keras_struct.ops.numerics import FORBIDDEN


class Tape(NamedTuple):
    """Logarithms of weights, or their rates.

    Attributes:
        lefts: For every product its left item, by width and start.
        rights: Every item on the right of a product, by end.
        totals: Every product, by width and start.
    """

    lefts: list
    rights: list
    totals: list


class Cuts(NamedTuple):
    """All cuts of the spans of a width, for one product.

    Attributes:
        u: Widths of the left parts, (cuts, 1).
        i: Starts of the spans, (spans,).
        left, right: Logarithms of the parts, or their rates, (cuts, spans, B).
    """

    u: tf.Tensor
    i: tf.Tensor
    left: tf.Tensor
    right: tf.Tensor


class Loops:
    """The loops over one batch.

    Args:
        spec: `Spec` without scored cuts.
        like: Scores of an item by width (W, N, B), float64.
    """

    def __init__(self, spec, like):
        self.spec = spec
        self.n, self.batch = tf.shape(like)[1], tf.shape(like)[2]
        _, n, batch = like.shape
        self.static = [None if n is None else n + 1] * 2 + [batch]

    # Sweeps ------------------------------------------------------------------------------------

    def inside(self, scores, maximum):
        """`Tape`, and the logarithms of the goal by width (N + 1, B)."""

        def product(k, w, tape):
            cuts = self.cuts(tape, k, w)
            return _total(cuts.left + cuts.right, maximum)

        return self._upward(scores, product, FORBIDDEN)

    def rates(self, tape, dscores):
        """`Tape` of rates."""

        def product(k, w, rates):
            d = self.cuts(rates, k, w)
            return tf.reduce_sum(self.shares(tape, k, w) * (d.left + d.right), 0)

        return self._upward(dscores, product, 0.0)[0]

    def outside(self, tape, goal):
        """The probability of every span as each item, by width and start."""
        return self._downward(goal, lambda k, w, p: self.shares(tape, k, w) * p)

    def outside_rates(self, tape, rates, goal):
        """The rates of `outside`."""

        def product(k, w, both):
            p, dp = tf.split(both, 2, axis=-1)
            d, share = self.cuts(rates, k, w), self.shares(tape, k, w)
            q = share * p
            dq = share * dp + q * (d.left + d.right - self.row(rates.totals[k], w))
            return tf.concat([q, dq], -1)

        both = self._downward(tf.concat([goal, tf.zeros_like(goal)], -1), product)
        return [tf.split(x, 2, axis=-1)[1] for x in both]

    def trace(self, tape, goal, noise):
        """1 for every span that one structure uses as each item; noise (W, N + 1, B), or None."""

        def product(k, w, used):
            cuts = self.cuts(tape, k, w)
            terms = cuts.left + cuts.right
            if noise is not None:
                places = cuts.i + cuts.u + self.spec.products[k].gap
                terms += tf.gather(noise[k][w - 1], places)
            terms = tf.concat([tf.zeros_like(used)[None] + 4 * FORBIDDEN, terms], 0)  # never empty
            best = tf.argmax(terms, 0, output_type=tf.int32)
            cut = 1 + tf.range(tf.shape(cuts.u)[0])[:, None, None]
            return tf.where(tf.equal(best, cut), used, tf.zeros_like(used))

        return self._downward(goal, product)

    # Loops -------------------------------------------------------------------------------------

    def _upward(self, scores, product, nothing):
        """From narrow to wide: all items from the rows of the products."""
        spec, n = self.spec, self.n
        scores = dict(zip(spec.scored, scores, strict=True))

        def step(w, tape, goals):
            tape, products = Tape(*map(list, tape)), {}
            for kind, k in spec.order:
                if kind == "product":
                    products[k] = product(k, w, tape)
                    tape.totals[k] = self.put(tape.totals[k], w, products[k])
                    continue
                item = spec.items[k]
                if item.product is None:
                    row = self._wrapped(tape, k, w, nothing)
                else:
                    row = products[item.product]
                if item.unit == 1:
                    row = tf.where(w < 2, tf.zeros_like(row), row)
                if k in scores:
                    row += scores[k][w - 1, : n + 1 - w]
                for j, made in enumerate(spec.products):
                    if made.left == k:
                        first = row[:1] * 0.0 + nothing if made.closed else row[:1]
                        left = tf.concat([first, row[1:]], 0)
                        tape.lefts[j] = self.put(tape.lefts[j], w, left)
                if k in spec.pushed:
                    j = spec.pushed.index(k)
                    tape.rights[j] = self.put(tape.rights[j], n - w, row, w)
                if k == spec.goal:
                    here = tf.equal(tf.range(n + 1)[:, None], w)
                    goals = tf.where(here, row[:1], goals)  # also of no examples
            return w + 1, tape, goals

        def start(item, at):
            table = self.table(nothing)
            empty = tf.zeros_like(table[0])
            return table if spec.items[item].unit != 0 else self.put(table, at, empty)

        tape = Tape(
            [start(p.left, 0) for p in spec.products],
            [start(k, n) for k in spec.pushed],
            [self.table(nothing) for _ in spec.products],
        )
        state = 1, tape, self.table(nothing)[0]
        _, tape, goals = tf.while_loop(lambda w, *_: w <= n, step, state, parallel_iterations=1)
        return tape, goals

    def _wrapped(self, tape, k, w, nothing):
        inner = self.spec.items[k].wraps
        (table, *_) = (
            table
            for table, p in zip(tape.lefts, self.spec.products, strict=True)
            if p.left == inner and not p.closed
        )
        row = table[tf.maximum(w - 2, 0), 1 : self.n + 2 - w]
        return tf.where(w < 2, tf.zeros_like(row) + nothing, row)

    def _downward(self, goal, product):
        """From wide to narrow: what every span gets as each item; `goal` (N + 1, ...) starts."""
        spec = self.spec

        def step(w, got):
            got, into = list(got), dict[int, tf.Tensor]()
            for kind, k in reversed(spec.order):
                if kind == "product":
                    made = spec.products[k]
                    u, i = self.places(k, w)
                    values = product(k, w, into[k])
                    got[made.left] = _add(got[made.left], u, i, values)
                    got[made.right] = _add(
                        got[made.right], w - made.gap - u, i + u + made.gap, values
                    )
                    continue
                row, item = self.row(got[k], w), spec.items[k]
                if item.product is not None:
                    into[item.product] = into[item.product] + row if item.product in into else row
                else:
                    row = tf.where(w < 2, tf.zeros_like(row), row)
                    u, i = tf.maximum(w - 2, 0)[None, None], 1 + tf.range(self.n + 1 - w)
                    got[item.wraps] = _add(got[item.wraps], u, i, row)
            return w - 1, [tf.ensure_shape(x, static) for x in got]

        size = [self.n + 1, self.n + 1, tf.shape(goal)[1]]
        static = [*self.static[:2], goal.shape[1]]
        got = [
            tf.ensure_shape(tf.raw_ops.Empty(shape=size, dtype=goal.dtype, init=True), static)
            for _ in spec.items
        ]
        places = tf.range(self.n + 1)[:, None]
        got[spec.goal] = _add(got[spec.goal], places, tf.zeros([1], tf.int32), goal)
        return tf.while_loop(lambda w, *_: w > 0, step, (self.n, got), parallel_iterations=1)[1]

    # Spans of a width --------------------------------------------------------------------------

    def table(self, fill):
        size = [self.n + 1, self.n + 1, self.batch]
        empty = tf.raw_ops.Empty(shape=size, dtype=tf.float64)
        rows = tf.fill(size, tf.constant(fill, tf.float64))
        full = tf.raw_ops.InplaceUpdate(x=empty, i=tf.range(self.n + 1), v=rows)
        return tf.ensure_shape(full, self.static)

    def row(self, table, w):
        return table[w, : self.n + 1 - w]

    def put(self, table, at, row, before=0):
        """A table with another row, whose first cells are not used."""
        padded = tf.pad(row, [[before, self.n + 1 - before - tf.shape(row)[0]], [0, 0]])
        return tf.raw_ops.InplaceUpdate(x=table, i=[at], v=padded[None])

    def _range(self, k, w):
        """Least width of the left part, and one more than the greatest."""
        p, items = self.spec.products[k], self.spec.items
        least = [0 if items[item].unit == 0 else 1 for item in (p.left, p.right)]
        return least[0], w - p.gap - least[1] + 1

    def places(self, k, w):
        first, end = self._range(k, w)
        return tf.range(first, end)[:, None], tf.range(self.n + 1 - w)

    def cuts(self, tape, k, w):
        p, (first, end) = self.spec.products[k], self._range(k, w)
        left = tape.lefts[k][first:end, : self.n + 1 - w]
        shift = self.n - w + p.gap
        right = tape.rights[self.spec.pushed.index(p.right)][shift + first : shift + end, w:]
        u, i = self.places(k, w)
        return Cuts(u, i, left, right)

    def shares(self, tape, k, w):
        """Of every cut in its product; above 1 only by rounding, or where no structure exists."""
        cuts = self.cuts(tape, k, w)
        terms = cuts.left + cuts.right - self.row(tape.totals[k], w)
        return tf.exp(tf.minimum(terms, 0.0))


def _total(terms, maximum):
    """Logarithm of the sum over cuts, or their maximum."""
    peak = tf.maximum(tf.reduce_max(terms, 0), 2 * FORBIDDEN)
    if maximum:
        return peak
    return peak + tf.math.log(tf.maximum(tf.reduce_sum(tf.exp(terms - peak), 0), 1.0))


def _add(table, w, i, values):
    """A table with values at [w, i], where the places broadcast to (cuts, spans)."""
    shape = tf.shape(table)
    places = tf.reshape(w * shape[1] + i, [-1])
    values = tf.reshape(values, [tf.size(places), shape[2]])
    flat = tf.reshape(table, [shape[0] * shape[1], shape[2]])
    return tf.reshape(tf.raw_ops.InplaceAdd(x=flat, i=places, v=values), shape)
