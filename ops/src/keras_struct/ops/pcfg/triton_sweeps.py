"""The Triton kernels of grammars: from narrow spans to wide ones, and from the whole sentence down.

P programs share the spans of each width of a sentence, launched once for each width; where one
program has a sentence, it goes over all widths. Arrays of a sentence, beside those of
`triton_pairs.py`, of which each program has its own `pairs`:

    starts, dstarts   (K,)             probabilities of the roots, and their tangents
    got, dgot         (2, N, N, S)     probabilities of spans as left and as right parts
    out               (P, K, C)        what rules get from the spans of each program

Widths are those from `first` to `last` - 1.
"""

import triton
import triton.language as tl

from keras_struct.ops.pcfg.triton_pairs import (
    cuts_of,
    make_pairs,
    make_phrases,
    of_pairs,
    of_rules,
    plane,
    power,
    span,
    tiles_of,
    uses,
)
from keras_struct.ops.triton_math import sum_over
from keras_struct.ops.triton_scaled import EMPTY, over


@triton.jit
def inside(
    parts, sums, pairs, rules, lengths, n, first, last, HARD: tl.constexpr, PLAN: tl.constexpr
):
    """All spans of some widths."""
    b, one, count = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    limit = tl.load(lengths + b)
    parts += b * 2 * plane(n, PLAN)
    sums += b * 2 * n * n * PLAN.phrases
    pairs += (b * count + one) * 3 * PLAN.cells
    if not PLAN.shared:
        rules += b * 2 * PLAN.phrases * PLAN.cells
    for w in range(first, tl.minimum(limit + 1, last)):
        for i in range(one, limit - w + 1, count):
            j = i + w - 1
            make_pairs(parts, parts, pairs, i, j, n, HARD, False, PLAN)
            tl.debug_barrier()
            make_phrases(parts, sums, pairs, rules, i, j, n, HARD, PLAN)
            tl.debug_barrier()


@triton.jit
def tangent(parts, sums, pairs, rules, rates, drules, lengths, n, first, last, PLAN: tl.constexpr):
    """Tangents of the logarithms of nonterminals."""
    b, one, count = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    limit = tl.load(lengths + b)
    parts += b * 2 * plane(n, PLAN)
    sums += b * 2 * n * n * PLAN.phrases
    pairs += (b * count + one) * 3 * PLAN.cells
    rates += b * plane(n, PLAN)
    drules += b * PLAN.phrases * PLAN.cells
    if not PLAN.shared:
        rules += b * 2 * PLAN.phrases * PLAN.cells
    shape: tl.constexpr = (PLAN.parents, PLAN.block)
    for w in range(first, tl.minimum(limit + 1, last)):
        for i in range(one, limit - w + 1, count):
            j = i + w - 1
            make_pairs(parts, rates, pairs, i, j, n, False, True, PLAN)
            tl.debug_barrier()
            for begin in range(0, PLAN.phrases, PLAN.parents):
                a = begin + tl.arange(0, PLAN.parents)
                m, less = sum_of(sums, a, i, j, n, PLAN)
                changes = tl.full(shape, 0.0, m.dtype)
                for tile in range(0, PLAN.tiles * PLAN.tiles):
                    cut, stop = cuts_of(tile // PLAN.tiles, tile % PLAN.tiles, i, j, PLAN)
                    if cut < stop:
                        weight, _ = uses(rules, pairs, a, less, tile, False, PLAN)
                        rate = tl.load(of_rules(drules, a, tile, PLAN))
                        rate += tl.load(of_pairs(pairs, tile, PLAN) + 2 * PLAN.cells)
                        changes += weight * rate
                at = rates + span(i, j, n, PLAN) + a
                tl.store(at, over(sum_over(changes, 1), m))
            tl.debug_barrier()


@triton.jit
def sum_of(sums, a, i, j, n, PLAN: tl.constexpr):
    """m of nonterminals as they were summed, and -e, very low where there is nothing."""
    at = sums + (i * n + j) * PLAN.phrases + a
    m = tl.load(at)
    return m, tl.where(m > 0, -tl.load(at + n * n * PLAN.phrases), EMPTY)


@triton.jit
def down(
    parts,
    sums,
    pairs,
    rules,
    rates,
    drules,
    starts,
    dstarts,
    got,
    dgot,
    out,
    lengths,
    n,
    first,
    last,
    RATE: tl.constexpr,
    PLAN: tl.constexpr,
):
    """What rules and parts get: probabilities, or with RATE, after `tangent`, their tangents, too
    (only these of rules)."""
    b, one, count = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    limit = tl.load(lengths + b)
    parts += b * 2 * plane(n, PLAN)
    sums += b * 2 * n * n * PLAN.phrases
    pairs += (b * count + one) * 3 * PLAN.cells
    starts += b * PLAN.phrases
    got += b * 2 * plane(n, PLAN)
    out += (b * count + one) * PLAN.phrases * PLAN.cells
    if not PLAN.shared:
        rules += b * 2 * PLAN.phrases * PLAN.cells
    if RATE:
        rates += b * plane(n, PLAN)
        drules += b * PLAN.phrases * PLAN.cells
        dstarts += b * PLAN.phrases
        dgot += b * 2 * plane(n, PLAN)
    widest = tl.minimum(limit + 1, last) - 1
    for narrower in range(0, widest - first + 1):
        w = widest - narrower
        for i in range(one, limit - w + 1, count):
            j = i + w - 1
            make_pairs(parts, rates, pairs, i, j, n, False, RATE, PLAN)
            tl.debug_barrier()
            whole = w == limit
            share_rules(
                sums,
                pairs,
                rules,
                rates,
                drules,
                starts,
                dstarts,
                got,
                dgot,
                out,
                i,
                j,
                whole,
                n,
                RATE,
                PLAN,
            )
            tl.debug_barrier()
            share_cuts(parts, pairs, rates, got, dgot, i, j, n, RATE, PLAN)
            tl.debug_barrier()


@triton.jit
def gained(got, starts, a, i, j, whole, n, PLAN: tl.constexpr):
    """What the nonterminals of a span have got."""
    at = got + span(i, j, n, PLAN) + a
    p = tl.load(at) + tl.load(at + plane(n, PLAN))
    if whole:
        p += tl.load(starts + a)
    return p


@triton.jit
def share_rules(
    sums,
    pairs,
    rules,
    rates,
    drules,
    starts,
    dstarts,
    got,
    dgot,
    out,
    i,
    j,
    whole,
    n,
    RATE: tl.constexpr,
    PLAN: tl.constexpr,
):
    """Hands what the nonterminals of a span get to rules and pairs: over m, in its place."""
    for tile in range(0, PLAN.tiles * PLAN.tiles):
        first, last = cuts_of(tile // PLAN.tiles, tile % PLAN.tiles, i, j, PLAN)
        if first < last:
            pair = of_pairs(pairs, tile, PLAN)
            total = tl.full((1, PLAN.block), 0.0, pairs.dtype.element_ty)
            change = total
            for begin in range(0, PLAN.phrases, PLAN.parents):
                a = begin + tl.arange(0, PLAN.parents)
                p = gained(got, starts, a, i, j, whole, n, PLAN)
                m, less = sum_of(sums, a, i, j, n, PLAN)
                weight, _ = uses(rules, pairs, a, less, tile, False, PLAN)
                q = weight * over(p, m)[:, None]
                found = q
                if RATE:
                    dp = gained(dgot, dstarts, a, i, j, whole, n, PLAN)
                    d = tl.load(rates + span(i, j, n, PLAN) + a)
                    rate = tl.load(of_rules(drules, a, tile, PLAN))
                    rate += tl.load(pair + 2 * PLAN.cells)
                    found = weight * over(dp - p * d, m)[:, None] + q * rate
                    change += sum_over(found, 0)[None, :]
                total += sum_over(q, 0)[None, :]
                at = of_rules(out, a, tile, PLAN)
                tl.store(at, tl.load(at) + found)
            m = tl.load(pair)
            if RATE:
                change -= total * tl.load(pair + 2 * PLAN.cells)
            tl.debug_barrier()  # until all threads have read what is written over
            tl.store(pair, over(total, m))
            if RATE:
                tl.store(pair + 2 * PLAN.cells, over(change, m))


@triton.jit
def share_cuts(parts, pairs, rates, got, dgot, i, j, n, RATE: tl.constexpr, PLAN: tl.constexpr):
    """Hands what the pairs of a span get to the parts of all cuts."""
    for m in range(i, j):
        left, right = span(i, m, n, PLAN), span(m + 1, j, n, PLAN)
        first, last = tiles_of(m - i + 1, PLAN)
        begin, end = tiles_of(j - m, PLAN)
        for one in range(first, last):
            give(parts, pairs, rates, got, dgot, left, right, one, begin, end, 1, n, RATE, PLAN)
        for one in range(begin, end):
            give(parts, pairs, rates, got, dgot, right, left, one, first, last, 0, n, RATE, PLAN)


@triton.jit
def give(
    parts,
    pairs,
    rates,
    got,
    dgot,
    part,
    other,
    tile,
    first,
    last,
    AXIS: tl.constexpr,
    n,
    RATE: tl.constexpr,
    PLAN: tl.constexpr,
):
    """What a tile of a left part (AXIS 1) or right part (AXIS 0) gets, over all symbols of the
    other part, which are on this axis."""
    lane = tl.arange(0, PLAN.tile)
    cell = lane[:, None] * PLAN.tile + lane[None, :]
    own: tl.constexpr = 1 - AXIS
    part += tile * PLAN.tile + lane
    e = tl.expand_dims(tl.load(parts + plane(n, PLAN) + part), AXIS)
    total = tl.full((PLAN.tile, PLAN.tile), 0.0, e.dtype)
    change = total
    for beside in range(first, last):
        place = tile * PLAN.tiles + beside if AXIS == 1 else beside * PLAN.tiles + tile
        pair = pairs + place * PLAN.block + cell
        at = parts + other + beside * PLAN.tile + lane
        far = tl.expand_dims(tl.load(at + plane(n, PLAN)), own)
        weight = power((e + far) - tl.load(pair + PLAN.cells), False, PLAN)
        weight *= tl.expand_dims(tl.load(at), own)
        q = weight * tl.load(pair)
        if RATE:
            d = tl.expand_dims(tl.load(rates + part), AXIS)
            d += tl.expand_dims(tl.load(rates + other + beside * PLAN.tile + lane), own)
            change += weight * tl.load(pair + 2 * PLAN.cells) + q * d
        total += q
    m = tl.load(parts + part)
    at = part if AXIS == 1 else part + plane(n, PLAN)
    tl.store(got + at, tl.load(got + at) + sum_over(total, AXIS) * m)
    if RATE:
        tl.store(dgot + at, tl.load(dgot + at) + sum_over(change, AXIS) * m)
