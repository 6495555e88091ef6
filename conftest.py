"""One process tests one Keras backend, on the CPU unless the environment says otherwise."""

import gc
import importlib.util
import itertools
import logging
import os
import re
import zlib
from collections import defaultdict
from collections.abc import Iterator

import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


FUZZ_EXAMPLES = os.environ.get("FUZZ_EXAMPLES")
TESTS_WITH_PROGRAMS = 8  # a few hundred megabytes
# In `make test` backends share the tests. NumPy runs every one, of more than six cases every third;
# PyTorch every sixth case of a test that has several. JAX and TensorFlow, which compile each for
# seconds, run one case of six of a test that is marked `everywhere` or says on which backends it
# makes sense. An eighth of the others runs on JAX, another on TensorFlow, the first or last case
# only, and of tests with more than twelve every twelfth on both; what is marked `compiles_long`
# on neither. `make test-every`, and pytest by itself, run all tests.
STEP, SEVERAL, EVERY = 6, 6, 3
COMPILED, COMPILED_STEP, COMPILED_PARTS = ("jax", "tensorflow"), 12, 8


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
    """The tests that this backend runs in `make test`, in their order."""
    backend = os.environ["KERAS_BACKEND"]
    shared = "SHARED_TESTS" in os.environ and "EVERY_CASE" not in os.environ
    if not shared:
        return list(items)
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        cases[item.nodeid.split("[")[0]].append(item)
    kept: set[str] = set()
    for name, group in cases.items():
        kept.update(item.nodeid for item in part_of(name, group, backend))
    return [item for item in items if item.nodeid in kept]


def part_of(name: str, group: list[pytest.Item], backend: str) -> list[pytest.Item]:
    """Of the cases of a test those that a backend runs."""
    if backend == "numpy":
        return group[1::EVERY] if len(group) > SEVERAL else group
    if backend in COMPILED:
        group = [item for item in group if not item.get_closest_marker("compiles_long")]
        if not any(map(is_everywhere, group)):
            part = zlib.crc32(name.encode()) % COMPILED_PARTS
            if len(group) <= COMPILED_STEP and part != COMPILED.index(backend):
                return []
            return group[::COMPILED_STEP] if backend == "jax" else group[::-COMPILED_STEP]
    return group[zlib.crc32(f"{name} {backend}".encode()) % min(STEP, len(group)) :: STEP]


def is_everywhere(item: pytest.Item) -> bool:
    """Whether a test is marked so, or skips a backend for more than having no gradients."""
    reasons = [str(marker.kwargs.get("reason")) for marker in item.iter_markers("skipif")]
    partial = any(not re.search("numpy.* (no|not) ", reason.lower()) for reason in reasons)
    return partial or item.get_closest_marker("everywhere") is not None


def pytest_collection_finish() -> None:
    """Spare the garbage collector what was imported, and let it come less often: tracing makes
    millions of small objects, and it took a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


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
    if next(_tests) % TESTS_WITH_PROGRAMS == 0:
        if os.environ["KERAS_BACKEND"] == "jax":
            import jax

            jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    """A cluster of Ray with two processors, which ends with the module."""
    import ray

    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    yield
    ray.shutdown()
