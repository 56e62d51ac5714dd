"""The reader of feedback: whatever a file holds, it gives records or a message with file and line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dpo_lab.data import Feedback
from dpo_lab.data.files.source import RowSource
from dpo_lab.data.formats.base import Format
from dpo_lab.data.row_reader import ReadReport, RowReader

PAIR = {"prompt": "p", "chosen": " a", "rejected": " b"}
SCORED = PAIR | {"score_chosen": 1, "score_rejected": 0.5}
COMPLETION = {"prompt": "p", "completion": " a", "label": True}
RANKING = {"prompt": "p", "completions": [" a", " b", " c"]}
GOOD = {"pairs": PAIR, "scored pairs": SCORED, "completions": COMPLETION, "rankings": RANKING}
GOOD |= {"pairs with margins": PAIR | {"margin": -2}, "scored rankings": RANKING | {"scores": [2, 1, 1]}}


def read(path: Path, lines: list[bytes]) -> tuple[Format, list[Feedback]]:
    path.write_bytes(b"\n".join(lines))
    report = ReadReport()
    rows = list(RowReader(RowSource("data.path", [str(path)], None, "train")).read(report))
    assert report.format is not None
    assert report.num_rows == len(rows)
    return report.format, rows


def test_every_form_becomes_the_record_it_says(tmp_path: Path) -> None:
    expected = {
        "pairs": (Format.text, Feedback("p", (" a", " b"))),
        "scored pairs": (Format.text, Feedback("p", (" a", " b"), scores=(1.0, 0.5))),
        "completions": (Format.unpaired, Feedback("p", (" a",), desirable=True)),
        "rankings": (Format.ranking, Feedback("p", (" a", " b", " c"))),
        "pairs with margins": (Format.text, Feedback("p", (" a", " b"), margin=-2.0)),
        "scored rankings": (Format.ranking, Feedback("p", (" a", " b", " c"), scores=(2.0, 1.0, 1.0))),
    }
    for name, row in GOOD.items():
        assert read(tmp_path / "a", [json.dumps(row).encode()]) == (expected[name][0], [expected[name][1]])


BAD: dict[str, tuple[Any, Any, str]] = {
    "no JSON": (PAIR, '{"prompt": ', "not JSON"),
    "a list": (PAIR, [1], "expected an object with fields, found list"),
    "too deep": (PAIR, "[" * 100_000, "not JSON|too deep|nested|recursion"),
    "no field": (PAIR, {"prompt": "p", "chosen": "c", "x": 1}, r"no 'rejected' field; found \['chosen', 'prompt', 'x'\]"),
    "no field at all": (COMPLETION, {}, r"no 'label' field; found \[\]"),
    "no string": (PAIR, PAIR | {"chosen": 3}, "'chosen' must be a string, found int"),
    "null": (PAIR, PAIR | {"prompt": None}, r"the field 'prompt' is null; found \['chosen', 'prompt', 'rejected'\]"),
    "messages without words": (
        PAIR,
        PAIR | {"prompt": [{"role": "user"}]},
        r"'prompt\[0\].content' must be a string, found None",
    ),
    "half a character": (PAIR, PAIR | {"prompt": "\ud800"}, "surrogate"),
    "low confidence": (PAIR, PAIR | {"confidence": 0.4}, r"'confidence' must be a number in \[0.5, 1\], found 0.4"),
    "high confidence": (PAIR, PAIR | {"confidence": 1.1}, "'confidence' must be"),
    "confidence NaN": (PAIR, PAIR | {"confidence": math.nan}, "'confidence' must be"),
    "confidence true": (PAIR, PAIR | {"confidence": True}, "'confidence' must be"),
    "confidence text": (PAIR, PAIR | {"confidence": "0.7"}, "'confidence' must be"),
    "one score": (PAIR, PAIR | {"score_chosen": 1}, r"no 'score_rejected' field; found \['chosen', "),
    "the other score": (PAIR, PAIR | {"score_rejected": 1}, "no 'score_chosen' field"),
    "a score NaN": (SCORED, SCORED | {"score_chosen": math.nan}, "'score_chosen' must be a number .*, found nan"),
    "a score infinite": (SCORED, SCORED | {"score_rejected": -math.inf}, "'score_rejected' must be a number .*, found -inf"),
    "a score over float32": (
        SCORED,
        SCORED | {"score_chosen": 1e39},
        "'score_chosen' must be a number that is finite in float32",
    ),
    "a score of 400 digits": (
        SCORED,
        SCORED | {"score_chosen": 10**400},
        "'score_chosen' must be a number .*, found 1000.*000$",
    ),
    "a margin that is text": (GOOD["pairs with margins"], PAIR | {"margin": "2"}, "'margin' must be a number .*, found '2'"),
    "a label that is a number": (COMPLETION, COMPLETION | {"label": 2}, "'label' must be true or false, found 2"),
    "a label that is a word": (COMPLETION, COMPLETION | {"label": "good"}, "'label' must be true or false, found 'good'"),
    "a label that is a list": (COMPLETION, COMPLETION | {"label": [True]}, "'label' must be true or false"),
    "no label": (COMPLETION, {"prompt": "p", "completion": "c"}, r"no 'label' field; found \['completion', 'prompt'\]"),
    "a completion that is a list": (
        COMPLETION,
        COMPLETION | {"completion": ["c"]},
        "'completion' must be a string, found list",
    ),
    "an empty ranking": (RANKING, RANKING | {"completions": []}, r"'completions' must be a list of 2 or more, .* found \[\]"),
    "a ranking of one": (
        RANKING,
        RANKING | {"completions": ["c"]},
        r"'completions' must be a list of 2 or more, .* found \['c'\]",
    ),
    "a ranking that is text": (
        RANKING,
        RANKING | {"completions": "cc"},
        "'completions' must be a list of 2 or more, .* found 'cc'",
    ),
    "a ranking of numbers": (
        RANKING,
        RANKING | {"completions": ["c", 1, 2]},
        r"'completions\[1\]' must be a string, found int",
    ),
    "too few scores": (
        GOOD["scored rankings"],
        RANKING | {"scores": [1, 2]},
        r"'scores' must be a list of 3, .* found \[1, 2\]",
    ),
    "scores null": (GOOD["scored rankings"], RANKING | {"scores": None}, "a row without scores, unlike .*:1"),
    "a score true": (
        GOOD["scored rankings"],
        RANKING | {"scores": [3, True, 1]},
        r"'scores\[1\]' must be a number .* found True",
    ),
    "another format": (PAIR, COMPLETION, "no 'chosen' field; found .*; rows are read as data.format=text, as .*:1 is"),
    "another length": (
        RANKING,
        RANKING | {"completions": ["c", "d"]},
        "2 completions, but .*:1 has 3; all rows have",
    ),
    "scores all at once": (PAIR, SCORED, "a row with scores, unlike .*:1; a file has scores in every row or in none"),
    "scores no more": (SCORED, PAIR, "a row without scores, unlike .*:1; a file has scores in every row or in none"),
    "a margin all at once": (PAIR, PAIR | {"margin": 1}, "a row with margin, unlike .*:1; a file has margin"),
}


@pytest.mark.parametrize(("good", "bad", "message"), BAD.values(), ids=BAD)
def test_a_bad_row_is_refused_with_its_file_and_line(tmp_path: Path, good: Any, bad: Any, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    line = bad if isinstance(bad, str) else json.dumps(bad)
    lines = [*[json.dumps(good)] * 3, "", line, *[json.dumps(good)] * 3]
    with pytest.raises(ValueError, match=rf"(?s)^{path}:5: .*({message})"):
        read(path, [line.encode() for line in lines])


def test_a_first_row_of_no_format_is_told_all_and_one_of_two_must_be_chosen(tmp_path: Path) -> None:
    message = r"a:1: expected prompt, chosen, rejected .*; found \['prompt', 'text'\]; name the columns with data\.columns="
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a", [b'{"prompt": "p", "text": "t"}'])
    both = json.dumps(PAIR | COMPLETION).encode()
    with pytest.raises(ValueError, match=r"a:1: fields of text and of unpaired; say which with data\.format="):
        read(tmp_path / "a", [both])
    rows = RowReader(RowSource("data.path", [str(tmp_path / "a")], None, "train"), Format.unpaired)
    assert list(rows.read(ReadReport())) == [Feedback("p", (" a",), desirable=True)]


def test_a_message_stays_short_whatever_the_row_holds(tmp_path: Path) -> None:
    for row in (
        PAIR | {"confidence": "x" * 10**6},
        dict.fromkeys(map(str, range(10**4))),
        RANKING | {"completions": "x" * 10**6},
    ):
        with pytest.raises(ValueError, match="rows") as caught:
            read(tmp_path / "rows", [json.dumps(row).encode()])
        assert len(str(caught.value)) < 500 + len(str(tmp_path))


@pytest.mark.parametrize("before", [0, 2000])
def test_a_byte_that_is_no_utf_8_is_refused_with_its_file_and_line(tmp_path: Path, before: int) -> None:
    path = tmp_path / "rows.jsonl"
    with pytest.raises(ValueError, match=f"{path}:{before + 1}: .*UTF-8"):
        read(path, [json.dumps(PAIR).encode()] * before + [b'{"prompt": "\xff"}'])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
NAMES = sorted({name for row in GOOD.values() for name in row} | {"confidence", "margin", "scores", "other"})
TEXT = st.text(max_size=3)
NUMBER = st.floats(-1e3, 1e3) | st.integers(-5, 5)
PLAUSIBLE = st.one_of(
    st.fixed_dictionaries(
        {"prompt": TEXT, "chosen": TEXT, "rejected": TEXT},
        optional={"confidence": st.floats(0.4, 1), "score_chosen": NUMBER, "score_rejected": NUMBER, "margin": NUMBER},
    ),
    st.fixed_dictionaries({"prompt": TEXT, "completion": TEXT, "label": st.booleans()}),
    st.fixed_dictionaries(
        {"prompt": TEXT, "completions": st.lists(TEXT, min_size=1, max_size=3)},
        optional={"scores": st.lists(NUMBER, min_size=1, max_size=3)},
    ),
)
BROKEN = st.builds(lambda row, name, value: row | {name: value}, PLAUSIBLE, st.sampled_from(NAMES), VALUES)
LINES = st.one_of(
    st.one_of(PLAUSIBLE, BROKEN, st.dictionaries(st.sampled_from(NAMES), VALUES), VALUES).map(json.dumps).map(str.encode),
    st.binary(max_size=30),
)
REPEATED = st.builds(lambda line, others: [line] * 3 + others, LINES, st.lists(LINES, max_size=2))


@settings(max_examples=200)
@given(lines=st.lists(LINES, max_size=4) | REPEATED)
@example(lines=[b"[" * 100_000])
@example(lines=[b'{"a": ' * 100_000])
@example(lines=[b'{"confidence": 1' + b"0" * 5000 + b"}"])
@example(lines=[b'{"prompt": "", "chosen": "", "rejected": "", "margin": 1' + b"0" * 4000 + b"}"])
@example(lines=[b"\xef\xbb\xbf", b"\xef\xbb\xbf"])
def test_any_lines_give_records_of_one_kind_or_a_message_with_the_line(
    lines: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    try:
        form, rows = read(path, lines)
    except ValueError as error:
        message = str(error)
        message.encode()  # can be printed
        numbers = range(1, b"\n".join(lines).count(b"\n") + 2)
        assert message == f"{path}: it holds no rows" or any(message.startswith(f"{path}:{i}: ") for i in numbers)
        return
    assert rows
    sizes = {len(row.completions) for row in rows}
    assert len(sizes) == 1
    assert {Format.text: sizes == {2}, Format.unpaired: sizes == {1}, Format.ranking: min(sizes) >= 2}[form]
    for row in rows:
        assert 0.5 <= row.confidence <= 1
        assert all(text.encode() is not None for text in (row.prompt, *row.completions))
        assert (row.desirable is not None) == (form is Format.unpaired)
        assert (row.scores is None) == (rows[0].scores is None)
        assert (row.margin is None) == (rows[0].margin is None)
        for number in (*(row.scores or ()), row.margin or 0.0):
            assert math.isfinite(number)
            assert abs(number) <= 3.5e38
