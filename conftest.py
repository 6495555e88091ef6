"""One process tests one Keras backend, on the CPU unless the environment says otherwise."""

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def pytest_report_header(config: pytest.Config) -> str:
    return f"keras backend: {os.environ['KERAS_BACKEND']}"


@pytest.fixture(autouse=True, scope="module")
def no_programs_of_other_modules() -> Iterator[None]:
    """Let JAX forget its compiled programs after each module.

    Every one of them holds memory maps, of which Linux gives a process 65,530 by default
    (`vm.max_map_count`); the whole suite needs more, and XLA then dies in a segmentation fault.
    """
    yield
    if os.environ["KERAS_BACKEND"] == "jax":
        import jax

        jax.clear_caches()
