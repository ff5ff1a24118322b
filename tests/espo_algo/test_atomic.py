"""Files and folders that are whole at any time."""

import json
import os
from pathlib import Path

import pytest

from espo_algo.atomic import whole_folder, write_text


def test_odd_text_comes_back_from_json(tmp_path):
    text = "half \ud83d, whole \U0001f600, control \x07"
    write_text(tmp_path / "new" / "a.json", json.dumps(text, ensure_ascii=False))
    content = (tmp_path / "new" / "a.json").read_bytes()
    assert json.loads(content) == text
    assert "\U0001f600".encode() in content


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    write_text(tmp_path / "a", "old")

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "a", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_links_stay_links_and_devices_devices(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "target").write_text("old")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"
    write_text("/dev/null", "text")
    assert Path("/dev/null").is_char_device()


def test_a_folder_has_its_name_once_it_is_whole(tmp_path):
    target = tmp_path / "model"

    def write(name, fails=False):
        with whole_folder(target) as half:
            half.mkdir()  # what a failed attempt left is gone
            (half / name).touch()
            if fails:
                raise RuntimeError

    write("old")
    with pytest.raises(RuntimeError):
        write("new", fails=True)
    assert [file.name for file in target.iterdir()] == ["old"]
    write("newer")
    assert [file.name for file in target.iterdir()] == ["newer"]
    assert [*tmp_path.iterdir()] == [target]
