"""The mean of parsers."""

import keras
import numpy as np
import pytest

from keras_struct import treebank
from keras_struct.treebank.tiny import tiny_backbone, tiny_parser


def values(parser):
    return {w.path: keras.ops.convert_to_numpy(w) for w in parser.weights}


def test_every_weight_is_the_mean():
    parsers = [tiny_parser("dependency") for _ in range(3)]
    before = [values(parser) for parser in parsers]
    found = values(treebank.average(parsers))
    for path, value in found.items():
        if "seed_generator" not in path:
            wanted = np.mean([weights[path] for weights in before], axis=0)
            np.testing.assert_allclose(value, wanted, atol=1e-6, err_msg=path)
    assert not np.allclose(
        found["tree/relation_scores/kernel"], before[0]["tree/relation_scores/kernel"]
    )


def test_parsers_that_differ():
    one = tiny_parser("dependency")
    names = {"labels": one.labels, "tags": one.tags}
    for more, message in (
        ({"labels": ["root", "nsubj"]}, "the same labels"),
        ({"tags": ["X", "VERB"]}, "the same tags"),
        ({"arc_dim": 8}, "the same weights"),
    ):
        other = treebank.DependencyParser(tiny_backbone(), None, **{**names, **more})
        with pytest.raises(ValueError, match=message):
            treebank.average([one, other])
    with pytest.raises(ValueError, match="at least one"):
        treebank.average([])
