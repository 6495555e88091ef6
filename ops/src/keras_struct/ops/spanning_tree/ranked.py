"""The k best spanning trees from the best one under restrictions (Lawler, 1972).

What remains after a best tree has been taken is split by the first word with another head: in part
i the words before i keep their heads and word i may not. The best of all parts is the next tree,
and its part is split in turn. Distinct trees, exact, in k - 1 rounds of N restricted searches.
"""

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE
from keras_struct.ops.structure import one_hot


def best_trees(best, arcs, lengths, k):
    """Heads (k, B, N) and whether so many trees exist, (k, B).

    Args:
        best: Function from arcs (B, N, N) and lengths (B,) to values (B,) and heads (B, N).
    """
    no_tree = 2 * FORBIDDEN

    def step(carry, x):
        """The pool holds the best trees that have not been taken, each with its part."""
        taken, heads, *pool = carry
        value, parts, trees = (
            ops.concatenate([old, new], axis=1)
            for old, new in zip(pool, _split(best, taken, heads, lengths), strict=True)
        )
        value, index = array.top_k(value, k)
        index = ops.cast(index, "int32")
        parts, trees = _rows(parts, index), _rows(trees, index)
        rest = ops.concatenate([ops.full_like(value[:, :1], no_tree), value[:, 1:]], axis=1)
        return (parts[:, 0], trees[:, 0], rest, parts, trees), (value[:, 0], trees[:, 0])

    value, heads = best(arcs, lengths)
    values, trees = value[None], heads[None]
    if k > 1:
        pool = [ops.concatenate([x[:, None]] * k, axis=1) for x in (value, arcs, heads)]
        pool[0] = ops.full_like(pool[0], no_tree)
        rounds = (ops.arange(k - 1, dtype="int32"),)
        _, more = array.scan(step, (arcs, heads, *pool), rounds, like=(value, heads))
        values = ops.concatenate([values, more[0]], axis=0)
        trees = ops.concatenate([trees, more[1]], axis=0)
    exists = values > INFEASIBLE
    return array.where(exists[..., None], trees, -1), exists


def _split(best, arcs, heads, lengths):
    """Value (B, N), arcs (B, N, N, N) and heads (B, N, N) of the best tree of every part."""
    batch, n = ops.shape(heads)
    words = ops.arange(n, dtype="int32")
    used = one_hot(heads, n, "int32")[:, None] > 0  # (B, part, dependent, head)
    part, dependent = words[:, None, None], words[None, :, None]
    kept = ops.logical_and((dependent < part)[None], ops.logical_not(used))
    changed = ops.logical_and(ops.equal(dependent, part)[None], used)
    arcs = arcs[:, None]
    arcs = array.where(ops.logical_or(kept, changed), ops.full_like(arcs, FORBIDDEN), arcs)
    many = ops.reshape(ops.broadcast_to(lengths[:, None], (batch, n)), (-1,))
    value, heads = best(ops.reshape(arcs, (-1, n, n)), many)
    value = ops.reshape(value, (batch, n))
    inside = words[None] < lengths[:, None]
    value = array.where(inside, value, ops.full_like(value, 2 * FORBIDDEN))
    return value, arcs, ops.reshape(heads, (batch, n, n))


def _rows(x, index):
    """`x[b, index[b, i]]`."""
    tail = ops.shape(x)[2:]
    full = ops.reshape(index, (*ops.shape(index), *([1] * len(tail))))
    return array.take_along_axis(x, ops.broadcast_to(full, (*ops.shape(index), *tail)), 1)
