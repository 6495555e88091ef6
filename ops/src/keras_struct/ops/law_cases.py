"""Cases of structures for their laws, and which of them run on the active backend."""

import contextlib
import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from keras_struct.ops import dispatch
from keras_struct.ops.enumerated import enumeration
from keras_struct.ops.testing import BACKEND, EVERY_CASE, array, fast, float64, tensor

COMPILED = BACKEND in ("jax", "tensorflow")
# One structure of each engine, for what a backend compiles for seconds.
ENGINES = (
    "categorical", "linear_chain", "subset", "needleman_wunsch", "damerau", "eisner", "pcfg",
    "spanning_tree",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """A named input of a structure, small enough to enumerate.

    Attributes:
        name: Unique name.
        build: `build(potentials, **options)` -> `Distribution`, from a dict of tensors; options
            are `temperature` and `implementation`. Laws call `make`.
        potentials: Function of a NumPy generator that makes the dict of float64 arrays.
        padding: Function that returns, for each potential that has padding, a boolean array, True
            where the value must not matter.
        core: Whether the laws run on JAX and TensorFlow too, where each compiles for seconds.
        ties: Whether several structures are best.
        static: How many trailing axes of each potential must be known while tracing (none where
            it is not named); None if all axes must be.
    """

    name: str
    build: Callable
    potentials: Callable
    padding: Callable = dict
    core: bool = False
    ties: bool = False
    static: dict[str, int] | None = dataclasses.field(default_factory=dict)
    implementation: str | None = None

    def __str__(self):
        return self.name if self.implementation is None else f"{self.name}-{self.implementation}"

    def make(self, potentials, **options):
        """`build`, by the implementation of this case unless another one is asked for."""
        return self.build(potentials, **{"implementation": self.implementation, **options})

    def arrays(self, seed=0):
        return self.potentials(np.random.default_rng(seed))

    def distribution(self, arrays=None, dtype="float64", **options):
        arrays = self.arrays() if arrays is None else arrays
        return self.make({k: tensor(x, dtype) for k, x in arrays.items()}, **options)

    def call(self):
        """The facts of a call of this case in float32; on JAX without compiling anything."""
        if BACKEND != "jax":
            return self.build(
                {k: tensor(x, "float32") for k, x in self.arrays().items()}
            ).choice.call
        import jax

        found = []

        def build(potentials):
            found.append(self.build(potentials).choice.call)

        shapes = {k: jax.ShapeDtypeStruct(x.shape, "float32") for k, x in self.arrays().items()}
        jax.eval_shape(build, shapes)
        return dataclasses.replace(found[0], traced=False)

    def program(self, readouts, dtype="float64", **options):
        """One compiled function of potentials and temperature: NumPy results of
        `readouts(distribution)`, a tree of tensors."""
        names = list(self.arrays())

        def run(temperature, *args):
            warmth = {} if temperature is None else {"temperature": temperature}
            return readouts(self.make(dict(zip(names, args, strict=True)), **warmth, **options))

        compiled = fast(run)

        def call(arrays=None, temperature=None):
            arrays = self.arrays() if arrays is None else arrays
            warmth = None if temperature is None else tensor(temperature, dtype)
            results = compiled(warmth, *[tensor(arrays[name], dtype) for name in names])
            return keras.tree.map_structure(array, results)

        return call

    def read(self, readouts, arrays=None, dtype="float64", **options):
        """The results of one call of a `program`."""
        return self.program(readouts, dtype, **options)(arrays)

    def check_same(self, implementation, dtype="float64", skip=(), **tolerance):
        """Assert that values, marginals, paths, samples and curvature equal those of `portable`.

        Args:
            implementation: Name of the one that is compared.
            dtype: Of the potentials.
            skip: Names of readouts that may differ.
            **tolerance: `rtol` and `atol`.
        """
        with float64() if dtype == "float64" else contextlib.nullcontext():
            got, wanted = (
                self.read(_readouts, dtype=dtype, temperature=0.7, implementation=name)
                for name in (implementation, "portable")
            )
        for name in set(got) - set(skip):
            pairs = zip(
                keras.tree.flatten(got[name]), keras.tree.flatten(wanted[name]), strict=True
            )
            for x, y in pairs:
                np.testing.assert_allclose(x, y, err_msg=name, **tolerance)

    def exists(self):
        """Which examples have any object at all, in the user's batch shape."""
        with float64():
            d = self.distribution()
            exists = np.array([bool(objects) for objects in enumeration(d)])
            return exists.reshape([int(size) for size in d.structure.batch_shape])


def _readouts(d):
    """Values, marginals, paths and the curvature."""
    rng = np.random.default_rng(3)
    problem = d._problem
    dtype = keras.backend.standardize_dtype(problem.potentials[0].dtype)
    tangents = tuple(tensor(rng.normal(size=x.shape), dtype) for x in d._marginals)
    curvature = d._sweeps.curvature(problem, d._soft[1], tangents)
    return {
        "value": d.value(),
        "best": d.score(d.argmax()),
        "marginals": d.marginals("all"),
        "argmax": d.argmax(),
        "samples": d.sample(1, 3),
        "curvature": d._named(curvature),
    }


def for_backend(cases):
    """Every case through every implementation that takes it on the active backend.

    JAX and TensorFlow compile each law of a case for seconds: there all laws run on two core cases
    of a structure of each engine, and `ReadoutLaws` on what is left, see `others`.
    """
    if COMPILED:
        return [_by(case, implementations_of(case)[0]) for case in _with_all_laws(cases)]
    return [_by(case, name) for case in cases for name in implementations_of(case)]


def others(cases):
    """What `for_backend` leaves out: core cases through every implementation, and other cases."""
    if not COMPILED:
        return []
    done = [case.name for case in _with_all_laws(cases)]
    left = []
    for case in cases:
        names = implementations_of(case)
        names = names if case.core else names[:1]
        left += [_by(case, name) for name in names[1 if case.name in done else 0 :]]
    return left


def _with_all_laws(cases):
    """The cases that run all laws on JAX and TensorFlow."""
    core = [case for case in cases if case.core]
    return core if EVERY_CASE else [case for case in core if case.call().op in ENGINES][:2]


def _by(case, name):
    return dataclasses.replace(case, implementation=name)


def implementations_of(case):
    """Names of the implementations that take a case, without the oracle."""
    call = case.call()
    entries = dispatch.implementations(call.op)
    found = dispatch.candidates(call.family)
    return [n for n in entries if n != "reference" and found[n].rejects(call) is None]
