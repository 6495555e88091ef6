"""The Triton kernels of spanning trees: a program eliminates the words of one sentence.

Place k is eliminated when it is the last of those that are left, so what is left is a leading
block; where its pivot is 0, a place before it changes places with it (see `recurrence.md`). Arrays
of an example of N words, W a power of two that is not below N:

    scores       (N, N)       [dependent, head], those of the roots on the diagonal
    matrix       (2, N, W)    m and e of the weights, the root on the diagonal; going back, m are
                              probabilities
    peaks        (N,)         the largest score of every line, 0 in the padding
    pivots       (2, N)       m and e
    swaps        (N,)         which place changed places with k
    choice       (N, W)       the weights of the pivot's terms
    shares       (steps, W)   the part of every arc that goes through k: k lines for each place k
    probability  (N, N)

Lines are worked on by R at a time, blocks (R, W). A line is stored as a whole: columns that are
gone, with what they held. What one thread has stored, others read after a barrier.
"""

import triton
import triton.language as tl

from keras_struct.ops.triton_math import exp2, max_over, sum_over, two_sum
from keras_struct.ops.triton_scaled import EMPTY, POSSIBLE, from_log, normalised, over


@triton.jit
def weigh(scores, lengths, matrix, peaks, n, PLAN: tl.constexpr):
    """Weights, each line over its largest (`portable.weights`): a program has some lines."""
    b = tl.program_id(0).to(tl.int64)
    limit = tl.load(lengths + b)
    scores += b * n * n
    matrix += b * 2 * n * PLAN.width
    i, here, at = lines(tl.program_id(1) * PLAN.lines, limit, PLAN)
    j = tl.arange(0, PLAN.width)[None, :]
    there = here[:, None] & (j < limit)
    x = tl.load(scores + i[:, None] * n + j, mask=there, other=EMPTY)
    exists = x > POSSIBLE
    peak = max_over(x, 1)
    peak = tl.where(peak > POSSIBLE, peak, 0.0)
    high, low = two_sum(x, -peak[:, None])
    high_m, high_e = from_log(high, PLAN)
    low_m, low_e = from_log(tl.where(exists, low, 0.0), PLAN)
    tl.store(matrix + at, high_m * low_m, mask=here[:, None])
    tl.store(matrix + n * PLAN.width + at, tl.maximum(high_e + low_e, EMPTY), mask=here[:, None])
    tl.store(peaks + b * n + i, peak, mask=i < n)


@triton.jit
def forward(lengths, matrix, pivots, n, HARD: tl.constexpr, PLAN: tl.constexpr):
    """Pivots."""
    b = tl.program_id(0).to(tl.int64)
    limit = tl.load(lengths + b)
    m = matrix + b * 2 * n * PLAN.width
    e = m + n * PLAN.width
    pivots += b * 2 * n
    for step in range(0, limit):
        eliminate(limit - 1 - step, m, e, pivots, lengths, m, m, n, HARD, False, PLAN)


@triton.jit
def backward(lengths, matrix, pivots, swaps, choice, shares, probability, n, PLAN: tl.constexpr):
    """Probabilities: every place comes back, from the first to the last."""
    b = tl.program_id(0).to(tl.int64)
    limit = tl.load(lengths + b)
    m = matrix + b * 2 * n * PLAN.width
    e = m + n * PLAN.width
    pivots += b * 2 * n
    swaps += b * n
    choice += b * n * PLAN.width
    shares += b * (n * (n - 1) // 2) * PLAN.width
    probability += b * n * n
    for step in range(0, limit):
        eliminate(limit - 1 - step, m, e, pivots, swaps, choice, shares, n, False, True, PLAN)
    for k in range(0, limit):
        come_back(k, m, swaps, choice, shares, PLAN)
    for first in range(0, limit, PLAN.lines):
        i, here, at = lines(first, limit, PLAN)
        j = tl.arange(0, PLAN.width)[None, :]
        p = tl.load(m + at, mask=here[:, None], other=0.0)
        there = here[:, None] & (j < limit)
        tl.store(probability + i[:, None] * n + j, p, mask=there)


@triton.jit
def lines(first, end, PLAN: tl.constexpr):
    """Places of some lines, which of them are before `end`, and where they are in a matrix."""
    i = first + tl.arange(0, PLAN.lines)
    return i, i < end, i[:, None] * PLAN.width + tl.arange(0, PLAN.width)[None, :]


@triton.jit
def eliminate(
    k,
    m,
    e,
    pivots,
    swaps,
    choice,
    shares,
    n,
    HARD: tl.constexpr,
    KEEP: tl.constexpr,
    PLAN: tl.constexpr,
):
    """Take away place k; with KEEP, `backward` reads its shares and choices."""
    lane = tl.arange(0, PLAN.width)
    line = k * PLAN.width + lane
    counts = lane <= k
    if PLAN.single_root:
        counts = counts & ((lane < k) | (lane + k == 0))
    weight, exponent = tl.load(m + line), tl.load(e + line)
    peak = max_over(tl.where(counts, exponent, EMPTY), 0)
    swap = k
    if peak <= POSSIBLE:
        swap = tl.maximum(with_head(k, m, PLAN), 0)
        exchange(m, swap, k, PLAN)
        exchange(e, swap, k, PLAN)
        weight, exponent = tl.load(m + line), tl.load(e + line)
        peak = max_over(tl.where(counts, exponent, EMPTY), 0)
    terms = tl.where(counts, weight * exp2(exponent - peak, PLAN.approximate), 0.0)
    pivot = max_over(terms, 0) if HARD else sum_over(terms, 0)
    tl.store(pivots + k, pivot)
    tl.store(pivots + n + k, peak)
    out_m, out_e = normalised(over(tl.where(lane <= k, weight, 0.0), pivot), exponent - peak, PLAN)
    root_m, root_e = normalised(
        over(tl.load(m + k * (PLAN.width + 1)), pivot),
        tl.load(e + k * (PLAN.width + 1)) - peak,
        PLAN,
    )
    if KEEP:
        tl.store(swaps + k, swap)
        tl.store(choice + line, over(terms, pivot))
        shares += k * (k - 1) // 2 * PLAN.width
    left = (lane < k)[None, :]
    for first in range(0, k, PLAN.lines):
        i, here, at = lines(first, k, PLAN)
        there = here[:, None]
        x, y = tl.load(m + at, mask=there, other=0.0), tl.load(e + at, mask=there, other=EMPTY)
        into_m = tl.load(m + i * PLAN.width + k, mask=here, other=0.0)
        into_e = tl.load(e + i * PLAN.width + k, mask=here, other=EMPTY)
        root = i[:, None] == lane[None, :]
        path = into_m[:, None] * tl.where(root, root_m, out_m[None, :])
        path_e = into_e[:, None] + tl.where(root, root_e, out_e[None, :])
        ahead = path_e - y
        small = exp2(-tl.abs(ahead), PLAN.approximate)
        direct = tl.where(ahead > 0, x * small, x)
        through = tl.where(ahead > 0, path, path * small)
        total = tl.maximum(direct, through) if HARD else direct + through
        # Mantissas stay between 1/4 and 2.
        large = total > 2.0
        highest = tl.maximum(y, path_e)
        new_e = tl.where(large, highest + 2.0, highest)
        tl.store(m + at, tl.where(left, tl.where(large, 0.25 * total, total), x), mask=there)
        tl.store(e + at, tl.where(left, new_e, y), mask=there)
        if KEEP:
            tl.store(shares + at, tl.where(left, over(through, total), 0.0), mask=there)
    tl.debug_barrier()


@triton.jit
def with_head(k, m, PLAN: tl.constexpr):
    """The last place before k that has a head, or -1."""
    found = k * 0 - 1
    for first in range(0, k, PLAN.lines):
        i, here, at = lines(first, k, PLAN)
        j = tl.arange(0, PLAN.width)[None, :]
        counts = j <= k
        if PLAN.single_root:
            counts = counts & (j != i[:, None])
        x = tl.load(m + at, mask=here[:, None], other=0.0)
        largest = max_over(tl.where(counts, x, 0.0), 1)
        found = tl.maximum(found, max_over(tl.where(largest > 0, i, -1), 0))
    return found


@triton.jit
def exchange(plane, q, k, PLAN: tl.constexpr):
    """Places q and k change, of those up to k."""
    lane = tl.arange(0, PLAN.width)
    exchange_vectors(plane + q * PLAN.width + lane, plane + k * PLAN.width + lane, lane <= k)
    lane = lane * PLAN.width
    exchange_vectors(plane + lane + q, plane + lane + k, lane <= k * PLAN.width)


@triton.jit
def exchange_vectors(one, other, there):
    tl.debug_barrier()
    x, y = tl.load(one, mask=there), tl.load(other, mask=there)
    tl.debug_barrier()
    tl.store(one, y, mask=there)
    tl.store(other, x, mask=there)
    tl.debug_barrier()


@triton.jit
def come_back(k, p, swaps, choice, shares, PLAN: tl.constexpr):
    """Some arcs turn out to go through place k, which gets its heads."""
    lane = tl.arange(0, PLAN.width)
    shares += k * (k - 1) // 2 * PLAN.width
    before, at_k = (lane < k)[None, :], (lane == k)[None, :]
    heads = tl.full((PLAN.lines, PLAN.width), 0.0, p.dtype.element_ty)
    roots = heads
    for first in range(0, k, PLAN.lines):
        i, here, at = lines(first, k, PLAN)
        there = here[:, None]
        x = tl.load(p + at, mask=there, other=0.0)
        share = tl.load(shares + at, mask=there, other=0.0)
        through = tl.where(before, x * share, 0.0)
        root = i[:, None] == lane[None, :]
        heads += tl.where(root, 0.0, through)
        roots += tl.where(root, through, 0.0)
        into = sum_over(through, 1)[:, None]
        tl.store(p + at, tl.where(at_k, into, x - through), mask=there)
    root = sum_over(sum_over(roots, 1), 0)
    out = sum_over(heads, 0)
    out = tl.where(lane == k, root, out)
    line = k * PLAN.width + lane
    rest = 1.0 - sum_over(out, 0)
    out = tl.maximum(out + tl.load(choice + line) * rest, 0.0)
    tl.store(p + line, over(out, sum_over(out, 0)))
    swap = tl.load(swaps + k)
    if swap != k:
        exchange(p, swap, k, PLAN)
    tl.debug_barrier()
