"""Weights in packages of their own: found, and checked."""

import json

import pytest

from keras_struct.ops.testing import BACKEND
from keras_struct.runs.model_data import check_model, digest_of_file, models_folder, reading_model

pytestmark = pytest.mark.skipif(BACKEND != "numpy", reason="files are the same on every backend")


def test_what_was_not_published_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a/weights", "a/config", "b"):
        (tmp_path / name).write_text(name)
    sums = {name: digest_of_file(tmp_path / name) for name in ("a/weights", "a/config", "b")}
    (tmp_path / "models.json").write_text(json.dumps({"version": "1", "sha256": sums}))
    check_model(tmp_path, "a")
    check_model(tmp_path, "b")
    with pytest.raises(ValueError, match="Expected one of the models"):
        check_model(tmp_path, "c")
    for damage in ((tmp_path / "a" / "weights").unlink, lambda: (tmp_path / "b").write_text("x")):
        damage()
        check_model.cache_clear()
        name = "b" if (tmp_path / "a" / "weights").exists() else "a"
        with pytest.raises(ValueError, match=f"{name}.*, missing or damaged"):
            check_model(tmp_path, name)
        (tmp_path / "a" / "weights").write_text("a/weights")


def test_packages_of_models(tmp_path):
    assert (models_folder("keras_struct.protein_models") / "structure.keras").is_file()
    with pytest.raises(ImportError, match="pip install keras-struct-none-models"):
        models_folder("keras_struct.none_models")


def test_a_damaged_model_is_named():
    wanted = r"model that can be read\. Received: a/b: KeyError: 'c'"
    with pytest.raises(ValueError, match=wanted), reading_model("a/b"):
        raise KeyError("c")
    with pytest.raises(ImportError), reading_model("a/b"):
        raise ImportError
