"""The k best trees of a grammar: k values for every symbol of every span, in log space.

A value has a place among the k of its symbol and span, its rank. From the top down, the candidates
of a used span are computed again, and the rank says which one it is; no pointers are kept.
"""

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.chart.chart import pull, push, shift, swap, unshift
from keras_struct.ops.chart.loop import scan
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE


def best_trees(grammar, problem, k):
    """The k best trees.

    Args:
        grammar: `Grammar` (for its layout).
        problem: `Problem`.
        k: How many.

    Returns:
        List of k boolean arrays (W, B · S, N), and which exist, (k, B).
    """
    (rules, terms, roots), (lengths,) = problem.potentials, problem.context
    best = _Ranked(grammar, rules, terms, k)
    rows, lost = best.inside()
    tops = [grammar.top(row, lengths, FORBIDDEN) + roots for row in rows]  # (B, K) by rank
    low = ops.full((), FORBIDDEN, dtype=tops[0].dtype)
    tops = [array.maximum(top, low) for top in tops]
    values, chosen = array.top_k(ops.concatenate(tops, axis=1), k)
    chosen = ops.cast(chosen, "int32")
    exists = ops.transpose(values > INFEASIBLE)
    symbols = ops.arange(grammar.k, dtype="int32")
    starts = []
    for tree in range(k):
        rank, symbol = chosen[:, tree] // grammar.k + 1, chosen[:, tree] % grammar.k
        here = ops.logical_and(ops.equal(symbol[:, None], symbols), exists[tree][:, None])
        starts.append(array.where(here, rank[:, None], 0))
    used = best.descend(rows, lost, starts, lengths)
    return [ranks > 0 for ranks in used], exists


class _Ranked:
    def __init__(self, grammar, rules, terms, k):
        self.grammar, self.log_rules, self.k = grammar, rules, k
        # Of the ranks of two parts, only these can be among the k best.
        self.ranks = [(a, b) for a in range(k) for b in range(k) if (a + 1) * (b + 1) <= k]
        self.words = grammar.rows_of_terms(terms, FORBIDDEN)
        self.low = ops.full((), FORBIDDEN, dtype=self.words.dtype)

    def candidates(self, lefts, rights):
        """The k best of each pair and of each nonterminal, as values and as places.

        Returns:
            Values (B, C, K, k) and places (B, C, K, k) among (S, S, k); places (B, C, S, S, k) of
            the pairs among (ranks, R).
        """
        divide = self.grammar.divide
        terms = array.concatenate(
            [divide(lefts[a])[:, :, None] + divide(rights[b])[:, None] for a, b in self.ranks], 3
        )
        pairs, cuts = array.top_k(array.transpose(terms, (0, 4, 1, 2, 3)), self.k)
        pairs = array.maximum(pairs, self.low)
        uses = pairs[:, :, None] + self.log_rules[:, None, ..., None]
        shape = (*ops.shape(uses)[:3], self.grammar.symbols**2 * self.k)
        values, rules = array.top_k(ops.reshape(uses, shape), self.k)
        return array.maximum(values, self.low), ops.cast(rules, "int32"), ops.cast(cuts, "int32")

    def inside(self):
        """For each rank, values (W, B · S, N) and lost columns (W, B · S, N, 1)."""
        grammar = self.grammar

        def step(state, x):
            lefts, rights = state
            (time,) = x
            values, _, _ = self.candidates(lefts, rights)
            first = ops.equal(time, 1)
            rows = []
            for rank in range(self.k):
                phrases = array.transpose(values[..., rank], (0, 2, 1))
                row = grammar.all_symbols(phrases, FORBIDDEN)
                words = self.words if rank == 0 else ops.zeros_like(self.words) + FORBIDDEN
                rows.append(array.where(first, words, row))
            lefts = [array.put_row(t, time - 1, r) for t, r in zip(lefts, rows, strict=True)]
            lost = [frame[:, :, :1] for frame in rights]
            rights = [
                push(frame, shift(row, FORBIDDEN), FORBIDDEN)
                for frame, row in zip(rights, rows, strict=True)
            ]
            return (lefts, rights), (rows, lost)

        table, row = grammar.frame + FORBIDDEN, grammar.zeros
        state = ([table + 0.0 for _ in range(self.k)], [table] * self.k)
        like = ([row] * self.k, [table[:, :, :1]] * self.k)
        _, outputs = scan(step, state, (grammar.times,), like)
        return outputs

    def descend(self, rows, lost, starts, lengths):
        """Ranks, counted from 1, of what every tree uses: k arrays (W, B · S, N)."""
        grammar, k = self.grammar, self.k
        lefts = [swap(row) for row in rows]

        def step(state, x):
            rights, sums = state
            time, lost = x
            rights = [pull(frame, column) for frame, column in zip(rights, lost, strict=True)]
            _, rules, cuts = self.candidates(lefts, rights)
            new, used = [], []
            for (left_sums, right_sums, pending), start in zip(sums, starts, strict=True):
                row = pending + array.get_row(left_sums, time - 1)
                here = array.where(ops.equal(time, lengths)[:, None], start, 0)
                column = grammar.all_symbols(here[:, :, None])
                row = array.concatenate([row[:, :1] + column, row[:, 1:]], 1)
                left, right = self.parts(row, rules, cuts)
                left_sums, right_sums = left_sums + left, right_sums + right
                pending = unshift(right_sums[:, 0])
                right_sums = pull(right_sums, ops.zeros_like(right_sums[:, :, :1]))
                new.append([left_sums, right_sums, pending])
                used.append(row)
            return (rights, new), used

        frame, row = (ops.cast(x, "int32") for x in (grammar.frame, grammar.zeros))
        state = ([grammar.frame + FORBIDDEN] * k, [[frame, frame, row] for _ in range(k)])
        return scan(step, state, (grammar.times, lost), [row] * k, reverse=True)[1]

    def parts(self, row, rules, cuts):
        """The ranks of left and right parts (B · S, R, C) of the used spans of a row."""
        grammar, k = self.grammar, self.k
        ranks = array.transpose(grammar.phrases(row), (0, 2, 1))  # (B, C, K), one not 0 at most
        place = ops.zeros_like(ranks)
        for rank in range(k):
            place = array.where(ops.equal(ranks, rank + 1), rules[..., rank] + 1, place)
        place = ops.sum(place, axis=-1, keepdims=True)  # (B, C, 1), 0 where nothing is used
        used, rule = place > 0, ops.maximum(place - 1, 0)
        flat = ops.reshape(cuts, (*ops.shape(cuts)[:2], grammar.symbols**2 * k))
        cut = array.take_along_axis(flat, rule, 2)
        size = ops.shape(grammar.frame)[1]
        pair, at = cut // size, cut % size
        left_rank = right_rank = ops.zeros_like(pair)
        for number, (a, b) in enumerate(self.ranks):
            here = ops.equal(pair, number)
            left_rank = array.where(here, a + 1, left_rank)
            right_rank = array.where(here, b + 1, right_rank)
        rule = rule // k
        symbols = ops.arange(grammar.symbols, dtype="int32")
        rows = ops.arange(size, dtype="int32")
        row_hit = ops.logical_and(ops.equal(at, rows), used)  # (B, C, R)

        def spread(symbol, rank):
            hit = ops.logical_and(ops.equal(symbol, symbols)[..., None], row_hit[:, :, None])
            found = array.where(hit, rank[..., None], 0)  # (B, C, S, R)
            return grammar.merge(array.transpose(found, (0, 2, 3, 1)))

        left, right = rule // grammar.symbols, rule % grammar.symbols
        return spread(left, left_rank), spread(right, right_rank)
