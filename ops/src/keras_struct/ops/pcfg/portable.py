"""PCFG on every backend (see `recurrence.md`)."""

from typing import NamedTuple

from keras import ops

from keras_struct.ops import array, scaled
from keras_struct.ops.chart.chart import swap
from keras_struct.ops.chart.layout import by_ends
from keras_struct.ops.implementation import Implementation
from keras_struct.ops.pcfg.grammar import Grammar
from keras_struct.ops.pcfg.outside import Choice, Outside, OutsideRates
from keras_struct.ops.pcfg.ranked import best_trees
from keras_struct.ops.scaled import Scaled


class Tape(NamedTuple):
    """What inside leaves, the batch first.

    Attributes:
        values: Of all spans, by width and start (B, S, W, N).
        lost: The columns that the moving frame of right parts loses (B, S, W, N, 1).
    """

    values: Scaled
    lost: Scaled


class PCFGPortable(Implementation):
    def forward(self, problem, op):
        reduce = array.max if op == "max" else array.sum
        grammar = Grammar(problem.potentials)
        values, lost = grammar.inside(reduce)
        total = scaled.raw_total(grammar.trees(values, problem.context[0]), 1, reduce)
        tape = Tape(*(Scaled(*map(grammar.divide, swap(x))) for x in (values, lost)))
        return scaled.to_log_pair(total), tape

    def backward(self, problem, tape):
        grammar, outside = _read(problem, tape, Outside)
        (rows,), (rules,), (roots,) = outside.descend()
        return rules, _terms(grammar, rows), roots

    def curvature(self, problem, tape, tangents):
        grammar, outside = _read(problem, tape, OutsideRates, tangents)
        (_, rows), (_, rules), (_, roots) = outside.descend()
        return rules, _terms(grammar, rows), roots

    def trace(self, problem, tape, draws=None):
        grammar, choice = _read(problem, tape, Choice, draws)
        (rows,), _, _ = choice.descend()
        return _event(grammar, rows > 0.5)

    def topk(self, problem, k):
        grammar = Grammar(problem.potentials)
        used, exists = best_trees(grammar, problem, k)
        events = ops.stack([_event(grammar, rows) for rows in used])
        return array.where(exists[:, :, None, None], events, -1), exists


def _read(problem, tape, kind, *more):
    grammar = Grammar(problem.potentials)
    values, lost = (Scaled(*(swap(grammar.merge(x)) for x in pair)) for pair in tape)
    return grammar, kind(grammar, values, lost, problem.context[0], *more)


def _terms(grammar, rows):
    """(B, N, P) from rows (W, B · S, N)."""
    return ops.transpose(grammar.divide(rows[0])[:, grammar.k :], (0, 2, 1))


def _event(grammar, used):
    """(B, N, N): the symbol of every span, -1 elsewhere, from booleans (W, B · S, N)."""
    used = ops.reshape(used, (grammar.n, grammar.batch, grammar.symbols, grammar.n))
    symbols = ops.arange(grammar.symbols, dtype="int32")[:, None]
    symbol = array.max(array.where(used, symbols, -1), 2)
    return by_ends(swap(symbol), -1)
