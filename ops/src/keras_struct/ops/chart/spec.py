"""A structure over spans, as data: items, and the products they are made of."""

import dataclasses
import functools

NOISE_STRIDE = 1 << 15  # more than a chart has positions: noise does not depend on padding


@dataclasses.dataclass(frozen=True)
class Product:
    """Sum over the places where a span is cut in two.

    `P[w, i] = sum_u left[u, i] * right[w - u - gap, i + u + gap]`, times the score of the cut.

    Attributes:
        left: Index of the item on the left.
        right: Index of the item on the right.
        gap: 0 where both share the place of the cut, 1 where the right one starts after it.
        scored: Whether every place of the cut has a score of its own.
        closed: Whether a left span at start 0 must have width 0.
    """

    left: int
    right: int
    gap: int = 0
    scored: bool = False
    closed: bool = False


@dataclasses.dataclass(frozen=True)
class Item:
    """What a span can be: its product or what it wraps, times its score.

    Attributes:
        product: Index of its product, or None.
        wraps: Index of the item of width w - 2 that starts one later, or None.
        scored: Whether it has a score.
        unit: The width at which there is one such span that is made of nothing (its score counts).
    """

    product: int | None = None
    wraps: int | None = None
    scored: bool = False
    unit: int | None = None


@dataclasses.dataclass(frozen=True)
class Spec:
    """Items and products over the starts 0 <= i < N and widths 0 <= w <= N.

    Attributes:
        items: All items.
        products: All products.
        order: Computation at one width: pairs ("item" | "product", index).
        goal: The item that stands for the whole, at start 0 and the width of the length.
    """

    items: tuple[Item, ...]
    products: tuple[Product, ...]
    order: tuple[tuple[str, int], ...]
    goal: int

    @functools.cached_property
    def pushed(self):
        """Items that stand on the right of some product."""
        return tuple(sorted({p.right for p in self.products}))

    @functools.cached_property
    def scored(self):
        return tuple(k for k, item in enumerate(self.items) if item.scored)

    @functools.cached_property
    def wrapped(self):
        """The item that another one wraps, or None."""
        return next((item.wraps for item in self.items if item.wraps is not None), None)

    def edge(self, product):
        """The item that is a product by itself, beside a left one of width 0; or None."""
        p = self.products[product]
        return p.right if p.gap == 0 and self.items[p.left].unit == 0 else None
