"""Alignments on a GPU under JAX, by the Pallas kernels of `gpu_sweeps.py` and `gpu_paths.py`."""

import functools
import math

from keras_struct.ops.alignment import events, gpu_tape
from keras_struct.ops.alignment.gpu_plan import PATHS, Cut, Sizes
from keras_struct.ops.alignment.gpu_tape import Tape
from keras_struct.ops.alignment.layout import Layout
from keras_struct.ops.gpu import power
from keras_struct.ops.implementation import Paths
from keras_struct.ops.pallas import rounded
from keras_struct.ops.pallas_gpu import PallasGPU

MOST = 1 << 31  # numbers of a tape, whose places are 32 bits


class AlignmentGPU(Paths, PallasGPU):
    """Sweeps by strips.

    Attributes:
        sizes: None, or those of strips and tiles for every call.
    """

    sizes: Sizes | None = None

    def rejects(self, call):
        if call.spec.jumps:
            return "a transposition may come from any earlier row, and a strip knows the last ones"
        reason = super().rejects(call)
        if reason is None and self._numbers(call) >= MOST:
            return (
                f"the messages of a pair are {MOST} numbers or more, too many to count in 32 bits"
            )
        return reason

    def _numbers(self, call):
        """Of the messages of a pair; with tangents there are fewer."""
        batch, rows, columns = call.shapes[0]
        sizes = self.sizes or Sizes.of(call.spec, batch, rows, columns)
        strips = rows // (sizes.lanes * sizes.rows) + 1
        nodes = strips * sizes.lanes * sizes.rows * (columns + sizes.lanes)
        return 2 * call.spec.states * nodes

    def cut(self, problem):
        return _Sweep(self, problem)


class _Sweep:
    """One problem, and the calls of the kernels on it."""

    def __init__(self, kernels, problem):
        from jax import numpy as jnp

        self.kernels, self.problem, self.spec = kernels, problem, problem.spec
        self.batch = problem.context[0].shape[0]
        self.dtype = problem.potentials[0].dtype
        self.cut = Cut.of(problem, kernels.sizes, kernels.interpreter is None)
        sizes = self.cut.rows, self.cut.columns
        lengths = (jnp.clip(x, 0, n) for x, n in zip(problem.context[:2], sizes, strict=True))
        self.lengths = jnp.stack(list(lengths), 1).astype("int32")

    def array(self, *shape, dtype=None):
        """Of every pair, flat."""
        import jax

        return jax.ShapeDtypeStruct((self.batch, math.prod(shape)), dtype or self.dtype)

    def call(self, kernel, name, *options, inputs, outputs, fresh=(), programs=(), warps=1):
        """A kernel.

        Args:
            kernel: Function of the kernels, the cut, options and references.
            name: Of the kernel in compiled programs.
            *options: Of the kernel.
            inputs: Dict of arrays with an axis of pairs, to be flattened.
            outputs: Dict of `jax.ShapeDtypeStruct`s.
            fresh: Dict of arrays that the kernel writes in part; they come out with the outputs.
            programs: How many for each pair.
            warps: Of a program.

        Returns:
            Dict of arrays.
        """
        inputs = {"lengths": self.lengths, **inputs}
        inputs = {key: x.reshape(x.shape[0], -1) for key, x in inputs.items()}
        fresh = dict(fresh)
        aliases = {len(inputs) + n: len(outputs) + n for n in range(len(fresh))}
        shapes = {key: self.array(*x.shape[1:], dtype=x.dtype) for key, x in fresh.items()}
        return self.kernels.call_by_name(
            functools.partial(kernel, self.kernels, self.cut, *options),
            f"keras_struct_alignment_{name}",
            (self.batch, *programs),
            inputs | {f"fresh_{key}": x for key, x in fresh.items()},
            outputs | shapes,
            warps=warps,
            aliases=aliases,
        )

    def sweep(self, kernel, name, *options, inputs, outputs, zeros=(), back=False):
        """A kernel on all strips: in one launch, or wave by wave of tiles.

        Args:
            kernel, name, *options, inputs, outputs: Of `call`.
            zeros: Names of the outputs that the kernel adds to.
            back: Whether the last wave is the first.
        """
        from jax import lax
        from jax import numpy as jnp

        def launch(fresh, outputs, programs=(), **more):
            return self.call(
                kernel,
                name,
                *options,
                inputs={**inputs, **more},
                outputs=outputs,
                fresh=fresh,
                programs=programs,
                warps=self.cut.warps,
            )

        tiled = self.cut.size is not None
        fresh = {
            key: jnp.zeros(x.shape, x.dtype) for key, x in outputs.items() if tiled or key in zeros
        }
        if not tiled:
            return launch(fresh, {key: x for key, x in outputs.items() if key not in fresh})

        def wave(n, found):
            number = self.cut.waves - 1 - n if back else n
            return launch(found, {}, (self.cut.strips,), wave=jnp.full((1, 1), number, "int32"))

        return lax.fori_loop(0, self.cut.waves, wave, fresh)

    def potentials(self, potentials, name="theta"):
        return {f"{name}{c}": x for c, x in enumerate(potentials)}

    # Sweeps ---------------------------------------------------------------------------------------

    def forward(self, op):
        from keras_struct.ops.alignment import gpu_paths, gpu_sweeps

        cut = self.cut
        inputs = self.potentials(self.problem.potentials)
        outputs = {"tape": self.array(*cut.tape(2))}
        found = self.sweep(gpu_sweeps.forward, f"forward_{op}", op, inputs=inputs, outputs=outputs)
        messages = found["tape"].reshape(self.batch, *cut.tape(2))
        if self.spec.end == "corner":
            return Tape(messages, gpu_tape.at_corner(cut, messages, self.lengths))
        steps = 1 + cut.rows + cut.columns
        found = self.call(
            gpu_paths.ends,
            f"ends_{op}",
            op,
            inputs={"tape": messages},
            outputs={"found": self.array(2, steps)},
            programs=(steps,),
            warps=cut.warps_of_ends,
        )
        ends = found["found"].reshape(self.batch, 2, steps)
        return Tape(messages, gpu_tape.all_ends(self.problem, ends))

    def total(self, tape, op):
        return gpu_tape.total(tape, op)

    def backward(self, tape):
        return self._marginals("backward", self._again(tape), 1)

    def curvature(self, tape, tangents):
        from keras_struct.ops.alignment import gpu_sweeps

        inputs = self._again(tape) | self.potentials(tangents, "dtheta")
        outputs = {"dtape": self.array(*self.cut.tape()), "dend": self.array(self.cut.strips)}
        inputs |= self.sweep(
            gpu_sweeps.tangent, "tangent", inputs=inputs, outputs=outputs, zeros=("dend",)
        )
        inputs["moved"] = inputs.pop("dend").sum(1, keepdims=True)
        return self._marginals("curvature", inputs, 2)

    def _again(self, tape):
        inputs = self.potentials(self.problem.potentials)
        ends = gpu_tape.end_weights(self.problem, tape)
        return {**inputs, "tape": tape.messages, "ends": ends}

    def _marginals(self, name, inputs, parts):
        from keras_struct.ops.alignment import gpu_sweeps

        cut = self.cut
        channels = range(cut.plan.channels)
        outputs = {f"grad{c}": self.array(*cut.sums(c)) for c in channels}
        zeros = tuple(outputs)
        outputs["edges"] = self.array(*cut.edges(parts))
        if cut.size is not None:
            outputs["carries"] = self.array(*cut.carries(parts))
        found = self.sweep(
            gpu_sweeps.backward,
            name,
            parts == 2,
            inputs=inputs,
            outputs=outputs,
            zeros=zeros,
            back=True,
        )
        sums = (found[f"grad{c}"].reshape(self.batch, *cut.sums(c)) for c in channels)
        return tuple(map(cut.collected, channels, sums))

    # Paths ----------------------------------------------------------------------------------------

    def paths(self, tape, draws, count):
        """Events (n, B, ...) of the best path, or of samples."""
        from jax import numpy as jnp

        from keras_struct.ops.alignment import gpu_paths

        noisy = draws is not None
        op = "logsumexp" if noisy else "max"
        keys = jnp.stack(draws.key, 1) if noisy else jnp.zeros((self.batch, 2, count), "int32")
        nodes = self._last_nodes(tape, draws, count, keys)
        block = min(PATHS, power(count))
        paths = rounded(count, block)
        more = [(0, 0), (0, 0), (0, paths - count)]
        layout = Layout(self.cut.rows, self.cut.columns, self.spec.by_rows)
        times = layout.steps + 1
        found = self.call(
            gpu_paths.walk,
            f"walk_{op}",
            noisy,
            block,
            inputs={
                **self.potentials(self.problem.potentials),
                "tape": tape.messages,
                "nodes": jnp.pad(nodes, more, constant_values=-1),
                "keys": jnp.pad(keys, more),
            },
            outputs={},
            fresh={"places": jnp.full((self.batch, times * paths), -1, "int32")},
            programs=(paths // block,),
        )
        places = found["places"].reshape(self.batch, times, paths)[..., :count]
        places = places.transpose(1, 2, 0).reshape(times, -1)
        event = events.encode(self.spec, layout, places)
        return event.reshape(count, self.batch, *event.shape[1:])

    def _last_nodes(self, tape, draws, count, keys):
        """i, j and state (B, 3, n) of the last nodes of paths; -1 where there is none."""
        from jax import numpy as jnp

        from keras_struct.ops.alignment import gpu_paths

        chosen = gpu_tape.chosen_ends(self.problem, tape, draws)
        chosen = jnp.broadcast_to(chosen.astype("int32"), (self.batch, count))
        if self.spec.end == "corner":
            first, second = (self.lengths[:, n : n + 1] + 0 * chosen for n in range(2))
            return jnp.stack([first, second, chosen], 1)
        noisy = draws is not None
        pairs = jnp.stack([jnp.take_along_axis(x, chosen, 1) for x in tape.ends], 1)
        times = jnp.where(chosen > self.cut.rows + self.cut.columns, -1, chosen)
        found = self.call(
            gpu_paths.last_nodes,
            f"last_nodes_{'logsumexp' if noisy else 'max'}",
            noisy,
            inputs={"tape": tape.messages, "times": times, "pairs": pairs, "keys": keys},
            outputs={"nodes": self.array(3, count, dtype="int32")},
            programs=(count,),
            warps=self.cut.warps_of_ends,
        )
        return found["nodes"].reshape(self.batch, 3, count)
