"""Files are old or new, whatever happens in between."""

import os

import pytest

from aiq.files import write_atomic


def test_content_and_rights_are_those_of_any_new_file(tmp_path):
    path, plain = tmp_path / "folder" / "mine.json", tmp_path / "plain"
    write_atomic(path, "größer")
    plain.write_text("")
    assert path.read_bytes() == "größer".encode()
    assert path.stat().st_mode == plain.stat().st_mode
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "mine.json"
    write_atomic(path, b"old")

    def full(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
