"""Value -> marginals -> curvature, as custom derivatives of the active framework.

Each framework module defines these functions. `sweeps` is hashable (`implementation.Sweeps`),
`problem` a `Problem`, `tape` what `sweeps.forward` left behind:

- `forward(sweeps, problem, op)` -> `((high, low), tape)`, cut off from autodiff;
- `value(sweeps, problem, tape, log_partition)` -> `log_partition`, whose derivative is `marginals`;
- `marginals(sweeps, problem, tape)` -> one array per potential and example, whose derivative is the
  curvature sweep;
- `run(sweeps, name, *args, static=())` -> `sweeps.name(*args, *static)` without derivative,
  compiled where calls outside of a compiled function would be slow; `static` is hashable;
- `whole(d, name, *args, keep=())` -> `d.name(*args)` of a distribution, with derivatives, as one
  program where each operation would be compiled alone; `keep` names lazy attributes that it uses;
- `constant(problem)` -> the problem with potentials cut off from autodiff;
- `compiled(sweep, name, *args)` -> `sweep.name(*args)` with derivatives, which are autodiff's;
- `explicit(sweep, inputs, context)` -> `sweep.output(inputs, context)`, whose gradient is
  `sweep.vjp(inputs, context, cotangent)`, whose own is autodiff's;
- `replaced(rule, d, scores)` -> `rule.output(d, scores)`, a tuple, whose gradient by the tuple
  `scores` is `rule.vjp(d, scores, cotangents)`; that by the distribution `d` is 0.

The tape is a constant: it is a cache of what the potentials already determine. The curvature sweep
is linear in its tangents and symmetric, so it serves forward and reverse mode (JAX, PyTorch); its
own derivative by the potentials (third derivatives) is the framework's autodiff of the portable
sweeps.
"""

import importlib

import keras

_backend = keras.backend.backend()
_module = _backend if _backend in ("jax", "tensorflow", "torch") else "numpy"
_framework = importlib.import_module(f"{__name__}.{_module}")

compiled = _framework.compiled
constant = _framework.constant
explicit = _framework.explicit
forward = _framework.forward
marginals = _framework.marginals
replaced = _framework.replaced
run = _framework.run
value = _framework.value
whole = _framework.whole
