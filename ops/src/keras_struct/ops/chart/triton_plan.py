"""How a chart lies in the memory of a GPU, for the Triton kernels of charts.

A span is between two of the places 0..N. Each product reads its parts from tables of their own, in
which the parts of all cuts of a span stand beside each other: a row of the left parts begins at the
start of the span, a row of the right parts ends at its end, and both have the place of the cut as
their column (a right part starts `gap` places after it). What the sum over the cuts of a span is to
the inside pass, sums over all spans that have a part are to the way down; they read tables with the
other end as row. Equal tables are one.

A row holds numbers m 2^e: four mantissas, their four exponents, and so on. A part that does not
exist is m = 0 and e = EMPTY, so no loop over cuts asks which ones there are.
"""

import dataclasses
import functools
from typing import NamedTuple

from keras_struct.ops.chart.spec import Spec
from keras_struct.ops.gpu import Named, filling

GROUP = 4  # numbers of 16 bytes, which a thread loads at a time


def warps_for(batch, n):
    """Warps of a sentence: one if there are enough sentences, else as many as a width can use."""
    return filling(batch, n // 16)


class Table(NamedTuple):
    """Where spans of an item stand.

    Attributes:
        item: Of the spec.
        by_end: Whether rows are ends and columns starts, else the other way round.
        gap: How far starts are moved.
        closed: Whether spans that start at 0 are left out (but for those of width 0).
    """

    item: int
    by_end: bool
    gap: int = 0
    closed: bool = False


@dataclasses.dataclass(frozen=True, repr=False)
class Plan(Named):
    """All that is known of a kernel when it is compiled.

    Attributes:
        spec: The chart.
        starts: Spans of a width that are worked on at a time, a power of two.
        cuts: Cuts of each of them, a power of two from `GROUP` on.
        stride: Numbers of a row.
        shared: Whether the batch has one set of scores.
        approximate: Whether powers of two are those of the special function unit.
        wide: Whether numbers are float64.
    """

    spec: Spec
    starts: int
    cuts: int
    stride: int
    shared: bool = False
    approximate: bool = False
    wide: bool = False

    @staticmethod
    def stride_of(n, cuts):
        """Room for the places 0..n and for what the last turn of a loop reads beyond them."""
        return -(-(n + GROUP + cuts) // 16) * 16

    @property
    def row_size(self):
        return 2 * self.stride

    # The spec -------------------------------------------------------------------------------------

    @property
    def item_count(self):
        return len(self.spec.items)

    @property
    def product_count(self):
        return len(self.spec.products)

    @property
    def ratio_count(self):
        """Tables of products: each by start and by end."""
        return 2 * self.product_count

    @property
    def step_count(self):
        return len(self.spec.order)

    def is_product(self, step):
        return self.spec.order[step][0] == "product"

    def at_step(self, step):
        """The item or product of a step."""
        return self.spec.order[step][1]

    def gap(self, product):
        return self.spec.products[product].gap

    def closed(self, product):
        return self.spec.products[product].closed

    def is_left(self, item, product):
        return self.spec.products[product].left == item

    def is_right(self, item, product):
        return self.spec.products[product].right == item

    def wraps(self, item):
        return self.spec.items[item].wraps is not None

    def wrapped(self, item):
        """The item that an item wraps."""
        return self.spec.items[item].wraps

    def is_wrapped(self, item):
        return item == self.spec.wrapped

    def unit(self, item):
        """The width at which an item is made of nothing, or -1."""
        unit = self.spec.items[item].unit
        return -1 if unit is None else unit

    def score(self, item):
        """Which of the scores an item has, or -1."""
        return self.spec.scored.index(item) if item in self.spec.scored else -1

    @property
    def score_count(self):
        return len(self.spec.scored)

    def is_goal(self, item):
        return item == self.spec.goal

    def least(self, item):
        """The least width of an item as a part of a product."""
        return 0 if self.spec.items[item].unit == 0 else 1

    def least_left(self, product):
        return self.least(self.spec.products[product].left)

    def least_right(self, product):
        return self.least(self.spec.products[product].right)

    def left_item(self, product):
        return self.spec.products[product].left

    def right_item(self, product):
        return self.spec.products[product].right

    # Steps of the spec, in which values are made one after the other ------------------------------

    def made_at(self, item):
        """Which of the products that are made at a width is that of an item."""
        made = [k for kind, k in self.spec.order if kind == "product"]
        return made.index(self.spec.items[item].product)

    def _users(self, product):
        items = [k for kind, k in reversed(self.spec.order) if kind == "item"]
        return [n for n, k in enumerate(items) if self.spec.items[k].product == product]

    def user_count(self, product):
        return len(self._users(product))

    def user(self, product, n):
        """Which of the items, from the last one on, is the n-th that a product stands in."""
        return self._users(product)[n]

    # Tables ---------------------------------------------------------------------------------------

    @functools.cached_property
    def tables(self):
        found: dict[Table, None] = {}
        for p in self.spec.products:
            for by_end in (False, True):
                found[Table(p.left, by_end, 0, p.closed)] = None
                found[Table(p.right, by_end, p.gap)] = None
        for k in range(self.item_count):
            if Table(k, True) not in found:
                found[Table(k, False)] = None
        return tuple(found)

    def home(self, item):
        """A table with all spans of an item."""
        by_start = Table(item, False)
        return self.tables.index(by_start if by_start in self.tables else Table(item, True))

    @property
    def table_count(self):
        return len(self.tables)

    def left(self, product, by_end):
        p = self.spec.products[product]
        return self.tables.index(Table(p.left, by_end, 0, p.closed))

    def right(self, product, by_end):
        p = self.spec.products[product]
        return self.tables.index(Table(p.right, by_end, p.gap))

    def holds(self, table, item):
        return self.tables[table].item == item

    def by_end(self, table):
        return self.tables[table].by_end

    def moved(self, table):
        return self.tables[table].gap

    def leaves_out(self, table):
        return self.tables[table].closed
