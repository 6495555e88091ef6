"""Importing the package loads one framework, no kernel compiler, and no other package of ours."""

import os
import subprocess
import sys

import pytest

from keras_struct.ops.testing import BACKEND

FOREIGN = {
    "jax": ["tensorflow", "torch"],
    "tensorflow": ["jax", "torch"],
    "torch": ["jax", "tensorflow"],
    "numpy": ["tensorflow", "torch"],  # Keras' own NumPy backend imports JAX
}[BACKEND]


@pytest.mark.parametrize("module", [*FOREIGN, "triton", "numba", "keras_struct.layers"])
def test_import_is_lean(module):
    script = f"""
import sys, keras
before = {module!r} in sys.modules
import numpy as np
from keras_struct import ops
ops.linear_chain(np.zeros((1, 3, 2), "float32"), np.zeros((2, 2), "float32")).marginals()
assert before or {module!r} not in sys.modules
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
