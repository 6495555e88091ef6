"""The passes from the whole span down to its parts: what every part gets from those above it.

`descend` moves values; a `Share` says how a span divides what it gets among the cuts of its
product: by posterior probability (`Posterior`), with tangents (`PosteriorRates`), or all to one
cut (`Choice`).
"""

import keras
from keras import ops

from keras_struct.ops import array
from keras_struct.ops.chart.chart import left_tables, pull, push, put_lefts, shift, swap, unshift
from keras_struct.ops.chart.loop import scan, scan_widths
from keras_struct.ops.chart.spec import NOISE_STRIDE
from keras_struct.ops.numerics import FORBIDDEN


class Share:
    """How a product divides what it gets.

    Attributes:
        whole: Whether all widths must be one part (see `loop`).
        starts: What the goal gets, one number for each value that is passed down.
        zeros: A row of zeros (B, N) for each of them.
        state: Its own state before the widest spans.
        xs: What it reads at each width.
    """

    whole = False

    def enter(self, part):
        """Before the loop over a part of the widths (None: over all)."""

    def read(self, state, x):
        """The state at this width, and what `product` needs."""
        raise NotImplementedError

    def product(self, k, p, view):
        """What goes to left parts, to right parts (each: frames (B, N, N), one for each value),
        and to the edge (rows, or None)."""
        raise NotImplementedError


def descend(chart, share, lengths):
    """What every scored item and every scored cut gets.

    Returns:
        For every scored item, its values (W, B, N); for every scored product, (W, B, N, N).
    """
    spec = chart.spec

    def step(state, x):
        left_sums, right_sums, pending, delayed, own = state
        time, goal, x = x
        own, view = share.read(own, x)
        pending[spec.goal] = [
            array.where(goal, ops.zeros_like(p) + s, p)
            for p, s in zip(pending[spec.goal], share.starts, strict=True)
        ]
        into: dict[int, list] = {}
        wraps, cuts = [], []
        for kind, k in reversed(spec.order):
            if kind == "product":
                product = spec.products[k]
                left, right, edge = share.product(k, into[k], view)
                left_sums[k] = _plus(left_sums[k], left)
                j = spec.pushed.index(product.right)
                right_sums[j] = _plus(right_sums[j], right)
                if edge is not None:
                    pending[product.right] = _plus(pending[product.right], edge)
                if product.scored:
                    cuts.append(left)
                continue
            for j, product in enumerate(spec.products):
                if product.gap == 0 and product.left == k:
                    pending[k] = _plus(
                        pending[k], [array.get_row(s, time - 1) for s in left_sums[j]]
                    )
            made = spec.items[k].product
            if made is None:
                wraps = pending[k]
            else:
                into[made] = _plus(into[made], pending[k]) if made in into else pending[k]
        scored = [pending[k] for k in spec.scored]
        # What the next narrower spans get already.
        pending = [[ops.zeros_like(row) for row in rows] for rows in pending]
        for k, sums in zip(spec.pushed, right_sums, strict=True):
            pending[k] = _plus(pending[k], [unshift(s[:, 0]) for s in sums])
        for product, sums in zip(spec.products, left_sums, strict=True):
            if product.gap == 1:
                row = [array.get_row(s, time - 1) for s in sums]
                pending[product.left] = _plus(pending[product.left], row)
        if delayed:
            pending[spec.wrapped] = _plus(pending[spec.wrapped], delayed[0])
            delayed = [[unshift(row) for row in wraps]]
        right_sums = [[pull(s, ops.zeros_like(s[:, :, :1])) for s in sums] for sums in right_sums]
        return (left_sums, right_sums, pending, delayed, own), (scored, cuts)

    frames = [ops.cast(chart.frame, row.dtype) for row in share.zeros]
    state = (
        [frames for _ in spec.products],
        [frames for _ in spec.pushed],
        [share.zeros for _ in spec.items],
        [] if spec.wrapped is None else [share.zeros],
        share.state,
    )
    first = ops.equal(ops.arange(chart.n, dtype="int32"), 0)
    goal = ops.logical_and(chart.is_last(lengths)[:, :, None], first)
    like = ([share.zeros for _ in spec.scored], [frames for p in spec.products if p.scored])

    def make_step(part):
        share.enter(part)
        return step

    xs = (chart.times, goal, share.xs)
    if share.whole:
        return scan(make_step(None), state, xs, like, reverse=True)[1]
    return scan_widths(chart.n, make_step, state, xs, like, reverse=True)[1]


class Posterior(Share):
    """By posterior probability."""

    def __init__(self, chart, products, lost):
        self.chart = chart
        self.items = chart.items(products)
        self.all_lefts = chart.lefts(self.items)
        self.zeros, self.starts = [chart.zeros], [1.0]
        self.state = [chart.table() for _ in lost]
        self.xs: tuple = (products, chart.edges(self.items), chart.cuts, lost)

    def enter(self, part):
        self.lefts = self.all_lefts if part is None else part.fit(self.all_lefts)

    def read(self, state, x):
        products, edges, cuts, lost = x
        frames = [pull(f, column) for f, column in zip(state, lost, strict=True)]
        return frames, (frames, products, edges, cuts)

    def shares(self, k, view):
        """The share of every cut in a product (B, N, N), and that of its edge (B, N)."""
        frames, products, edges, cuts = view[:4]
        return shares(self.chart.terms(k, self.lefts[k], frames, cuts), edges[k], products[k])

    def product(self, k, p, view):
        inner, edge = self.shares(k, view)
        (p,) = p
        q = [p[:, None] * inner]
        return q, q, None if edge is None else [p * edge]


class Choice(Posterior):
    """All to one cut, the best one, after noise if there are draws.

    Spans of one width that are used together are disjoint, so noise by width and by place of the
    cut is independent where it must be.
    """

    def __init__(self, chart, products, lost, draws):
        super().__init__(chart, products, lost)
        noise = []
        if draws is not None:
            like = chart.zeros
            dtype = keras.backend.standardize_dtype(like.dtype)
            places = noise_places(chart.n)
            noise = [swap(draws.gumbel(k, places, dtype)) for k in range(len(products))]
        self.xs = (*self.xs, noise)

    def read(self, state, x):
        *x, noise = x
        state, view = super().read(state, x)
        return state, (*view, noise)

    def product(self, k, p, view):
        inner, edge = self.shares(k, view)
        _, rows, columns = ops.shape(inner)
        first = ops.zeros_like(inner[:, 0]) if edge is None else edge
        logits = array.concatenate([_log(first)[:, None], _log(inner)], 1)
        if view[-1]:
            logits = logits + self._spread(view[-1][k], rows + 1, columns)
        best = ops.cast(array.argmax(logits, 1), "int32")
        chosen = ops.equal(best[:, None], ops.arange(rows + 1, dtype="int32")[:, None])
        q = array.where(chosen, p[0][:, None], ops.zeros_like(inner[:, :1]))
        inner = [q[:, 1:]]
        return inner, inner, None if edge is None else [q[:, 0]]

    def _spread(self, noise, rows, columns):
        """`out[r, i] = noise[i + r]`: row r holds the cuts before place i + r."""
        places = ops.arange(rows, dtype="int32")[:, None] + ops.arange(columns, dtype="int32")
        places = ops.minimum(places, self.chart.n)  # those beyond are no cuts
        spread = ops.take(noise, ops.reshape(places, (-1,)), axis=1)
        return ops.reshape(spread, (-1, rows, columns))


def noise_places(n):
    """Places (1, N, N + 1) of the noise of a product, by width and by place of the cut."""
    widths = ops.arange(1, n + 1, dtype="int32")[:, None]
    return (widths * NOISE_STRIDE + ops.arange(n + 1, dtype="int32"))[None]


class PosteriorRates(Posterior):
    """By posterior probability, with the tangents of all shares.

    Args:
        scores: Tangents of the scores of every scored item (B, W, N).
        cuts: Tangents of the scores of the cuts of every scored product (B, W, N, N).
    """

    def __init__(self, chart, products, lost, scores, cuts):
        super().__init__(chart, products, lost)
        spec = chart.spec
        self.dscores = dict(zip(spec.scored, map(swap, scores), strict=True))
        cuts = iter(cuts)
        self.dcuts = [swap(next(cuts)) if p.scored else None for p in spec.products]
        self.all_dlefts = None
        dproducts, ditems, dlost = self._inside(products)
        starts = [chart.zeros for _ in spec.items]
        self.all_dlefts = left_tables(spec, ditems, starts, chart.times)
        self.zeros, self.starts = [chart.zeros, chart.zeros], [1.0, 0.0]
        self.state = [self.state, [chart.frame for _ in dlost]]
        self.xs = (self.xs, dproducts, chart.edges(ditems), self.dcuts, dlost)

    def enter(self, part):
        super().enter(part)
        if self.all_dlefts is not None:
            self.dlefts = self.all_dlefts if part is None else part.fit(self.all_dlefts)

    def _inside(self, products):
        """Tangents of the logarithms of products and items, and their lost columns, (W, B, N)."""
        chart, spec = self.chart, self.chart.spec

        def make_step(part):
            self.enter(part)
            return step

        def step(state, x):
            frames, dlefts, dframes, last, wrapped = state
            time, (values, edges, cuts), pushed, dscores, dcuts = x
            dlefts = put_lefts(spec, dlefts, last, time, 1)
            dproducts, ditems = [None] * len(spec.products), [None] * len(spec.items)
            for kind, k in spec.order:
                if kind == "product":
                    inner, edge = self.shares(k, (frames, values, edges, cuts))
                    rate = self.rate(k, dlefts, dframes, dcuts)
                    dproducts[k] = array.sum(inner * rate, 1)
                    if edge is not None:
                        dproducts[k] = dproducts[k] + edge * ditems[spec.edge(k)]
                    continue
                item = spec.items[k]
                rate = shift(wrapped[0]) if item.product is None else dproducts[item.product]
                if item.unit == 1:
                    rate = array.where(ops.equal(time, 1), ops.zeros_like(rate), rate)
                ditems[k] = rate + dscores[k] if k in dscores else rate
                dlefts = put_lefts(spec, dlefts, ditems, time, 0, only=k)
            lost = [x[:, :, :1] for x in dframes]
            frames = [push(f, shift(row)) for f, row in zip(frames, pushed, strict=True)]
            dframes = [push(f, shift(ditems[k])) for k, f in zip(spec.pushed, dframes, strict=True)]
            wrapped = [*wrapped[1:], ditems[spec.wrapped]] if wrapped else []
            return (frames, dlefts, dframes, ditems, wrapped), (dproducts, ditems, lost)

        zeros, frame = chart.zeros, chart.frame
        state = (
            chart.first_frames(),
            [frame + 0.0 for _ in spec.products],
            [frame for _ in spec.pushed],
            [zeros for _ in spec.items],
            [] if spec.wrapped is None else [zeros, zeros],
        )
        like = (
            [zeros for _ in spec.products],
            [zeros for _ in spec.items],
            [frame[:, :, :1] for _ in spec.pushed],
        )
        pushed = [self.items[k] for k in spec.pushed]
        xs = (chart.times, self.xs[:3], pushed, self.dscores, self.dcuts)
        _, outputs = scan_widths(chart.n, make_step, state, xs, like)
        return outputs

    def rate(self, k, dlefts, dframes, dcuts):
        """Tangents of the logarithms of the terms of a product."""
        spec = self.chart.spec
        rate = dlefts[k] + dframes[spec.pushed.index(spec.products[k].right)]
        return rate if dcuts[k] is None else rate + dcuts[k]

    def read(self, state, x):
        x, dproducts, dedges, dcuts, dlost = x
        frames, view = super().read(state[0], x)
        dframes = [pull(f, column) for f, column in zip(state[1], dlost, strict=True)]
        return [frames, dframes], (*view, dframes, dproducts, dedges, dcuts)

    def product(self, k, p, view):
        dframes, dproducts, dedges, dcuts = view[4:]
        inner, edge = self.shares(k, view)
        p, dp = p
        rate = self.rate(k, self.dlefts, dframes, dcuts) - dproducts[k][:, None]
        q = p[:, None] * inner
        both = [q, dp[:, None] * inner + q * rate]
        if edge is None:
            return both, both, None
        q = p * edge
        return both, both, [q, dp * edge + q * (dedges[k] - dproducts[k])]


def shares(terms, edge, total):
    """Terms (B, N, N) and edge (B, N) as shares of their sum (B, N)."""
    safe = array.where(total.m > 0, total.m, ops.ones_like(total.m))
    # Divided, not multiplied by an inverse: the share of a term that is alone is 1 exactly.
    inner = terms.m * array.power_of_two(terms.e - total.e[:, None]) / safe[:, None]
    return inner, None if edge is None else edge.m * array.power_of_two(edge.e - total.e) / safe


def _log(x):
    positive = x > 0
    logarithm = array.log(array.where(positive, x, ops.ones_like(x)))
    return array.where(positive, logarithm, ops.zeros_like(x) + FORBIDDEN)


def _plus(xs, ys):
    return [x + y for x, y in zip(xs, ys, strict=True)]
