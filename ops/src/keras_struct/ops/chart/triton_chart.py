"""A chart in Triton: its tables, the sum over the cuts of a span, what makes an item of a product.

A program has one sentence of N words. Its arrays (see `triton_plan.py` for tables):

    tables    (N + 1, T, 2 stride)      items, as numbers m 2^e
    products  (K, 2, N + 1, N + 1)      m and e of products at (width, start)
    scores    (scored items, N, N)      at (width - 1, start)

Spans of a width are worked on by S starts at a time, blocks (S,), their cuts by U, blocks (S, U) of
which a thread has neighbours. In place of spans that do not exist others are read, and nothing is
stored of them. What one thread has stored, others read after a barrier.
"""

import triton
import triton.language as tl

from keras_struct.ops.triton_math import exp2, max_over, static, sum_over
from keras_struct.ops.triton_scaled import EMPTY, MOST, from_log, normalised

# Tables -------------------------------------------------------------------------------------------


@triton.jit
def column(place):
    """Where a row of numbers has the mantissa of a column; its exponent is 4 further."""
    return place // 4 * 8 + place % 4


@triton.jit
def some_columns(PLAN: tl.constexpr):
    """The same of the first U columns, (1, U): four beside each other, as a thread loads them."""
    at = column(tl.arange(0, PLAN.cuts))
    return tl.max_contiguous(tl.multiple_of(at, [4]), [4])[None, :]


@triton.jit
def row(tables, TABLE: tl.constexpr, COUNT: tl.constexpr, place, first, PLAN: tl.constexpr):
    """Pointers (S, 1) to rows of one of so many tables of numbers, from some columns on, multiples
    of 4. Rows of all tables stand beside each other, so that a table is a constant offset."""
    at = (place * COUNT + TABLE) * PLAN.row_size + 2 * first
    return (tables + tl.multiple_of(at, [8]))[:, None]


@triton.jit
def plain_row(tables, TABLE: tl.constexpr, COUNT: tl.constexpr, place, first, PLAN: tl.constexpr):
    """The same of tables that have one number for each column."""
    at = (place * COUNT + TABLE) * PLAN.stride + first
    return (tables + tl.multiple_of(at, [4]))[:, None]


@triton.jit
def where_in(TABLE: tl.constexpr, start, end, PLAN: tl.constexpr):
    """Row and column of spans in a table."""
    begin = start - PLAN.moved(TABLE)
    found = (begin, end)
    if PLAN.by_end(TABLE):
        found = (end, begin)
    return found


@triton.jit
def number_at(tables, TABLE: tl.constexpr, start, end, PLAN: tl.constexpr):
    """Where a table has the mantissa of spans; the exponent is 4 further."""
    place, begin = where_in(TABLE, start, end, PLAN)
    return tables + (place * PLAN.table_count + TABLE) * PLAN.row_size + column(begin)


@triton.jit
def number(tables, TABLE: tl.constexpr, start, end, PLAN: tl.constexpr):
    at = number_at(tables, TABLE, start, end, PLAN)
    return tl.load(at), tl.load(at + 4)


@triton.jit
def rate_at(rates, TABLE: tl.constexpr, start, end, PLAN: tl.constexpr):
    place, begin = where_in(TABLE, start, end, PLAN)
    return rates + (place * PLAN.table_count + TABLE) * PLAN.stride + begin


@triton.jit
def taken(TABLE: tl.constexpr, w, start, there, PLAN: tl.constexpr):
    """Which spans a table has."""
    if PLAN.leaves_out(TABLE):
        there = there & ((start > 0) | (start * 0 + w == 0))
    return there & (start >= PLAN.moved(TABLE))


@triton.jit
def keep(tables, ITEM: tl.constexpr, w, start, there, m, e, PLAN: tl.constexpr):
    """Store numbers of an item in all its tables."""
    for table in tl.static_range(static(PLAN.table_count)):
        if PLAN.holds(table, ITEM):
            at = number_at(tables, table, start, start + w, PLAN)
            mask = taken(table, w, start, there, PLAN)
            tl.store(at, m, mask=mask)
            tl.store(at + 4, e, mask=mask)


@triton.jit
def keep_rate(rates, ITEM: tl.constexpr, w, start, there, d, PLAN: tl.constexpr):
    for table in tl.static_range(static(PLAN.table_count)):
        if PLAN.holds(table, ITEM):
            at = rate_at(rates, table, start, start + w, PLAN)
            tl.store(at, d, mask=taken(table, w, start, there, PLAN))


@triton.jit
def cleared(tables, count, n, PLAN: tl.constexpr):
    """Tables of nothing."""
    place = tl.arange(0, 1024)
    zero = tl.full((1024,), 0.0, tables.dtype.element_ty)
    nothing = tl.where((place // 4) % 2 == 1, zero + EMPTY, zero)
    size = count * (n + 1) * PLAN.row_size
    for begin in range(0, size, 1024):
        tl.store(tables + begin + place, nothing, mask=begin + place < size)


@triton.jit
def of_product(products, PRODUCT: tl.constexpr, PART: tl.constexpr, w, start, n):
    """Where m (part 0) or e (part 1) of a product is."""
    return products + ((PRODUCT * 2 + PART) * (n + 1) + w) * (n + 1) + start


# Sums over cuts: 2 U of them in a turn of a loop, and perhaps U more at the end -------------------


@triton.jit
def parts_of(columns, PLAN: tl.constexpr):
    """How many times U columns are so many, whatever the first one is."""
    return (tl.maximum(columns, 0) + (3 + PLAN.cuts - 1)) // PLAN.cuts


@triton.jit
def cut(left, right, PART: tl.constexpr, PLAN: tl.constexpr):
    """Mantissas and exponents of the terms of some cuts, from pointers to the first U of a row."""
    at = 2 * PART * PLAN.cuts
    m = tl.load(left + at) * tl.load(right + at)
    return m, tl.load(left + at + 4) + tl.load(right + at + 4)


@triton.jit
def with_terms(sums, left, right, peak, PART: tl.constexpr, HARD: tl.constexpr, PLAN: tl.constexpr):
    m, e = cut(left, right, PART, PLAN)
    term = m * exp2(e - peak[:, None], PLAN.approximate)
    return tl.maximum(sums, term) if HARD else sums + term


@triton.jit
def total_of(left, right, parts, peak, HARD: tl.constexpr, PLAN: tl.constexpr):
    """Sums (or maxima) over cuts, over 2^peak."""
    shape: tl.constexpr = (PLAN.starts, PLAN.cuts)
    sums = tl.full(shape, 0.0, left.dtype.element_ty)
    left += some_columns(PLAN)
    right += some_columns(PLAN)
    if parts % 2 == 1:
        sums = with_terms(sums, left, right, peak, 0, HARD, PLAN)
        left += 2 * PLAN.cuts
        right += 2 * PLAN.cuts
    for _ in range(0, parts // 2):
        for part in tl.static_range(2):
            sums = with_terms(sums, left, right, peak, part, HARD, PLAN)
        left += 4 * PLAN.cuts
        right += 4 * PLAN.cuts
    return max_over(sums, 1) if HARD else sum_over(sums, 1)


@triton.jit
def peak_of(left, right, parts, PLAN: tl.constexpr):
    """The largest exponent of all cuts."""
    shape: tl.constexpr = (PLAN.starts, PLAN.cuts)
    largest = tl.full(shape, 2.0 * EMPTY, left.dtype.element_ty)
    left += some_columns(PLAN)
    right += some_columns(PLAN)
    for _ in range(0, parts):
        _, e = cut(left, right, 0, PLAN)
        largest = tl.maximum(largest, e)
        left += 2 * PLAN.cuts
        right += 2 * PLAN.cuts
    return max_over(largest, 1)


@triton.jit
def near_peak(left, right, first, last, begin):
    """The largest exponent of three cuts, by their columns."""
    middle = (first + last) // 2
    peak = exponent(left, right, first - begin)
    peak = tl.maximum(peak, exponent(left, right, last - begin))
    return tl.maximum(peak, exponent(left, right, middle - begin))


@triton.jit
def exponent(left, right, place):
    at = column(tl.maximum(place, 0))[:, None] + 4
    return sum_over(tl.load(left + at) + tl.load(right + at), 1)


@triton.jit
def product(
    tables, PRODUCT: tl.constexpr, w, start, there, n, HARD: tl.constexpr, PLAN: tl.constexpr
):
    """Numbers of a product.

    Its exponent is that of one of its terms. Where others are beyond the range of its mantissa,
    which a look at three cuts has not said, the sums are made anew with the largest one.
    """
    i = tl.minimum(start, n - w)
    j = i + w
    begin = i // 4 * 4
    left = row(tables, PLAN.left(PRODUCT, False), PLAN.table_count, i, begin, PLAN)
    right = row(tables, PLAN.right(PRODUCT, True), PLAN.table_count, j, begin, PLAN)
    parts = parts_of(w + 1 - PLAN.gap(PRODUCT), PLAN)
    first = i + PLAN.least_left(PRODUCT)
    last = j - PLAN.gap(PRODUCT) - PLAN.least_right(PRODUCT)
    peak = near_peak(left, right, first, last, begin)
    m = total_of(left, right, parts, peak, HARD, PLAN)
    beyond = max_over((there & ((m <= MOST) == 0)).to(tl.int32), 0)
    if beyond > 0:
        peak = peak_of(left, right, parts, PLAN)
        m = total_of(left, right, parts, peak, HARD, PLAN)
    return m, tl.where(m > 0, peak, EMPTY)


# Items --------------------------------------------------------------------------------------------


@triton.jit
def score(scores, SCORE: tl.constexpr, w, start, there, n, nothing):
    at = scores + (SCORE * n + w - 1) * n + start
    return tl.load(at, mask=there, other=nothing)


@triton.jit
def inner(start, w, n):
    """The ends of what a span wraps; anything where it wraps nothing."""
    begin = tl.minimum(start + 1, n)
    return begin, tl.maximum(tl.minimum(start + w - 1, n), begin)


@triton.jit
def item(scores, tables, ITEM: tl.constexpr, w, start, there, made, n, PLAN: tl.constexpr):
    """Numbers of an item, from all products of this width or from what it wraps."""
    if PLAN.wraps(ITEM):
        begin, end = inner(start, w, n)
        m, e = number(tables, PLAN.home(PLAN.wrapped(ITEM)), begin, end, PLAN)
    else:
        m, e = made[2 * PLAN.made_at(ITEM)], made[2 * PLAN.made_at(ITEM) + 1]
    if PLAN.unit(ITEM) == 1:
        word = start * 0 + w == 1
        m, e = tl.where(word, 1.0, m), tl.where(word, 0.0, e)
    if PLAN.score(ITEM) >= 0:
        x = score(scores, PLAN.score(ITEM), w, start, there, n, EMPTY)
        sm, se = from_log(x, PLAN)
        m, e = m * sm, tl.maximum(e + se, EMPTY)
    return normalised(m, e, PLAN)
