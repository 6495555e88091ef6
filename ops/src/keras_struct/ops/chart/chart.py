"""The inside pass of a chart, and what the other passes read from it.

All spans of a width are computed at once. At width w, the left parts that start at i are rows of a
table that stays, and the right parts that end where the span ends are a frame that moves,
`right[r, i] = X[w - 1 - r, i + 1 + r]`: from one width to the next it moves by one row and one
column, so that no index depends on data, and a product is `sum_r left[r] * right[r]`. The column
that falls off the frame is kept: the passes from wide to narrow put it on again.

Rows are (B, N): all spans of one width, by their start. Arrays of rows are (W, B, N), W = N.
"""

from typing import Any

from keras import ops

from keras_struct.ops import array, scaled
from keras_struct.ops.chart.loop import scan_widths
from keras_struct.ops.scaled import EMPTY, Scaled


class Chart:
    """The chart of one call.

    Args:
        spec: `Spec`.
        scores: For every scored item, its log-scores by width (B, W, N).
        cuts: For every scored product, the log-scores of its cuts (B, W, N, N).
    """

    def __init__(self, spec, scores, cuts):
        self.spec = spec
        self.scores = dict(zip(spec.scored, map(_read, scores), strict=True))
        cuts = map(_read, cuts)
        self.cuts = [next(cuts) if p.scored else None for p in spec.products]
        like = scores[0]
        self.n = ops.shape(like)[1]
        self.zeros = ops.zeros_like(like[:, 0])
        self.frame = ops.zeros_like(like)
        self.nothing = Scaled(self.zeros, self.zeros + EMPTY)
        self.one = Scaled(self.zeros + 1.0, self.zeros)
        self.times = ops.arange(1, self.n + 1, dtype="int32")

    def table(self):
        """A new table or frame (B, N, N) of nothing; the loops may write into it."""
        return Scaled(self.frame + 0.0, self.frame + EMPTY)

    def inside(self, reduce):
        """Products (W, B, N), and for each item on the right the lost columns (W, B, N, 1)."""
        spec = self.spec

        def step(state, x):
            lefts, rights, last, wrapped = state
            time, scores, cuts = x
            lefts = put_lefts(spec, lefts, last, time, 1)
            products, items = [None] * len(spec.products), [None] * len(spec.items)
            for kind, k in spec.order:
                if kind == "product":
                    terms = self.terms(k, lefts[k], rights, cuts)
                    products[k] = scaled.raw_total(terms, 1, reduce)
                    if spec.edge(k) is not None:
                        edge = items[spec.edge(k)]
                        products[k] = scaled.raw_add(products[k], edge, reduce is array.max)
                    continue
                wraps = spec.items[k].product is None
                inner = shift(wrapped[0]) if wraps else products[spec.items[k].product]
                items[k] = self.item(k, inner, time, scores)
                lefts = put_lefts(spec, lefts, items, time, 0, only=k)
            lost = [x.map(lambda a, _: a[:, :, :1]) for x in rights]
            rights = [push(x, shift(items[k])) for k, x in zip(spec.pushed, rights, strict=True)]
            wrapped = [*wrapped[1:], items[spec.wrapped]] if wrapped else []
            return (lefts, rights, items, wrapped), (products, lost)

        starts = [self.start(k) for k in range(len(spec.items))]
        state = (
            [self.table() for _ in spec.products],
            self.first_frames(),
            starts,
            [] if spec.wrapped is None else [self.nothing, starts[spec.wrapped]],
        )
        column = self.table().map(lambda x, _: x[:, :, :1])
        like = ([self.nothing for _ in spec.products], [column for _ in spec.pushed])
        xs = (self.times, self.scores, self.cuts)
        _, outputs = scan_widths(self.n, lambda part: step, state, xs, like)
        return outputs

    def terms(self, k, left, rights, cuts):
        """The terms of a product at one width, (B, N, N)."""
        spec = self.spec
        terms = scaled.times(left, rights[spec.pushed.index(spec.products[k].right)])
        return terms if cuts[k] is None else scaled.times(terms, cuts[k])

    def item(self, k, inner, time, scores):
        """An item at one width (or at all), from its product or from what it wraps.

        Only items are normalised: a product has the exponent of its largest term, so that its cuts
        have shares whose sum is 1, however few digits the exponents have.
        """
        if self.spec.items[k].unit == 1:
            first = ops.equal(time, 1)
            one = Scaled(ops.ones_like(inner.m), ops.zeros_like(inner.e))
            inner = _map(lambda a, b, _: array.where(first, a, b), one, inner)
        return scaled.normalise(*(scaled.times(inner, scores[k]) if k in scores else inner))

    def start(self, item):
        """Spans of width 0."""
        return self.one if self.spec.items[item].unit == 0 else self.nothing

    def first_frames(self):
        """The frames of width 1, where the right parts have width 0."""
        return [push(self.table(), self.start(k)) for k in self.spec.pushed]

    # Read from the products -----------------------------------------------------------------

    def items(self, products):
        """Every item (W, B, N)."""
        every = ops.reshape(self.times, (-1, 1, 1))
        found: list[Any] = [None] * len(self.spec.items)
        for k, item in enumerate(self.spec.items):
            if item.wraps is None:
                found[k] = self.item(k, products[item.product], every, self.scores)
        for k, item in enumerate(self.spec.items):
            if item.wraps is not None:
                parts = zip(self.nothing, self.start(item.wraps), found[item.wraps], strict=True)
                late = (ops.concatenate([a[None], b[None], x], 0)[: self.n] for a, b, x in parts)
                inner = shift(Scaled(*late))
                found[k] = self.item(k, inner, every, self.scores)
        return found

    def edges(self, items):
        """For each product the item that is one by itself, or None."""
        edges = [self.spec.edge(k) for k in range(len(self.spec.products))]
        return [None if edge is None else items[edge] for edge in edges]

    def lefts(self, items):
        """The left table of every product, complete, (B, N, N)."""
        starts = [self.start(k) for k in range(len(items))]
        return left_tables(self.spec, items, starts, self.times)

    def log_partition(self, products, lengths):
        """A pair (B,), see `scaled.to_log_pair`."""
        goal = self.items(products)[self.spec.goal]
        last = self.is_last(lengths)
        high, low = scaled.to_log_pair(goal.map(lambda x, _: x[:, :, 0]))
        zero = ops.zeros_like(high)
        return tuple(array.sum(array.where(last, x, zero), 0) for x in (high, low))

    def is_last(self, lengths):
        """(W, B): whether the width is the length."""
        return ops.equal(self.times[:, None], lengths)


def put_lefts(spec, lefts, rows, time, gap, only=None, fill=0):
    """Left tables with the rows of the products that have this gap (and this left item)."""
    new = []
    for p, table in zip(spec.products, lefts, strict=True):
        if p.gap == gap and only in (None, p.left):
            row = _close(rows[p.left], time - gap, fill) if p.closed else rows[p.left]
            table = _map(lambda x, y, _: array.put_row(x, time - 1, y), table, row)
        new.append(table)
    return new


def left_tables(spec, items, starts, times):
    """What `put_lefts` has written after the last width, (B, N, N)."""
    tables = []
    for p in spec.products:
        rows = items[p.left]
        if p.gap:
            rows = _map(
                lambda a, b, _: ops.concatenate([a[None], b[:-1]], axis=0), starts[p.left], rows
            )
        if p.closed:
            rows = _close(rows, ops.reshape(times, (-1, 1, 1)) - p.gap)
        tables.append(swap(rows))
    return tables


def _close(row, width, fill=0):
    """A row without its spans at start 0, unless their width is 0."""
    whole = row.m if isinstance(row, Scaled) else row
    first = ops.equal(ops.arange(ops.shape(whole)[-1], dtype="int32"), 0)
    dead = ops.logical_and(first, width > 0)
    return _map(lambda x, fill: array.where(dead, ops.zeros_like(x) + fill, x), row, fill=fill)


def shift(row, fill=0):
    """`row[i + 1]` at i, nothing at the end."""
    return _map(_shift, row, fill=fill)


def unshift(row):
    """`row[i - 1]` at i, 0 at the start: the transpose of `shift`."""
    return array.concatenate([ops.zeros_like(row[..., :1]), row[..., :-1]], -1)


def push(frame, row, fill=0):
    """The frame of the next width; `row` holds its right parts of the full width less one."""

    def forth(x, y, fill):
        return array.concatenate([y[:, None], _shift(x[:, :-1], fill)], 1)

    return _map(forth, frame, row, fill=fill)


def pull(frame, lost):
    """The frame of the width before: the inverse of `push`, given the lost column."""

    def back(x, column, fill):
        end = ops.zeros_like(x[:, :1]) + fill
        moved = array.concatenate([x[:, 1:], end], 1)[:, :, :-1]
        return array.concatenate([column, moved], 2)

    return _map(back, frame, lost)


def swap(x):
    """Batch axis first to width first, or back."""
    return _map(lambda y, _: ops.swapaxes(y, 0, 1), x)


def _map(function, *xs, fill=0):
    """`function(*arrays, fill)` on arrays, or on both arrays of `Scaled` with their own fill."""
    if isinstance(xs[0], Scaled):
        return Scaled(function(*(x.m for x in xs), 0), function(*(x.e for x in xs), EMPTY))
    return function(*xs, fill)


def _shift(x, fill):
    return array.concatenate([x[..., 1:], ops.zeros_like(x[..., :1]) + fill], -1)


def _read(scores):
    return swap(scaled.from_log(scores))
