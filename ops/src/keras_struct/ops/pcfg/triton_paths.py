"""The best tree of a grammar in Triton, or a sample: a program has one of one sentence."""

import triton
import triton.language as tl

from keras_struct.ops.pcfg.noise_places import CUT, PAIR, STRIDE
from keras_struct.ops.pcfg.triton_pairs import cuts_of, make_pairs, plane, power, span
from keras_struct.ops.triton_math import exp, gumbel, max_over, min_over

OF_CUT: tl.constexpr = tl.constexpr(CUT)
OF_PAIR: tl.constexpr = tl.constexpr(PAIR)
ROOM: tl.constexpr = tl.constexpr(STRIDE)


@triton.jit
def walk(
    parts,
    sums,
    pairs,
    rules,
    lengths,
    roots,
    keys,
    pending,
    event,
    n,
    NOISY: tl.constexpr,
    BLOCK: tl.constexpr,
    PLAN: tl.constexpr,
):
    """The symbol of every span of a tree.

    Args:
        roots: (B, n), the symbol of every whole sentence, -1 where there is no tree.
        keys: (B, n, 2), of the noise of every sample.
        pending: (B, n, N + 2), spans whose parts are yet to be found, as `first word N + last`.
        event: (B, n, N, N).
    """
    b = tl.program_id(0).to(tl.int64)
    path = b * tl.num_programs(1) + tl.program_id(1)
    limit = tl.load(lengths + b)
    parts += b * 2 * plane(n, PLAN)
    sums += b * 2 * n * n * PLAN.phrases
    pairs += path * 3 * PLAN.cells
    pending += path * (n + 2)
    event += path * n * n
    if not PLAN.shared:
        rules += b * 2 * PLAN.phrases * PLAN.cells
    k0, k1 = tl.load(keys + 2 * path), tl.load(keys + 2 * path + 1)
    root = tl.load(roots + path)
    waiting = (root >= 0).to(tl.int32)
    if waiting > 0:
        tl.store(event + limit - 1, root)
        tl.store(pending, limit - 1)
    tl.debug_barrier()
    while waiting > 0:
        waiting -= 1
        code = tl.load(pending + waiting)
        i, j = code // n, code % n
        a = tl.load(event + code)
        make_pairs(parts, parts, pairs, i, j, n, not NOISY, False, PLAN)
        tl.debug_barrier()
        pair = best_pair(sums, pairs, rules, a, i, j, k0, k1, n, NOISY, PLAN)
        left, right = pair // PLAN.s, pair % PLAN.s
        m = best_cut(parts, left, right, i, j, k0, k1, n, NOISY, BLOCK, PLAN)
        tl.store(event + i * n + m, left)
        tl.store(event + (m + 1) * n + j, right)
        # What is no longer span is written over by the next one.
        tl.store(pending + waiting, i * n + m)
        waiting += (m > i).to(tl.int32)
        tl.store(pending + waiting, (m + 1) * n + j)
        waiting += (j > m + 1).to(tl.int32)
        tl.debug_barrier()


@triton.jit
def symbol_of(tile, PLAN: tl.constexpr):
    """The number of the first symbol of a tile."""
    first = tile * PLAN.tile
    if tile >= PLAN.phrase_tiles:
        first += PLAN.k - PLAN.words
    return first


@triton.jit
def best_pair(sums, pairs, rules, a, i, j, k0, k1, n, NOISY: tl.constexpr, PLAN: tl.constexpr):
    """left S + right of the best rule of a parent, or of one that is drawn."""
    cell = tl.arange(0, PLAN.block)
    whole = tl.load(sums + ((n + i) * n + j) * PLAN.phrases + a)
    best = tl.full((PLAN.block,), -1.0, whole.dtype)
    at_best = cell * 0
    for tile in range(0, PLAN.tiles * PLAN.tiles):
        one, other = tile // PLAN.tiles, tile % PLAN.tiles
        first, last = cuts_of(one, other, i, j, PLAN)
        if first < last:
            rule = rules + a * PLAN.cells + tile * PLAN.block + cell
            pair = pairs + tile * PLAN.block + cell
            e = tl.load(rule + PLAN.phrases * PLAN.cells) + tl.load(pair + PLAN.cells)
            share = tl.load(rule) * tl.load(pair) * power(e - whole, not NOISY, PLAN)
            number = (symbol_of(one, PLAN) + cell // PLAN.tile) * PLAN.s
            number += symbol_of(other, PLAN) + cell % PLAN.tile
            if NOISY:
                place = (j * (j + 1) // 2 + i) * (PLAN.s * PLAN.s) + number
                share *= exp(
                    gumbel(k0 + 0 * place, k1 + 0 * place, OF_PAIR, place, PLAN.wide),
                    PLAN.approximate,
                )
            better = (share > best) | ((share == best) & (number < at_best))
            best, at_best = tl.where(better, share, best), tl.where(better, number, at_best)
    top = max_over(best, 0)
    return min_over(tl.where(best == top, at_best, PLAN.s * PLAN.s - 1), 0)


@triton.jit
def best_cut(
    parts,
    left,
    right,
    i,
    j,
    k0,
    k1,
    n,
    NOISY: tl.constexpr,
    BLOCK: tl.constexpr,
    PLAN: tl.constexpr,
):
    """The last word of the left part, of these symbols."""
    if left >= PLAN.k:
        left += PLAN.words - PLAN.k
    if right >= PLAN.k:
        right += PLAN.words - PLAN.k
    lane = tl.arange(0, BLOCK)
    size = plane(n, PLAN)
    peak = tl.full((BLOCK,), -3e30, parts.dtype.element_ty)
    for first in range(i, j, BLOCK):
        m = tl.minimum(first + lane, j - 1)
        e = tl.load(parts + size + span(i, m, n, PLAN) + left)
        peak = tl.maximum(peak, e + tl.load(parts + size + span(m + 1, j, n, PLAN) + right))
    whole = max_over(peak, 0)
    best = tl.full((BLOCK,), -1.0, whole.dtype)
    at_best = lane * 0
    for first in range(i, j, BLOCK):
        m = first + lane
        there = m < j
        m = tl.minimum(m, j - 1)
        one = parts + span(i, m, n, PLAN) + left
        other = parts + span(m + 1, j, n, PLAN) + right
        share = tl.load(one) * tl.load(other)
        share *= power((tl.load(one + size) + tl.load(other + size)) - whole, not NOISY, PLAN)
        if NOISY:
            place = (j - i) * ROOM + m
            share *= exp(
                gumbel(k0 + 0 * place, k1 + 0 * place, OF_CUT, place, PLAN.wide), PLAN.approximate
            )
        share = tl.where(there, share, -1.0)
        better = share > best
        best, at_best = tl.where(better, share, best), tl.where(better, m, at_best)
    top = max_over(best, 0)
    return min_over(tl.where(best == top, at_best, n), 0)
