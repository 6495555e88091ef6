"""One process tests one Keras backend, on the CPU unless the environment says otherwise."""

import importlib.util
import itertools
import os
from collections import defaultdict
from collections.abc import Iterator

import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


FUZZ_EXAMPLES = os.environ.get("FUZZ_EXAMPLES")
TESTS_WITH_PROGRAMS = 8  # a few hundred megabytes
# Of a test of more than three cases, NumPy runs all, PyTorch every second, and JAX and TensorFlow,
# which compile each for seconds, another third each, and none that is marked `compiles_long`.
# `make test-every` runs all of them.
SHARES = {"torch": (0, 2), "jax": (0, 3), "tensorflow": (1, 3)}
FEW_CASES = 3


def pytest_configure() -> None:
    """Few calls for each fuzz test, always the same; with FUZZ_EXAMPLES that many, always new."""
    if importlib.util.find_spec("hypothesis") is None:
        return
    from hypothesis import HealthCheck, settings

    settings.register_profile(
        "keras-struct",
        max_examples=int(FUZZ_EXAMPLES or 20),
        derandomize=FUZZ_EXAMPLES is None,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("keras-struct")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", metavar="I/N", help="run only every Nth test, from the Ith on")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept = share_of(items)
    if part := config.getoption("part"):
        first, step = map(int, part.split("/"))
        kept = kept[first - 1 :: step]
    names = {item.nodeid for item in kept}
    if dropped := [item for item in items if item.nodeid not in names]:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


def share_of(items: list[pytest.Item]) -> list[pytest.Item]:
    """The tests that this backend runs, in their order; see `SHARES`."""
    backend = os.environ["KERAS_BACKEND"]
    if "EVERY_CASE" in os.environ or backend not in SHARES:
        return list(items)
    first, step = SHARES[backend]
    cases: dict[str, list[str]] = defaultdict(list)
    for item in items:
        if backend != "torch" and item.get_closest_marker("compiles_long"):
            continue
        cases[item.nodeid.split("[")[0]].append(item.nodeid)
    names: set[str] = set()
    for group in cases.values():
        names.update(group if len(group) <= FEW_CASES else group[first::step])
    return [item for item in items if item.nodeid in names]


def pytest_report_header(config: pytest.Config) -> str:
    return f"keras backend: {os.environ['KERAS_BACKEND']}"


_tests = itertools.count(1)


@pytest.fixture(autouse=True)
def few_programs() -> Iterator[None]:
    """Let JAX forget its compiled programs after every few tests, which share hardly any.

    Each holds memory, up to gigabytes in all, and memory maps, of which Linux gives a process
    65,530 by default (`vm.max_map_count`): beyond them XLA dies in a segmentation fault.
    """
    yield
    if os.environ["KERAS_BACKEND"] == "jax" and next(_tests) % TESTS_WITH_PROGRAMS == 0:
        import jax

        jax.clear_caches()
