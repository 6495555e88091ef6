"""What is written appears whole or not at all."""

import pytest

from keras_struct.layers.whole_files import open_whole, whole_folder


def test_files_appear_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), open_whole(tmp_path / "a.txt") as stream:
        stream.write("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with open_whole(tmp_path / "a.txt") as stream:
        stream.write("whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
    with pytest.raises(FileNotFoundError), open_whole(tmp_path / "no" / "a.txt"):
        pass
    with open_whole(tmp_path / "a.txt", "wb") as stream:
        stream.write(b"\x00")
    assert (tmp_path / "a.txt").read_bytes() == b"\x00"


def test_no_path_is_standard_output(capsys):
    with open_whole(None) as stream:
        stream.write("text")
    assert capsys.readouterr().out == "text"


def test_folders_appear_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a"
    for text in ("first", "second"):
        with whole_folder(target) as new:
            new.mkdir()
            (new / "b.txt").write_text(text)
        with pytest.raises(RuntimeError), whole_folder(target) as new:
            new.mkdir()
            (new / "b.txt").write_text("half")
            raise RuntimeError
        assert (target / "b.txt").read_text() == text
    assert list(tmp_path.iterdir()) == [target]
