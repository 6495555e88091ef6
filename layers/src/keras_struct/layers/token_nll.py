"""The negative log-likelihood of a chain, token by token, so that tokens can be weighted."""

from keras import ops as K

from keras_struct.layers.sequence_mask import mask_from_lengths
from keras_struct.ops import array
from keras_struct.ops.masks import places_of
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE, clean


def weighted_nll(potentials, sets, weight):
    """Sum over the tokens of their weight times `-log p(tag | the tags before it)`, `(B,)`.

    Where a token may have several tags, its term is that of the set: `-log p(tag in its set | tags
    before it in theirs)`.

    A token of weight 0 is not observed: it counts as nothing, and later tokens do not know its tag.
    So with weights 0 and 1 this is the negative log-likelihood of the observed tags, summed over
    all tags that the others may have. With the weight w everywhere it is w times the whole
    negative log-likelihood.

    Args:
        potentials: `ChainPotentials` of linear chains.
        sets: `(B, N, K)` booleans: which tags a token may have.
        weight: `(B, N)` numbers.

    Returns:
        `(B,)`; infinite, without a gradient, where an observed tag is impossible.
    """
    scores = potentials.scores
    valid = potentials.positions()
    weight = K.where(valid, K.cast(weight, scores.dtype), K.zeros_like(scores[..., 0]))
    if potentials.mask is not None:
        places = places_of(valid)
        scores, sets, weight = (places.gather(x, 1) for x in (scores, sets, weight))
        valid = mask_from_lengths(places.lengths, K.shape(sets)[1])
    unary = clean(scores, K.expand_dims(valid, -1))
    transitions, start, end = (
        None if x is None else clean(K.cast(x, unary.dtype))
        for x in (potentials.transitions, potentials.start, potentials.end)
    )
    observed = K.not_equal(weight, 0)
    losses, exists = _surprises(unary, valid, sets, observed, transitions, start, end)
    impossible = K.logical_and(observed, losses > -INFEASIBLE)
    counts = K.logical_and(observed, K.logical_not(impossible))
    total = K.sum(weight * K.where(counts, losses, K.zeros_like(losses)), axis=1)
    wrong = K.any(
        K.logical_or(impossible, K.logical_and(observed, K.logical_not(exists)[:, None])), axis=1
    )
    return K.where(wrong, float("inf"), total)


def _surprises(unary, valid, sets, observed, transitions, start, end):
    """`-log p(tag | observed tags before it)` `(B, N)`, and whether any sequence exists `(B,)`.

    `later` is what the tags after a position add for each tag there, as in the backward algorithm;
    `earlier` what those before it add, as in the forward algorithm, from what is observed. Both are
    up to a constant of the position, which the surprise does not see.
    """
    nothing = K.zeros_like(unary[:, 0])
    end = nothing if end is None else nothing + end
    start = nothing if start is None else nothing + start
    # For each example, so that the sum over examples is made once and not at every step.
    transitions = transitions + nothing[:, :, None]
    follows = K.concatenate([valid[:, 1:], K.zeros_like(valid[:, :1])], axis=1)

    def backward(carry, x):
        (after,) = carry
        unary, follows = x
        later = K.where(follows[:, None], K.logsumexp(transitions + after[:, None], axis=2), end)
        return (_centred(unary + later),), (later,)

    def forward(carry, x):
        (earlier,) = carry
        unary, later, allowed, observed = x
        here = earlier + unary
        whole = here + later
        some = K.logsumexp(K.where(allowed, whole, K.full_like(whole, 2 * FORBIDDEN)), axis=1)
        loss = K.logsumexp(whole, axis=1) - some
        here = K.where(
            K.logical_or(allowed, K.logical_not(observed)[:, None]),
            here,
            K.full_like(here, FORBIDDEN),
        )
        earlier = K.logsumexp(here[:, :, None] + transitions, axis=1)
        return (_centred(earlier),), (loss, K.max(whole, axis=1))

    unary, follows, sets, observed = (K.swapaxes(x, 0, 1) for x in (unary, follows, sets, observed))
    _, (later,) = array.scan(backward, (nothing,), (unary, follows), (nothing,), reverse=True)
    like = (nothing[:, 0], nothing[:, 0])
    _, (losses, best) = array.scan(forward, (start,), (unary, later, sets, observed), like)
    return K.swapaxes(losses, 0, 1), best[0] > INFEASIBLE


def _centred(x):
    """Less its maximum, so that messages stay small; those of nothing stay forbidden."""
    top = K.max(x, axis=1, keepdims=True)
    return x - K.stop_gradient(K.where(top > INFEASIBLE, top, K.zeros_like(top)))
