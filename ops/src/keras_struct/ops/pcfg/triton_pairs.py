"""Spans of a grammar in Triton: their pairs of symbols, from all cuts, and their nonterminals.

A program has one sentence of N words. Its arrays (see `gpu_plan.py` for tiles, of which there are C
cells in all, S symbols and K phrases):

    parts     (2, N, N, S)   m and e of every symbol at (first word, last word), m from 1 to 2
    sums      (2, N, N, K)   the same of nonterminals as they were summed, of which terms have
                             shares whose sum is 1
    pairs     (3, C)         of one span: m and e of every pair, and its tangent
    rules     (2, K, C)      m and e
    rates     (N, N, S)      tangents of the logarithms of symbols
    drules    (K, C)         tangents of the scores of rules

Every number has its own exponent, as in `portable`: a sum has first the largest exponent of its
terms, then the terms. What one thread has stored, others read after a barrier.
"""

import triton
import triton.language as tl

from keras_struct.ops.triton_math import exp2, max_over, sum_over
from keras_struct.ops.triton_scaled import EMPTY, normalised, over


@triton.jit
def power(e, HARD: tl.constexpr, PLAN: tl.constexpr):
    """`2 ** e` of whole e that are not far above 0; of a maximum by its bits, so that ties stay."""
    if HARD and PLAN.approximate:
        bits = tl.maximum(e, -127.0).to(tl.int32) + 127
        found = (bits << 23).to(tl.float32, bitcast=True)
    else:
        found = exp2(e, PLAN.approximate)
    return found


@triton.jit
def span(first, last, n, PLAN: tl.constexpr):
    """Where the symbols of a span begin."""
    return (first * n + last) * PLAN.symbols


@triton.jit
def plane(n, PLAN: tl.constexpr):
    """Numbers of the symbols of all spans."""
    return n * n * PLAN.symbols


@triton.jit
def tiles_of(width, PLAN: tl.constexpr):
    """The first tile of the symbols of a span, and the one after its last."""
    first, last = width * 0, width * 0 + PLAN.phrase_tiles
    if width == 1:
        first, last = last, width * 0 + PLAN.tiles
    return first, last


@triton.jit
def cuts_of(left, right, i, j, PLAN: tl.constexpr):
    """The first cut of a span that a pair of tiles has, and the one after its last."""
    first, last = i, j
    if left >= PLAN.phrase_tiles:
        last = i + 1
    else:
        first = i + 1
    if right >= PLAN.phrase_tiles:
        first = tl.maximum(first, j - 1)
    else:
        last = tl.minimum(last, j - 1)
    return first, last


@triton.jit
def make_pairs(
    parts, rates, pairs, i, j, n, HARD: tl.constexpr, RATE: tl.constexpr, PLAN: tl.constexpr
):
    """Sums (or maxima) over the cuts of words i..j, and their tangents."""
    lane = tl.arange(0, PLAN.tile)
    cell = lane[:, None] * PLAN.tile + lane[None, :]
    exponents = parts + plane(n, PLAN)
    zero = tl.full((PLAN.tile, PLAN.tile), 0.0, parts.dtype.element_ty)
    for tile in range(0, PLAN.tiles * PLAN.tiles):
        one, other = tile // PLAN.tiles, tile % PLAN.tiles
        first, last = cuts_of(one, other, i, j, PLAN)
        if first < last:
            peak = zero + 2.0 * EMPTY
            for m in range(first, last):
                left = span(i, m, n, PLAN) + one * PLAN.tile + lane
                right = span(m + 1, j, n, PLAN) + other * PLAN.tile + lane
                e = tl.load(exponents + left)[:, None] + tl.load(exponents + right)[None, :]
                peak = tl.maximum(peak, e)
            total, change = zero, zero
            for m in range(first, last):
                left = span(i, m, n, PLAN) + one * PLAN.tile + lane
                right = span(m + 1, j, n, PLAN) + other * PLAN.tile + lane
                e = tl.load(exponents + left)[:, None] + tl.load(exponents + right)[None, :]
                term = tl.load(parts + left)[:, None] * tl.load(parts + right)[None, :]
                term *= power(e - peak, HARD, PLAN)
                if RATE:
                    rate = tl.load(rates + left)[:, None] + tl.load(rates + right)[None, :]
                    change += term * rate
                total = tl.maximum(total, term) if HARD else total + term
            at = pairs + tile * PLAN.block + cell
            tl.store(at, total)
            tl.store(at + PLAN.cells, tl.where(total > 0, peak, EMPTY))
            if RATE:
                tl.store(at + 2 * PLAN.cells, over(change, total))


@triton.jit
def of_rules(rules, a, tile, PLAN: tl.constexpr):
    """Pointers (parents, block) to the m of rules of a tile; the exponent is a plane further."""
    cell = tl.arange(0, PLAN.block)[None, :]
    return rules + a[:, None] * PLAN.cells + tile * PLAN.block + cell


@triton.jit
def of_pairs(pairs, tile, PLAN: tl.constexpr):
    """Pointers (1, block) to the m of the pairs of a tile."""
    return pairs + tile * PLAN.block + tl.arange(0, PLAN.block)[None, :]


@triton.jit
def make_phrases(
    parts,
    sums,
    pairs,
    rules,
    i,
    j,
    n,
    HARD: tl.constexpr,
    PLAN: tl.constexpr,
):
    """Nonterminals of a span, from its pairs."""
    shape: tl.constexpr = (PLAN.parents, PLAN.block)
    zero = tl.full(shape, 0.0, parts.dtype.element_ty)
    for begin in range(0, PLAN.phrases, PLAN.parents):
        a = begin + tl.arange(0, PLAN.parents)
        peaks = zero + 2.0 * EMPTY
        for tile in range(0, PLAN.tiles * PLAN.tiles):
            first, last = cuts_of(tile // PLAN.tiles, tile % PLAN.tiles, i, j, PLAN)
            if first < last:
                e = tl.load(of_rules(rules, a, tile, PLAN) + PLAN.phrases * PLAN.cells)
                peaks = tl.maximum(peaks, e + tl.load(of_pairs(pairs, tile, PLAN) + PLAN.cells))
        peak = max_over(peaks, 1)
        terms = zero
        for tile in range(0, PLAN.tiles * PLAN.tiles):
            first, last = cuts_of(tile // PLAN.tiles, tile % PLAN.tiles, i, j, PLAN)
            if first < last:
                weight, _ = uses(rules, pairs, a, -peak, tile, HARD, PLAN)
                terms = tl.maximum(terms, weight) if HARD else terms + weight
        m = max_over(terms, 1) if HARD else sum_over(terms, 1)
        e = tl.where(m > 0, peak, EMPTY)
        at = sums + (i * n + j) * PLAN.phrases + a
        tl.store(at, m)
        tl.store(at + n * n * PLAN.phrases, e)
        m, e = normalised(m, e, PLAN)
        at = parts + span(i, j, n, PLAN) + a
        tl.store(at, m)
        tl.store(at + plane(n, PLAN), e)


@triton.jit
def uses(rules, pairs, a, less, tile, HARD: tl.constexpr, PLAN: tl.constexpr):
    """Terms (parents, block) of the sums over rules, times 2^less for each parent; and pairs."""
    rule, pair = of_rules(rules, a, tile, PLAN), of_pairs(pairs, tile, PLAN)
    e = tl.load(rule + PLAN.phrases * PLAN.cells) + tl.load(pair + PLAN.cells)
    m = tl.load(pair)
    return tl.load(rule) * m * power(e + less[:, None], HARD, PLAN), m
