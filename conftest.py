"""One process tests one Keras backend, on the CPU unless the environment says otherwise."""

import os

import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def pytest_report_header(config: pytest.Config) -> str:
    return f"keras backend: {os.environ['KERAS_BACKEND']}"
