"""Which implementation of transport a call gets, and what it says against the others."""

import numpy as np
import pytest

from keras_struct import ops
from keras_struct.ops import dispatch
from keras_struct.ops.testing import BACKEND, array, tensor
from keras_struct.ops.transport import stored
from keras_struct.ops.transport.problem import Problem
from keras_struct.ops.transport.tiled import Tiled

X = np.random.default_rng(0).normal(size=(2, 6, 3)).astype("float32")


def test_a_small_plan_of_all_pairs_is_stored():
    choice = Problem("sinkhorn", X, X).choice
    assert (choice.name, choice.requested_by) == ("stored", None)
    assert [name for name, _ in choice.rejected] == [
        "divided",
        "pallas_tpu",
        "pallas_gpu",
        "triton_gpu",
    ]
    assert choice.call.shapes == ((2, 6, 3), (2, 6, 3)) and choice.call.op == "sinkhorn"


def test_a_plan_on_a_band_is_stored_where_nothing_is_compiled():
    choice = Problem("sinkhorn", X, X, band_width=2).choice
    assert choice.name == ("tiled" if BACKEND in ("jax", "tensorflow") else "stored")


@pytest.mark.parametrize(
    ("options", "largest", "reason"),
    [
        (
            {"band_width": 2, "dustbin": ops.Dustbin(X[:, 0], X[:, 0])},
            2**24,
            "a plan on a band with a dustbin is not stored",
        ),
        ({}, 71, "the plans of the batch have 72 pairs, more than 71"),
        ({"band_width": 2}, 3167, "the plans of the batch have 3,168 pairs, more than 3,167"),
    ],
)
def test_others_are_tiled_and_the_reason_is_said(options, largest, reason, monkeypatch):
    monkeypatch.setattr(stored, "LARGEST_PLAN", largest)
    choice = Problem("sinkhorn", X, X, **options).choice
    assert choice.name == "tiled" and reason in dict(choice.rejected)["stored"]
    assert reason in str(choice)
    with pytest.raises(NotImplementedError, match=f"cannot run as 'stored': {reason}"):
        ops.sinkhorn_tail(X, X, X, implementation="stored", **options)


def test_unknown_sizes_are_tiled():
    x = tensor(X, "float32")
    call = dispatch.call_of("sinkhorn", "transport", (x, x), options={"band_width": None})
    assert dispatch.choose(call).name == "stored"
    for shapes in (((None, 6, 3), (None, 6, 3)), ((2, 6, 3), (2, None, 3))):
        unknown = type(call)(**{**vars(call), "shapes": shapes})
        assert "not known" in dict(dispatch.choose(unknown).rejected)["stored"]


def test_a_request_is_that_one():
    for name in ("stored", "tiled"):
        assert Problem("sinkhorn", X, X, implementation=name).choice.name == name
        found = ops.sinkhorn_orbit(X, X, steps=2, implementation=name)
        assert np.isfinite(array(found.rows)).all()
    for call in (
        lambda name: ops.sinkhorn(X, X, implementation=name),
        lambda name: ops.sinkhorn_tail(X, X, X, implementation=name),
        lambda name: ops.sinkhorn_tail_bias(X, X, X, X, implementation=name),
    ):
        with pytest.raises(
            ValueError,
            match=r"\['divided', 'pallas_tpu', 'pallas_gpu', 'triton_gpu', 'stored', 'tiled'\]",
        ):
            call("reference")


def test_a_kernel_may_bring_one_sum_alone(monkeypatch):
    """What it lacks is that of the tiles; all that takes the sum takes its."""
    calls = []

    class Kernel(Tiled):
        @staticmethod
        def rejects(call):
            return None if call.dtype == "float32" else "it takes float32 alone"

        def log_sums(self, *args):
            calls.append(args)
            return super().log_sums(*args)

    entries = dispatch.candidates("transport")
    monkeypatch.setitem(dispatch._registry, "transport", {**entries, "kernel": Kernel})
    for width in (None, 2):
        options = {"band_width": width, "base_steps": 3}
        wanted = array(ops.sinkhorn_tail(X, X, X, implementation="tiled", **options))
        before = len(calls)
        got = ops.sinkhorn_tail(X, X, X, implementation="kernel", **options)
        np.testing.assert_array_equal(array(got), wanted)
        assert len(calls) > before
