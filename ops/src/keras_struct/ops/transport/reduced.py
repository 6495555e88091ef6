"""Steps over stored scores that take up the potentials, so that cold plans do not round away.

The scores of a plan may be as large as 1 / temperature, and a potential beside them loses all its
digits. So after some steps the scores take the potentials up, `s <- s + f + g`, and the steps go on
from f = g = 0: the scores of pairs that have weight come near 0, where floats are dense (Schmitzer
2019, Stabilized sparse scaling algorithms, section 3). Rounding then acts as if the user's scores
had been rounded, at every temperature.
"""

import dataclasses

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.numerics import INFEASIBLE
from keras_struct.ops.transport.half_steps import repeated

CHUNK = 10  # steps at one epsilon, and between two looks at the residual
CHUNKS = 100  # the most that are taken
UNROLLED = 10  # those where no loop can end by a value
HOTTEST = 4.0  # range of the scores, over epsilon, from which epsilon is lowered
TOLERANCE = 1e-3  # of the masses of the rows


@dataclasses.dataclass(frozen=True)
class Reduced:
    """Half-steps of stored scores (B, L1, L2), and the base solve.

    f and g are counted from potentials `up` (B, L1) and (B, L2) that the scores have taken up.

    Attributes:
        relax: As of `HalfSteps`.
        steps: How many at epsilon itself, or None: epsilon is lowered to it, by half or more every
            10 steps, until the masses are met.
    """

    relax: tuple[float, float]
    steps: int | None = None

    def rows(self, scores, up, g):
        return _half(scores + g[:, None], 2, self.relax[0], up[0])

    def columns(self, scores, up, f):
        return _half(scores + f[:, :, None], 1, self.relax[1], up[1])

    def solve(self, scores):
        """Scores that have taken up the potentials of the base, and these."""
        up = ops.zeros_like(scores[:, :, 0]), ops.zeros_like(scores[:, 0])
        if self.steps is not None:
            moves = self._steps(scores, up, self.steps)
            return self._taken_up(scores, up, moves)
        hot = self._range(scores) / HOTTEST
        if self.relax != (1.0, 1.0):  # they contract at any epsilon
            hot = ops.zeros_like(hot)
        factor = array.maximum(hot, ops.ones_like(hot))
        most = CHUNKS if array.branches(scores) else UNROLLED
        fall = array.exp(array.log(factor) * (2.0 / most))  # down within half of the chunks
        fall = array.maximum(fall, ops.full_like(fall, 2.0))
        worst = ops.full_like(factor, float("inf"))
        state = worst, factor, fall, scores, *up
        return array.until(_met, self._chunk, state, most)[3:]

    def _chunk(self, worst, factor, fall, scores, f, g):
        """Steps at `factor · epsilon`; examples that have met their masses stay as they are."""
        up, k = (f, g), factor[:, None]
        hot = array.where(scores > INFEASIBLE, scores / k[..., None], scores)
        moves = self._steps(hot, up, CHUNK)
        new, *new_up = self._taken_up(scores, up, [k * move for move in moves])
        cold = factor <= 1.0
        residual = self.even(new, self.drift(new, new_up, *map(ops.zeros_like, up)))
        new_worst = array.where(cold, residual, worst)
        moving = worst > TOLERANCE
        return (
            array.where(moving, new_worst, worst),
            array.maximum(factor / fall, ops.ones_like(factor)),
            fall,
            array.where(moving[:, None, None], new, scores),
            *(array.where(moving[:, None], x, y) for x, y in zip(new_up, up, strict=True)),
        )

    def _steps(self, scores, up, number):
        def step(carry):
            f = self.rows(scores, up, carry[1])
            return f, self.columns(scores, up, f)

        return repeated(step, tuple(map(ops.zeros_like, up)), number)

    def _taken_up(self, scores, up, moves):
        exists = scores > INFEASIBLE
        new = array.where(exists, scores + moves[0][:, :, None] + moves[1][:, None], scores)
        return new, *(x + move for x, move in zip(up, moves, strict=True))

    def _range(self, scores):
        exists, none = scores > INFEASIBLE, ops.full_like(scores, INFEASIBLE)
        high, low = (
            array.max(array.max(array.where(exists, x, none), 2), 1) for x in (scores, -scores)
        )
        return array.maximum(high + low, ops.zeros_like(high))

    def drift(self, scores, up, f, g):
        """Logarithm of the mass of each row, over what the next step wants it to be."""
        return (f - self.rows(scores, up, g)) / self.relax[0]

    def even(self, scores, drift):
        """The residual (B,), but for what L1 != L2 leaves to no plan."""
        if self.relax == (1.0, 1.0):
            drift = drift - _log_ratio(scores)
        return residual_of(scores, drift)


def _met(worst, *_):
    return ops.logical_not(worst > TOLERANCE)


def _half(logits, axis, relax, up):
    some = array.max(logits, axis) > INFEASIBLE
    # (1 - relax) of what was taken up is taken back.
    return array.where(
        some, -relax * array.logsumexp(logits, axis) - (1.0 - relax) * up, ops.zeros_like(up)
    )


def _log_ratio(scores):
    """log(columns / rows), of those with any pair, (B, 1)."""
    exists = scores > INFEASIBLE
    counts = [
        ops.sum(ops.cast(ops.any(exists, axis=axis), scores.dtype), axis=1, keepdims=True)
        for axis in (1, 2)
    ]
    columns, rows = (array.log(array.maximum(n, ops.ones_like(n))) for n in counts)
    return columns - rows


def residual_of(scores, drift):
    """The largest factor, less 1, by which a row with any pair is off, (B,)."""
    some = ops.any(scores > INFEASIBLE, axis=2)
    drift = array.where(some, drift, ops.zeros_like(drift))
    return array.max(ops.abs(array.exp(drift) - 1.0), 1)
