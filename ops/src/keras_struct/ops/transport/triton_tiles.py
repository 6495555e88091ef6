"""The Triton kernels of transport: sums over tiles of a plan that is never stored.

A program has a block of rows of one example and goes over tiles of columns (recurrence.md, "Tiles
on a GPU"). Arrays in memory, of all examples:

    x, y          parts (B, L, width) of our features and of theirs, as a tuple
    left, right   tuples of such tuples: factors of the plan
    values        parts (B, L2, values), as a tuple
    f, g          (B, L1) and (B, L2) potentials; `expected` and `weights` are such, too
    ours, theirs  (B,) lengths
    out           (B, splits, L1, ...)

Letters: R rows of a block, C columns of a tile. Logits are over log 2 where exponentials are powers
of two.
"""

import triton
import triton.language as tl

from keras_struct.ops.triton_math import LN_2, LOG2_E, exp2, log, max_over, sum_over

DEAD: tl.constexpr = tl.constexpr(-1e30)
LOWEST: tl.constexpr = tl.constexpr(-1e29)  # above what is forbidden, below any score
# Sums of exp(logit - expected log-sum) in which nothing that counts is lost.
LEAST: tl.constexpr = tl.constexpr(2.0**-60)
MOST: tl.constexpr = tl.constexpr(2.0**100)


@triton.jit
def weights_of(logits, PLAN: tl.constexpr):
    if PLAN.approximate:
        return exp2(logits, True)
    return tl.exp(logits)


@triton.jit
def as_logits(x, PLAN: tl.constexpr):
    """Logarithms in the unit of logits."""
    if PLAN.approximate:
        return x * LOG2_E
    return x


@triton.jit
def block_of(ours, theirs, size, tiles, band, PLAN: tl.constexpr):
    """Example, rows (R,), lengths, split, and the range of columns that a program goes over."""
    blocks = (size + PLAN.rows - 1) // PLAN.rows
    b = (tl.program_id(0) // blocks).to(tl.int64)
    first = tl.program_id(0) % blocks * PLAN.rows
    split = tl.program_id(1)
    n, m = tl.load(ours + b), tl.load(theirs + b)
    begin = split * tiles * PLAN.columns
    end = tl.minimum(begin + tiles * PLAN.columns, m)
    if PLAN.banded:
        begin = tl.maximum(begin, tl.maximum(first - band, 0) // PLAN.columns * PLAN.columns)
        end = tl.minimum(end, first + PLAN.rows + band)
    end = tl.where(first < n, end, begin)
    return b, first + tl.arange(0, PLAN.rows), n, m, split, begin, end


@triton.jit
def vector(x, places, there, FILL: tl.constexpr):
    """Numbers of some places; FILL where there is none."""
    return tl.load(x + places, mask=there, other=FILL)


@triton.jit
def piece(x, places, there, start, DEPTH: tl.constexpr, WIDTH: tl.constexpr):
    """Features of some places, (places, DEPTH)."""
    at = places[:, None] * WIDTH + (start + tl.arange(0, DEPTH))[None, :]
    return tl.load(x + at, mask=there[:, None], other=0.0)


@triton.jit
def pieces(x, places, there, WIDTH: tl.constexpr, PLAN: tl.constexpr):
    """All parts of the features of some places, where one piece is all of them."""
    found = ()
    if PLAN.depth >= WIDTH:
        for part in tl.static_range(len(x)):
            found += (piece(x[part], places, there, 0, WIDTH, WIDTH),)
    return found


@triton.jit
def dot(a, b, total, DIGITS: tl.constexpr, PLAN: tl.constexpr):
    """`total + a b`; the interpreter has no products of bfloat16."""
    if PLAN.approximate:
        return tl.dot(a, b, total, input_precision=DIGITS)
    like: tl.constexpr = total.dtype
    return tl.dot(a.to(like), b.to(like), total, input_precision="ieee", out_dtype=like)


@triton.jit
def product(
    x, kept, y, rows, columns, here, there, zeros,
    WIDTH: tl.constexpr, PAIRS: tl.constexpr, PLAN: tl.constexpr,
):  # fmt: skip
    """Products of features of rows and columns, (R, C); `kept` are `pieces` of the rows."""
    total = zeros
    if PLAN.depth >= WIDTH:
        for pair in tl.static_range(len(PAIRS)):
            b = piece(y[PAIRS[pair][1]], columns, there, 0, WIDTH, WIDTH)
            total = dot(kept[PAIRS[pair][0]], tl.trans(b), total, PAIRS[pair][2], PLAN)
    else:
        for start in range(0, WIDTH, PLAN.depth):
            for pair in tl.static_range(len(PAIRS)):
                a = piece(x[PAIRS[pair][0]], rows, here, start, PLAN.depth, WIDTH)
                b = piece(y[PAIRS[pair][1]], columns, there, start, PLAN.depth, WIDTH)
                total = dot(a, tl.trans(b), total, PAIRS[pair][2], PLAN)
    return total


@triton.jit
def tile(x, kept, y, g, rows, start, n, m, band, zeros, PLAN: tl.constexpr):
    """Columns (C,) from `start` on, whether they exist, and logits (R, C) with g: far below zero
    where no pair exists."""
    columns = start + tl.arange(0, PLAN.columns)
    there = columns < m
    if PLAN.first > 0:
        potential = vector(g, columns, there & (columns >= PLAN.first), DEAD)
    else:
        potential = vector(g, columns, there, DEAD)
    found = product(x, kept, y, rows, columns, rows < n, there, zeros, PLAN.width, PLAN.pairs, PLAN)
    found = as_logits(found, PLAN) + as_logits(potential, PLAN)[None, :]
    if PLAN.banded:
        distance = rows[:, None] - columns[None, :]
        found = tl.where((distance <= band) & (distance >= -band), found, DEAD)
    return columns, there, found


@triton.jit
def moved(x, b, size, WIDTH: tl.constexpr):
    """Pointers to the parts of an example."""
    found = ()
    for part in tl.static_range(len(x)):
        found += (x[part] + b * size * WIDTH,)
    return found


@triton.jit
def log_sums(
    x, y, g, expected, ours, theirs, out, size, other, tiles, band,
    NEAR: tl.constexpr, PLAN: tl.constexpr,
):  # fmt: skip
    """`log sum_j exp(x_i . y_j + g_j)` of the columns of a program, (R,); DEAD without any pair.

    With NEAR sums are of exp(logit - expected), as the reference `expected` says what they are
    about; where one leaves the range in which a float has all digits, the block is summed again
    around the largest logits.
    """
    b, rows, n, m, split, begin, end = block_of(ours, theirs, size, tiles, band, PLAN)
    here = rows < n
    x, y, g = moved(x, b, size, PLAN.width), moved(y, b, other, PLAN.width), g + b * other
    kept = pieces(x, rows, here, PLAN.width, PLAN)
    numbers: tl.constexpr = g.dtype.element_ty
    zeros = tl.full((PLAN.rows, PLAN.columns), 0.0, numbers)
    found = tl.full((PLAN.rows,), 0.0, numbers)
    lost = begin < end
    if NEAR:
        about = vector(expected + b * size, rows, here, 0.0)
        about_logits = as_logits(about, PLAN)
        total = tl.full((PLAN.rows,), 0.0, numbers)
        for start in range(begin, end, PLAN.columns):
            _, _, logits = tile(x, kept, y, g, rows, start, n, m, band, zeros, PLAN)
            total += sum_over(weights_of(logits - about_logits[:, None], PLAN), 1)
        some = here & (rows >= PLAN.first)
        if PLAN.banded:
            nearest = tl.maximum(rows - band, PLAN.first)
            some = some & (nearest < tl.minimum(rows + band + 1, m))
        fine = (total > LEAST) & (total < MOST)
        lost = lost & (max_over(tl.where(some & (fine == 0), 1, 0), 0) > 0)
        found = log(total, PLAN.approximate) + about
    if lost:
        peak = tl.full((PLAN.rows,), LOWEST, numbers)
        total = tl.full((PLAN.rows,), 0.0, numbers)
        for start in range(begin, end, PLAN.columns):
            _, _, logits = tile(x, kept, y, g, rows, start, n, m, band, zeros, PLAN)
            new = tl.maximum(peak, max_over(logits, 1))
            more = sum_over(weights_of(logits - new[:, None], PLAN), 1)
            total = total * weights_of(peak - new, PLAN) + more
            peak = new
        if PLAN.approximate:
            peak = peak * LN_2
        found = log(total, PLAN.approximate) + peak
    elif not NEAR:
        found = found + DEAD
    found = tl.maximum(found, DEAD)
    at = (b * tl.num_programs(1) + split) * size + rows
    tl.store(out + at, found, mask=rows < size)


@triton.jit
def weighted_sums(
    x, y, f, g, weights, ours, theirs, out, size, other, tiles, band, PLAN: tl.constexpr
):
    """`sum_j exp(x_i . y_j + f_i + g_j) weights_j`, (R,)."""
    b, rows, n, m, split, begin, end = block_of(ours, theirs, size, tiles, band, PLAN)
    here = (rows < n) & (rows >= PLAN.first)
    x, y, g = moved(x, b, size, PLAN.width), moved(y, b, other, PLAN.width), g + b * other
    kept = pieces(x, rows, here, PLAN.width, PLAN)
    numbers: tl.constexpr = g.dtype.element_ty
    zeros = tl.full((PLAN.rows, PLAN.columns), 0.0, numbers)
    potential = as_logits(vector(f + b * size, rows, here, DEAD), PLAN)
    total = tl.full((PLAN.rows,), 0.0, numbers)
    for start in range(begin, end, PLAN.columns):
        columns, there, logits = tile(x, kept, y, g, rows, start, n, m, band, zeros, PLAN)
        some = vector(weights + b * other, columns, there, 0.0)
        total += sum_over(weights_of(logits + potential[:, None], PLAN) * some[None, :], 1)
    at = (b * tl.num_programs(1) + split) * size + rows
    tl.store(out + at, total, mask=rows < size)


@triton.jit
def products(
    x, y, f, g, left, right, values, ours, theirs, out, size, other, tiles, band,
    PLAN: tl.constexpr,
):  # fmt: skip
    """`sum_j P_ij values_j` (R, V), with `P_ij = exp(x_i . y_j + f_i + g_j)`, times the products of
    all factors `left_i . right_j`."""
    b, rows, n, m, split, begin, end = block_of(ours, theirs, size, tiles, band, PLAN)
    here = (rows < n) & (rows >= PLAN.first)
    x, y, g = moved(x, b, size, PLAN.width), moved(y, b, other, PLAN.width), g + b * other
    kept = pieces(x, rows, here, PLAN.width, PLAN)
    values = moved(values, b, other, PLAN.values)
    factors: tl.constexpr = len(PLAN.factors)
    lefts, rights, blocks = (), (), ()
    for k in tl.static_range(factors):
        lefts += (moved(left[k], b, size, PLAN.factors[k]),)
        rights += (moved(right[k], b, other, PLAN.factors[k]),)
        blocks += (pieces(lefts[k], rows, here, PLAN.factors[k], PLAN),)
    numbers: tl.constexpr = g.dtype.element_ty
    zeros = tl.full((PLAN.rows, PLAN.columns), 0.0, numbers)
    potential = as_logits(vector(f + b * size, rows, here, DEAD), PLAN)
    total = tl.full((PLAN.rows, PLAN.values), 0.0, numbers)
    for start in range(begin, end, PLAN.columns):
        columns, there, logits = tile(x, kept, y, g, rows, start, n, m, band, zeros, PLAN)
        plan = weights_of(logits + potential[:, None], PLAN)
        for k in tl.static_range(factors):
            plan = plan * product(
                lefts[k], blocks[k], rights[k], rows, columns, here, there, zeros,
                PLAN.factors[k], PLAN.factor_pairs, PLAN,
            )  # fmt: skip
        for part in tl.static_range(len(values)):
            high = plan.to(values[0].dtype.element_ty)
            plan = plan - high.to(numbers)
            for other_part in tl.static_range(len(values) - part):
                some = piece(values[other_part], columns, there, 0, PLAN.values, PLAN.values)
                total = dot(high, some, total, "ieee", PLAN)
    at = ((b * tl.num_programs(1) + split) * size + rows)[:, None] * PLAN.values
    at = at + tl.arange(0, PLAN.values)[None, :]
    tl.store(out + at, total, mask=rows[:, None] < size)
