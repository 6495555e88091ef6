"""The k best structures of a chart: k values for every span, and pointers to what made them.

A value has a place among the k of its span, its rank. Lists of k arrays are indexed by rank.
"""

import functools

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.chart.chart import push, put_lefts, shift
from keras_struct.ops.chart.loop import scan
from keras_struct.ops.chart.outside import Share, descend
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE


def best_structures(chart, scores, cuts, lengths, k):
    """The scored spans of the k best structures.

    Args:
        chart: `Chart` (for its layout).
        scores: Log-scores of every scored item (W, B, N).
        cuts: Log-scores of the cuts of every product (W, B, N, N), None where they have none.
        lengths: (B,).
        k: How many.

    Returns:
        For every scored item a list of k boolean arrays (W, B, N), and which exist, (k, B).
    """
    goal, pointers = _inside(chart, dict(zip(chart.spec.scored, scores, strict=True)), cuts, k)
    last = ops.logical_and(chart.is_last(lengths), lengths > 0)
    exists = []
    for rank, row in enumerate(goal):
        best = ops.sum(array.where(last, row[:, :, 0], ops.zeros_like(row[:, :, 0])), axis=0)
        here = best > INFEASIBLE
        exists.append(here if rank == 0 else ops.logical_and(here, lengths > 0))
    ranks, _ = descend(chart, _Pointers(chart, pointers, k), lengths)
    return [[rank > 0 for rank in item] for item in ranks], ops.stack(exists)


def _inside(chart, scores, cuts, k):
    """Values of the goal, and pointers of every product, (W, B, N) for each rank."""
    spec = chart.spec
    dead = chart.zeros + FORBIDDEN
    table = chart.frame + FORBIDDEN
    put = functools.partial(put_lefts, spec, fill=FORBIDDEN)

    def start(item):
        first = chart.zeros if spec.items[item].unit == 0 else dead
        return [first] + [dead] * (k - 1)

    def step(state, x):
        lefts, frames, last, wrapped = state
        time, scores, cuts = x
        lefts = [put(t, rows, time, 1) for t, rows in zip(lefts, _by_rank(last), strict=True)]
        products, pointers = [None] * len(spec.products), [None] * len(spec.products)
        items = [None] * len(spec.items)
        for kind, index in spec.order:
            if kind == "product":
                right = [f[spec.pushed.index(spec.products[index].right)] for f in frames]
                left = [t[index] for t in lefts]
                terms = [a + b for a in left for b in right]
                if cuts[index] is not None:
                    terms = [x + cuts[index] for x in terms]
                if spec.edge(index) is not None:
                    terms += [row[:, None] for row in items[spec.edge(index)]]
                terms = ops.swapaxes(array.concatenate(terms, 1), 1, 2)
                values, chosen = array.top_k(terms, k)
                low = ops.full((), FORBIDDEN, dtype=values.dtype)
                values = array.maximum(values, low)
                products[index] = [values[..., rank] for rank in range(k)]
                pointers[index] = [ops.cast(chosen[..., rank], "int32") for rank in range(k)]
                continue
            item = spec.items[index]
            if item.product is None:
                rows = [shift(row, FORBIDDEN) for row in wrapped[0]]
            else:
                rows = products[item.product]
            if item.unit == 1:
                unit = [chart.zeros] + [dead] * (k - 1)
                first = ops.equal(time, 1)
                rows = [array.where(first, a, b) for a, b in zip(unit, rows, strict=True)]
            if item.scored:
                low = ops.full((), FORBIDDEN, dtype=dead.dtype)
                rows = [array.maximum(row + scores[index], low) for row in rows]
            items[index] = rows
            by_rank = _by_rank(items)
            lefts = [put(t, r, time, 0, only=index) for t, r in zip(lefts, by_rank, strict=True)]
        frames = [
            [
                push(f, shift(items[i][rank], FORBIDDEN), FORBIDDEN)
                for i, f in zip(spec.pushed, of_rank, strict=True)
            ]
            for rank, of_rank in enumerate(frames)
        ]
        wrapped = [*wrapped[1:], items[spec.wrapped]] if wrapped else []
        return (lefts, frames, items, wrapped), (items[spec.goal], pointers)

    starts = [start(item) for item in range(len(spec.items))]
    frames = [[push(table, starts[i][rank], FORBIDDEN) for i in spec.pushed] for rank in range(k)]
    state = (
        [[table + 0.0 for _ in spec.products] for _ in range(k)],
        frames,
        starts,
        [] if spec.wrapped is None else [[dead] * k, starts[spec.wrapped]],
    )
    index = ops.cast(chart.zeros, "int32")
    like = ([dead] * k, [[index] * k for _ in spec.products])
    _, outputs = scan(step, state, (chart.times, scores, cuts), like)
    return outputs


def _by_rank(items):
    """`items[item][rank]` to `[rank][item]`; what is not there yet stays None."""
    k = len(next(rows for rows in items if rows is not None))
    return [[None if rows is None else rows[rank] for rows in items] for rank in range(k)]


class _Pointers(Share):
    """Passes down ranks, counted from 1; 0 is a span that is not used."""

    whole = True

    def __init__(self, chart, pointers, k):
        self.spec, self.k, self.n = chart.spec, k, chart.n
        self.zeros = [ops.cast(chart.zeros, "int32")] * k
        self.starts = list(range(1, k + 1))
        self.state, self.xs = [], pointers
        self.rows = ops.arange(chart.n, dtype="int32")[:, None]

    def read(self, state, x):
        return state, x

    def product(self, index, p, view):
        lefts, rights, edges = [], [], []
        k, edge = self.k, self.spec.edge(index) is not None
        for rank in p:
            place = ops.zeros_like(rank)
            for r, pointer in enumerate(view[index]):
                place = array.where(ops.equal(rank, r + 1), pointer, place)
            both, row = place // self.n, place % self.n
            zero = ops.zeros_like(place)
            inner = ops.logical_and(rank > 0, both < k * k)
            hit = ops.logical_and(ops.equal(row[:, None], self.rows), inner[:, None])
            lefts.append(array.where(hit, (both // k + 1)[:, None], zero[:, None]))
            rights.append(array.where(hit, (both % k + 1)[:, None], zero[:, None]))
            at_edge = ops.logical_and(rank > 0, both >= k * k)
            edges.append(array.where(at_edge, place - k * k * self.n + 1, zero))
        return lefts, rights, edges if edge else None
