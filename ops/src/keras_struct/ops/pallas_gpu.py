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


class PallasGPU(Pallas):
    """Sweeps by Pallas kernels for GPUs."""

    platform = "gpu"

    def call(self, kernel, name, grid, inputs, outputs, warps=1, stages=1):
        """Run a kernel: `kernel(*input refs, *output refs)`.

        Args:
            kernel: Function of references, to arrays without their first axis.
            name: Its name in compiled programs.
            grid: How many programs there are; the first size counts examples.
            inputs: Arrays, whose first axis are the examples, or has size 1 if they share one.
            outputs: `jax.ShapeDtypeStruct`s with an axis of examples in front.
            warps: Of 32 threads, for each program.
            stages: How many turns of a loop with products of matrices are fetched ahead.

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
        )

    def barrier(self):
        """In a kernel: what its threads have stored so far, all of them may now read."""
        from jax.experimental.pallas import triton

        if self.interpreter is None:
            triton.debug_barrier()

    def exp(self, x):
        """In a kernel: the exponential, by the unit that has one for powers of two (ex2).

        Of x in float32, the result is wrong by some 2^-22 (2 + |x|) of itself: for weights, which
        are small where |x| is large.
        """
        import jax
        from jax import numpy as jnp
        from jax.experimental.pallas import triton

        if self.interpreter is not None or x.dtype != jnp.float32:
            return jnp.exp(x)
        (found,) = triton.elementwise_inline_asm(
            "ex2.approx.ftz.f32 $0, $1;",
            args=[x * LOG2_E],
            constraints="=f,f",
            pack=1,
            result_shape_dtypes=[jax.ShapeDtypeStruct(x.shape, x.dtype)],
        )
        return found


def _of_example(shape, examples):
    from jax.experimental import pallas as pl

    zeros = (0,) * len(shape)
    return pl.BlockSpec((None, *shape), lambda b, *rest: (0 if examples == 1 else b, *zeros))
