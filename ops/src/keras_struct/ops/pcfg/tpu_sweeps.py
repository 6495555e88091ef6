"""The Pallas kernels of grammars: the inside pass, and those from the whole span down to its parts.

References, beside planes by name (`tpu_plan.py`):

    limits      the longest length of every block, in SMEM
    flags       1 for every block whose rules have one exponent, else 0, in SMEM
    lengths     (1, LANES)
    words       (2, N words, LANES) m and e of the preterminals of every word
    rules       (2, K, pairs, LANES) m and e
    top         (1, LANES) the largest exponent of the rules
    m, e        spans, m 2^e
    sm, se      the same as they were summed, of which terms have shares whose sum is 1
    pm, pe      pairs of one span; going down, probabilities over m take the place of m
    po          the same over the largest of their exponents
    d, dp       tangents of the logarithms of spans, and of their probabilities
    p           probabilities of spans
    pd          tangents of the logarithms of pairs; going down, (dp - p d) / m takes their place
    starts      (phrases, LANES) probabilities of the roots
    drules, dwords, droots  tangents of scores
    over, less, dover       (phrases, LANES) of the symbols of one span: p / m, -e (or p / m as a
                plain number), (dp - p d) / m
    zeros       (8, LANES)
    tops        (2, phrases, LANES) m and e of the whole sentence
    out, out_words, out_roots  what rules, words and roots get
"""

from jax import lax
from jax import numpy as jnp
from jax.experimental import pallas as pl

from keras_struct.ops.chart.tpu_sweeps import fill
from keras_struct.ops.pcfg.tpu_rules import Rules
from keras_struct.ops.scaled import EMPTY


class Grammar(Rules):
    """One block of sentences."""

    def inside(self, tops=None):
        """All spans. `tops(w, i, place)` is called after each of those that may be whole."""
        x, plan = self.x, self.plan
        x.zeros[...] = jnp.zeros_like(x.zeros[...])
        for m, e in ((x.m, x.e), (x.sm, x.se), (x.pm, x.pe)):
            fill(m, 0.0)
            fill(e, EMPTY)
        if self.rates:
            fill(x.d, 0.0)
            fill(x.pd, 0.0)

        def word(i, _):
            at = self.words(i)
            x.m[at, :], x.e[at, :] = x.words[0, at, :], x.words[1, at, :]
            if self.rates:
                x.d[at, :] = x.dwords[at, :]

        lax.fori_loop(0, plan.n, word, None)

        def step(w, i):
            self.make_pairs(w, i)
            self.make_phrases(w, i)
            if tops is not None:
                pl.when(i == 0)(lambda: tops(w, self.phrases(w, i)))

        self.each(step)

    def down(self):
        """Probabilities of spans and rules; with rates, their tangents."""
        x, plan = self.x, self.plan
        fill(x.p, 0.0)
        if self.rates:
            fill(x.dp, 0.0)
            x.out_roots[...] = jnp.zeros_like(x.out_roots[...])
        lax.fori_loop(0, plan.k, lambda a, _: fill(x.out.at[a], 0.0), None)

        def step(w, i):
            pl.when(i == 0)(lambda: self._begin(w, self.phrases(w, i)))
            self.make_pairs(w, i)
            self.share_rules(w, i)
            self.share_cuts(w, i)

        self.each(step, back=True)
        self.end_rules()
        found = x.dp if self.rates else x.p

        def word(i, _):
            x.out_words[self.words(i), :] = found[self.words(i), :]

        lax.fori_loop(0, plan.n, word, None)

    def _begin(self, w, at):
        """Roots of the sentences of a length."""
        x, here = self.x, self.is_whole(w, 0)
        p = x.starts[...]
        x.p[at, :] += jnp.where(here, p, 0.0)
        if self.rates:
            rate = x.droots[...] + x.d[at, :]
            dp = p * (rate - jnp.sum(p * rate, 0, keepdims=True))
            dp = jnp.where(here, dp, 0.0)
            x.dp[at, :] += dp
            x.out_roots[...] += dp


def forward(plan, op, x):
    """The nonterminals of every whole sentence, as m and e."""
    run = Grammar(plan, x, op)
    x.tops[0, :, :] = jnp.zeros_like(x.tops[0, :, :])
    x.tops[1, :, :] = jnp.full_like(x.tops[1, :, :], EMPTY)

    def tops(w, at):
        here = run.is_whole(w, 0)
        x.tops[0, :, :] = jnp.where(here, x.sm[at, :], x.tops[0, :, :])
        x.tops[1, :, :] = jnp.where(here, x.se[at, :], x.tops[1, :, :])

    run.inside(tops)


def backward(plan, x):
    """Probabilities."""
    run = Grammar(plan, x)
    run.inside()
    run.down()


def curvature(plan, x):
    """Their derivative along tangents of the scores."""
    run = Grammar(plan, x, rates=True)
    run.inside()
    run.down()
