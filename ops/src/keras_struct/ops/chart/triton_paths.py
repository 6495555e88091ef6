"""The best structure of a chart in Triton, or a sample: a program has one of one sentence."""

import triton
import triton.language as tl

from keras_struct.ops.chart.spec import NOISE_STRIDE
from keras_struct.ops.chart.triton_chart import column, of_product
from keras_struct.ops.triton_math import exp, exp2, gumbel, max_over, min_over, static

STRIDE: tl.constexpr = tl.constexpr(NOISE_STRIDE)


@triton.jit
def walk(
    tables,
    products,
    lengths,
    keys,
    pending,
    used,
    n,
    NOISY: tl.constexpr,
    BLOCK: tl.constexpr,
    PLAN: tl.constexpr,
):
    """Which spans are used.

    Args:
        keys: (B, n, 2), of the noise of every sample.
        pending: (B, n, 2 N + 4), spans that are used, the whole first; those whose parts are yet to
            be found are the end of the list. A span is `(item (N + 1) + width) (N + 1) + start`.
        used: (B, n, scored items, N, N), ones at (width - 1, start).
    """
    b = tl.program_id(0).to(tl.int64)
    path = b * tl.num_programs(1) + tl.program_id(1)
    limit = tl.load(lengths + b)
    tables += b * PLAN.table_count * (n + 1) * PLAN.row_size
    products += b * PLAN.product_count * 2 * (n + 1) * (n + 1)
    pending += path * (2 * n + 4)
    used += path * PLAN.score_count * n * n
    k0, k1 = tl.load(keys + 2 * path), tl.load(keys + 2 * path + 1)
    tl.store(pending, code(PLAN.spec.goal, limit, 0, n))
    tl.debug_barrier()
    count = tl.minimum(limit, 1)
    done = limit * 0
    while done < count:
        span = tl.load(pending + done)
        start, w = span % (n + 1), span // (n + 1) % (n + 1)
        kind = span // (n + 1) // (n + 1)
        left, right = start * 0 - 1, start * 0 - 1
        for k in tl.static_range(static(PLAN.item_count)):
            if kind == k:
                if PLAN.score(k) >= 0:
                    tl.store(used + (PLAN.score(k) * n + w - 1) * n + start, 1)
                if PLAN.wraps(k):
                    if w > 2:
                        left = code(PLAN.wrapped(k), w - 2, start + 1, n)
                elif PLAN.unit(k) != 1 or w > 1:
                    left, right = parts(
                        tables,
                        products,
                        PLAN.spec.items[k].product,
                        w,
                        start,
                        k0,
                        k1,
                        n,
                        NOISY,
                        BLOCK,
                        PLAN,
                    )
        # Beyond the end if there is none: a part that comes next takes its place.
        tl.store(pending + count, left)
        count += (left >= 0).to(tl.int32)
        tl.store(pending + count, right)
        count += (right >= 0).to(tl.int32)
        tl.debug_barrier()
        done += 1


@triton.jit
def code(ITEM: tl.constexpr, w, start, n):
    return (ITEM * (n + 1) + w) * (n + 1) + start


@triton.jit
def parts(
    tables,
    products,
    PRODUCT: tl.constexpr,
    w,
    start,
    k0,
    k1,
    n,
    NOISY: tl.constexpr,
    BLOCK: tl.constexpr,
    PLAN: tl.constexpr,
):
    """The parts of a product at the best cut, or one that is drawn; -1 where a part has width 0."""
    gap: tl.constexpr = PLAN.gap(PRODUCT)
    size: tl.constexpr = PLAN.table_count * PLAN.row_size
    left = tables + start * size + PLAN.left(PRODUCT, False) * PLAN.row_size
    right = tables + (start + w) * size + PLAN.right(PRODUCT, True) * PLAN.row_size
    whole = tl.load(of_product(products, PRODUCT, 1, w, start, n))
    lane = tl.arange(0, BLOCK)
    best = tl.full((BLOCK,), -1.0, whole.dtype)
    at_best = lane * 0
    for first in range(0, w - gap + 1, BLOCK):
        u = first + lane
        there = u <= w - gap
        at = column(tl.minimum(start + u, n))
        share = tl.load(left + at) * tl.load(right + at)
        share *= exp2((tl.load(left + at + 4) + tl.load(right + at + 4)) - whole, PLAN.approximate)
        if NOISY:
            # The largest share times weight is that of the largest log-share with noise.
            places = w * STRIDE + start + u + gap
            noise = gumbel(k0 + 0 * places, k1 + 0 * places, PRODUCT, places, PLAN.wide)
            share *= exp(noise, PLAN.approximate)
        share = tl.where(there, share, -1.0)
        better = share > best
        best, at_best = tl.where(better, share, best), tl.where(better, u, at_best)
    top = max_over(best, 0)
    u = min_over(tl.where(best == top, at_best, n + 1), 0)
    v = w - gap - u
    one = code(PLAN.left_item(PRODUCT), u, start, n)
    other = code(PLAN.right_item(PRODUCT), v, start + u + gap, n)
    return tl.where(u > 0, one, -1), tl.where(v > 0, other, -1)
