"""Files as they come: whatever is in them gives rows, or one message that names the file."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dpo_lab.data.files import json_list
from dpo_lab.data.files.reading import read_rows
from dpo_lab.data.files.source import RowSource
from dpo_lab.data.formats.values import BadRowError
from dpo_lab.data.row_reader import OnBadRow, ReadReport, RowReader, read_feedback

PAIR = b'{"prompt": "p", "chosen": "a", "rejected": "b"}'
ROW: dict[str, Any] = {"prompt": "Wie geht's? 🙂\n", "chosen": " gut, danke", "rejected": ' "schlecht"'}
ROW |= {"score_chosen": 1.5, "score_rejected": -2}
LINES = (json.dumps(ROW) + "\n").encode() * 3
CSV = b'prompt,chosen,rejected,score_chosen,score_rejected\r\n"Wie, geht\'s?\n","gut","""s""",1.5,-2\r\n' + b"a,b,c,1,2\r\n" * 2
FILES = {
    "a.jsonl": LINES,
    "a.json": json.dumps([ROW] * 3, indent=1).encode(),
    "a.csv": CSV,
    "a.tsv": CSV.replace(b",", b"\t"),
    "a.jsonl.gz": gzip.compress(LINES, mtime=0),
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60)
@given(items=st.lists(VALUES, max_size=5), chunk=st.integers(1, 9), indent=st.sampled_from([None, 1]), ascii_only=st.booleans())
def test_a_json_list_is_the_same_however_much_of_it_is_read_at_a_time(
    items: list[Any], chunk: int, indent: int | None, ascii_only: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "list.json"
    path.write_text(json.dumps(items, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_list, "CHUNK", chunk)
        found = [fields for _, fields in read_rows(path, "list.json", {})]
    assert len(found) == len(items)
    for item, fields in zip(items, found, strict=True):
        assert fields == item if isinstance(item, dict) else isinstance(fields, BadRowError)


def test_rows_are_named_by_the_line_they_begin_in(tmp_path: Path) -> None:
    def places(name: str, content: str) -> list[str]:
        (tmp_path / name).write_text(content)
        return [where for where, _ in read_rows(tmp_path / name, name, {})]

    assert places("a.jsonl", '{"a": 1}\n\n{"a": 2}') == ["a.jsonl:1", "a.jsonl:3"]
    assert places("a.json", '[\n  {"a":\n 1},\n  {"a": 2}]') == ["a.json:2", "a.json:4"]
    assert places("b.json", '[{"a": 1}, {"a": 2}]') == ["b.json item 1", "b.json item 2"]
    assert places("a.csv", 'a,b\n"x\ny",1\nz,2\n') == ["a.csv:2", "a.csv:4"]


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "an empty file": ("a.jsonl", b"", r"a\.jsonl: it holds no rows"),
    "a file of blank lines": ("a.jsonl", b"\n \n", r"a\.jsonl: it holds no rows"),
    "an empty list": ("a.json", b"[ ]", r"a\.json: it holds no rows"),
    "an empty table": ("a.csv", b"", r"a\.csv: it holds no rows"),
    "a table of names": ("a.csv", b"prompt,chosen,rejected\n", r"a\.csv: it holds no rows"),
    "a list that ends early": ("a.json", b"[\n" + PAIR + b',\n{"prom', r"a\.json:3: the file ends within item 2 of the list"),
    "a list without its end": (
        "a.json",
        b"[" + PAIR,
        r"a\.json:1: expected , or \] after item 1 of the list, the file ends",
    ),
    "a list that goes wrong": (
        "a.json",
        b"[\n" + PAIR + b" x]",
        r"a\.json:2: expected , or \] after item 1 of the list, found 'x'",
    ),
    "a list of no JSON": ("a.json", b"[" + b"{'a': 1}, " * 9 + b"]", r"a\.json:1: .* item 1 of the list"),
    "an object over several lines": ("a.json", b'{\n"prompt": "p"}', r"a\.json:1: not JSON"),
    "UTF-16": ("a.jsonl", LINES.decode().encode("utf-16"), r"a\.jsonl:1: not UTF-8"),
    "a list in Latin-1": ("a.json", b'[{"prompt": "\xe9"}]', r"a\.json: not UTF-8 .*; convert it, such as with iconv"),
    "a table in Latin-1": ("a.csv", b"prompt,chosen,rejected\n\xe9,a,b\n", r"a\.csv: not UTF-8"),
    "a table that ends within a cell": ("a.csv", b'prompt,chosen,rejected\na,b,"c\n', r"a\.csv:2: not CSV \(unexpected end"),
    "a table with too few cells": ("a.csv", b"prompt,chosen,rejected\na,b\n", r"a\.csv:2: 2 cells, but the first line names 3"),
    "a table with two equal names": (
        "a.csv",
        b"prompt,chosen,chosen\na,b,c\n",
        r"a\.csv:1: several columns are called",
    ),
    "a score that is no number": (
        "a.csv",
        b"prompt,chosen,rejected,confidence\na,b,c,high\n",
        r"a\.csv:2: 'confidence' must be a number in \[0\.5, 1\], found 'high'",
    ),
    "a score of NaN": ("a.csv", b"prompt,chosen,rejected,margin\na,b,c,NaN\n", r"a\.csv:2: 'margin' must be .* found nan"),
    "gzip that ends early": ("a.jsonl.gz", FILES["a.jsonl.gz"][:-12], r"a\.jsonl\.gz: cannot be read"),
    "no gzip": ("a.jsonl.gz", LINES, r"a\.jsonl\.gz: cannot be read \(Not a gzipped file"),
    "no Parquet": ("a.parquet", b"PAR1 and no more", r"a\.parquet: not a whole Parquet file"),
    "an empty Parquet file": ("a.parquet", b"", r"a\.parquet: not a whole Parquet file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_its_name_and_what_is_wrong(name: str, tmp_path: Path) -> None:
    file, content, message = BROKEN[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_feedback(str(tmp_path / file))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + 2 * len(str(tmp_path))


def test_a_megabyte_in_a_field_is_a_field_like_others(tmp_path: Path) -> None:
    row = {"prompt": "p" * 2**20, "chosen": "a\u2028" * 2**18, "rejected": "b"}
    (tmp_path / "a.json").write_text(json.dumps([row] * 2))
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    (tmp_path / "a.csv").write_text(f"prompt,chosen,rejected\n{row['prompt']},{row['chosen']},b\n", encoding="utf-8")
    for name, count in (("a.json", 2), ("a.jsonl", 1), ("a.csv", 1)):
        found = read_feedback(str(tmp_path / name))
        assert [(one.prompt, one.completions) for one in found] == [(row["prompt"], (row["chosen"], "b"))] * count


DAMAGE = st.tuples(
    st.sampled_from(sorted(FILES)),
    st.integers(0, 400),
    st.sampled_from(["cut", "insert", "replace", "double"]),
    st.binary(max_size=3),
)


@settings(max_examples=300)
@given(damage=DAMAGE, skip=st.booleans())
@example(damage=("a.json", 0, "insert", b"["), skip=True)
@example(damage=("a.csv", 3, "insert", b"\x00"), skip=False)
def test_a_damaged_file_gives_rows_or_one_message(
    damage: tuple[str, int, str, bytes], skip: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    name, at, how, new = damage
    content = FILES[name]
    at %= len(content)
    after = {"cut": b"", "insert": new + content[at:], "replace": new + content[at + len(new) :], "double": content[at // 2 :]}
    path = tmp_path_factory.getbasetemp() / f"fuzz-{name}"
    path.write_bytes(content[:at] + after[how])
    rows = RowReader(RowSource("data.path", [str(path)], None, "train"), on_bad_row=OnBadRow.skip if skip else OnBadRow.error)
    report = ReadReport()
    try:
        found = list(rows.read(report))
    except ValueError as error:
        message = str(error)
        message.encode()  # can be printed
        assert message.startswith(str(path))
        return
    assert len(found) == report.num_rows > 0
    assert skip or report.num_bad == 0
