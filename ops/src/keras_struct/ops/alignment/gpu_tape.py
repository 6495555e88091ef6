"""What the sweeps of alignments on a GPU leave behind, and what it says of the ends of paths."""

from typing import Any, NamedTuple

from keras_struct.ops import array
from keras_struct.ops.alignment.paths import END
from keras_struct.ops.alignment.run import Run
from keras_struct.ops.messages import join, log_sum, log_weights
from keras_struct.ops.noise import flat_places, perturbed
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE


class Tape(NamedTuple):
    """What the forward sweep leaves behind.

    Attributes:
        messages: All of them, (B, strips, times, rows, S, 2, lanes), see `gpu_plan.py`.
        ends: High and low (B, E) of the log-weight of every way to end, see `Run.all_ends`.
    """

    messages: Any
    ends: tuple


def at_corner(cut, messages, lengths):
    """High and low (B, S) of what a tape has where all paths end; `lengths` (B, 2) are clipped.

    Places are counted in the integers of the lengths.
    """
    plan = cut.plan
    i, j = lengths[:, :1], lengths[:, 1:]
    k, lane, row = plan.split(i)
    place = (k * cut.times + j + lane) * plan.step(2) + row * (plan.states * 2 * plan.lanes) + lane
    numbers = array.arange(plan.states)[None] * (2 * plan.lanes)
    flat = messages.reshape(messages.shape[0], -1)
    high, low = (
        array.take_along_axis(flat, place + numbers + part * plan.lanes, 1) for part in range(2)
    )
    return high, low


def all_ends(problem, found):
    """High and low (B, E) of every way to end, from those of the times i + j, (B, 2, times)."""
    high, low = found[:, 0], found[:, 1]
    nothing = 0.0 * low[:, :1]
    empty = nothing if problem.spec.empty else nothing + FORBIDDEN
    return array.concatenate([high, empty], 1), array.concatenate([low, nothing], 1)


def total(tape, op):
    """The log-partition, or the largest score, as a pair (B,)."""
    high, low = tape.ends
    peak, rest, _, _ = log_sum(high, low, 0.0, 1, op)
    return peak[:, 0], rest[:, 0]


def end_weights(problem, tape):
    """Of the states in the corner their shares (B, S), else high and low of the log-partition."""
    if problem.spec.end == "corner":
        return Run(problem).shares(tape.ends)
    high, low = tape.ends
    peak, rest = join(*log_sum(high, low, 0.0, 1, "logsumexp")[:2])
    return array.concatenate([array.where(peak > INFEASIBLE, peak, 0.0 * peak), rest], 1)


def chosen_ends(problem, tape, draws):
    """The number of the way to end of each path, (B, n) or (B, 1), among those of `tape.ends`."""
    logits = log_weights(Run(problem).shares(tape.ends))[:, None]
    return array.argmax(perturbed(logits, draws, END, flat_places((1, logits.shape[2]))), 2)
