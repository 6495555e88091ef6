"""Which implementation a call gets, and why.

The framework is Keras' active backend; the implementation is chosen per call by pure rules. A
`Call` holds facts only. Each implementation is a module with

- `rejects(call)`: None, or a sentence that says why it does not take this call;
- `sweeps(call)`: its `Sweeps` object.

The first that does not reject wins, in the order of `IMPLEMENTATIONS`. A request (argument, `use`,
environment, in this order) means that one implementation or `NotImplementedError`.
"""

import contextlib
import contextvars
import dataclasses
import importlib
import os

ENVIRONMENT = "KERAS_STRUCT_IMPLEMENTATION"

NATIVE = ("native_cpu", "portable", "reference")
CHART = ("native_cpu", "graph_cpu", "portable", "reference")
ALIGNMENT = ("native_cpu", "portable", "checkpointed", "reference")

# For each structure: the folder, and the implementations from fastest to most general. The NumPy
# reference comes last: it is only ever taken on request, for `portable` rejects nothing.
IMPLEMENTATIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "categorical": ("chain.categorical", ("portable", "reference")),
    "linear_chain": ("chain.linear_chain", ("portable", "reference")),
    "semi_markov": ("chain.semi_markov", ("portable", "reference")),
    "ctc": ("chain.ctc", ("portable", "reference")),
    "subset": ("chain.subset", ("portable", "reference")),
    "needleman_wunsch": ("alignment", ALIGNMENT),
    "overlap": ("alignment", ALIGNMENT),
    "smith_waterman": ("alignment", ALIGNMENT),
    "saigo_vert": ("alignment", ALIGNMENT),
    "dtw": ("alignment", ALIGNMENT),
    "monotonic_alignment": ("alignment", ALIGNMENT),
    "levenshtein": ("alignment", ALIGNMENT),
    "osa": ("alignment", ALIGNMENT),
    "damerau": ("alignment", ("portable", "checkpointed", "reference")),
    "lcs": ("alignment", ALIGNMENT),
    "cky": ("constituency.cky", CHART),
    "pcfg": ("constituency.pcfg", NATIVE),
    "nussinov": ("constituency.nussinov", CHART),
    "eisner": ("dependency.eisner", CHART),
    "spanning_tree": ("dependency.spanning_tree", NATIVE),
}

_requests: contextvars.ContextVar[tuple[tuple[str | None, str], ...]] = contextvars.ContextVar(
    "keras_struct_requests", default=()
)


@dataclasses.dataclass(frozen=True)
class Call:
    """The facts of one call.

    Attributes:
        op: Name of the structure, such as "linear_chain".
        backend: Keras backend, such as "jax".
        platform: "cpu", "gpu" or "tpu".
        dtype: Dtype of the arithmetic, "float32" or "float64".
        shapes: Shape of every canonical potential, None where unknown.
        options: Every option that changes the meaning or the algorithm, as sorted pairs.
        traced: Whether the values are unknown at this time (jit, graph, vmap).
        xla: Whether XLA compiles the call, so that no shape may depend on a value.
    """

    op: str
    backend: str
    platform: str
    dtype: str
    shapes: tuple[tuple[int | None, ...], ...]
    options: tuple[tuple[str, object], ...]
    traced: bool
    xla: bool = False

    def option(self, name):
        return dict(self.options)[name]


@dataclasses.dataclass(frozen=True)
class Choice:
    """The implementation that a call gets, and the reason against each one above it."""

    call: Call
    name: str
    requested_by: str | None
    rejected: tuple[tuple[str, str], ...]

    def __str__(self):
        by = "chosen automatically" if self.requested_by is None else self.requested_by
        lines = [f"{self.call.op} on {self.call.backend}, {self.call.platform}: {self.name} ({by})"]
        lines += [f"  not {name}: {reason}" for name, reason in self.rejected]
        return "\n".join(lines)

    def sweeps(self):
        return _module(self.call.op, self.name).sweeps(self.call)


def _module(op, name):
    folder, _ = IMPLEMENTATIONS[op]
    return importlib.import_module(f"keras_struct.ops.{folder}.{name}")


def implementations(op):
    """Names of the implementations of a structure, in the order in which they are tried.

    Args:
        op: Public function or its name, such as `ops.linear_chain` or `"linear_chain"`.

    Example:

    >>> from keras_struct import ops
    >>> ops.implementations("linear_chain")
    ('portable', 'reference')
    """
    return IMPLEMENTATIONS[_op_name(op)][1]


@contextlib.contextmanager
def use(implementation, op=None):
    """Within this context, calls take the named implementation or raise `NotImplementedError`.

    Args:
        implementation: Name, such as `"portable"`.
        op: Public function or name to which this applies; None for every structure that has an
            implementation of that name.

    Example:

    >>> from keras_struct import ops
    >>> with ops.use("portable", op="linear_chain"):
    ...     d = ops.linear_chain([[0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]])
    """
    op = None if op is None else _op_name(op)
    known = {name for o in IMPLEMENTATIONS if op in (None, o) for name in IMPLEMENTATIONS[o][1]}
    if implementation not in known:
        raise ValueError(
            f"Expected an implementation among {sorted(known)}. "
            f"Received: implementation={implementation!r}"
        )
    token = _requests.set(((op, implementation), *_requests.get()))
    try:
        yield
    finally:
        _requests.reset(token)


def choose(call, implementation=None):
    """The `Choice` for a call; the only place where an implementation is decided."""
    names = IMPLEMENTATIONS[call.op][1]
    requested, by = _request(call.op, implementation)
    if requested is not None:
        if requested not in names:
            raise ValueError(
                f"Expected an implementation of {call.op} among {list(names)}. "
                f"Received: implementation={requested!r}"
            )
        reason = _module(call.op, requested).rejects(call)
        if reason is not None:
            raise NotImplementedError(f"{call.op} cannot run as {requested!r}: {reason}")
        return Choice(call, requested, by, ())
    rejected: list[tuple[str, str]] = []
    for name in names:
        reason = _module(call.op, name).rejects(call)
        if reason is None:
            return Choice(call, name, None, tuple(rejected))
        rejected.append((name, reason))
    raise NotImplementedError(f"No implementation of {call.op} takes this call: {rejected}")


def explain(function, *args, **kwargs):
    """Print and return the choice of implementation that a call would make.

    Args:
        function: Public function, such as `ops.linear_chain`.
        *args: Its arguments.
        **kwargs: Its keyword arguments.

    Returns:
        A `Choice` with attributes `name`, `requested_by`, `rejected` and `call`.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> ops.explain(ops.linear_chain, np.zeros((1, 4, 2)), np.zeros((2, 2))).name
    linear_chain on jax, cpu: portable (chosen automatically)
    'portable'
    """
    choice = function(*args, **kwargs).choice
    print(choice)
    return choice


def _request(op, implementation):
    if implementation is not None:
        return implementation, "requested by argument"
    for wanted, name in _requests.get():
        if wanted == op or (wanted is None and name in IMPLEMENTATIONS[op][1]):
            return name, "requested by ops.use"
    if os.environ.get(ENVIRONMENT):
        return os.environ[ENVIRONMENT], f"requested by {ENVIRONMENT}"
    return None, None


def _op_name(op):
    name = op if isinstance(op, str) else getattr(op, "__name__", None)
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"Expected a structure among {sorted(IMPLEMENTATIONS)}. Received: op={op}")
    return name
