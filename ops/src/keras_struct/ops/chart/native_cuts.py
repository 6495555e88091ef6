"""Sums over the cuts of one span, and the cells of all spans of a width (see `native_plan.py`)."""

from keras_struct.ops.chart.native_plan import (
    ONE,
    PRODUCT,
    TWO,
    UNIT,
    WRAPPED,
    ZERO,
    U,
    by_end,
    by_start,
    by_width,
)
from keras_struct.ops.compiled import compiled, exp_or_zero, inlined, reordered


@inlined
def dot(x, at_x, y, at_y, count):
    total = 0.0
    for c in range(count):
        total += x[at_x + c] * y[at_y + c]
    return total


@inlined
def dot_of_sums(x, dx, at_x, y, dy, at_y, count):
    """Rate of `dot`."""
    total = 0.0
    for c in range(count):
        total += dx[at_x + c] * y[at_y + c] + x[at_x + c] * dy[at_y + c]
    return total


@compiled
def exponentiate(x, at_x, y, at_y, count, by, t):
    """Exponentials of terms, less or more by one number; above 1 they are only by rounding."""
    for c in range(count):
        t[c] = min(x[at_x + c] + y[at_y + c] + by, 0.0)
    for c in range(count):
        t[c] = exp_or_zero(t[c])


@reordered
def total_of(t, count):
    total = 0.0
    for c in range(count):
        total += t[c]
    return total


@reordered
def mean_of(t, dx, at_x, dy, at_y, count):
    total = 0.0
    for c in range(count):
        total += t[c] * (dx[at_x + c] + dy[at_y + c])
    return total


@inlined
def put(size, k, width, spans, v, x, y):
    """Values of all spans of a width, by start and by end."""
    at_x, at_y = by_start(size, k, ZERO, width), by_end(size, k, width, ZERO)
    for i in range(spans):
        x[at_x], y[at_y] = v[i], v[i]
        at_x += size - i
        at_y += width + i + TWO


@inlined
def find_inner(made, x, z, nothing, unit, into):
    """What the items are made of."""
    if made.of == PRODUCT:
        source = by_width(made.size, made.source, made.width, ZERO)
        for i in range(made.spans):
            into[i] = z[source + i]
    elif made.of == WRAPPED:
        for i in range(made.spans):
            into[i] = x[by_start(made.size, made.source, i + ONE, made.width - TWO)]
    else:
        for i in range(made.spans):
            into[i] = unit if made.of == UNIT else nothing


@compiled
def add_scores(made, places, scores, forbidden, v):
    if made.scored:
        for i in range(made.spans):
            v[i] += scores[places[i]] if places[i] >= 0 else forbidden


@compiled
def read_items(made, places, got, found, into):
    """What the items got: for themselves, and for the product or the wrapped item."""
    if made.scored:
        for i in range(made.spans):
            if places[i] >= 0:
                found[places[i]] = got[made.here + i]
    if made.of == PRODUCT:
        for i in range(made.spans):
            into[i] += got[made.here + i]
    elif made.of == WRAPPED:
        for i in range(made.spans):
            inner = by_width(made.size, made.source, made.width - TWO, i + ONE)
            got[inner] += got[made.here + i]


@compiled
def begin(plan, n, x, y, nothing, one):
    """Spans of width 0."""
    for k in range(U(len(plan.unit))):
        for i in range(n + ONE):
            value = one if plan.unit[k] == ZERO else nothing
            x[by_start(plan.size, k, i, ZERO)], y[by_end(plan.size, k, i, i)] = value, value


@compiled
def find_ends(plan, n, x, y):
    """Items by end and start."""
    for k in range(U(len(plan.unit))):
        for i in range(n + ONE):
            here = by_start(plan.size, k, i, ZERO)
            for w in range(n + ONE - i):
                y[by_end(plan.size, k, i + w, i)] = x[here + w]
