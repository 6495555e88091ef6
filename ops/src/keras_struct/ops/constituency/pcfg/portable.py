"""PCFG on every backend (see `recurrence.md`).

The tape is the values of all spans and the columns that the moving frame of right parts loses, as
mantissas and exponents, (B, S, W, N) and (B, S, W, N, 1); and 1 for every example if the local
operator was "max", (B,).
"""

import dataclasses

from keras import ops

from keras_struct.ops import array, scaled
from keras_struct.ops.chart.chart import pull, push, shift, swap, unshift
from keras_struct.ops.chart.layout import by_ends
from keras_struct.ops.chart.loop import scan_widths
from keras_struct.ops.constituency.pcfg.grammar import Grammar
from keras_struct.ops.constituency.pcfg.kbest import kbest
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE
from keras_struct.ops.scaled import Scaled
from keras_struct.ops.sweeps import Sweeps


def rejects(call):
    return None


def sweeps(call):
    return PCFGSweeps()


@dataclasses.dataclass(frozen=True)
class PCFGSweeps(Sweeps):
    def forward(self, potentials, context, op):
        grammar = Grammar(potentials)
        values, lost = grammar.inside(array.max if op == "max" else array.sum)
        scores = grammar.top_scores(values, context[0])
        total = array.max(scores, -1) if op == "max" else array.logsumexp(scores, -1)
        hard = ops.zeros_like(total) + float(op == "max")
        return total, (*(grammar.divide(swap(x)) for x in (*values, *lost)), hard)

    def backward(self, potentials, context, tape):
        grammar, outside = _read(potentials, context, tape, Outside)
        (rows,), (rules,), (roots,) = outside.descend()
        return rules, _terms(grammar, rows), roots

    def curvature(self, potentials, context, tape, tangents):
        grammar, outside = _read(potentials, context, tape, OutsideRates, tangents)
        (_, rows), (_, rules), (_, roots) = outside.descend()
        return rules, _terms(grammar, rows), roots

    def trace(self, potentials, context, tape, noise):
        grammar, outside = _read(potentials, context, tape, Choice, noise, tape[-1])
        (rows,), _, _ = outside.descend()
        return event_of(grammar, rows > 0.5)

    def topk(self, potentials, context, k):
        grammar = Grammar(potentials)
        used, exists = kbest(grammar, context[0], k)
        events = ops.stack([event_of(grammar, rows) for rows in used])
        return array.where(exists[:, :, None, None], events, -1), exists


def _read(potentials, context, tape, kind, *more):
    grammar = Grammar(potentials)
    arrays = [swap(grammar.merge(x)) for x in tape[:4]]
    return grammar, kind(grammar, Scaled(*arrays[:2]), Scaled(*arrays[2:]), context[0], *more)


def _terms(grammar, rows):
    """(B, N, P) from rows (W, B · S, N)."""
    return ops.transpose(grammar.divide(rows[0])[:, grammar.k :], (0, 2, 1))


def event_of(grammar, used):
    """(B, N, N): the symbol of every span, -1 elsewhere, from booleans (W, B · S, N)."""
    used = ops.reshape(used, (grammar.n, -1, grammar.symbols, grammar.n))
    symbols = ops.arange(grammar.symbols, dtype="int32")[:, None]
    symbol = ops.max(array.where(used, symbols, -1), axis=2)
    return by_ends(swap(symbol), -1)


class Outside:
    """From whole sentences down: the probability of every symbol of every span.

    What is passed down is a list of values: here probabilities; see the subclasses.
    """

    count = 1

    def __init__(self, grammar, values, lost, lengths):
        self.grammar, self.values, self.lost, self.lengths = grammar, values, lost, lengths
        self.all_lefts = grammar.lefts(values)
        self.scores = grammar.top_scores(values, lengths)
        # Where no tree exists, nothing is passed down.
        self.exists = array.max(self.scores, -1) > INFEASIBLE
        self.xs: tuple = ()
        self.state: tuple = ()

    def enter(self, part):
        self.left = self.all_lefts if part is None else part.fit(self.all_lefts)

    def roots(self):
        """What the roots get, (B, K) for each value."""
        peak = array.max(self.scores, -1, keepdims=True)
        p = array.exp(self.scores - peak)
        p = p / array.sum(p, -1, keepdims=True)
        return [array.where(self.exists[:, None], p, ops.zeros_like(p))]

    def read(self, state, x):
        """Own state at this width, and what `rules` and `cuts` need of it."""
        return state, ()

    def all_cuts(self, terms):
        """Pairs of symbols (B, S, S, C) from their terms cut by cut (B, S, S, R, C)."""
        return scaled.total(terms, 3)

    def rules(self, p, shares, view):
        """What each use of a rule gets, (B, K, S, S, C), of what its parent gets, (B, K, C)."""
        return [p[0][:, :, None, None] * shares]

    def cuts(self, q, shares, view):
        """What each cut gets, (B, S, S, R, C), of what its pair gets, (B, S, S, C)."""
        return [q[0][:, :, :, None] * shares]

    def descend(self):
        """Values of all spans (W, B · S, N), of all rules (B, K, S, S), of all roots (B, K)."""
        grammar = self.grammar
        roots = self.roots()

        def step(state, x):
            right, left_sums, right_sums, pending, counts, own = state
            time, value, lost, own_x = x
            right = pull(right, lost)
            own, view = self.read(own, own_x)
            p = [
                row + array.get_row(sums, time - 1)
                for row, sums in zip(pending, left_sums, strict=True)
            ]
            p = [self._with_root(row, root, time) for row, root in zip(p, roots, strict=True)]
            terms = grammar.cuts(self.left, right)
            pairs = self.all_cuts(terms)
            parent = Scaled(*(grammar.phrases(x)[:, :, None, None] for x in value))
            shares = scaled.ratio(grammar.uses(pairs), parent)
            q = self.rules([grammar.phrases(row) for row in p], shares, view)
            counts = [
                total + ops.reshape(array.sum(x, -1), (-1,))
                for total, x in zip(counts, q, strict=True)
            ]
            whole = Scaled(*(x[:, :, :, None] for x in pairs))
            shares = scaled.ratio(terms, whole)
            c = self.cuts([array.sum(x, 1) for x in q], shares, view)
            left_sums = [
                sums + grammar.merge(array.sum(x, 2)) for sums, x in zip(left_sums, c, strict=True)
            ]
            right_sums = [
                sums + grammar.merge(array.sum(x, 1)) for sums, x in zip(right_sums, c, strict=True)
            ]
            pending = [unshift(sums[:, 0]) for sums in right_sums]
            right_sums = [pull(sums, ops.zeros_like(sums[:, :, :1])) for sums in right_sums]
            return (right, left_sums, right_sums, pending, counts, own), p

        frames, zeros = [grammar.frame] * self.count, [grammar.zeros] * self.count
        # Flat, so that the loop by parts takes them for no rows.
        counts = ops.zeros_like(self.scores[:, :, None, None] + grammar.log_rules)
        shape = ops.shape(counts)
        counts = [ops.reshape(counts, (-1,))] * self.count
        state = (grammar.table(), frames, frames, zeros, counts, self.state)
        xs = (grammar.times, self.values, self.lost, self.xs)

        def make_step(part):
            self.enter(part)
            return step

        state, rows = scan_widths(grammar.n, make_step, state, xs, zeros, reverse=True)
        return rows, [ops.reshape(x, shape) for x in state[4]], roots

    def _with_root(self, row, root, time):
        """The row (B · S, C), and at start 0 what the root gets where the width is the length."""
        grammar = self.grammar
        here = array.where(ops.equal(time, self.lengths)[:, None], root, ops.zeros_like(root))
        column = grammar.all_symbols(here[:, :, None])
        return array.concatenate([row[:, :1] + column, row[:, 1:]], 1)


class Choice(Outside):
    """One rule and one cut for each span, the best after noise."""

    def __init__(self, grammar, values, lost, lengths, noise, hard):
        super().__init__(grammar, values, lost, lengths)
        self.noise, self.hard = noise, hard[:, None, None, None] > 0
        n, batch = grammar.n, grammar.batch
        pairs = swap(noise((batch, n, grammar.symbols**2 * n)))
        self.xs = (ops.reshape(pairs, (n, -1, n)), swap(noise((batch, n, n, n))))

    def roots(self):
        scores = self.scores + self.noise((self.grammar.batch, self.grammar.k))
        best = ops.equal(
            ops.cast(array.argmax(scores, -1), "int32")[:, None],
            ops.arange(self.grammar.k, dtype="int32"),
        )
        best = ops.logical_and(best, self.exists[:, None])
        return [ops.cast(best, scores.dtype)]

    def read(self, state, x):
        pairs, cuts = x  # cut to the size of this part, as all that the loop reads
        shape = (-1, self.grammar.symbols**2, ops.shape(pairs)[-1])
        return state, (ops.reshape(pairs, shape), cuts)

    def all_cuts(self, terms):
        """The best cut of each pair where the tape holds maxima, else all."""
        either = zip(scaled.total(terms, 3, array.max), scaled.total(terms, 3), strict=True)
        return Scaled(*(array.where(self.hard, best, every) for best, every in either))

    def rules(self, p, shares, view):
        used = array.sum(p[0], 1)  # (B, C): at most one symbol of a span is used
        q = p[0][:, :, None, None] * shares
        pairs = array.sum(q, 1)
        shape = ops.shape(pairs)
        flat = ops.reshape(pairs, (shape[0], -1, shape[-1]))
        chosen = _one_best(flat, view[0], 1) * used[:, None]
        chosen = ops.reshape(chosen, shape)
        return [p[0][:, :, None, None] * chosen[:, None]]

    def cuts(self, q, shares, view):
        share = array.sum(array.sum(q[0][:, :, :, None] * shares, 1), 1)  # (B, R, C)
        chosen = _one_best(share, view[1], 1)
        return [q[0][:, :, :, None] * chosen[:, None, None]]


class OutsideRates(Outside):
    """Probabilities and their tangents.

    Args:
        tangents: Tangents of rules (B, K, S, S), terms (B, N, P) and roots (B, K).
    """

    count = 2

    def __init__(self, grammar, values, lost, lengths, tangents):
        super().__init__(grammar, values, lost, lengths)
        self.drules, dterms, self.droots = tangents
        self.dwords = grammar.rows_of_terms(dterms, 0)
        self.all_dlefts = None
        drows, dlost, dpairs = self._inside()
        self.all_dlefts = swap(drows)
        self.drows = drows
        self.state = (grammar.frame,)
        self.xs = (drows, dlost, dpairs)

    def enter(self, part):
        super().enter(part)
        if self.all_dlefts is not None:
            self.dleft = self.all_dlefts if part is None else part.fit(self.all_dlefts)

    def _inside(self):
        """Tangents of the logarithms of values, their lost columns, and those of the pairs."""
        grammar = self.grammar
        pairs_shape = (-1, grammar.symbols, grammar.symbols)

        def make_step(part):
            self.enter(part)
            dwords = self.dwords if part is None else part.fit(self.dwords)

            def step(state, x):
                right, dleft, dright = state
                time, value = x
                terms = grammar.cuts(self.left, right)
                pairs = scaled.total(terms, 3)
                shares = scaled.ratio(terms, Scaled(*(x[:, :, :, None] for x in pairs)))
                rates = grammar.divide(dleft)[:, :, None] + grammar.divide(dright)[:, None]
                dpairs = array.sum(shares * rates, 3)
                parent = Scaled(*(grammar.phrases(x)[:, :, None, None] for x in value))
                shares = scaled.ratio(grammar.uses(pairs), parent)
                rates = self.drules[..., None] + dpairs[:, None]
                found = array.sum(array.sum(shares * rates, 2), 2)
                found = grammar.all_symbols(found)
                row = array.where(ops.equal(time, 1), dwords, found)
                dleft = array.put_row(dleft, time - 1, row)
                lost = dright[:, :, :1]
                state = (push(right, shift(value)), dleft, push(dright, shift(row)))
                flat = ops.reshape(dpairs, (-1, ops.shape(dpairs)[-1]))
                return state, (row, lost, flat)

            return step

        frame, zeros = grammar.frame, grammar.zeros
        pairs = ops.reshape(
            grammar.divide(zeros)[:, :, None] + grammar.divide(zeros)[:, None],
            (-1, ops.shape(zeros)[-1]),
        )
        state = (grammar.table(), frame + 0.0, frame)
        like = (zeros, frame[:, :, :1], pairs)
        xs = (grammar.times, self.values)
        _, (drows, dlost, dpairs) = scan_widths(grammar.n, make_step, state, xs, like)
        self.pairs_shape = pairs_shape
        return drows, dlost, dpairs

    def roots(self):
        (p,) = super().roots()
        rate = self.droots + self.grammar.top(self.drows, self.lengths)
        return [p, p * (rate - array.sum(p * rate, -1, keepdims=True))]

    def read(self, state, x):
        drow, dlost, dpairs = x
        dright = pull(state[0], dlost)
        dpairs = ops.reshape(dpairs, (*self.pairs_shape, ops.shape(dpairs)[-1]))
        return [dright], (drow, dpairs, dright)

    def rules(self, p, shares, view):
        drow, dpairs, _ = view
        p, dp = (x[:, :, None, None] for x in p)
        rate = self.drules[..., None] + dpairs[:, None]
        rate = rate - self.grammar.phrases(drow)[:, :, None, None]
        q = p * shares
        return [q, dp * shares + q * rate]

    def cuts(self, q, shares, view):
        _, dpairs, dright = view
        q, dq = (x[:, :, :, None] for x in q)
        divide = self.grammar.divide
        rate = divide(self.dleft)[:, :, None] + divide(dright)[:, None]
        c = q * shares
        return [c, dq * shares + c * (rate - dpairs[:, :, :, None])]


def _one_best(shares, noise, axis):
    """1 at the largest log-share plus noise along the axis, else 0; nowhere where all are 0."""
    positive = shares > 0
    logits = array.log(array.where(positive, shares, ops.ones_like(shares)))
    low = ops.zeros_like(logits) + FORBIDDEN
    logits = array.where(positive, logits + noise, low)
    best = ops.cast(array.argmax(logits, axis), "int32")
    places = ops.arange(ops.shape(shares)[axis], dtype="int32")[:, None]
    chosen = ops.logical_and(ops.equal(best[:, None], places), positive)
    return ops.cast(chosen, shares.dtype)
