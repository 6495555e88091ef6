"""What a benchmark problem is: inputs, our distribution over them, and the peers that solve it too.

A family of structures is one module that defines `PROBLEMS`; `FAMILIES` names the modules. Nothing
here imports a framework: the main process only reads names, the workers call the methods.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

FAMILIES = (
    "ci.bench.linear_chain",
    "ci.bench.semi_markov",
    "ci.bench.ctc",
    "ci.bench.alignment",
    "ci.bench.trees",
)
BACKENDS = ("jax", "tensorflow", "torch", "numpy")

VALUE = "value"
GRADIENT = "value+gradient"
DECODE = "decode"
CURVATURE = "curvature"

FLOOR = "floor (C++)"  # a column that is no peer, see `ci.floor`

Inputs = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Job:
    """One computation, ready to be timed.

    Attributes:
        run: Computes once and returns when the result is there.
        read: Named NumPy arrays from what `run` returned; not timed.
    """

    run: Callable[[], Any]
    read: Callable[[Any], Inputs]


@dataclasses.dataclass(frozen=True)
class Peer:
    """Another library that solves the problem.

    Attributes:
        package: Name on the package index.
        module: The module to import.
        jobs: For each task that it can do, a function from (problem, inputs) to a `Job`.
        backend: Keras backend that it runs on, None if it does not use Keras.
        slow: Whether a problem takes it tens of seconds or gigabytes; `--quick` skips those.
    """

    package: str
    module: str
    jobs: Mapping[str, Callable[["Problem", Inputs], Job]]
    backend: str | None = None
    slow: Callable[["Problem"], bool] = lambda problem: False


class Problem:
    """One problem of a family, at one size.

    Subclasses set the attributes and write the two methods.

    Attributes:
        family: Public name of the structure.
        tasks: Which of `VALUE`, `GRADIENT`, `DECODE` and `CURVATURE` are measured.
        potentials: The inputs that gradients are taken of; the first is the primary potential.
        shared: The inputs without batch axis.
        peers: Other libraries, by the name of their column.
        note: What a reader of the peers' figures must know.
        tiny: Sizes at which the plain loops of the reference implementation are fast enough.
    """

    family: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]] = (GRADIENT, DECODE, CURVATURE)
    potentials: ClassVar[tuple[str, ...]]
    shared: ClassVar[tuple[str, ...]] = ()
    peers: ClassVar[Mapping[str, Peer]] = {}
    note: ClassVar[str] = ""
    tiny: ClassVar[Mapping[str, int]]

    def __init__(self, **sizes: int) -> None:
        self.sizes = sizes

    @property
    def name(self) -> str:
        return " ".join(f"{letter}={size}" for letter, size in self.sizes.items())

    @property
    def title(self) -> str:
        return f"{self.family} {self.name}"

    @property
    def cells(self) -> int | None:
        """Cells of the recurrence in one batch, if times are also given per cell."""
        return None

    def inputs(self) -> Inputs:
        """The same random numbers in every process, float32 and int32."""
        raise NotImplementedError

    def distribution(self, **inputs: Any) -> Any:
        """Our `Distribution` of these inputs (tensors of the active backend)."""
        raise NotImplementedError

    def gradients(self, marginals: Mapping[str, np.ndarray], inputs: Inputs) -> Inputs:
        """Gradients of the summed value from all marginals: what the NumPy backend computes."""
        return {
            name: marginals[name].sum(0) if name in self.shared else marginals[name]
            for name in self.potentials
        }


def find_problems(families: tuple[str, ...] = FAMILIES) -> list[Problem]:
    return [p for family in families for p in importlib.import_module(family).PROBLEMS]


def find_problem(module: str, title: str) -> Problem:
    (problem,) = (p for p in importlib.import_module(module).PROBLEMS if p.title == title)
    return problem
