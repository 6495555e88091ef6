"""How a chart lies in the VMEM of a TPU: rows of starts by width, 128 sentences on the lanes.

A plane holds one kind of number for several triangles: the items, and after them the products. Two
triangles share a rectangle of N + 1 rows, of which row r holds width r of the one and width N - r
of the other, so that from a span to one that is wider or starts later it is always as far:

    row 0    width 0 of the one, N + 1 starts | nothing | width N of the other, 1 start | nothing
    row 1    width 1 of the one, N starts | nothing | width N - 1 of the other, 2 starts | nothing
    ...

The starts of a width are worked on by `starts` at a time, and the cuts of a span by `cuts` at a
time, without asking whether all of them exist: there are `starts + cuts - 2` places of nothing
behind the last start of a width, which are those before the first start of another one, and `cuts`
rows of nothing before the first width and behind the last one.
"""

import dataclasses
import functools
import math

from keras_struct.ops.chart.spec import Spec
from keras_struct.ops.pallas import rounded
from keras_struct.ops.pallas_tpu import LANES, MEGABYTE, SUBLANES

SWEEPS = {"forward": 1, "backward": 2, "curvature": 3, "walk": 2}  # arrays like the scores


@dataclasses.dataclass(frozen=True)
class Plan:
    """Sizes.

    Attributes:
        spec: `Spec` of the chart.
        n: Widths and starts of the scores.
        starts: How many starts are worked on at a time, a power of two, at least 8.
        cuts: How many cuts, a power of two.
    """

    spec: Spec
    n: int
    starts: int = 16
    cuts: int = 8

    @property
    def nothing(self):
        """Places behind the last start of a width."""
        return self.starts + self.cuts - 2

    @property
    def stride(self):
        """From a row of a rectangle to the next one."""
        return self.n + 2 + 2 * self.nothing

    def at(self, k, width, start):
        """Where a span of triangle k is in a plane."""
        row, column = (width, 0) if k % 2 == 0 else (self.n - width, width + 1 + self.nothing)
        rectangle = k // 2 * (self.n + 1 + 2 * self.cuts)
        return (rectangle + self.cuts + row) * self.stride + column + start

    def line(self, k, width, start, to_width, to_start):
        """Where spans are, each `to_width` wider and starting `to_start` later than the one before:
        a function from the number of one to the places of `cuts` of them."""
        step = self.at(k, to_width, to_start) - self.at(k, 0, 0)

        def places(n):
            first = self.at(k, width, start) + n * step
            return [first + c * step for c in range(self.cuts)]

        return places

    def plane(self, triangles):
        """Shape of a plane of so many triangles."""
        rows = -(-triangles // 2) * (self.n + 1 + 2 * self.cuts)
        return rounded(rows * self.stride, SUBLANES), LANES

    @property
    def columns(self):
        """Starts of the scores of a width."""
        return rounded(self.n, self.starts)

    def scores(self, *leading):
        return (*leading, len(self.spec.scored), self.n, self.columns, LANES)

    @property
    def noise(self):
        """Shape of the noise of a width."""
        return len(self.spec.products), rounded(self.n + 1 + self.nothing, SUBLANES), LANES

    @functools.cached_property
    def shut(self):
        """Items on the left of a closed product, which takes none at start 0 but of width 0.

        They stand nowhere else at start 0, so that no such span is kept.
        """
        return {p.left for p in self.spec.products if p.closed}

    def least_width(self, item):
        """Of an item as a part of a product."""
        return 0 if self.spec.items[item].unit == 0 else 1

    def product(self, k):
        """The triangle of a product."""
        return len(self.spec.items) + k

    @property
    def wrapped(self):
        """The triangle of what spans that wrap another one get, or None."""
        return None if self.spec.wrapped is None else self.product(len(self.spec.products))

    def planes(self, sweep):
        """Names of the planes of a sweep, and of how many triangles each is."""
        items, products = len(self.spec.items), len(self.spec.products)
        if sweep == "forward":
            return {"m": items, "e": items}
        every = items + products
        all_and_wrapped = every + (self.wrapped is not None)
        named = {"m": all_and_wrapped, "e": every}
        if sweep == "curvature":
            named["d"] = all_and_wrapped
        return named

    def megabytes(self, sweep):
        """What a sweep takes of VMEM, with its scores and what goes out."""
        numbers = [math.prod(self.plane(count)) for count in self.planes(sweep).values()]
        numbers.append(SWEEPS[sweep] * math.prod(self.scores()))
        if sweep == "walk":
            numbers += [math.prod(self.scores()), math.prod(self.noise)]  # two buffers
        return 4 * sum(numbers) / MEGABYTE

    @property
    def largest(self):
        return max(map(self.megabytes, SWEEPS))


def longest(spec, megabytes):
    """How many words a chart may have for all its sweeps."""
    n = 0
    while Plan(spec, n + 1).largest <= megabytes:
        n += 1
    return n
