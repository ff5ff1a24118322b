from __future__ import annotations

import json
import sys

import pytest

from espo_env.tasks.math_sources import read_rows

ROWS = [{"problem": "1+1?", "answer": 2}, {"problem": "2+2?", "answer": 4}]


def test_json_lines_with_their_line_numbers(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS[:1]) + "\n\n" + json.dumps(ROWS[1]), "utf-8")
    assert list(read_rows(path)) == [(f"{path}:1", ROWS[0]), (f"{path}:3", ROWS[1])]


def test_a_json_list(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps(ROWS), "utf-8")
    assert list(read_rows(str(path))) == [(f"{path}[0]", ROWS[0]), (f"{path}[1]", ROWS[1])]


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "data.parquet"
    nested = [{"prompt": [{"role": "user", "content": "1+1?"}], "reward_model": {"ground_truth": "2"}}]
    parquet.write_table(pyarrow.Table.from_pylist(nested), path)
    assert list(read_rows(path)) == [(f"{path}[0]", nested[0])]


def test_a_hub_name(tmp_path, monkeypatch):
    pytest.importorskip("datasets", reason="needs the extra espo[hub]")
    # datasets takes a folder of that name for the data set, so that nothing is downloaded.
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    monkeypatch.chdir(tmp_path)
    assert list(read_rows("owner/name@test")) == [("owner/name@test[0]", ROWS[0]), ("owner/name@test[1]", ROWS[1])]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.jsonl", b'{"a": 1}\n{"a": \n{"a": 3}\n', r"data.jsonl:2: expected one JSON object a line, got b'\{"),
        ("data.jsonl", b'{"a": 1}\n{"a": 1', r"data.jsonl:2: expected one JSON object a line"),  # cut off
        ("data.jsonl", b'{"a": "\xff"}\n', r"data.jsonl:1: expected one JSON object a line.*utf-8"),
        ("data.jsonl", b"[1]\n", r"data.jsonl:1: expected a JSON object, got list"),
        ("data.json", b'[{"a": 1},\n{"a": ', r"data.json:2: expected a list of JSON objects"),
        ("data.json", b'{"a": 1}', r"data.json:1: expected a list of JSON objects, got dict"),
        ("data.json", b'[{"a": 1}, 2]', r"data.json\[1\]: expected a JSON object, got int"),
        ("data.json", b"\xff", r"data.json: expected a list of JSON objects"),
        ("data.parquet", b"PAR2", r"data.parquet: expected a Parquet file"),
        ("data.csv", b"a,b", r"expected a .jsonl, .json, .parquet file or a hub name 'owner/name', got '.*data.csv'"),
    ],
)
def test_broken_files_are_named_with_their_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_rows(tmp_path / name))


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"expected a data file, got 'no/such.jsonl'"):
        read_rows("no/such.jsonl")


def test_missing_packages_name_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"owner/name.*espo\[hub\]"):
        list(read_rows("owner/name"))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "data.parquet").write_bytes(b"")
    with pytest.raises(ImportError, match=r"data.parquet.*espo\[math\]"):
        list(read_rows(tmp_path / "data.parquet"))
