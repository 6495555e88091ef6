"""Weighted context-free grammars (labelled inside-outside)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.annotations import ArrayLike
from keras_struct.ops.chart.bracketing import Bracketing, split, starting_after
from keras_struct.ops.distribution import Distribution
from keras_struct.ops.numerics import all_over, compute_dtype
from keras_struct.ops.structure import (
    as_potential,
    as_sequence,
    batch_of,
    check_rank,
    flatten_batch,
    flatten_shared,
    one_hot,
)
from keras_struct.ops.symbolic import public
from keras_struct.ops.validation import Checks


@public
def pcfg(
    rules: ArrayLike,
    terms: ArrayLike,
    roots: ArrayLike,
    lengths: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    mask: ArrayLike | None = None,
    implementation: str | None = None,
) -> Distribution:
    """Distribution over the parse trees of a sentence under a grammar in Chomsky normal form.

    A tree has a preterminal over each word and a nonterminal over each longer span, which is cut
    into two others. Its score is that of the symbol at its root, of the rule A -> B C of every cut,
    and of the preterminal of every word: with logarithms of probabilities, `value` is that of the
    sentence under a probabilistic grammar. Scores need not be normalised.

    Shapes: `...` batch axes, `N` words, `K` nonterminals, `P` preterminals, `S = K + P` symbols:
    the nonterminals, then the preterminals. Time O(N^3 S^2 + N^2 K S^2), memory O(N^2 S + N S^2).

    Args:
        rules: (K, S, S) or (..., K, S, S) scores [parent, left child, right child].
        terms: (..., N, P) scores of the preterminals of each word.
        roots: (K,) or (..., K) scores of the symbol of the whole sentence.
        lengths: Integers (...,) between 0 and N; None for N. Sentences of fewer than two words have
            no tree, and value minus infinity.
        temperature: Positive number, tensor or variable, () or (...,); the number 0 is the best
            tree.
        mask: Booleans (..., N), instead of lengths: a word where it is False is not there, and its
            neighbours stand side by side.
        implementation: Name, or None for the best one (see `ops.explain`).

    Returns:
        `Distribution`. Events are (..., N, N), int32: the symbol of every span [first word, last
        word] of the tree, -1 elsewhere.

    Raises:
        ValueError: For shapes or lengths that do not fit.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> rules = np.log([[[0.0, 0.5], [0.0, 0.5]]]).astype("float32")  # A -> A w | w w
    >>> d = ops.pcfg(rules, terms=np.zeros((1, 4, 1), "float32"), roots=np.zeros(1, "float32"))
    >>> print(np.round(np.exp(np.array(d.value())), 4))  # one tree of three rules
    [0.125]

    Source: Baker (1979), Trainable grammars for speech recognition; Eisner (2016), Inside-outside
    and forward-backward algorithms are just backprop. See recurrence.md.
    """
    structure = PCFG(rules, terms, roots, lengths, mask)
    return Distribution(structure, temperature, implementation)


@dataclasses.dataclass(frozen=True)
class PCFGSpec:
    """Scores of rules (B or 1, K, S, S), terms (B, N, P) and roots (B or 1, K); context: lengths.

    All that is static is in the shapes.
    """


class PCFG(Bracketing):
    op = "pcfg"
    family = "pcfg"
    spec = PCFGSpec()
    axes: Mapping[str, tuple] = {"terms": (0, None)}

    def __init__(self, rules, terms, roots, lengths, mask):
        named = {"rules": rules, "terms": terms, "roots": roots}
        ranks = {"rules": (3, "K, S, S"), "terms": (2, "N, P"), "roots": (1, "K")}
        for name, x in named.items():
            named[name] = as_potential(name, x)
            check_rank(name, named[name], *ranks[name])
        rules, terms, roots = named.values()
        self.k, self.preterminals = rules.shape[-3], terms.shape[-1]
        symbols = (self.k or 0) + (self.preterminals or 0)
        if (
            not self.k
            or not self.preterminals
            or tuple(rules.shape[-2:]) != (symbols, symbols)
            or roots.shape[-1] != self.k
        ):
            raise ValueError(
                "Expected rules (..., K, S, S), terms (..., N, P) and roots (..., K), with static "
                "K, P >= 1 and S = K + P. Received: "
                + ", ".join(f"shape of {name}={tuple(x.shape)}" for name, x in named.items())
            )
        if terms.shape[-2] == 0:
            raise ValueError(
                "Expected at least one word (use lengths for empty sentences). "
                f"Received: shape of terms={tuple(terms.shape)}"
            )
        self.checks = Checks()
        self.symbols = symbols
        self.dtype = rules.dtype
        self.compute = compute_dtype(rules.dtype)
        self.batch_shape = batch_of(terms, 2)
        self.n = ops.shape(terms)[-2]
        flat = {
            name: flatten_batch(x, 2)
            if name == "terms"
            else flatten_shared(name, x, ranks[name][0], self.batch_shape)
            for name, x in named.items()
        }
        self.potentials = {name: ops.cast(x, self.compute) for name, x in flat.items()}
        words = as_sequence("lengths", lengths, mask, self.batch_shape, self.n, self.checks)
        self.sequences = (words,)
        self.context = (words.lengths,)
        there = words.mask(self.n)
        self.padding = {"terms": (None if there is None else there[..., None], 0.0)}
        self.compact()

    def fold(self, potentials):
        return tuple(potentials.values())

    def unfold(self, marginals):
        return dict(zip(self.potentials, marginals, strict=True))

    def parts(self, event, context):
        used = self.used(event, context)
        cuts = ops.cast(split(used), "int32")  # (B, i, k, j), one k for each longer span
        left = ops.sum(cuts * event[:, :, :, None], axis=2)
        right = ops.sum(cuts * starting_after(event)[:, None], axis=2)
        places = ops.arange(self.n, dtype="int32")
        longer = ops.logical_and(used, places[:, None] < places)
        parents = one_hot(array.where(longer, event, -1), self.k, self.compute)
        pairs = array.where(longer, left * self.symbols + right, -1)
        pairs = one_hot(pairs, self.symbols**2, self.compute)
        batch = ops.shape(event)[0]
        flat = (batch, self.n * self.n)
        parents = ops.transpose(ops.reshape(parents, (*flat, self.k)), (0, 2, 1))
        rules = array.matmul(parents, ops.reshape(pairs, (*flat, self.symbols**2)))
        alone = ops.logical_and(used, ops.equal(places[:, None], places))
        words = array.max(array.where(alone, event - self.k, -1), 2)
        last = ops.equal(places, context[0][:, None] - 1)
        top = array.max(array.where(last, event[:, 0], -1), 1)
        return (
            ops.reshape(rules, (batch, self.k, self.symbols, self.symbols)),
            one_hot(words, self.preterminals, self.compute),
            one_hot(top, self.k, self.compute),
        )

    def possible(self, event, context):
        """A binary tree of at least two words, preterminals over words, nonterminals elsewhere."""
        tree = ops.logical_and(super().possible(event, context), context[0] >= 2)
        places = ops.arange(self.n, dtype="int32")
        word = ops.equal(places[:, None], places)
        low, high = array.where(word, self.k, 0), array.where(word, self.symbols, self.k)
        known = ops.logical_and(event >= low, event < high)
        known = ops.logical_or(known, ops.logical_not(self.used(event, context)))
        return ops.logical_and(tree, all_over(known, (1, 2)))
