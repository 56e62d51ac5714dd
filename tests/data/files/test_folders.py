"""Folders: the rows of the wanted split, and never those of another without a word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dpo_lab.data.files.folders import split_of
from dpo_lab.data.files.source import RowSource


def folder(root: Path, *names: str) -> Path:
    """Files of one row each, which is the file's own name."""
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"prompt": name, "chosen": "a", "rejected": "b"}) + "\n")
    return root


def read(path: str, split: str = "train", subset: str | None = None) -> tuple[list[str], list[str]]:
    source = RowSource("data.path", [path], subset, split)
    return [fields["prompt"] for _, fields in source.rows({}) if isinstance(fields, dict)], source.notes


CLONE = ("README.jsonl", "data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl", "data/test-00000-of-00001.jsonl")


def test_of_a_clone_the_wanted_split_is_read_and_the_others_are_named(tmp_path: Path) -> None:
    folder(tmp_path, *CLONE[1:])
    (tmp_path / "dataset_infos.json").write_text("{}")
    for path in (tmp_path, tmp_path / "data"):
        rows, notes = read(str(path))
        assert rows == list(CLONE[1:3])
        assert "those of data.split=train alone are read, not test-00000-of-00001.jsonl" in notes[0]
    assert read(str(tmp_path), "test")[0] == [CLONE[3]]
    with pytest.raises(ValueError, match=r"is named as the split validation; found test, train: data\.split="):
        read(str(tmp_path), "validation")


def test_files_of_no_split_are_read_and_a_test_file_beside_them_is_not(tmp_path: Path) -> None:
    folder(tmp_path, "a.jsonl", "b.jsonl")
    assert read(str(tmp_path)) == (["a.jsonl", "b.jsonl"], [])
    folder(tmp_path, "c_test.jsonl")
    rows, notes = read(str(tmp_path))
    assert rows == ["a.jsonl", "b.jsonl"]
    assert "not c_test.jsonl" in notes[0]
    assert read(str(tmp_path / "c_test.jsonl")) == (["c_test.jsonl"], []), "a file that is named is meant"


def test_a_folder_to_hold_out_may_be_of_another_split(tmp_path: Path) -> None:
    folder(tmp_path, "test-00000-of-00001.jsonl")
    source = RowSource("data.eval_path", [str(tmp_path)], None, "train")
    assert [Path(file).name for file in source.files] == ["test-00000-of-00001.jsonl"]
    with pytest.raises(ValueError, match=r"data\.path: no file in .* is named as the split train; found test: data\.split="):
        read(str(tmp_path))


def test_a_glob_over_several_splits_says_so(tmp_path: Path) -> None:
    folder(tmp_path, "train.jsonl", "test.jsonl")
    rows, notes = read(str(tmp_path / "*.jsonl"))
    assert len(rows) == 2
    assert "files of the splits test, train are all read" in notes[0]


def test_a_split_is_told_by_a_word_of_the_name() -> None:
    told = {"train_prefs-00000-of-00001.parquet": "train_prefs", "my_val.json.gz": "validation", "Test.csv": "test"}
    told |= {"dev-set.jsonl": "validation"}
    assert {name: split_of(Path(name)) for name in told} == told
    assert [split_of(Path(name)) for name in ("constraint.jsonl", "latest.csv", "pairs.json")] == [None] * 3


def test_a_folder_without_rows_is_told_what_it_may_be(tmp_path: Path) -> None:
    folder(tmp_path, "en/train.jsonl")
    with pytest.raises(
        ValueError, match=r"no file in .* ends with .*; a data set of several configurations is data\.path=hub:"
    ):
        read(str(tmp_path))


def test_what_datasets_has_saved_is_read_as_it_is(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"prompt": str(i), "chosen": "a", "rejected": "b"} for i in range(3)]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    assert read(str(tmp_path / "saved"))[0] == ["0", "1", "2"]
