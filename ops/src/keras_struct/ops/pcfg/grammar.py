"""The chart of a grammar: rows are those of `chart`, (B · S, N), one for every symbol."""

from keras import ops

from keras_struct.ops import array, scaled
from keras_struct.ops.chart.chart import push, shift, swap
from keras_struct.ops.chart.loop import scan_widths
from keras_struct.ops.numerics import FORBIDDEN
from keras_struct.ops.scaled import EMPTY, Scaled


class Grammar:
    """Rules and words of one call, and the inside pass.

    The value of a span has the exponent of its largest term, so that its terms have shares whose
    sum is 1, however few digits exponents have. It is normalised when it becomes a part.

    Args:
        potentials: Log-scores of rules (B or 1, K, S, S), terms (B, N, P) and roots (B or 1, K).
    """

    def __init__(self, potentials):
        self.log_rules, self.log_terms, log_roots = potentials
        self.batch, self.n, self.preterminals = ops.shape(self.log_terms)
        self.k, self.symbols = self.log_rules.shape[1:3]
        self.rules = scaled.from_log(self.log_rules)
        self.roots = scaled.from_log(log_roots)
        self.words = scaled.from_log(self.rows_of_terms(self.log_terms, FORBIDDEN))
        self.zeros = ops.zeros_like(self.words.m)
        self.nothing = Scaled(self.zeros, self.zeros + EMPTY)
        self.frame = ops.zeros_like(self.zeros[:, :, None]) + ops.zeros_like(self.zeros[:1, None])
        self.times = ops.arange(1, self.n + 1, dtype="int32")

    def rows_of_terms(self, terms, fill):
        """(B, N, P) as rows (B · S, N) of all symbols."""
        above = ops.zeros_like(terms[:, :, :1]) + fill
        above = array.concatenate([above] * self.k, 2)
        return self.merge(ops.transpose(array.concatenate([above, terms], 2), (0, 2, 1)))

    def merge(self, x):
        """(B, S, ...) to (B · S, ...)."""
        return ops.reshape(x, (self.batch * self.symbols, *ops.shape(x)[2:]))

    def divide(self, x):
        """(B · S, ...) to (B, S, ...)."""
        return ops.reshape(x, (self.batch, self.symbols, *ops.shape(x)[1:]))

    def phrases(self, rows):
        """The nonterminals of rows (B · S, C): (B, K, C)."""
        return self.divide(rows)[:, : self.k]

    def all_symbols(self, phrases, fill=0):
        """Rows (B · S, C) of nonterminals (B, K, C), `fill` for preterminals."""
        below = ops.zeros_like(phrases[:, :1]) + fill
        return self.merge(array.concatenate([phrases, *[below] * self.preterminals], 1))

    def table(self):
        """A new table or frame (B · S, N, N) of nothing."""
        return Scaled(self.frame + 0.0, self.frame + EMPTY)

    def cuts(self, left, right):
        """The terms of all pairs of symbols, cut by cut: (B, S, S, R, C)."""
        return scaled.times(
            Scaled(*(self.divide(x)[:, :, None] for x in left)),
            Scaled(*(self.divide(x)[:, None] for x in right)),
        )

    def uses(self, pairs):
        """The terms of all rules: (B, K, S, S, C) for pairs (B, S, S, C)."""
        rules = Scaled(*(x[..., None] for x in self.rules))
        return scaled.times(rules, Scaled(*(x[:, None] for x in pairs)))

    def inside(self, reduce):
        """Values (W, B · S, N) of all spans, and the lost columns (W, B · S, N, 1)."""

        def make_step(part):
            words = self.words if part is None else part.fit(self.words)

            def step(state, x):
                left, right = state
                (time,) = x
                pairs = scaled.raw_total(self.cuts(left, right), 3, reduce)
                uses = self.uses(pairs)
                shape = (*ops.shape(uses.m)[:2], self.symbols**2, ops.shape(uses.m)[-1])
                uses = Scaled(*(ops.reshape(x, shape) for x in uses))
                found = scaled.raw_total(uses, 2, reduce)
                found = Scaled(self.all_symbols(found.m), self.all_symbols(found.e, EMPTY))
                first = ops.equal(time, 1)
                row = Scaled(*(array.where(first, a, b) for a, b in zip(words, found, strict=True)))
                part = scaled.normalise(*row)
                left = Scaled(
                    *(array.put_row(t, time - 1, y) for t, y in zip(left, part, strict=True))
                )
                lost = right.map(lambda a, _: a[:, :, :1])
                return (left, push(right, shift(part))), (row, lost)

            return step

        state = (self.table(), self.table())
        like = (self.nothing, self.table().map(lambda a, _: a[:, :, :1]))
        _, outputs = scan_widths(self.n, make_step, state, (self.times,), like)
        return outputs

    def top(self, rows, lengths, fill=0):
        """The nonterminals (B, K) of the whole sentences, from rows (W, B · S, N).

        `fill` where there is no tree: in sentences of fewer than two words.
        """
        last = ops.equal(self.times[:, None, None], lengths[:, None])
        shape = (self.n, self.batch, self.symbols, self.n)
        every = ops.reshape(rows, shape)[:, :, : self.k, 0]
        found = array.sum(array.where(last, every, ops.zeros_like(every)), 0)
        return array.where(lengths[:, None] >= 2, found, ops.zeros_like(found) + fill)

    def trees(self, values, lengths):
        """Values (B, K) of all trees with each root."""
        parts = values.map(lambda x, fill: self.top(x, lengths, fill))
        return scaled.times(parts, self.roots)

    def lefts(self, values):
        """The complete left table (B · S, N, N)."""
        return swap(scaled.normalise(*values))
