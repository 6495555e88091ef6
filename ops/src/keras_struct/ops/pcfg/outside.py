"""From whole sentences down: what every symbol of every span gets (see `recurrence.md`)."""

from keras import ops

from keras_struct.ops import array, scaled
from keras_struct.ops.chart.chart import pull, push, shift, swap, unshift
from keras_struct.ops.chart.loop import scan_widths
from keras_struct.ops.noise import flat_places, perturbed
from keras_struct.ops.numerics import FORBIDDEN
from keras_struct.ops.pcfg.noise_places import CUT, PAIR, ROOT, place_of_cut, place_of_pair
from keras_struct.ops.scaled import Scaled
from keras_struct.ops.structure import size_of


class Outside:
    """Probabilities. What is passed down is a list of values, other ones in the subclasses.

    Args:
        grammar: `Grammar`.
        values: Of all spans (W, B · S, N), as its inside pass left them.
        lost: Lost columns (W, B · S, N, 1).
        lengths: (B,).
    """

    count = 1

    def __init__(self, grammar, values, lost, lengths):
        self.grammar, self.values, self.lost, self.lengths = grammar, values, lost, lengths
        self.all_lefts = grammar.lefts(values)
        trees = grammar.trees(values, lengths)
        # Where no tree exists, nothing is passed down.
        whole = scaled.raw_total(trees, 1)
        self.shares = scaled.ratio(trees, whole.map(lambda x, _: x[:, None]))
        self.xs: tuple = ()
        self.state: tuple = ()

    def enter(self, part):
        self.left = self.all_lefts if part is None else part.fit(self.all_lefts)

    def roots(self):
        """What the roots get, (B, K) for each value."""
        return [self.shares]

    def read(self, time, state, x):
        """Own state at this width, and what `rules` and `cuts` need of it."""
        return state, ()

    def all_cuts(self, terms):
        """Pairs of symbols (B, S, S, C) from their terms cut by cut (B, S, S, R, C)."""
        return scaled.raw_total(terms, 3)

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
            own, view = self.read(time, own, own_x)
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
                total + ops.reshape(array.sum(x, -1), ops.shape(total))
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
        counts = ops.zeros_like(self.shares[:, :, None, None] + grammar.log_rules)
        shape = ops.shape(counts)
        counts = [ops.reshape(counts, (size_of(shape),))] * self.count
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
    """One rule and one cut for each span: the best, after noise if there are draws.

    Args:
        draws: `noise.Draws`, or None where the values are maxima.
    """

    def __init__(self, grammar, values, lost, lengths, draws):
        super().__init__(grammar, values, lost, lengths)
        self.draws = draws

    def roots(self):
        chosen = _one_best(self.shares, self.draws, ROOT, flat_places((self.grammar.k,)))
        return [chosen]

    def read(self, time, state, x):
        return state, time

    def all_cuts(self, terms):
        """Of maxima, the best cut of each pair."""
        return scaled.raw_total(terms, 3, array.max if self.draws is None else array.sum)

    def rules(self, p, shares, view):
        used = array.sum(p[0], 1)  # (B, C): at most one symbol of a span is used
        pairs = array.sum(p[0][:, :, None, None] * shares, 1)
        batch, s, _, columns = ops.shape(pairs)
        pair = ops.arange(s * s, dtype="int32")[:, None]
        first = ops.arange(columns, dtype="int32")
        places = place_of_pair(first, first + view - 1, pair, s * s)[None]
        flat = ops.reshape(pairs, (batch, s * s, columns))
        chosen = _one_best(flat, self.draws, PAIR, places) * used[:, None]
        chosen = ops.reshape(chosen, (batch, s, s, columns))
        return [p[0][:, :, None, None] * chosen[:, None]]

    def cuts(self, q, shares, view):
        share = array.sum(array.sum(q[0][:, :, :, None] * shares, 1), 1)  # (B, R, C)
        _, rows, columns = ops.shape(share)
        word = ops.arange(rows, dtype="int32")[:, None] + ops.arange(columns, dtype="int32")
        chosen = _one_best(share, self.draws, CUT, place_of_cut(view - 1, word)[None])
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

        def make_step(part):
            self.enter(part)
            dwords = self.dwords if part is None else part.fit(self.dwords)

            def step(state, x):
                right, dleft, dright = state
                time, value = x
                terms = grammar.cuts(self.left, right)
                pairs = scaled.raw_total(terms, 3)
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
                part = scaled.normalise(*value)
                state = (push(right, shift(part)), dleft, push(dright, shift(row)))
                return state, (row, lost, _flat_pairs(dpairs))

            return step

        frame, zeros = grammar.frame, grammar.zeros
        pairs = _flat_pairs(grammar.divide(zeros)[:, :, None] + grammar.divide(zeros)[:, None])
        state = (grammar.table(), frame + 0.0, frame)
        like = (zeros, frame[:, :, :1], pairs)
        xs = (grammar.times, self.values)
        _, (drows, dlost, dpairs) = scan_widths(grammar.n, make_step, state, xs, like)
        return drows, dlost, dpairs

    def roots(self):
        (p,) = super().roots()
        rate = self.droots + self.grammar.top(self.drows, self.lengths)
        return [p, p * (rate - array.sum(p * rate, -1, keepdims=True))]

    def read(self, time, state, x):
        drow, dlost, dpairs = x
        dright = pull(state[0], dlost)
        symbols = self.grammar.symbols
        shape = (self.grammar.batch, symbols, symbols, ops.shape(dpairs)[-1])
        dpairs = ops.reshape(dpairs, shape)
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


def _one_best(shares, draws, stream, places):
    """1 at the largest log-share along axis 1, after noise if there are draws, else 0; nowhere
    where all are 0."""
    positive = shares > 0
    logits = array.log(array.where(positive, shares, ops.ones_like(shares)))
    logits = perturbed(logits, draws, stream, places)
    logits = array.where(positive, logits, ops.zeros_like(logits) + FORBIDDEN)
    best = ops.cast(array.argmax(logits, 1), "int32")
    numbers = ops.arange(ops.shape(shares)[1], dtype="int32")
    numbers = ops.reshape(numbers, (-1, *([1] * (len(shares.shape) - 2))))
    chosen = ops.logical_and(ops.equal(best[:, None], numbers), positive)
    return ops.cast(chosen, shares.dtype)


def _flat_pairs(x):
    """(B, S, S, C) to (B · S · S, C), which the loop by parts takes for rows."""
    *rows, columns = ops.shape(x)
    return ops.reshape(x, (size_of(rows), columns))
