"""SparseMAP: marginals of few structures, by an active set of best ones.

With theta the potentials over the temperature, mu the marginals of all potentials and u those of
the first one, the primary potential,

    mu* = argmax_mu <theta, mu> - |u|^2 / 2        over the hull of all structures.

The hull is known by its best vertex in a direction, which is what a structure's own sweeps find.
Wolfe's algorithm keeps an affinely independent set of vertices u_k with weights p_k that are the
optimum of their affine hull:

    vertex   the best structure at theta - u; within the gap of rounding the optimum is found;
    join     p moves on the line to the optimum of the hull that has the vertex, too; where a
             weight becomes 0 on the way, the vertex takes the place of that one;
    correct  p moves to the optimum of the hull that is left, and stops where a weight becomes 0,
             which is dropped; then once more.

Each correction strictly improves the objective or drops a vertex, so the number of steps is finite
(Wolfe 1976). Shapes: `B` examples, `K` places of vertices, `P` parts of a potential.
"""

import dataclasses
import warnings
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_struct.ops import array, autodiff
from keras_struct.ops.numerics import INFEASIBLE
from keras_struct.ops.structure import size_of
from keras_struct.ops.validation import concrete

STEPS = 100
CHUNK = 8  # steps between two corrections of the inverse
WARNED = 1e-2  # gap above which marginals are not what was asked for
ROUNDINGS = 32.0  # of a sum of scores, which a gap is made of


class Solution(NamedTuple):
    """Vertices and their weights, all without gradient.

    Attributes:
        origin: For each potential the parts (B, ...) of a structure; zeros where there is none.
        vertices: For each potential the parts (B, K, ...) of every vertex, less the origin.
        weights: (B, K), 0 where there is no vertex.
        response: (B, K, K), symmetric: how weights move with the scores of the vertices.
        gap: (B,), what the best vertex is better than mu*, at theta - u: at least the squared
            distance of u from the exact one.
        met: (B,), whether that is rounding.
    """

    origin: tuple
    vertices: tuple
    weights: Any
    response: Any
    gap: Any
    met: Any


@dataclasses.dataclass(frozen=True)
class ActiveSet:
    """The algorithm, for a distribution.

    Attributes:
        sweeps: Those of its structure.
        steps: The most that are taken; there are as many places for vertices, if so many can be
            independent.
    """

    sweeps: Any
    steps: int

    @property
    def traceable(self):
        return self.sweeps.traceable

    def solve(self, d):
        """The `Solution`."""
        return _Search(self, d).run()


def best_parts(structure, sweeps, scores):
    """The best structure for scores, one array for each potential.

    Returns:
        Its parts (B, ...), by potential, and booleans (B,): whether there is any.
    """
    problem = structure.problem(dict(zip(structure.potentials, scores, strict=True)))
    (best, _), tape = autodiff.forward(sweeps, problem, "max")
    event = autodiff.run(sweeps, "trace", autodiff.constant(problem), tape)
    named = structure.unfold(structure.parts(event, structure.context))
    return [named[name] for name in structure.potentials], best > INFEASIBLE


class _State(NamedTuple):
    """Of the search; booleans say of every example or place.

    Attributes:
        weights: (B, K).
        active: (B, K), where there is a vertex.
        inverse: (B, K, K), of the products of the vertices plus 1; the identity where there are
            none.
        tight: (B,), whether weights are the optimum of their affine hull.
        met: (B,), whether the example is done.
        gap: (B,).
        left: (B,), steps to come.
        origin: A tuple: the first vertex. What is left of slopes beside it is small, and so is what
            rounding adds.
        vertices: A tuple, less the origin.
    """

    weights: Any
    active: Any
    inverse: Any
    tight: Any
    met: Any
    gap: Any
    left: Any
    origin: Any
    vertices: Any


class _Search:
    def __init__(self, method, d):
        self.structure, self.sweeps, self.steps = d.structure, method.sweeps, method.steps
        self.scores = [ops.stop_gradient(x) for x in d._scores().values()]
        self.finite = [_finite(x) for x in self.scores]
        self.dtype = keras.backend.standardize_dtype(self.finite[0].dtype)

    def run(self):
        vertex, _ = best_parts(self.structure, self.sweeps, self.scores)
        primary = vertex[0]
        batch = ops.shape(primary)[0]
        size = size_of(primary.shape[1:]) if None not in primary.shape[1:] else None
        places = self.steps if size is None else min(self.steps, size + 1)
        zero = ops.zeros_like(ops.reshape(primary, (batch, -1))[:, :1])  # (B, 1), of the data
        none = zero + ops.zeros((1, places), self.dtype)
        identity = none[:, None] + ops.eye(places, dtype=self.dtype)
        no, inf = zero[:, 0] > 0, zero[:, 0] + float("inf")
        state = _State(
            weights=none,
            active=none > 0,
            inverse=identity,
            tight=ops.logical_not(no),
            met=no,
            gap=inf,
            left=ops.cast(zero[:, 0], "int32") + self.steps,
            origin=tuple(map(ops.zeros_like, vertex)),
            vertices=tuple(
                x[:, None] * ops.reshape(none, (batch, places) + (1,) * (len(x.shape) - 1))
                for x in vertex
            ),
        )
        found = array.until(_done, self._chunk, _opened(state), -(-self.steps // CHUNK))
        return self._solution(_closed(found))

    def _chunk(self, *arrays):
        """Some steps, and what their updates have rounded away of the inverse."""
        found = array.until(_done, lambda *x: _opened(self._step(_closed(x))), arrays, CHUNK)
        state = _closed(found)
        return _opened(state._replace(inverse=self._refined(state)))

    # What is known of the hull ---------------------------------------------------------------

    def _at(self, state):
        """Marginals, of every potential, and slopes there."""
        marginals = [
            x + _mixed(state.weights, y) for x, y in zip(state.origin, state.vertices, strict=True)
        ]
        return marginals, [self.finite[0] - marginals[0], *self.finite[1:]]

    # Steps -----------------------------------------------------------------------------------

    def _step(self, state):
        marginals, slopes = self._at(state)
        moved = [self.scores[0] - marginals[0], *self.scores[1:]]
        vertex, exists = best_parts(self.structure, self.sweeps, moved)
        away = [x - y for x, y in zip(vertex, marginals, strict=True)]
        gap = sum(map(_dot, slopes, away))
        sizes = [ops.abs(self.finite[0]) + marginals[0], *map(ops.abs, self.finite[1:])]
        size = sum(map(_dot, sizes, map(ops.abs, away)))
        started = ops.any(state.active, axis=1)
        small = ops.abs(gap) <= ROUNDINGS * _eps(self.dtype) * (1.0 + size)
        met = ops.logical_and(state.tight, ops.logical_and(started, small))
        met = ops.logical_or(ops.logical_or(state.met, met), ops.logical_not(exists))
        gap = array.where(exists, gap, ops.zeros_like(gap))
        gap = array.where(state.met, state.gap, gap)
        state = state._replace(met=met, gap=gap)
        going = ops.logical_and(ops.logical_not(met), state.left > 1)
        state = self._joined(state, vertex, ops.logical_and(going, state.tight))
        state = self._corrected(state, going)
        return state._replace(left=state.left - 1)

    def _joined(self, state, vertex, joins):
        """With one more vertex in the examples that it joins."""
        started = ops.any(state.active, axis=1)
        first = ops.logical_and(joins, ops.logical_not(started))[:, None]
        origin = [
            array.where(_wide(first, x[:, None])[:, 0], x, old)
            for x, old in zip(vertex, state.origin, strict=True)
        ]
        state = state._replace(origin=tuple(origin))
        vertex = [x - y for x, y in zip(vertex, origin, strict=True)]
        row, norm = self._row(state, vertex[0])
        shares = _times(state.inverse, row)
        rest = norm - ops.sum(row * shares, axis=1)
        # A vertex in the affine hull of the others has no optimum on the line to it.
        independent = rest > norm * _eps(self.dtype) ** 0.5
        ones, whole = _ones(state)
        lack = 1.0 - ops.sum(shares, axis=1)
        shares = shares + ones * (lack / whole)[:, None]
        rest = rest + lack * lack / whole
        step = array.where(independent, state.gap / array.where(independent, rest, 1.0), 1e30)
        most, blocking = _first_zero(state.weights, -shares, _eps(self.dtype) ** 0.5)
        blocked = ops.logical_and(started, most <= step)
        room = ops.logical_not(ops.all(state.active, axis=1))
        joins = ops.logical_and(joins, ops.logical_or(room, blocked))
        step = array.where(blocked, most, array.where(started, step, ops.ones_like(step)))
        step = array.where(joins, step, ops.zeros_like(step))
        weights = array.maximum(state.weights - step[:, None] * shares, ops.zeros_like(shares))
        state = state._replace(weights=array.where(joins[:, None], weights, state.weights))
        dropped = ops.logical_and(blocking, ops.logical_and(joins, blocked)[:, None])
        state = _dropped(state, dropped)
        # The place: the first that is free.
        free = ops.cast(ops.logical_not(state.active), "int32")
        place = ops.logical_and(free == 1, ops.cumsum(free, axis=1) == 1)
        row, norm = self._row(state, vertex[0])
        shares = _times(state.inverse, row)
        rest = norm - ops.sum(row * shares, axis=1)
        joins = ops.logical_and(joins, rest > norm * _eps(self.dtype) ** 0.5)
        rest = array.where(joins, rest, ops.ones_like(rest))
        place = ops.logical_and(place, joins[:, None])
        here = ops.cast(place, self.dtype)
        away = shares - here
        inverse = state.inverse - here[:, :, None] * here[:, None]
        inverse = inverse + away[:, :, None] * (away / rest[:, None])[:, None]
        return state._replace(
            weights=array.where(place, step[:, None], state.weights),
            active=ops.logical_or(state.active, place),
            inverse=array.where(joins[:, None, None], inverse, state.inverse),
            tight=ops.logical_and(state.tight, ops.logical_not(ops.any(dropped, axis=1))),
            vertices=tuple(
                array.where(_wide(place, x), new[:, None], x)
                for x, new in zip(state.vertices, vertex, strict=True)
            ),
        )

    def _row(self, state, vertex):
        """Products (B, K) of a vertex with the others, and with itself, plus 1."""
        row = _products(state.vertices[0], vertex) + 1.0
        return array.where(state.active, row, ops.zeros_like(row)), _dot(vertex, vertex) + 1.0

    def _corrected(self, state, going):
        _, slopes = self._at(state)
        rates = sum(map(_products, state.vertices, slopes))
        plain = _times(state.inverse, array.where(state.active, rates, ops.zeros_like(rates)))
        ones, whole = _ones(state)
        move = plain - ones * (ops.sum(plain, axis=1) / whole)[:, None]
        most, blocking = _first_zero(state.weights, move, 0.0)
        whole = most >= 1.0
        step = array.where(whole, ops.ones_like(most), most)
        step = array.where(going, step, ops.zeros_like(most))
        weights = _normal(state.weights + step[:, None] * move)
        stops = ops.logical_and(going, ops.logical_not(whole))
        state = state._replace(weights=weights, tight=array.where(going, whole, state.tight))
        return _dropped(state, ops.logical_and(blocking, stops[:, None]))

    def _solution(self, state):
        solution = Solution(
            state.origin, state.vertices, state.weights, _response(state), state.gap, state.met
        )
        return keras.tree.map_structure(ops.stop_gradient, solution)

    def _refined(self, state):
        """The inverse after a Newton step against the rounding of its updates, where it helps."""
        inside = ops.cast(state.active, self.dtype)
        away = _flat(state.vertices[0], 2) * inside[..., None]
        identity = ops.eye(inside.shape[1], dtype=self.dtype)
        gram = array.matmul(away, ops.swapaxes(away, 1, 2)) + inside[:, :, None] * inside[:, None]
        gram = gram + identity * (1.0 - inside)[:, None]
        off = identity - array.matmul(state.inverse, gram)
        helps = array.max(ops.sum(ops.abs(off), axis=2), 1) < 0.5
        better = state.inverse + array.matmul(off, state.inverse)
        return array.where(helps[:, None, None], better, state.inverse)


def _opened(state):
    """A state as a flat tuple of arrays, and back."""
    return (*state[:-2], *state.origin, *state.vertices)


def _done(*arrays):
    state = _closed(arrays)
    return ops.logical_or(state.met, state.left <= 0)


def _closed(arrays):
    first = len(_State._fields) - 2
    second = (first + len(arrays)) // 2
    return _State._make((*arrays[:first], tuple(arrays[first:second]), tuple(arrays[second:])))


def _dropped(state, places):
    """Without the vertices at places (B, K), one of each example at most."""
    here = ops.cast(places, state.weights.dtype)
    some = ops.any(places, axis=1)
    column = _times(state.inverse, here)
    pivot = ops.sum(here * column, axis=1)
    pivot = array.where(ops.logical_and(some, pivot > 0), pivot, ops.ones_like(pivot))
    inverse = state.inverse - column[:, :, None] * (column / pivot[:, None])[:, None]
    keep = ops.logical_not(places)
    both = ops.logical_and(keep[:, :, None], keep[:, None])
    inverse = array.where(both, inverse, here[:, :, None] * here[:, None])
    return state._replace(
        weights=array.where(places, ops.zeros_like(here), state.weights),
        active=ops.logical_and(state.active, keep),
        inverse=array.where(some[:, None, None], inverse, state.inverse),
    )


def _first_zero(weights, move, least):
    """How far weights can move until the first is 0, at most 1e30, and which that is.

    Of those that are 0 within rounding the one that moves most, so that what is left of the
    vertices is independent (the ratio test of Harris 1973).
    """
    falls = move < -least
    speed = array.where(falls, -move, ops.ones_like(move))
    far = ops.full_like(move, 1e30)
    reach = array.where(falls, weights / speed, far)
    loose = array.where(falls, (weights + 64.0 * _eps(weights.dtype)) / speed, far)
    near = ops.logical_and(falls, reach <= -array.max(-loose, 1)[:, None])
    index = array.argmax(array.where(near, speed, ops.zeros_like(speed)), 1)
    here = ops.equal(ops.cast(index, "int32")[:, None], array.arange(ops.shape(reach)[1])[None])
    here = ops.logical_and(here, near)
    most = ops.sum(array.where(here, reach, ops.zeros_like(reach)), axis=1)
    return array.where(ops.any(here, axis=1), most, far[:, 0]), here


def _normal(weights):
    """Weights that are positive and sum to 1 but for rounding, without it."""
    weights = array.maximum(weights, ops.zeros_like(weights))
    total = ops.sum(weights, axis=1, keepdims=True)
    return weights / array.where(total > 0, total, ops.ones_like(total))


def _ones(state):
    """The inverse times ones where vertices are, and the sum of it."""
    ones = _times(state.inverse, ops.cast(state.active, state.weights.dtype))
    whole = ops.sum(ones, axis=1)
    return ones, array.where(whole > 0, whole, ops.ones_like(whole))


def _response(state):
    """How weights that sum to 1 move with rates: (B, K, K)."""
    inside = ops.cast(state.active, state.weights.dtype)
    ones, whole = _ones(state)
    both = inside[:, :, None] * inside[:, None]
    return state.inverse * both - ones[:, :, None] * (ones / whole[:, None])[:, None]


def _finite(x):
    return array.where(x <= INFEASIBLE, ops.zeros_like(x), x)


def _eps(dtype):
    return 2.0**-52 if keras.backend.standardize_dtype(dtype) == "float64" else 2.0**-23


def _flat(x, kept):
    """With one axis after the first."""
    shape = ops.shape(x)
    return ops.reshape(x, (*shape[:kept], size_of(shape[kept:])))


def _dot(x, y):
    """(B,)"""
    return ops.sum(_flat(x, 1) * _flat(y, 1), axis=1)


def _times(matrix, x):
    return array.matmul(matrix, x[..., None])[..., 0]


def _products(vertices, x):
    """Products (B, K) of vertices (B, K, ...) with numbers (B or 1, ...)."""
    return array.matmul(_flat(vertices, 2), _flat(x, 1)[..., None])[..., 0]


def _mixed(weights, vertices):
    """The sum of vertices (B, K, ...) times their weights."""
    shape = ops.shape(vertices)
    mixed = array.matmul(weights[:, None], _flat(vertices, 2))
    return ops.reshape(mixed, (shape[0], *shape[2:]))


def _wide(places, x):
    return ops.reshape(places, (*ops.shape(places), *[1] * (len(x.shape) - 2)))


def checked(steps, name="steps"):
    """The number of steps, or a `ValueError` that names the argument."""
    steps = STEPS if steps is None else steps
    if not isinstance(steps, int) or steps < 2:
        raise ValueError(f"Expected an integer >= 2, or None. Received: {name}={steps}")
    return steps


def solved(d, steps):
    """The `Solution` of a distribution; a warning where it was not reached."""
    solution = autodiff.run(ActiveSet(d._sweeps, steps), "solve", d)
    if array.platform(solution.gap) == "cpu":  # no value is waited for
        _warn(concrete(solution.gap), concrete(solution.met), steps)
    return solution


def _warn(gap, met, steps):
    if gap is None or met.all():
        return
    off = gap * ~met
    if off.max() > WARNED:
        worst = int(off.argmax())
        warnings.warn(
            f"sparse_marginals: squares of what is off sum to {off[worst]:.2g} at most after "
            f"{steps} steps (example {worst}): take more steps, or a lower temperature",
            RuntimeWarning,
            stacklevel=4,
        )


def mixed(d, solution):
    """Marginals of every potential, flat, whose derivative is that on the face of the solution."""
    rates = sum(map(_products, solution.vertices, map(_finite, d._scores().values())))
    rates = rates - ops.stop_gradient(rates)
    weights = solution.weights + _times(solution.response, rates)
    pairs = zip(solution.origin, solution.vertices, strict=True)
    return [origin + _mixed(weights, x) for origin, x in pairs]
