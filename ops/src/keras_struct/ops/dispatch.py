"""The registry of implementations: which one a call gets, and why.

The framework is Keras' active backend; the implementation is chosen per call by pure rules on the
facts in a `Call`. The first of its family, in the order of registration, that neither `rejects` nor
`avoids` the call wins. A request (argument, `use`, environment, in this order) means that one
implementation or `NotImplementedError`: it may be one that would `avoid` the call.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import keras

from keras_struct.ops import array, division
from keras_struct.ops.implementation import Implementation, Sweeps, provides

ENVIRONMENT = "KERAS_STRUCT_IMPLEMENTATION"
FAMILIES = ("chain", "alignment", "chart", "pcfg", "spanning_tree", "transport")
PLATFORMS = ("cpu", "gpu", "tpu")

_registry: dict[str, dict[str, Any]] = {family: {} for family in FAMILIES}
_structures: dict[str, str] = {}  # public name -> family
_requests: contextvars.ContextVar[tuple[tuple[str | None, str], ...]] = contextvars.ContextVar(
    "keras_struct_requests", default=()
)
_target: contextvars.ContextVar[tuple[str, str | None] | None] = contextvars.ContextVar(
    "keras_struct_target", default=None
)
# What was chosen since `explain` asked.
_made: contextvars.ContextVar[Any] = contextvars.ContextVar("keras_struct_made")


@dataclasses.dataclass(frozen=True)
class Call:
    """The facts of one call.

    Attributes:
        op: Name of the structure, such as "linear_chain".
        family: Whose implementations it has, such as "chain".
        backend: Keras backend, such as "jax".
        platform: Where the program will run, "cpu", "gpu" or "tpu": what `ops.target` says, or the
            device of concrete arrays, or the default device.
        device_kind: Kind of that device if known, such as "TPU v5e"; else None.
        dtype: Dtype of the arithmetic, "float32" or "float64".
        shapes: Shape of every canonical potential, None where unknown.
        spec: The structure as static data (see `Problem.spec`).
        options: Further static options, as sorted pairs.
        traced: Whether the values are unknown at this time (jit, graph, vmap).
        opaque: Whether the program being traced holds each sweep as one operator, which will see
            concrete values (`torch.compile`).
        mapped: Whether `torch.func` alone hides the values, whose rules give them to sweeps.
        exporting: Whether the program is on its way to a file that another process will run.
        xla: Whether XLA compiles the call, so that no shape may depend on a value.
        division: What `ops.divided` says of how sequences lie on devices, or None.
    """

    op: str
    family: str
    backend: str
    platform: str
    device_kind: str | None
    dtype: str
    shapes: tuple[tuple[int | None, ...], ...]
    spec: object = None
    options: tuple[tuple[str, object], ...] = ()
    traced: bool = False
    opaque: bool = False
    mapped: bool = False
    exporting: bool = False
    xla: bool = False
    division: division.Division | None = None

    def option(self, name: str) -> Any:
        return dict(self.options)[name]


def call_of(op, family, arrays, spec=None, options=()):
    """The facts of a call on these arrays, the first of which says dtype and device."""
    first = arrays[0]
    platform, device_kind = _target.get() or array.device(first)
    return Call(
        op=op,
        family=family,
        backend=keras.backend.backend(),
        platform=platform,
        device_kind=device_kind,
        dtype=keras.backend.standardize_dtype(first.dtype),
        shapes=tuple(tuple(n if isinstance(n, int) else None for n in x.shape) for x in arrays),
        spec=spec,
        options=tuple(sorted(dict(options).items())),
        traced=array.traced(first),
        opaque=array.opaque(first),
        mapped=array.mapped(first),
        exporting=array.exporting(),
        xla=array.in_xla(),
        division=division.current(),
    )


@dataclasses.dataclass(frozen=True)
class Choice:
    """The implementation that a call gets, and the reason against each one above it.

    Attributes:
        call: The facts.
        name: Name of the implementation.
        requested_by: None if it was chosen automatically, else how it was requested.
        rejected: Pairs of a name and the reason against it.
        by_portable: The sweeps that the implementation lacks, so that `portable` does them.
    """

    call: Call
    name: str
    requested_by: str | None
    rejected: tuple[tuple[str, str], ...]
    by_portable: tuple[str, ...] = ()

    def __str__(self):
        by = "chosen automatically" if self.requested_by is None else self.requested_by
        kind = "" if self.call.device_kind is None else f" ({self.call.device_kind})"
        where = f"{self.call.backend}, {self.call.platform}{kind}"
        lines = [f"{self.call.op} on {where}: {self.name} ({by})"]
        if self.by_portable:
            lines.append(f"  {', '.join(self.by_portable)}: portable")
        lines += [f"  not {name}: {reason}" for name, reason in self.rejected]
        return "\n".join(lines)

    @property
    def implementation(self) -> Implementation:
        return _registry[self.call.family][self.name].made_for(self.call)

    def sweeps(self) -> Sweeps:
        """The implementation, completed by `portable`."""
        return Sweeps(self.implementation, _registry[self.call.family].get("portable"))


def register_implementation(
    family: str, name: str, implementation: Implementation | type, before: str | None = None
) -> None:
    """Add an implementation of a family of structures; ours are added by the same function.

    Args:
        family: `"chain"`, `"alignment"`, `"chart"`, `"pcfg"`, `"spanning_tree"` or `"transport"`.
        name: Its name, such as `"pallas_tpu"`: toolchain and place. An earlier one of that name is
            replaced.
        implementation: `ops.Implementation`.
        before: Name of the implementation that is tried after it; None for the last one.

    Raises:
        ValueError: For an unknown family, or `before`.

    Example:

    >>> from keras_struct import ops
    >>> class Never(ops.Implementation):
    ...     def rejects(self, call):
    ...         return "it is an example"
    >>> ops.register_implementation("chain", "never", Never())
    >>> ops.implementations("linear_chain")[-1]
    'never'
    """
    if family not in _registry:
        raise ValueError(f"Expected a family among {FAMILIES}. Received: family={family!r}")
    entries = {key: x for key, x in _registry[family].items() if key != name}
    if before is not None and before not in entries:
        raise ValueError(
            f"Expected an implementation among {list(entries)}. Received: before={before!r}"
        )
    ordered: dict[str, Any] = {}
    for key, x in entries.items():
        if key == before:
            ordered[name] = implementation
        ordered[key] = x
    ordered.setdefault(name, implementation)
    _registry[family].clear()
    _registry[family].update(ordered)


def register_structure(op, family):
    """Say which family's implementations a public function has."""
    _structures[op] = family


def structures():
    """Family of every public function, by name."""
    return dict(_structures)


def candidates(family):
    """The implementations of a family by name, in order."""
    return dict(_registry[family])


def implementations(op: Any) -> tuple[str, ...]:
    """Names of the implementations of a structure, in the order in which they are tried.

    Args:
        op: Public function or its name, such as `ops.linear_chain` or `"linear_chain"`.

    Example:

    >>> from keras_struct import ops
    >>> ops.implementations("pcfg")
    ('native_cpu', 'pallas_tpu', 'pallas_gpu', 'triton_gpu', 'portable', 'reference')
    """
    return tuple(_registry[_structures[_op_name(op)]])


@contextlib.contextmanager
def use(implementation: str, op: Any = None) -> Iterator[None]:
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
    known = {name for o in _structures if op in (None, o) for name in implementations(o)}
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


@contextlib.contextmanager
def target(platform: str, device_kind: str | None = None) -> Iterator[None]:
    """Within this context, calls are made for a platform, wherever their arrays are now.

    A function that is traced does not know where its program will run. On one host with one kind of
    device there is nothing to say; say it where a program is compiled for another platform than the
    default one.

    Args:
        platform: `"cpu"`, `"gpu"` or `"tpu"`.
        device_kind: Kind of device, such as `"v5e"`; None if no implementation needs to know.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> with ops.target("tpu", "v5e"):
    ...     call = ops.categorical(np.zeros((1, 3), "float32")).choice.call
    >>> call.platform, call.device_kind
    ('tpu', 'v5e')
    """
    if platform not in PLATFORMS:
        raise ValueError(f"Expected a platform among {PLATFORMS}. Received: platform={platform!r}")
    token = _target.set((platform, device_kind))
    try:
        yield
    finally:
        _target.reset(token)


def choose(call, implementation=None):
    """The `Choice` for a call; the only place where an implementation is decided."""
    choice = _choose(call, implementation)
    made = _made.get(None)
    if made is not None:
        made.append(choice)
    return choice


def _choose(call, implementation):
    entries = _registry[call.family]
    requested, by = _request(call.op, implementation)
    if requested is not None:
        if requested not in entries:
            raise ValueError(
                f"Expected an implementation of {call.op} among {list(entries)}. "
                f"Received: implementation={requested!r}"
            )
        reason = entries[requested].rejects(call)
        if reason is not None:
            raise NotImplementedError(f"{call.op} cannot run as {requested!r}: {reason}")
        return Choice(call, requested, by, (), _lacking(entries[requested]))
    return automatic(call)


def automatic(call):
    """The `Choice` for a call for which nothing was requested."""
    rejected: list[tuple[str, str]] = []
    for name, candidate in _registry[call.family].items():
        reason = candidate.rejects(call) or candidate.avoids(call)
        if reason is None:
            return Choice(call, name, None, tuple(rejected), _lacking(candidate))
        rejected.append((name, reason))
    raise NotImplementedError(f"No implementation of {call.op} takes this call: {rejected}")


def explain(function: Any, *args: Any, **kwargs: Any) -> Choice:
    """Print and return the choice of implementation that a call would make.

    Args:
        function: Public function, such as `ops.linear_chain`; or what it returned, a
            `Distribution`.
        *args: Its arguments.
        **kwargs: Its keyword arguments.

    Returns:
        A `Choice` with attributes `name`, `requested_by`, `rejected`, `by_portable` and `call`.

    Raises:
        ValueError: If the first argument is neither.

    Example:

    >>> import numpy as np
    >>> from keras_struct import ops
    >>> ops.explain(ops.categorical, np.zeros((1, 4))).name
    categorical on jax, cpu: portable (chosen automatically)
      not divided: no sequence is divided (see `ops.divided`)
      not native_cpu: it has no categorical
      not pallas_tpu: a softmax is one pass over the scores, which XLA makes of `portable`
      not pallas_gpu: a softmax is one pass over the scores, which XLA makes of `portable`
      not triton_gpu: a softmax is one pass over the scores, which PyTorch has
      not parallel: it has no categorical
    'portable'
    """
    choice = getattr(function, "choice", None)
    if not isinstance(choice, Choice):
        if not callable(function):
            raise ValueError(
                "Expected a public function, such as ops.linear_chain, and its arguments, or a "
                f"Distribution. Received: function={function!r}"
            )
        token = _made.set([])
        try:
            function(*args, **kwargs)
            made = _made.get()
        finally:
            _made.reset(token)
        if not made:
            raise ValueError(
                "Expected a function that computes a structure. "
                f"Received: function={function!r}, which chose no implementation"
            )
        choice = made[0]
    print(choice)
    return choice


def _lacking(implementation):
    return tuple(sweep for sweep in implementation.sweeps if not provides(implementation, sweep))


def _request(op, implementation):
    if implementation is not None:
        return implementation, "requested by argument"
    for wanted, name in _requests.get():
        if wanted == op or (wanted is None and name in _registry[_structures[op]]):
            return name, "requested by ops.use"
    if os.environ.get(ENVIRONMENT):
        return os.environ[ENVIRONMENT], f"requested by {ENVIRONMENT}"
    return None, None


def _op_name(op):
    name = op if isinstance(op, str) else getattr(op, "__name__", None)
    if name not in _structures:
        raise ValueError(f"Expected a structure among {sorted(_structures)}. Received: op={op}")
    return name
