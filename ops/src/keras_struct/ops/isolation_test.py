"""Importing the package loads one framework, no kernel compiler, and no other package of ours."""

import os
import subprocess
import sys

from keras_struct.ops.testing import BACKEND

FOREIGN = {
    "jax": ["tensorflow", "torch"],
    "tensorflow": ["jax", "torch"],
    "torch": ["jax", "tensorflow"],
    "numpy": ["tensorflow", "torch"],  # Keras' own NumPy backend imports JAX
}[BACKEND]


def test_import_is_lean():
    modules = {*FOREIGN, "triton", "numba", "keras_struct.layers"}
    script = f"""
import sys, keras
before = set(sys.modules)
import numpy as np
from keras_struct import ops
ops.linear_chain(np.zeros((1, 3, 2), "float32"), np.zeros((2, 2), "float32")).marginals()
print(*({modules!r} & set(sys.modules) - before))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script]
    child = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    assert child.stdout.split() == []
