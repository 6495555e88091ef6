"""Single paths on the lattice: one drawn back through the tape, and the k best.

Both walk from the last time to the first and keep, per path, the time, position and state of the
node where it stands. They return positions by time, -1 where the path has no node. The noise is
numbered in `portable.py`.
"""

from keras import ops

from keras_struct.ops import array
from keras_struct.ops.alignment.run import split
from keras_struct.ops.alignment.spec import START
from keras_struct.ops.messages import log_weights
from keras_struct.ops.noise import flat_places, perturbed
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE

_IMPOSSIBLE = 4 * FORBIDDEN
END, CELL, MOVE = 0, 1, 2  # streams of the noise


def walk(run, tape, draws):
    """Positions (1 + steps, B) of one path per example: the best move after noise at each node."""
    node = time, _, state = end(run, run.shares(tape.ends), draws)
    if state is None:
        rows = [at_time(run, x, time) for x in tape.rows[: 2 * len(run.end_states())]]
        node = last_cell(run, time, rows, draws)
    xs = (run.times, *run.xs(), *no_share(run), *(ops.swapaxes(x, 0, 1) for x in tape.rows))
    carry, (places,) = array.scan(
        walk_step(run, draws), (*tape.last, *node), xs, like=(time,), reverse=True
    )
    return with_origin(run, carry[-3:], places)


def no_share(run):
    """A place for what `Run.read` expects."""
    return () if run.corner else (ops.zeros_like(run.times),)


def end(run, shares, draws):
    """Time where a path ends, -1 for the empty structure, and in a corner its place and state,
    (B, 1)."""
    choice = perturbed(log_weights(shares), draws, END, flat_places(ops.shape(shares)[1:]))
    choice = ops.cast(array.argmax(choice, 1), "int32")[:, None]
    if run.corner:
        return (*run.final(), choice)
    return array.where(choice > run.steps, 0 * choice - 1, choice), None, None


def at_time(run, table, time):
    """Rows (B, P) of a table (B, steps, P) at times (B, 1), which begins `window - 1` before 0."""
    batch, steps, width = ops.shape(table)
    row = ops.clip(ops.cast(time + run.spec.window - 1, "int32"), 0, steps - 1)
    index = ops.broadcast_to(row[:, :, None], (batch, 1, width))
    return array.take_along_axis(table, index, 1)[:, 0]


def last_cell(run, time, rows, draws):
    """Time, position and state of the end of a path, (B, 1), from the pairs at its time."""
    pairs = list(zip(rows[0::2], rows[1::2], strict=True))
    high, low = run.ending(pairs, time)
    high = high - array.max(high, 1, keepdims=True)
    logits = array.where(high > INFEASIBLE, high + low, _IMPOSSIBLE)
    logits = perturbed(logits, draws, CELL, flat_places(ops.shape(logits)[1:]))
    cell = ops.cast(array.argmax(logits, 1), "int32")[:, None]
    return time, cell % run.layout.positions, cell // run.layout.positions


def walk_step(run, draws):
    """Step of a loop back: carry (*pairs, *node), where each path stands; what it reads ends in
    the pairs `window` times before."""
    spec, width = run.spec, 2 * run.spec.states
    batch = ops.shape(run.zeros)[0]
    *constants, targets = _constants(run, batch)
    count = len(run.moves) + spec.jumps
    numbers = ops.arange(count, dtype="int32")[None]

    def step(carry, x):
        pairs, node = split(carry, run.pair_count)
        x = run.read(x)
        pairs = [*pairs, *x.rest[:width]]
        time, place, state = node
        inside = array.where(place > 0, place, 0 * place)
        terms = run.terms(run.pairs_by_lag(pairs), x.thetas)
        columns = [
            [array.take_along_axis(_wide(y, run), inside, 1) for y in term] for term in terms
        ]
        steps = constants
        if spec.jumps:
            *score, from_time, from_place = run.jump(x, inside)
            columns.append(score)
            last = (x.time - from_time, inside - from_place, 0 * inside)
            steps = [array.concatenate(pair, 1) for pair in zip(steps, last, strict=True)]
        known = state == targets
        if spec.jumps:
            known = array.concatenate([known, known[:, :1]], 1)
        tops = array.concatenate([high + score for high, _, score in columns], 1)
        peak = array.max(array.where(known, tops, _IMPOSSIBLE), 1, keepdims=True)
        logits = [((high - peak) + score) + low for high, low, score in columns]
        logits = array.where(known, array.concatenate(logits, 1), _IMPOSSIBLE)
        logits = perturbed(logits, draws, MOVE, (x.time - 1) * count + numbers)
        choice = ops.cast(array.argmax(logits, 1), "int32")[:, None]
        move = [array.take_along_axis(x, choice, 1) for x in steps]
        node, visited = _advance(run, (time, place, state), x.time, *move)
        return (*pairs[width:], *node), visited

    return step


def _wide(x, run):
    """A row (B, P), of a potential that may be (B, 1)."""
    return x if x.shape[1] == run.zeros.shape[1] else x + run.zeros


def best(run, k):
    """Positions (k, 1 + steps, B) of the k best paths, and which of them exist, (k, B)."""
    spec = run.spec
    rows, pointers = _forward(run, k)
    node, rank, exists = _best_ends(run, rows, k)
    batch = ops.shape(rank)[0]
    most = max(len(spec.into(state)) for state in range(spec.states))
    table = [list(spec.into(s)) + [0] * (most - len(spec.into(s))) for s in range(spec.states)]
    table = ops.convert_to_tensor([x for row in table for x in row], dtype="int32")
    table = ops.broadcast_to(table[None], (batch, spec.states * most))
    *constants, _ = _constants(run, batch)

    def step(carry, x):
        *node, rank = carry
        time, place, state = node
        now, *pointers = x
        pointer = 0 * rank
        cell_of = array.where(place > 0, place, 0 * place) * k + rank
        for s, values in enumerate(pointers):
            cell = ops.reshape(values, (batch, -1))
            taken = array.take_along_axis(cell, cell_of, 1)
            pointer = array.where(state == s, taken, pointer)
        choice = array.where(state >= 0, state, 0 * state) * most + pointer // k
        jump = choice >= spec.states * most
        choice = array.take_along_axis(table, array.where(jump, 0 * choice, choice), 1)
        move = [array.take_along_axis(x, choice, 1) for x in constants]
        if spec.jumps:
            from_time, from_place = run.sources_of(now, place)
            jumped = (now - from_time, place - from_place)
            move[:2] = [array.where(jump, a, b) for a, b in zip(jumped, move, strict=False)]
        rank = array.where(time == now, pointer % k, rank)
        node, output = _advance(run, tuple(node), now, *move)
        return (*node, rank), output

    (*node, _), (places,) = array.scan(
        step, (*node, rank), (run.times, *pointers), like=(rank,), reverse=True
    )
    return ops.transpose(_with_origin(run, node, places), (2, 0, 1)), ops.transpose(exists)


def _advance(run, node, now, lag, offset, source):
    """The node before, where the path stands at this time; its position there, else -1."""
    time, place, state = node
    here = time == now
    if run.spec.start == "anywhere":
        first = state == START
    elif run.spec.start == "border":
        i, j = run.layout.node(now, place)
        first = ops.logical_or(i == 0, j == 0)
    else:
        first = state != state
    visited = array.where(here, place, 0 * place - 1)
    before = array.where(first, 0 * time - 1, time - lag)
    time = array.where(here, before, time)
    place = array.where(here, array.where(first, 0 * place, place - offset), place)
    state = array.where(here, source, state)
    return (time, place, state), (visited,)


def with_origin(run, node, places):
    """Positions (1 + steps, B) by time, with time 0 in front, up to the last of the lattice."""
    return _with_origin(run, node, places)[:, :, 0]


def _with_origin(run, node, places):
    time, place, _ = node
    places = places[: run.layout.steps]
    return ops.concatenate([array.where(time == 0, place, -1)[None], places], axis=0)


def _constants(run, batch):
    """Lag, offset, source and target of every move, each (B, moves)."""
    spec = run.spec
    columns = (
        [spec.lag(move) for move in spec.moves],
        [spec.offset(move) for move in spec.moves],
        [move.source for move in spec.moves],
        [move.target for move in spec.moves],
    )
    return [
        ops.broadcast_to(ops.convert_to_tensor(x, dtype="int32")[None], (batch, len(x)))
        for x in columns
    ]


def _forward(run, k):
    """Scores (1 + steps, B, P, k) and pointers (steps, B, P, k) of every state."""
    spec = run.spec
    first = ops.cast(ops.arange(k) > 0, run.zeros.dtype) * FORBIDDEN
    zeros = run.zeros[..., None] + 0.0 * first
    dead = zeros + FORBIDDEN
    history = [[dead] * spec.states for _ in range(spec.window)]
    if spec.start != "anywhere":
        start = array.where(run.starts(0)[..., None], zeros + first, dead)
        history[0][0] = start

    def step(carry, x):
        if spec.jumps:
            *carry, table = carry
            node_of, *x = x
        history = [carry[n : n + spec.states] for n in range(0, len(carry), spec.states)]
        thetas = run.timed(x[1:])
        row, pointers = [], []
        for state in range(spec.states):
            terms = []
            for index in spec.into(state):
                move = spec.moves[index]
                if move.source == START:
                    term = zeros + first
                else:
                    term = history[spec.lag(move) - 1][move.source]
                    term = _shift(term, spec.offset(move))
                if move.channel is not None:
                    term = term + thetas[move.channel][..., None]
                terms.append(term)
            if spec.jumps:
                index = ops.reshape(node_of[..., None] * k + ranks, (ops.shape(node_of)[0], -1))
                term = array.take_along_axis(run.flat(table), index, 1)
                terms.append(ops.reshape(term, ops.shape(zeros)) + thetas[-1][..., None])
            values, pointer = array.top_k(array.concatenate(terms, 2), k)
            row.append(values)
            pointers.append(ops.cast(pointer, "int32"))
        if spec.start == "border":
            border = run.border(x[0])[..., None]
            fresh = array.where(run.starts(x[0])[..., None], zeros + first, dead)
            row = [
                array.where(border, dead if state else fresh, value)
                for state, value in enumerate(row)
            ]
        carry = (*row, *carry[: -spec.states])
        if spec.jumps:
            table = array.put_row(table, x[0], ops.reshape(row[0], (ops.shape(zeros)[0], -1)))
            carry = (*carry, table)
        return carry, (*row, *pointers)

    like = [zeros] * spec.states + [ops.cast(zeros, "int32")] * spec.states
    carry = tuple(x for row in history for x in row)
    xs = (run.times, *run.xs())
    if spec.jumps:
        ranks = ops.arange(k, dtype="int32")
        table = ops.concatenate([run.empty_table()] * k, axis=2)
        start = ops.reshape(history[0][0], (ops.shape(zeros)[0], -1))
        carry, xs = (*carry, array.put_row(table, 0, start)), (run.node_of, *xs)
    _, rows = array.scan(step, carry, xs, like=tuple(like))
    values = [
        ops.concatenate([x[None], y], axis=0)
        for x, y in zip(history[0], rows[: spec.states], strict=True)
    ]
    return values, rows[spec.states :]


def _shift(x, offset):
    """`x[p - offset]` along axis 1."""
    if offset == 0:
        return x
    return array.concatenate([0.0 * x[:, :offset] + FORBIDDEN, x[:, :-offset]], 1)


def _best_ends(run, rows, k):
    """Nodes and ranks (B, k) where the k best paths end, and whether they exist."""
    spec, width = run.spec, run.layout.positions
    if spec.end == "corner":
        time, place = run.final()
        last = []
        for x in rows:
            flat = ops.swapaxes(x, 0, 1)
            batch, steps, _, _ = ops.shape(flat)
            flat = ops.reshape(flat, (batch, steps * width * k))
            index = (time * width + place) * k + ops.arange(k, dtype="int32")
            last.append(array.take_along_axis(flat, index, 1))
        total, cell = array.top_k(ops.concatenate(last, axis=1), k)
        cell = ops.cast(cell, "int32")
        node = (time + 0 * cell, place + 0 * cell, cell // k)
        return node, cell % k, total > INFEASIBLE
    times = ops.arange(run.steps + 1, dtype="int32")[:, None, None]
    mask = run.end_mask(times)[..., None]
    ends = ops.stack([array.where(mask, rows[s], FORBIDDEN) for s in run.end_states()], axis=2)
    steps, batch, states, _, _ = ops.shape(ends)
    flat = ops.reshape(ops.swapaxes(ends, 0, 1), (batch, steps * states * width * k))
    nothing = ops.zeros_like(flat[:, :1]) + (0.0 if spec.empty else FORBIDDEN)
    # At least k candidates, however small the table.
    flat = ops.concatenate([flat, nothing] + [nothing * 0.0 + FORBIDDEN] * (k - 1), axis=1)
    total, cell = array.top_k(flat, k)
    cell = ops.cast(cell, "int32")
    cell, rank = cell // k, cell % k
    cell, place = cell // width, cell % width
    time, state = cell // states, cell % states
    time = array.where(time >= steps, -1, time)
    return (time, place, state), rank, total > INFEASIBLE
