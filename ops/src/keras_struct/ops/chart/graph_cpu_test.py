"""The loops in TensorFlow's graphs: where they run, and what may be unknown there."""

import subprocess
import sys

import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops.chart.chart_test import LENGTHS, STRUCTURES, scores
from keras_struct.ops.testing import BACKEND, array, tensor

pytestmark = pytest.mark.skipif(BACKEND != "tensorflow", reason="graph_cpu runs on TensorFlow")


@pytest.mark.parametrize("name", STRUCTURES)
def test_in_eager_mode_and_in_graphs_of_unknown_sizes(name):
    import tensorflow as tf

    structure = STRUCTURES[name]
    x, _ = scores("float32")

    def marginals(x, lengths):
        return structure(x, lengths=lengths, implementation="graph_cpu").marginals()

    wanted = array(marginals(tensor(x, "float32"), LENGTHS))
    signature = [tf.TensorSpec((None, None, None)), tf.TensorSpec((None,), tf.int32)]
    graph = tf.function(marginals, signature, autograph=False)
    for batch in (5, 2):  # twice: nothing may be written into what is kept between calls
        found = graph(x[:batch], LENGTHS[:batch].astype("int32"))
        np.testing.assert_allclose(array(found), wanted[:batch], atol=1e-6)


def test_xla_gets_the_portable_chart():
    import tensorflow as tf

    choices = []

    def value(x):
        d = ops.nussinov(x)
        choices.append(d.choice)
        return d.value()

    x = tensor(np.random.default_rng(0).normal(size=(2, 6, 6)), "float32")
    compiled, graph = (
        tf.function(value, jit_compile=xla, autograph=False)(x) for xla in (True, False)
    )
    np.testing.assert_allclose(array(compiled), array(graph), rtol=1e-6)
    assert [choice.name for choice in choices] == ["portable", "graph_cpu"]
    assert "XLA cannot compile" in str(choices[0])


LOAD = """
import sys, numpy, tensorflow
model = tensorflow.saved_model.load(sys.argv[1])
for n in (4, 7):
    print(*model.value(tensorflow.zeros((1, n, n))).numpy().tolist())
"""


def test_a_saved_model_needs_nothing_of_ours(tmp_path):
    import tensorflow as tf

    module = tf.Module()
    module.value = tf.function(
        lambda x: ops.eisner(x).value(), [tf.TensorSpec((None, None, None))], autograph=False
    )
    tf.saved_model.save(module, tmp_path / "model")
    command = [sys.executable, "-c", LOAD, str(tmp_path / "model")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    np.testing.assert_allclose(np.exp([float(x) for x in printed.split()]), [30, 3876], rtol=1e-5)
