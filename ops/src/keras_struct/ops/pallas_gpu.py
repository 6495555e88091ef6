"""What every Pallas kernel for GPUs needs: when it may run, a program for each example, barriers.

On a GPU, Triton compiles a kernel. All arrays stay in global memory (and in the caches before it);
a kernel loads and stores the parts that it names, whose sizes are powers of two, and keeps what it
works on in registers. There is no scratch memory: what the threads of a program tell each other is
stored in an output, and read after a `barrier`. `interpreted` is the same kernel for tests on any
machine. A kernel file imports JAX only where it runs.
"""

import functools

from keras_struct.ops.pallas import Pallas
from keras_struct.ops.scaled import LOG2_E

LN_2 = 0.6931471805599453


class PallasGPU(Pallas):
    """Sweeps by Pallas kernels for GPUs."""

    platform = "gpu"

    def call(self, kernel, name, grid, inputs, outputs, warps=1, stages=1, aliases=None):
        """Run a kernel: `kernel(*input refs, *output refs)`.

        Args:
            kernel: Function of references, to arrays without their first axis.
            name: Its name in compiled programs.
            grid: How many programs there are; the first size counts examples.
            inputs: Arrays, whose first axis are the examples, or has size 1 if they share one.
            outputs: `jax.ShapeDtypeStruct`s with an axis of examples in front.
            warps: Of 32 threads, for each program.
            stages: How many turns of a loop with products of matrices are fetched ahead.
            aliases: Dict from the number of an input to that of the output that is the same array,
                and holds what the kernel does not write.

        Returns:
            List of arrays.
        """
        from jax.experimental.pallas import triton

        def run(*refs):
            kernel(*refs)

        run.__name__ = name  # what Triton calls it
        return self.pallas_call(
            run,
            grid,
            [(x, functools.partial(_of_example, x.shape[1:])) for x in inputs],
            [(x, functools.partial(_of_example, x.shape[1:])) for x in outputs],
            name=name,
            compiler_params=triton.CompilerParams(num_warps=warps, num_stages=stages),
            input_output_aliases=aliases or {},
        )

    def barrier(self):
        """In a kernel: what its threads have stored so far, all of them may now read."""
        from jax.experimental.pallas import triton

        if self.interpreter is None:
            triton.debug_barrier()

    def load(self, ref, at, mask, other):
        """In a kernel: elements of a flat reference; `other` where the mask is False, whatever the
        place."""
        from jax import numpy as jnp
        from jax.experimental.pallas import triton

        return triton.load(ref.at[at], mask=mask, other=jnp.asarray(other, ref.dtype))

    def store(self, ref, at, values, mask=None):
        """In a kernel: writes elements of a flat reference, where the mask is True."""
        from jax import numpy as jnp
        from jax.experimental.pallas import triton

        if self.interpreter is not None and mask is not None:
            # It writes what was there before, perhaps where another element has been written.
            at = jnp.where(mask, at, ref.shape[0])
        triton.store(ref.at[at], values, mask=mask)

    def take(self, x, index):
        """In a kernel: `x[index]` of vectors, from the registers of other threads."""
        return x[index] if self.interpreter is not None else _take().bind(x, index)

    def exp(self, x):
        """In a kernel: the exponential, by the unit that has one for powers of two (ex2).

        Of x in float32, the result is wrong by some 2^-22 (2 + |x|) of itself: for weights, which
        are small where |x| is large.
        """
        from jax import numpy as jnp

        return self._special("ex2", x * LOG2_E) if self._has_unit(x) else jnp.exp(x)

    def log(self, x):
        """In a kernel: the logarithm, of float32 by the same unit, wrong by some 2^-22."""
        from jax import numpy as jnp

        return LN_2 * self._special("lg2", x) if self._has_unit(x) else jnp.log(x)

    def reciprocal(self, x):
        """In a kernel: 1 / x, of float32 by the same unit, wrong by a unit in the last place."""
        return self._special("rcp", x) if self._has_unit(x) else 1 / x

    def _has_unit(self, x):
        return self.interpreter is None and x.dtype == "float32"

    def _special(self, name, x):
        import jax
        from jax.experimental.pallas import triton

        (found,) = triton.elementwise_inline_asm(
            f"{name}.approx.ftz.f32 $0, $1;",
            args=[x],
            constraints="=f,f",
            pack=1,
            result_shape_dtypes=[jax.ShapeDtypeStruct(x.shape, x.dtype)],
        )
        return found


@functools.cache
def _take():
    """`x[index]` of vectors as an operation of Triton's, which JAX has no way to say."""
    from jax._src.lib.triton import dialect
    from jax._src.pallas.triton import lowering
    from jax.core import ShapedArray
    from jax.extend.core import Primitive

    take = Primitive("keras_struct_take")
    take.def_abstract_eval(lambda x, index: ShapedArray(index.shape, x.dtype))
    lowering.register_lowering(take)(lambda context, x, index: dialect.gather(x, index, 0))
    return take


def _of_example(shape, examples):
    from jax.experimental import pallas as pl

    zeros = (0,) * len(shape)
    return pl.BlockSpec((None, *shape), lambda b, *rest: (0 if examples == 1 else b, *zeros))
