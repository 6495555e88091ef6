"""Linear-chain conditional random field."""

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.distribution import Distribution
from keras_struct.ops.numerics import clean, compute_dtype
from keras_struct.ops.structure import (
    Structure,
    as_lengths,
    as_potential,
    as_temperature,
    batch_of,
    check_rank,
    flatten_batch,
    flatten_shared,
    one_hot,
    time_mask,
)
from keras_struct.ops.symbolic import public

ALGORITHMS = ("auto", "sequential", "parallel")
# Up to this many tags, K times more work in log N steps beats N steps.
PARALLEL_UP_TO = 4


@public
def linear_chain(
    unary,
    transitions,
    start=None,
    end=None,
    lengths=None,
    temperature=1.0,
    algorithm="auto",
    implementation=None,
):
    """Distribution over the tag sequences of a linear chain (CRF).

    The score of tags `y` is `sum_t unary[t, y_t] + sum_t transitions[y_t, y_{t+1}]`, plus
    `start[y_first]` and `end[y_last]`.

    Shapes: `...` batch axes, `N` positions, `K` tags.

    Args:
        unary: (..., N, K) scores of tag k at position n.
        transitions: (K, K), (..., K, K) or (..., N-1, K, K) scores of going from the first tag to
            the second.
        start: (K,) or (..., K) scores of the first tag, or None for zeros.
        end: (K,) or (..., K) scores of the last tag, or None for zeros.
        lengths: Integers (...,) between 0 and N; None for N. Length 0 has one structure, the empty
            sequence, and value 0.
        temperature: Positive number, tensor or variable, () or (...,); the number 0 is Viterbi.
        algorithm: `"sequential"` (N steps of K x K work), `"parallel"` (log N steps of K x K x K
            work per position, needs a static N) or `"auto"`.
        implementation: Name, or None for the best one (see `ops.explain`).

    Returns:
        `Distribution`. Events are tags (..., N), int32, -1 in the padding.

    Raises:
        ValueError: For shapes or lengths that do not fit.
        NotImplementedError: If the requested implementation does not take this call.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> d = ops.linear_chain(np.zeros((2, 5, 3), "float32"), np.zeros((3, 3), "float32"))
    >>> print(np.round(np.array(d.log_partition()), 3))  # log 3^5
    [5.493 5.493]

    Source: Lafferty, McCallum and Pereira (2001), Conditional Random Fields; forward-backward:
    Rabiner (1989), section III; parallel in time: Särkkä and García-Fernández (2021).
    """
    structure = LinearChain(unary, transitions, start, end, lengths, algorithm)
    temperature = as_temperature(temperature, structure.batch_shape, structure.compute)
    return Distribution(structure, temperature, implementation)


class LinearChain(Structure):
    op = "linear_chain"

    def __init__(self, unary, transitions, start, end, lengths, algorithm):
        unary = as_potential("unary", unary)
        transitions = as_potential("transitions", transitions)
        check_rank("unary", unary, 2, "N, K")
        self.dtype = unary.dtype
        self.compute = compute_dtype(unary.dtype)
        self.batch_shape = batch_of(unary, 2)
        n, k = unary.shape[-2:]
        if n == 0:
            raise ValueError(
                "Expected at least one position (use lengths for empty sequences). "
                f"Received: shape of unary={tuple(unary.shape)}"
            )
        if algorithm not in ALGORITHMS:
            raise ValueError(
                f"Expected an algorithm among {ALGORITHMS}. Received: algorithm={algorithm!r}"
            )
        static = isinstance(n, int)
        if algorithm == "parallel" and not static:
            raise NotImplementedError('algorithm="parallel" needs a static number of positions')
        if algorithm == "auto":
            small = isinstance(k, int) and k <= PARALLEL_UP_TO
            algorithm = "parallel" if static and n > 1 and small else "sequential"
        self.algorithm = algorithm
        if tuple(transitions.shape[-2:]) != (k, k):
            raise ValueError(
                f"Expected transitions of shape (..., {k}, {k}). "
                f"Received: shape of transitions={tuple(transitions.shape)}"
            )
        over_time = len(transitions.shape) > 2 and len(transitions.shape) == len(unary.shape) + 1
        steps = transitions.shape[-3] if over_time else None
        if static and isinstance(steps, int) and steps != n - 1:
            raise ValueError(
                f"Expected transitions over time of shape (..., {n - 1}, {k}, {k}). "
                f"Received: shape of transitions={tuple(transitions.shape)}"
            )
        self.over_time = over_time
        named = {"unary": flatten_batch(unary, 2)}
        named["transitions"] = flatten_shared(
            "transitions", transitions, 3 if over_time else 2, self.batch_shape
        )
        for name, x in (("start", start), ("end", end)):
            if x is not None:
                x = as_potential(name, x)
                if x.shape[-1] != k:
                    raise ValueError(
                        f"Expected {name} of shape (..., {k}). "
                        f"Received: shape of {name}={tuple(x.shape)}"
                    )
                named[name] = flatten_shared(name, x, 1, self.batch_shape)
        self.potentials = {key: ops.cast(x, self.compute) for key, x in named.items()}
        self.n = ops.shape(unary)[-2]
        self.context = (as_lengths("lengths", lengths, self.batch_shape, self.n),)

    def options(self):
        return {
            "algorithm": self.algorithm,
            "over_time": self.over_time,
        }

    def clean_potentials(self, temperature):
        (lengths,) = self.context
        valid = time_mask(lengths, self.n)[..., None]
        masks = {"unary": valid}
        if self.over_time:
            masks["transitions"] = valid[:, 1:, :, None]
        return {name: clean(x, masks.get(name), temperature) for name, x in self.potentials.items()}

    def fold(self, potentials):
        unary = potentials["unary"]
        (lengths,) = self.context
        first, last = _ends(lengths, self.n, unary.dtype)
        if "start" in potentials:
            unary = unary + first * potentials["start"][:, None, :]
        if "end" in potentials:
            unary = unary + last * potentials["end"][:, None, :]
        transitions = potentials["transitions"]
        return unary, transitions if self.over_time else transitions[:, None]

    def unfold(self, marginals):
        unary, transitions = marginals
        (lengths,) = self.context
        first, last = _ends(lengths, self.n, unary.dtype)
        named = {"unary": unary, "transitions": transitions}
        if not self.over_time:
            named["transitions"] = transitions[:, 0]
        if "start" in self.potentials:
            named["start"] = ops.sum(first * unary, axis=1)
        if "end" in self.potentials:
            named["end"] = ops.sum(last * unary, axis=1)
        return named

    def parts(self, event, context):
        (lengths,) = context
        k = ops.shape(self.potentials["unary"])[-1]
        tags = array.where(time_mask(lengths, self.n), event, -1)
        unary = one_hot(tags, k, self.compute)
        if self.over_time:
            return unary, unary[:, :-1, :, None] * unary[:, 1:, None, :]
        pairs = array.matmul(ops.swapaxes(unary[:, :-1], 1, 2), unary[:, 1:])
        return unary, pairs[:, None]

    def possible(self, event, context):
        (lengths,) = context
        k = ops.shape(self.potentials["unary"])[-1]
        known = ops.logical_and(event >= 0, event < k)
        padding = ops.logical_not(time_mask(lengths, self.n))
        return ops.all(ops.logical_or(known, padding), axis=1)


def _ends(lengths, n, dtype):
    """Indicators (B, N, 1) of the first and the last position; zeros for length 0."""
    positions = ops.arange(n, dtype="int32")[None, :]
    some = lengths[:, None] > 0
    first = ops.logical_and(positions == 0, some)
    last = ops.logical_and(positions == lengths[:, None] - 1, some)
    return ops.cast(first, dtype)[..., None], ops.cast(last, dtype)[..., None]
