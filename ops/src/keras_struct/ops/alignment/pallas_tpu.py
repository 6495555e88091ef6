"""Alignments on a TPU, by the Pallas kernels of `tpu_sweeps.py`, tile by tile (`tpu_tiles.py`)."""

import copy
import functools
import itertools
from typing import Any, NamedTuple

from keras_struct.ops.alignment import events
from keras_struct.ops.alignment.paths import END
from keras_struct.ops.alignment.run import Run
from keras_struct.ops.alignment.tpu_tiles import FRONT, Tiling
from keras_struct.ops.messages import log_sum, log_weights
from keras_struct.ops.noise import flat_places, perturbed
from keras_struct.ops.numerics import FORBIDDEN, INFEASIBLE
from keras_struct.ops.pallas import in_pieces, rounded
from keras_struct.ops.pallas_tpu import (
    LANES,
    MEGABYTE,
    SPARE,
    SUBLANES,
    PathsTPU,
    blocks_of,
    numbers_of_block,
    of_block,
    off_lanes,
    on_lanes,
    room,
)

PLACES = 4  # megabytes of VMEM for the places of paths


class Tape(NamedTuple):
    """What the forward sweep leaves behind.

    Attributes:
        heads: Messages of the rows above every strip, (blocks, strips, 2 S H, T, LANES).
        carry: Messages of the times before every tile, with the rows above,
            (blocks, strips, tiles, 2 S, past, FRONT + R, LANES).
        ends: High and low (B, E) of the log-weight of every way to end, see `Run.all_ends`.
    """

    heads: Any
    carry: Any
    ends: tuple


class AlignmentTPU(PathsTPU):
    """Sweeps over tiles, which are larger where there are few states.

    Attributes:
        sizes: None, or rows, times, span and together of every tile, see `Tiling`.
        memory: Megabytes of VMEM that a kernel may take.
        wholes: Whether scores in range are summed as whole numbers, see `tpu_sums.py`.
    """

    sizes: tuple[int, int, int, int] | None = None
    memory = room(None) + SPARE
    wholes = True

    def made_for(self, call):
        return _with_memory(self, room(call.device_kind) + SPARE)

    def rejects(self, call):
        if call.spec.jumps:
            return "a transposition may come from any earlier row, and a tile knows the last ones"
        reason = super().rejects(call)
        if reason is None and self.made_for(call)._tiling_of(call) is None:
            return "the last rows of its tiles are as long as the sequences, and do not fit in VMEM"
        return reason

    def avoids(self, call):
        return None  # a small batch is not padded where its potentials are large

    def _tiling_of(self, call):
        return self.tiling(call.spec, call.shapes[: len(call.spec.kinds)])

    def tiling(self, spec, shapes):
        """The tiles of lattices of these canonical potentials, None if they are too long."""
        if self.sizes is not None:
            return Tiling.of(spec, shapes, [self.sizes], self.memory)
        heights = (48, 32, 24, 16, 8) if spec.states == 1 else (32, 16, 8)
        sizes = [(rows, times, LANES, 8) for rows in heights for times in (64, 32, 16)]
        return Tiling.of(spec, shapes, sizes, self.memory)

    def cut(self, problem):
        return _Sweep(self, problem)


@functools.cache
def _with_memory(kernels, memory):
    if kernels.memory == memory:
        return kernels
    other = copy.copy(kernels)
    other.memory = memory
    return other


class _Sweep:
    """One problem, cut into tiles, and the calls of the kernels on it."""

    def __init__(self, kernels, problem):
        from jax import numpy as jnp

        self.kernels, self.problem, self.spec = kernels, problem, problem.spec
        first, second = problem.context[:2]
        self.batch = first.shape[0]
        self.blocks = blocks_of(self.batch)
        self.dtype = problem.potentials[0].dtype
        self.potentials = problem.potentials
        if problem.narrow is not None:
            # Exact, and in the same pass of XLA as what prepares them.
            cells, *rest = problem.potentials
            self.potentials = cells.astype(problem.narrow), *rest
        height, width = problem.potentials[0].shape[1:]
        shapes = [x.shape for x in problem.potentials]
        self.tiling = kernels.tiling(self.spec, shapes)
        self.kinds = self.tiling.kinds(shapes)
        lengths = jnp.stack([jnp.clip(first, 0, height), jnp.clip(second, 0, width)], 1)
        lengths = lengths.astype("int32")
        self.lengths = on_lanes(lengths, self.batch)
        long = on_lanes(lengths, self.batch, height + width)  # where there is no example
        sums = long.sum(1).min(1), self.lengths.sum(1).max(1)
        self.limits = jnp.concatenate(
            [self.lengths.max(2), jnp.stack(sums, 1), long.min(2)], 1
        ).astype("int32")

    def in_range(self, op):
        """Whether all examples of a block are, (blocks, 1)."""
        from jax import numpy as jnp

        from keras_struct.ops.alignment import tpu_sums

        if not self.kernels.wholes:
            return jnp.zeros((self.blocks, 1), "int32")
        steps = max(2, self.tiling.height + self.tiling.width)
        found = tpu_sums.in_range(self.problem.potentials, steps, op).astype("int32")
        return on_lanes(jnp.broadcast_to(found, (self.batch,))[:, None], self.batch, 1).min(2)

    def call(
        self,
        kernel,
        name,
        op,
        inputs,
        outputs,
        scratch,
        tangents=None,
        marginals=False,
        back=False,
    ):
        """A kernel on all tiles: `kernel(tile, scores, ...)`, of tangents and marginals, too, where
        they are asked for, then of references to the rest.

        Args:
            kernel: The function.
            name: Its name in compiled programs, without prefix.
            op: "logsumexp" or "max": of its messages.
            inputs, outputs, scratch: As for `PallasTPU.call`, beside potentials and marginals.
            tangents: None, or tangents of the canonical potentials.
            marginals: Whether the first outputs are marginals.
            back: Whether tiles run from the last to the first.

        Returns:
            List of arrays.
        """
        from jax import numpy as jnp

        from keras_struct.ops.alignment.tpu_windows import on_tiles

        tiling, batch, dtype = self.tiling, self.batch, self.dtype
        given = [tiling.given(self.potentials, batch, dtype, back)]
        if tangents is not None:
            given.append(tiling.given(tangents, batch, dtype, back, 0.0))
        made = [tiling.made(self.kinds, dtype, batch)] if marginals else []
        kernel = on_tiles(kernel, tiling, self.kinds, given, made, len(inputs), len(outputs), back)
        inputs = [*itertools.chain(*[x.triples for x in given]), *inputs]
        limits = jnp.concatenate([self.limits, self.in_range(op)], 1)
        inputs = [numbers_of_block(limits), of_block(self.lengths), *inputs]
        outputs = [*itertools.chain(*[x.triples for x in made]), *outputs]
        scratch = [*itertools.chain(*[x.scratch for x in (*given, *made)]), *scratch]
        grid = self.blocks, tiling.strips, tiling.tiles
        if back:
            grid = self.blocks, tiling.strips, tiling.tiles + 1
            inputs, outputs = ([self._reversed(x) for x in xs] for xs in (inputs, outputs))
        name = f"keras_struct_alignment_{name}"
        return self.kernels.call(
            kernel, name, grid, inputs, outputs, scratch, memory=self.kernels.memory * MEGABYTE
        )

    def _reversed(self, triple):
        """Before the last tile of a strip comes a step for the one behind it, which is none."""
        x, block, index, *buffers = triple
        strips, tiles = self.tiling.strips, self.tiling.tiles
        return x, block, lambda n, k, c: index(n, strips - 1 - k, tiles - c), *buffers

    def array(self, *shape, dtype=None):
        import jax

        return jax.ShapeDtypeStruct(shape, dtype or self.dtype)

    def heads(self, planes, x=None):
        """Triple of the rows above of so many planes."""
        tiling, planes = self.tiling, planes * self.tiling.halo
        if x is None:
            x = self.array(self.blocks, tiling.strips, planes, tiling.all_times, LANES)
        return (
            x,
            (None, None, planes, tiling.times, LANES),
            lambda n, k, c: (n, k, 0, tiling.tile(c), 0),
        )

    def carry(self, planes, x=None):
        tiling = self.tiling
        inner = planes, tiling.past, FRONT + tiling.rows, LANES
        if x is None:
            x = self.array(self.blocks, tiling.strips, tiling.tiles, *inner)
        return x, (None, None, None, *inner), lambda n, k, c: (n, k, tiling.tile(c), 0, 0, 0, 0)

    def of_block(self, *shape, dtype=None):
        """Triple of an output that all tiles of a block of examples write."""
        return of_block(self.array(self.blocks, *shape, dtype=dtype))

    def messages(self, planes):
        tiling = self.tiling
        return self.array(planes, tiling.past + tiling.times, FRONT + tiling.rows, LANES)

    def above(self, planes):
        tiling = self.tiling
        times = rounded(tiling.past + tiling.all_times, SUBLANES)
        return self.array(planes * tiling.halo, times, LANES)

    @property
    def ends_shape(self):
        if self.spec.end == "corner":
            return 2 * self.spec.states, LANES
        return 2, self.tiling.diagonals, LANES

    def forward(self, op):
        from keras_struct.ops.alignment import tpu_sweeps

        pairs = 2 * self.spec.states
        heads, carry, ends = self.call(
            functools.partial(tpu_sweeps.forward, op),
            f"forward_{op}",
            op,
            [],
            [self.heads(pairs), self.carry(pairs), self.of_block(*self.ends_shape)],
            [self.messages(pairs), self.above(pairs), self.array(2, SUBLANES, LANES)],
        )
        return Tape(heads, carry, self.all_ends(ends))

    def total(self, tape, op):
        """The log-partition, or the largest score, as a pair (B,)."""
        high, low = tape.ends
        peak, rest, _, _ = log_sum(high, low, 0.0, 1, op)
        return peak[:, 0], rest[:, 0]

    def backward(self, tape):
        from keras_struct.ops.alignment import tpu_sweeps

        outputs = self.call(
            tpu_sweeps.backward,
            "backward",
            "logsumexp",
            [*self.again(tape), of_block(self.end_weights(tape))],
            [],
            [self.messages(2 * self.spec.states), *self.weights()],
            marginals=True,
            back=True,
        )
        return self.collected(outputs)

    def curvature(self, tape, tangents):
        from keras_struct.ops.alignment import tpu_sweeps

        states, ends = self.spec.states, of_block(self.end_weights(tape))
        inputs = [*self.again(tape), ends]
        dheads, dcarry, dend = self.call(
            tpu_sweeps.tangent,
            "tangent",
            "logsumexp",
            inputs,
            [self.heads(states), self.carry(states), self.of_block(1, LANES)],
            [self.messages(2 * states), self.messages(states), self.above(states)],
            tangents,
        )
        inputs += [self.heads(states, dheads), self.carry(states, dcarry), of_block(dend)]
        outputs = self.call(
            tpu_sweeps.curvature,
            "curvature",
            "logsumexp",
            inputs,
            [],
            [self.messages(2 * states), *self.weights(), self.messages(states), *self.weights()],
            tangents,
            marginals=True,
            back=True,
        )
        return self.collected(outputs)

    def again(self, tape):
        """Triples from which a tile runs forward again."""
        pairs = 2 * self.spec.states
        return self.heads(pairs, tape.heads), self.carry(pairs, tape.carry)

    def weights(self):
        """Weights of the moves, and those of the moves into the strip below."""
        tiling = self.tiling
        rows, times = tiling.rows + SUBLANES, tiling.times + tiling.past
        below = len(tiling.down) * tiling.halo, rounded(tiling.all_times + tiling.rows, SUBLANES)
        return self.array(len(tiling.stored), times, rows, LANES), self.array(*below, LANES)

    def collected(self, outputs):
        pairs = zip(self.kinds, outputs, strict=True)
        return tuple(self.tiling.collected(*x, self.batch) for x in pairs)

    def end_weights(self, tape):
        """Of the states in the corner their shares, else high and low of the log-partition."""
        from jax import numpy as jnp

        if self.spec.end == "corner":
            return on_lanes(Run(self.problem).shares(tape.ends), self.batch)
        high, low = tape.ends
        peak, rest, _, _ = log_sum(high, low, 0.0, 1, "logsumexp")
        peak = jnp.where(peak > INFEASIBLE, peak, 0.0)
        return on_lanes(jnp.concatenate([peak, rest], 1), self.batch)

    # Paths ----------------------------------------------------------------------------------------

    def paths(self, tape, draws, count):
        """Events (n, B, ...) of the best path, or of samples."""
        most = max(1, MEGABYTE * PLACES // (4 * LANES * self.tiling.diagonals))
        most = min(most, count) if most < SUBLANES else most // SUBLANES * SUBLANES
        return in_pieces(functools.partial(self._paths, tape), draws, count, most)

    def _paths(self, tape, draws, count):
        from jax import numpy as jnp

        from keras_struct.ops.alignment import tpu_paths

        group = 1 if count < SUBLANES else SUBLANES
        samples, noisy = rounded(count, group), draws is not None
        op = "logsumexp" if noisy else "max"
        keys = (
            jnp.zeros((self.batch, 2, count), "int32") if draws is None else jnp.stack(draws.key, 1)
        )
        pad = [(0, 0), (0, 0), (0, samples - count)]
        keys = on_lanes(jnp.pad(keys, pad), self.batch)
        nodes = on_lanes(self.ends_of_paths(tape, draws, count, keys, pad), self.batch)
        spec, tiling = self.spec, self.tiling
        (places,) = self.call(
            functools.partial(tpu_paths.walk, op, noisy, group),
            f"walk_{op}",
            op,
            [*self.again(tape), of_block(nodes), of_block(keys)],
            [self.of_block(tiling.diagonals, samples, LANES, dtype="int32")],
            [
                self.messages(2 * spec.states),
                self.array(len(spec.moves), tiling.times, tiling.rows, LANES),
                self.array(3, samples, LANES, dtype="int32"),
            ],
            back=True,
        )
        places = off_lanes(places, self.batch)[:, :, :count]
        layout = Run(self.problem).layout
        places = places.transpose(1, 2, 0).reshape(tiling.diagonals, -1)
        places = places[: 1 + tiling.height + tiling.width]
        event = events.encode(spec, layout, self._by_rows(places) if spec.by_rows else places)
        return event.reshape(count, self.batch, *event.shape[1:])

    def _by_rows(self, places):
        """Columns by row, from rows by time i + j, (times, n B)."""
        from jax import numpy as jnp

        times = jnp.arange(places.shape[0], dtype="int32")[:, None]
        row = jnp.where(places >= 0, places, self.tiling.height + 1)
        empty = jnp.full((self.tiling.height + 1, places.shape[1]), -1, "int32")
        lanes = jnp.arange(places.shape[1], dtype="int32")[None]
        return empty.at[row, lanes].max(times - places, mode="drop")

    def ends_of_paths(self, tape, draws, count, keys, pad):
        """i, j and state (B, 3, n) of the last nodes of paths; -1 where there is none."""
        from jax import numpy as jnp

        run = Run(self.problem)
        logits = log_weights(run.shares(tape.ends))[:, None]
        places = flat_places((1, logits.shape[2]))
        chosen = jnp.argmax(perturbed(logits, draws, END, places), 2).astype("int32")
        if self.spec.end == "corner":
            first, second = self.problem.context[:2]
            nodes = first[:, None] + 0 * chosen, second[:, None] + 0 * chosen, chosen
            return jnp.pad(jnp.stack(nodes, 1).astype("int32"), pad, constant_values=-1)
        times = jnp.where(chosen > run.steps, -1, chosen)
        pairs = [jnp.take_along_axis(x, chosen, 1) for x in tape.ends]
        pairs = on_lanes(jnp.pad(jnp.stack(pairs, 1), pad), self.batch)
        times = jnp.pad(times[:, None], pad, constant_values=-1)
        times = on_lanes(times, self.batch, -1)[:, 0]
        return self.last_nodes(tape, draws is not None, times, pairs, keys)

    def last_nodes(self, tape, noisy, times, pairs, keys):
        from jax import numpy as jnp

        from keras_struct.ops.alignment import tpu_paths

        op, samples = "logsumexp" if noisy else "max", times.shape[1]
        wanted = (times[..., None] == jnp.arange(self.tiling.diagonals)).any((1, 2))
        inputs = [*self.again(tape), numbers_of_block(wanted.astype("int32"))]
        inputs += [of_block(x) for x in (times, pairs, keys)]
        (nodes,) = self.call(
            functools.partial(tpu_paths.last_nodes, op, noisy),
            f"ends_{op}",
            op,
            inputs,
            [self.of_block(3, samples, LANES, dtype="int32")],
            [self.messages(2 * self.spec.states), self.array(samples, LANES)],
        )
        return off_lanes(nodes, self.batch)

    def all_ends(self, ends):
        """High and low (B, E), as in `Run.all_ends`."""
        from jax import numpy as jnp

        ends = off_lanes(ends, self.batch)
        if self.spec.end == "corner":
            return ends[:, 0::2], ends[:, 1::2]
        run = Run(self.problem)
        high, low = ends[:, 0], ends[:, 1]
        count = 1 + self.tiling.height + self.tiling.width
        missing = 1 + run.steps - count
        pad = [(0, 0), (0, missing)]
        nothing = jnp.zeros_like(high[:, :1])
        empty = nothing if self.spec.empty else nothing + FORBIDDEN
        high = jnp.pad(high[:, :count], pad, constant_values=FORBIDDEN)
        low = jnp.pad(low[:, :count], pad)
        return jnp.concatenate([high, empty], 1), jnp.concatenate([low, nothing], 1)
