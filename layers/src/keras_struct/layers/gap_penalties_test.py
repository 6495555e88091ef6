"""Gap scores: constant or contextual, learned unless frozen, whatever the padding holds."""

import keras
import numpy as np
import pytest

from keras_struct import ops
from keras_struct.layers.check_layer import CHECKS, check_layer
from keras_struct.layers.gap_penalties import GapPenalties
from keras_struct.layers.structured_attention_test import numpy, random, right_padded
from keras_struct.ops.testing import tried

X = {"first": random(2, 5, 4), "second": random(2, 3, 6, seed=1)}
MASKS = {"first": right_padded([5, 2], 5), "second": right_padded([1, 3], 3)}


@pytest.mark.parametrize("gap_extend, names", [(-0.5, 2), (None, 1)])
def test_gaps_start_from_the_numbers_that_were_given(gap_extend, names):
    given = [-4.0, gap_extend][:names]
    for contextual in (False, True):
        gaps = GapPenalties(-4.0, gap_extend, contextual)(**X)
        assert len(gaps) == names
        for value, gap in zip(given, keras.tree.map_structure(numpy, gaps), strict=True):
            shapes = [(2, 5, 1), (2, 1, 3)] if contextual else [(2,)]
            assert [x.shape for x in (gap if contextual else [gap])] == shapes
            assert all((x == np.float32(value)).all() for x in keras.tree.flatten(gap))


def test_contextual_gaps_project_the_skipped_token():
    layer = GapPenalties(contextual=True, kernel_initializer="random_normal")
    (open_row, open_column), (_, extend_column) = keras.tree.map_structure(numpy, layer(**X))
    row, column = numpy(layer.row.kernel), numpy(layer.column.kernel)
    np.testing.assert_allclose(open_row[..., 0], X["first"] @ row[:, 0] - 3.0, rtol=1e-5)
    np.testing.assert_allclose(open_column[:, 0], X["second"] @ column[:, 0] - 3.0, rtol=1e-5)
    np.testing.assert_allclose(extend_column[:, 0], X["second"] @ column[:, 1] - 0.3, rtol=1e-4)
    ops.needleman_wunsch(random(2, 5, 3), *layer(**X)).value()


@pytest.mark.parametrize("contextual", [False, True])
def test_keras_contract(contextual):
    layer = GapPenalties(contextual=contextual, kernel_initializer="random_normal")
    # Nested outputs cannot be those of a SavedModel; inside an `Aligner` they are exported.
    checks = tried(CHECKS[:-1] if contextual else CHECKS)
    report = check_layer(layer, X, mask=MASKS, checks=checks)
    assert set(report.values()) == {"passed", report["fit"]}


def test_user_errors():
    with pytest.raises(ValueError, match="gap_extend=inf"):
        GapPenalties(gap_extend=float("inf"))
