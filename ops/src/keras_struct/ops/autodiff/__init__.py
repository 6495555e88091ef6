"""Value -> marginals -> curvature, as custom gradients of the active framework.

Each framework module defines these functions. `sweeps` is a `Sweeps` object, `potentials` the tuple
of canonical potentials, `context` the tuple of arrays without gradient (lengths, labels), `tape`
what `sweeps.forward` left behind:

- `forward(sweeps, potentials, context, op)` -> `(log_partition, tape)`, cut off from autodiff;
- `value(sweeps, potentials, context, tape, log_partition)` -> `log_partition`, whose gradient is
  `marginals`;
- `marginals(sweeps, potentials, context, tape)` -> one array per potential and example, whose
  gradient is the curvature sweep;
- `run(sweeps, name, *args, static=())` -> `sweeps.name(*args, *static)` without gradient, compiled
  where calls outside of a compiled function would be slow; `static` is hashable.
- `compiled(sweep, name, *args)` -> the same with gradients, which are autodiff's;
- `explicit(sweep, inputs, context)` -> `sweep.output(inputs, context)`, whose gradient is
  `sweep.vjp(inputs, context, cotangent)`, whose own is autodiff's.

The curvature sweep is linear and symmetric in its tangents, so its gradient with respect to them is
itself; its gradient with respect to the potentials (third derivatives) is the framework's own
autodiff of the portable sweeps.
"""

import keras

if keras.backend.backend() == "jax":
    from keras_struct.ops.autodiff.jax import compiled, explicit, forward, marginals, run, value
elif keras.backend.backend() == "tensorflow":
    from keras_struct.ops.autodiff.tensorflow import (
        compiled,
        explicit,
        forward,
        marginals,
        run,
        value,
    )
elif keras.backend.backend() == "torch":
    from keras_struct.ops.autodiff.torch import compiled, explicit, forward, marginals, run, value
else:
    from keras_struct.ops.autodiff.numpy import compiled, explicit, forward, marginals, run, value

__all__ = ["compiled", "explicit", "forward", "marginals", "run", "value"]
