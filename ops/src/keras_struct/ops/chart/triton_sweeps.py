"""The Triton kernels of charts: a program goes over the widths of one sentence.

Beside the arrays of `triton_chart.py`, which the forward sweep leaves:

    whole     (2,)                   m and e of the goal
    rates     (N + 1, T, stride)     tangents of the logarithms of items, in the same tables
    drates    (K, N + 1, N + 1)      those of products, at (width, start)
    tscores   (scored items, N, N)   tangents of the scores
    ratios    (N + 1, 2 K, 2 stride) of each product by start and by end: probability over m, -e
    dratios   (N + 1, 2 K, stride)   tangents of these
    wrapped   (2, N + 1, N + 1)      what spans that wrap another one get, and its tangent
    out       (scored items, N, N)   what scored spans get

`n` is N, `limit` the length of the sentence, 0 where nothing exists if the kernel goes down.
"""

import triton
import triton.language as tl

from keras_struct.ops.chart.triton_chart import (
    cleared,
    column,
    cut,
    inner,
    item,
    keep,
    keep_rate,
    number,
    of_product,
    parts_of,
    plain_row,
    product,
    rate_at,
    row,
    score,
    some_columns,
)
from keras_struct.ops.triton_math import exp2, static, sum_over
from keras_struct.ops.triton_scaled import EMPTY, over


@triton.jit
def forward(tables, products, whole, scores, lengths, n, HARD: tl.constexpr, PLAN: tl.constexpr):
    """All items and products."""
    b = tl.program_id(0).to(tl.int64)
    limit = tl.load(lengths + b)
    tables += b * PLAN.table_count * (n + 1) * PLAN.row_size
    products += b * PLAN.product_count * 2 * (n + 1) * (n + 1)
    whole += 2 * b
    if not PLAN.shared:
        scores += b * PLAN.score_count * n * n
    lane = tl.arange(0, PLAN.starts)
    zero = tl.full((PLAN.starts,), 0.0, tables.dtype.element_ty)
    cleared(tables, PLAN.table_count, n, PLAN)
    tl.debug_barrier()
    for first in range(0, limit + 1, PLAN.starts):
        start = first + lane
        for k in tl.static_range(static(PLAN.item_count)):
            if PLAN.unit(k) == 0:
                keep(tables, k, 0, start, start <= limit, zero + 1.0, zero, PLAN)
    tl.debug_barrier()
    for before in range(0, limit):
        w = before + 1
        for first in range(0, limit - w + 1, PLAN.starts):
            start = first + lane
            there = start + w <= limit
            made = ()
            for step in tl.static_range(static(PLAN.step_count)):
                if PLAN.is_product(step):
                    m, e = make_product(
                        tables, products, PLAN.at_step(step), w, start, there, n, HARD, PLAN
                    )
                    made = made + (m, e)
                else:
                    make_item(
                        scores, tables, whole, PLAN.at_step(step), w, start, limit, made, n, PLAN
                    )
                    tl.debug_barrier()


@triton.jit
def make_product(
    tables,
    products,
    PRODUCT: tl.constexpr,
    w,
    start,
    there,
    n,
    HARD: tl.constexpr,
    PLAN: tl.constexpr,
):
    m, e = product(tables, PRODUCT, w, start, there, n, HARD, PLAN)
    tl.store(of_product(products, PRODUCT, 0, w, start, n), m, mask=there)
    tl.store(of_product(products, PRODUCT, 1, w, start, n), e, mask=there)
    return m, e


@triton.jit
def make_item(
    scores, tables, whole, ITEM: tl.constexpr, w, start, limit, made, n, PLAN: tl.constexpr
):
    there = start + w <= limit
    m, e = item(scores, tables, ITEM, w, start, there, made, n, PLAN)
    keep(tables, ITEM, w, start, there, m, e, PLAN)
    if PLAN.is_goal(ITEM):
        goal = (start == 0) & (start + w == limit)
        tl.store(whole + 0 * start, m, mask=goal)
        tl.store(whole + 1 + 0 * start, e, mask=goal)


@triton.jit
def tangent(tables, products, tscores, lengths, rates, drates, n, PLAN: tl.constexpr):
    """Tangents of the logarithms of items and products."""
    b = tl.program_id(0).to(tl.int64)
    limit = tl.load(lengths + b)
    tables += b * PLAN.table_count * (n + 1) * PLAN.row_size
    products += b * PLAN.product_count * 2 * (n + 1) * (n + 1)
    tscores += b * PLAN.score_count * n * n
    rates += b * PLAN.table_count * (n + 1) * PLAN.stride
    drates += b * PLAN.product_count * (n + 1) * (n + 1)
    lane = tl.arange(0, PLAN.starts)
    for before in range(0, limit):
        w = before + 1
        for first in range(0, limit - w + 1, PLAN.starts):
            start = first + lane
            there = start + w <= limit
            made = ()
            for step in tl.static_range(static(PLAN.step_count)):
                if PLAN.is_product(step):
                    d = rate_of(
                        tables,
                        products,
                        rates,
                        drates,
                        PLAN.at_step(step),
                        w,
                        start,
                        there,
                        n,
                        PLAN,
                    )
                    made = made + (d,)
                else:
                    rate_of_item(tscores, rates, PLAN.at_step(step), w, start, there, made, n, PLAN)
                    tl.debug_barrier()


@triton.jit
def rate_of_item(tscores, rates, ITEM: tl.constexpr, w, start, there, made, n, PLAN: tl.constexpr):
    if PLAN.wraps(ITEM):
        begin, end = inner(start, w, n)
        d = tl.load(rate_at(rates, PLAN.home(PLAN.wrapped(ITEM)), begin, end, PLAN))
    else:
        d = made[PLAN.made_at(ITEM)]
    if PLAN.unit(ITEM) == 1:
        d = tl.where(start * 0 + w == 1, 0.0, d)
    if PLAN.score(ITEM) >= 0:
        d = d + score(tscores, PLAN.score(ITEM), w, start, there, n, 0.0)
    keep_rate(rates, ITEM, w, start, there, d, PLAN)


@triton.jit
def rate_of(
    tables, products, rates, drates, PRODUCT: tl.constexpr, w, start, there, n, PLAN: tl.constexpr
):
    """Tangents of the logarithms of a product, which are stored, too."""
    shape: tl.constexpr = (PLAN.starts, PLAN.cuts)
    i = tl.minimum(start, n - w)
    j = i + w
    begin = i // 4 * 4
    places = tl.arange(0, PLAN.cuts)[None, :]
    left = row(tables, PLAN.left(PRODUCT, False), PLAN.table_count, i, begin, PLAN) + some_columns(
        PLAN
    )
    right = row(tables, PLAN.right(PRODUCT, True), PLAN.table_count, j, begin, PLAN) + some_columns(
        PLAN
    )
    dleft = plain_row(rates, PLAN.left(PRODUCT, False), PLAN.table_count, i, begin, PLAN) + places
    dright = plain_row(rates, PLAN.right(PRODUCT, True), PLAN.table_count, j, begin, PLAN) + places
    m = tl.load(of_product(products, PRODUCT, 0, w, start, n), mask=there, other=0.0)
    peak = tl.load(of_product(products, PRODUCT, 1, w, start, n), mask=there, other=-EMPTY)
    peak = tl.where(m > 0, peak, -EMPTY)
    sums = tl.full(shape, 0.0, m.dtype)
    parts = parts_of(w + 1 - PLAN.gap(PRODUCT), PLAN)
    if parts % 2 == 1:
        sums = with_rates(sums, left, right, dleft, dright, peak, 0, PLAN)
        left += 2 * PLAN.cuts
        right += 2 * PLAN.cuts
        dleft += PLAN.cuts
        dright += PLAN.cuts
    for _ in range(0, parts // 2):
        for part in tl.static_range(2):
            sums = with_rates(sums, left, right, dleft, dright, peak, part, PLAN)
        left += 4 * PLAN.cuts
        right += 4 * PLAN.cuts
        dleft += 2 * PLAN.cuts
        dright += 2 * PLAN.cuts
    d = over(sum_over(sums, 1), m)
    tl.store(drates + (PRODUCT * (n + 1) + w) * (n + 1) + start, d, mask=there)
    return d


@triton.jit
def with_rates(sums, left, right, dleft, dright, peak, PART: tl.constexpr, PLAN: tl.constexpr):
    share, e = cut(left, right, PART, PLAN)
    at = PART * PLAN.cuts
    rates = tl.load(dleft + at) + tl.load(dright + at)
    return sums + share * exp2(e - peak[:, None], PLAN.approximate) * rates


@triton.jit
def down(
    tables,
    products,
    lengths,
    rates,
    drates,
    ratios,
    dratios,
    wrapped,
    out,
    n,
    RATE: tl.constexpr,
    PLAN: tl.constexpr,
):
    """From the whole span to its parts: probabilities of scored items, or with RATE, after
    `tangent`, their tangents."""
    b = tl.program_id(0).to(tl.int64)
    limit = tl.load(lengths + b)
    spans = (n + 1) * (n + 1)
    tables += b * PLAN.table_count * (n + 1) * PLAN.row_size
    products += b * PLAN.product_count * 2 * spans
    ratios += b * PLAN.ratio_count * (n + 1) * PLAN.row_size
    wrapped += b * (2 if RATE else 1) * spans
    out += b * PLAN.score_count * n * n
    if RATE:
        rates += b * PLAN.table_count * (n + 1) * PLAN.stride
        drates += b * PLAN.product_count * spans
        dratios += b * PLAN.ratio_count * (n + 1) * PLAN.stride
    lane = tl.arange(0, PLAN.starts)
    cleared(ratios, PLAN.ratio_count, n, PLAN)
    tl.debug_barrier()
    for narrower in range(0, limit):
        w = limit - narrower
        for first in range(0, limit - w + 1, PLAN.starts):
            start = first + lane
            there = start + w <= limit
            got = ()
            for step in tl.static_range(static(PLAN.step_count - 1), static(-1), static(-1)):
                if PLAN.is_product(step):
                    divide(
                        products,
                        drates,
                        ratios,
                        dratios,
                        PLAN.at_step(step),
                        w,
                        start,
                        there,
                        got,
                        n,
                        RATE,
                        PLAN,
                    )
                    tl.debug_barrier()
                else:
                    p, dp = give(
                        tables,
                        rates,
                        ratios,
                        dratios,
                        wrapped,
                        out,
                        PLAN.at_step(step),
                        w,
                        first,
                        n,
                        limit,
                        RATE,
                        PLAN,
                    )
                    got = got + (p, dp)


@triton.jit
def give(
    tables,
    rates,
    ratios,
    dratios,
    wrapped,
    out,
    ITEM: tl.constexpr,
    w,
    first,
    n,
    limit,
    RATE: tl.constexpr,
    PLAN: tl.constexpr,
):
    """What an item gets, and with RATE its tangent."""
    start = first + tl.arange(0, PLAN.starts)
    there = start + w <= limit
    spans = (n + 1) * (n + 1)
    p, dp = gathered(tables, rates, ratios, dratios, ITEM, w, first, n, limit, RATE, PLAN)
    if PLAN.is_goal(ITEM):
        p += ((start == 0) & (start + w == limit)).to(p.dtype)
    if PLAN.is_wrapped(ITEM):
        above = (start > 0) & (start + w + 1 <= limit)
        at = wrapped + (w + 2) * (n + 1) + start - 1
        p += tl.load(at, mask=above, other=0.0)
        if RATE:
            dp += tl.load(at + spans, mask=above, other=0.0)
    if PLAN.score(ITEM) >= 0:
        at = out + (PLAN.score(ITEM) * n + w - 1) * n + start
        tl.store(at, dp if RATE else p, mask=there)
    if PLAN.wraps(ITEM):
        at = wrapped + w * (n + 1) + start
        tl.store(at, p, mask=there)
        if RATE:
            tl.store(at + spans, dp, mask=there)
        tl.debug_barrier()
    return p, dp


@triton.jit
def divide(
    products,
    drates,
    ratios,
    dratios,
    PRODUCT: tl.constexpr,
    w,
    start,
    there,
    got,
    n,
    RATE: tl.constexpr,
    PLAN: tl.constexpr,
):
    """What a product gets over its m, for its parts."""
    p, dp = got[2 * PLAN.user(PRODUCT, 0)], got[2 * PLAN.user(PRODUCT, 0) + 1]
    for user in tl.static_range(static(1), static(PLAN.user_count(PRODUCT))):
        p += got[2 * PLAN.user(PRODUCT, user)]
        dp += got[2 * PLAN.user(PRODUCT, user) + 1]
    m = tl.load(of_product(products, PRODUCT, 0, w, start, n), mask=there, other=0.0)
    e = tl.load(of_product(products, PRODUCT, 1, w, start, n), mask=there, other=0.0)
    minus = tl.where(m > 0, -e, EMPTY)
    q = over(p, m)
    by_start = start * PLAN.ratio_count + 2 * PRODUCT
    by_end = (start + w) * PLAN.ratio_count + 2 * PRODUCT + 1
    one = ratios + by_start * PLAN.row_size + column(start + w)
    other = ratios + by_end * PLAN.row_size + column(start)
    tl.store(one, q, mask=there)
    tl.store(one + 4, minus, mask=there)
    tl.store(other, q, mask=there)
    tl.store(other + 4, minus, mask=there)
    if RATE:
        d = tl.load(drates + (PRODUCT * (n + 1) + w) * (n + 1) + start, mask=there, other=0.0)
        dq = over(dp - p * d, m)
        tl.store(dratios + by_start * PLAN.stride + start + w, dq, mask=there)
        tl.store(dratios + by_end * PLAN.stride + start, dq, mask=there)


@triton.jit
def gathered(
    tables,
    rates,
    ratios,
    dratios,
    ITEM: tl.constexpr,
    w,
    first,
    n,
    limit,
    RATE: tl.constexpr,
    PLAN: tl.constexpr,
):
    """What an item gets as part of products: its probability, and with RATE its tangent."""
    shape: tl.constexpr = (PLAN.starts, PLAN.cuts)
    start = first + tl.arange(0, PLAN.starts)
    i = tl.minimum(start, n - w)
    j = i + w
    m, e = number(tables, PLAN.home(ITEM), i, j, PLAN)
    sums = tl.full(shape, 0.0, m.dtype)
    dsums = tl.full(shape, 0.0, m.dtype)
    for k in tl.static_range(static(PLAN.product_count)):
        if PLAN.is_left(ITEM, k):
            # The other part begins at its end; columns are the ends of both, from the first on.
            alive = e
            if PLAN.closed(k):
                alive = tl.where(start > 0, e, EMPTY)
            parts = parts_of(limit - (w + first) + 1, PLAN)
            sums, dsums = shares(
                tables,
                rates,
                ratios,
                dratios,
                PLAN.right(k, False),
                2 * k,
                alive,
                j,
                i,
                (w + first) // 4 * 4 + 0 * i,
                parts,
                sums,
                dsums,
                n,
                RATE,
                PLAN,
            )
        if PLAN.is_right(ITEM, k):
            # The other part ends at its start; columns are the starts of both.
            place = i - PLAN.gap(k)
            alive = tl.where(place >= 0, e, EMPTY)
            last = tl.minimum(first + PLAN.starts - 1, limit - w)
            parts = parts_of(last - PLAN.gap(k) + 1, PLAN)
            sums, dsums = shares(
                tables,
                rates,
                ratios,
                dratios,
                PLAN.left(k, True),
                2 * k + 1,
                alive,
                tl.maximum(place, 0),
                j,
                0 * i,
                parts,
                sums,
                dsums,
                n,
                RATE,
                PLAN,
            )
    p = sum_over(sums, 1)
    dp = p
    if RATE:
        d = tl.load(rate_at(rates, PLAN.home(ITEM), i, j, PLAN))
        dp = (sum_over(dsums, 1) + p * d) * m
    return p * m, dp


@triton.jit
def shares(
    tables,
    rates,
    ratios,
    dratios,
    TABLE: tl.constexpr,
    RATIO: tl.constexpr,
    e,
    place,
    whole,
    begin,
    parts,
    sums,
    dsums,
    n,
    RATE: tl.constexpr,
    PLAN: tl.constexpr,
):
    """Shares in whole spans, over m, added to those of other products.

    Args:
        TABLE: Of the other parts, whose rows are `place`.
        RATIO: Which ratios, whose rows are `whole`.
        e: Exponents of the spans.
        begin: First columns.
    """
    places = tl.arange(0, PLAN.cuts)[None, :]
    other = row(tables, TABLE, PLAN.table_count, place, begin, PLAN) + some_columns(PLAN)
    ratio = row(ratios, RATIO, PLAN.ratio_count, whole, begin, PLAN) + some_columns(PLAN)
    drow, dratio = other, ratio
    if RATE:
        drow = plain_row(rates, TABLE, PLAN.table_count, place, begin, PLAN) + places
        dratio = plain_row(dratios, RATIO, PLAN.ratio_count, whole, begin, PLAN) + places
    if parts % 2 == 1:
        sums, dsums = with_shares(sums, dsums, other, ratio, drow, dratio, e, 0, RATE, PLAN)
        other += 2 * PLAN.cuts
        ratio += 2 * PLAN.cuts
        drow += PLAN.cuts
        dratio += PLAN.cuts
    for _ in range(0, parts // 2):
        for part in tl.static_range(2):
            sums, dsums = with_shares(sums, dsums, other, ratio, drow, dratio, e, part, RATE, PLAN)
        other += 4 * PLAN.cuts
        ratio += 4 * PLAN.cuts
        drow += 2 * PLAN.cuts
        dratio += 2 * PLAN.cuts
    return sums, dsums


@triton.jit
def with_shares(
    sums,
    dsums,
    other,
    ratio,
    drow,
    dratio,
    e,
    PART: tl.constexpr,
    RATE: tl.constexpr,
    PLAN: tl.constexpr,
):
    at = 2 * PART * PLAN.cuts
    q = tl.load(ratio + at)
    power = (e[:, None] + tl.load(other + at + 4)) + tl.load(ratio + at + 4)
    share = tl.load(other + at) * exp2(power, PLAN.approximate)
    if RATE:
        at = PART * PLAN.cuts
        dsums += share * (tl.load(dratio + at) + q * tl.load(drow + at))
    return sums + share * q, dsums
