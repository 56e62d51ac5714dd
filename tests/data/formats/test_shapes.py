"""Rows as they are found in the wild: each becomes the record that it says."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpo_lab.data import Feedback
from dpo_lab.data.files.source import RowSource
from dpo_lab.data.formats.base import Format
from dpo_lab.data.formats.values import BadRowError, beats
from dpo_lab.data.messages import Message
from dpo_lab.data.pairs import PairsSource
from dpo_lab.data.row_reader import OnBadRow, ReadReport, RowReader, read_feedback

USER, REPLY = Message("user", "Hi!"), Message("assistant", "Hello.")
ASKED = {"role": "user", "content": "Hi!"}
SHAREGPT = {"from": "human", "value": "Hi!"}


def said(text: str, **names: str) -> dict[str, str]:
    return {names.get("who", "role"): names.get("role", "assistant"), names.get("what", "content"): text}


def gpt(text: str) -> dict[str, str]:
    return said(text, who="from", what="value", role="gpt")


CHAT = Feedback((USER,), ("yes", "no"))
HISTORY = (USER, REPLY, Message("user", "Sure?"))
TURNS = [ASKED, said("Hello."), {"role": "user", "content": "Sure?"}]
PARTS = [{"type": "text", "text": "y"}, {"type": "text", "value": "es"}]

SHAPES: dict[str, tuple[Format, dict[str, Any], Feedback]] = {
    "text": (Format.text, {"prompt": "p", "chosen": " a", "rejected": " b"}, Feedback("p", (" a", " b"))),
    "text without a prompt": (
        Format.text,
        {"chosen": "What is it? A cat.", "rejected": "What is it? A car."},
        Feedback("What is it? A", (" cat.", " car.")),
    ),
    "text with a system message": (
        Format.text,
        {"system": "Be kind.", "prompt": "Hi!", "chosen": "yes", "rejected": "no"},
        Feedback((Message("system", "Be kind."), USER), ("yes", "no")),
    ),
    "text with an empty system message": (
        Format.text,
        {"system": "", "prompt": "Hi!", "chosen": "yes", "rejected": "no"},
        CHAT,
    ),
    "chat": (Format.chat, {"prompt": [ASKED], "chosen": [said("yes")], "rejected": [said("no")]}, CHAT),
    "chat with the prompt in both sides": (
        Format.chat,
        {"chosen": [ASKED, said("yes")], "rejected": [ASKED, said("no")]},
        CHAT,
    ),
    "chat with the prompt in both sides and as text": (
        Format.chat,
        {"prompt": "Hi!", "prompt_id": "x", "chosen": [ASKED, said("yes")], "rejected": [ASKED, said("no")]},
        CHAT,
    ),
    "chat with the prompt in both sides and as messages": (
        Format.chat,
        {"prompt": [ASKED], "chosen": [ASKED, said("yes")], "rejected": [ASKED, said("no")]},
        CHAT,
    ),
    "chat with a text prompt": (Format.chat, {"prompt": "Hi!", "chosen": said("yes"), "rejected": said("no")}, CHAT),
    "chat with text answers": (Format.chat, {"prompt": [ASKED], "chosen": "yes", "rejected": "no"}, CHAT),
    "chat in parts": (
        Format.chat,
        {"prompt": [ASKED], "chosen": [said("") | {"content": PARTS}], "rejected": said("no")},
        CHAT,
    ),
    "chat of several turns": (
        Format.chat,
        {"chosen": [*TURNS, said("yes")], "rejected": [*TURNS, said("no")]},
        Feedback(HISTORY, ("yes", "no")),
    ),
    "ShareGPT": (Format.chat, {"conversations": [SHAREGPT], "chosen": gpt("yes"), "rejected": gpt("no")}, CHAT),
    "ShareGPT with a system message": (
        Format.chat,
        {"system": "Be kind.", "conversations": [SHAREGPT], "chosen": gpt("yes"), "rejected": gpt("no")},
        Feedback((Message("system", "Be kind."), USER), ("yes", "no")),
    ),
    "transcript": (
        Format.transcript,
        {
            "chosen": "\n\nHuman: Hi!\n\nAssistant: Hello.\n\nHuman: Sure?\n\nAssistant: yes",
            "rejected": "\n\nHuman: Hi!\n\nAssistant: Hello.\n\nHuman: Sure?\n\nAssistant: no",
        },
        Feedback(HISTORY, ("yes", "no")),
    ),
    "scores": (
        Format.text,
        {"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": 8, "score_rejected": 2.5},
        Feedback("p", ("a", "b"), scores=(8.0, 2.5)),
    ),
    "ratings": (
        Format.text,
        {"prompt": "p", "chosen": "a", "rejected": "b", "ratings_chosen": [1, 2], "ratings_rejected": [2, 0]},
        Feedback("p", ("a", "b"), confidence=0.625),
    ),
    "ratings that say the opposite": (
        Format.text,
        {"prompt": "p", "chosen": "a", "rejected": "b", "ratings_chosen": [2, 0], "ratings_rejected": [1, 2]},
        Feedback("p", ("b", "a"), confidence=0.625),
    ),
    "a ranking": (Format.ranking, {"prompt": "p", "completions": ["a", "b", "c"]}, Feedback("p", ("a", "b", "c"))),
    "a ranking with ranks": (
        Format.ranking,
        {"prompt": "p", "completions": ["a", "b", "c"], "ranks": [2, 3, 1]},
        Feedback("p", ("c", "a", "b"), scores=(-1.0, -2.0, -3.0)),
    ),
    "a ranking of objects with scores": (
        Format.ranking,
        {"prompt": [ASKED], "completions": [{"response": "a", "overall_score": 1}, {"response": "b", "overall_score": 9}]},
        Feedback((USER,), ("b", "a"), scores=(9.0, 1.0)),
    ),
    "a ranking of objects with ranks": (
        Format.ranking,
        {"prompt": "p", "completions": [{"answer": "a", "rank": 2}, {"answer": "b", "rank": 1}]},
        Feedback("p", ("b", "a"), scores=(-1.0, -2.0)),
    ),
    "a ranking of messages": (
        Format.ranking,
        {"prompt": [ASKED], "completions": [[said("a")], said("b")], "scores": [2, 1]},
        Feedback((USER,), ("a", "b"), scores=(2.0, 1.0)),
    ),
    "two rated completions": (
        Format.ranking,
        {"prompt": "p", "completions": ["a", "b"], "ratings": [[0, 1], [1, 3, 2]]},
        Feedback("p", ("b", "a"), confidence=11 / 12),
    ),
    "three rated completions": (
        Format.ranking,
        {"prompt": "p", "completions": ["a", "b", "c"], "ratings": [[1], [2, 3], [0]]},
        Feedback("p", ("b", "a", "c"), scores=(2.5, 1.0, 0.0)),
    ),
    "unpaired": (Format.unpaired, {"prompt": "p", "completion": "a", "label": False}, Feedback("p", ("a",), desirable=False)),
    "unpaired messages": (
        Format.unpaired,
        {"prompt": [ASKED], "completion": [said("yes")], "label": True},
        Feedback((USER,), ("yes",), desirable=True),
    ),
    "an unpaired conversation": (
        Format.unpaired,
        {"messages": [*TURNS, said("yes")], "label": True},
        Feedback(HISTORY, ("yes",), desirable=True),
    ),
    "an unpaired conversation as the completion": (
        Format.unpaired,
        {"completion": [ASKED, said("yes")], "label": 0},
        Feedback((USER,), ("yes",), desirable=False),
    ),
    "an unpaired ShareGPT conversation": (
        Format.unpaired,
        {"conversations": [SHAREGPT, gpt("yes")], "label": "True"},
        Feedback((USER,), ("yes",), desirable=True),
    ),
}


def read(path: Path, rows: list[Any], **options: Any) -> tuple[list[Feedback], ReadReport]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = ReadReport()
    return list(RowReader(RowSource("data.path", [str(path)], None, "train"), **options).read(report)), report


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_seen_and_becomes_the_record_it_says(name: str, tmp_path: Path) -> None:
    form, row, expected = SHAPES[name]
    found, report = read(tmp_path / "rows.jsonl", [row] * 2)
    assert found == [expected] * 2
    assert report.format is form
    assert read(tmp_path / "rows.jsonl", [row], format=form)[0] == [expected]
    assert report.num_reordered == 2 * (expected.completions[0] in ("b", "c"))


BAD_CHATS = {
    "no answer": ([ASKED], [ASKED], "the last message must be the assistant's, found the user's"),
    "no question": ([said("yes")], [said("no")], "nothing is said before the assistant's answer"),
    "other questions": (
        [ASKED, said("yes")],
        [{"role": "user", "content": "No?"}, said("no")],
        r"the sides part at message 1, before their last turn; only the last turn can be compared",
    ),
    "other histories": (
        [*TURNS, said("yes")],
        [ASKED, said("Bye."), TURNS[2], said("no")],
        r"the sides part at message 2, before their last turn",
    ),
    "other lengths": ([*TURNS, said("yes")], [ASKED, said("no")], "the sides part at message 2"),
    "empty": ([], [ASKED, said("no")], "'chosen' must hold at least one message"),
    "no role": ([{"content": "a"}], [ASKED], r"'chosen\[0\]' has neither 'role' nor 'from'; found \['content'\]"),
    "a strange role": ([said("a", role="alien")], [ASKED], r"'chosen\[0\].role' must be one of .*; found 'alien'"),
    "a picture": ([{"role": "user", "content": [{"type": "image"}]}], [ASKED], r"must be text, found a part {'type': 'image'}"),
    "a number": ([3], [ASKED], r"'chosen\[0\]' must be a message .*; found int"),
}


@pytest.mark.parametrize("name", BAD_CHATS)
def test_a_conversation_that_cannot_be_compared_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    chosen, rejected, message = BAD_CHATS[name]
    with pytest.raises(ValueError, match=rf"rows\.jsonl:1: .*{message}"):
        read(tmp_path / "rows.jsonl", [{"chosen": chosen, "rejected": rejected}])


def test_sides_that_do_not_begin_alike_need_a_prompt_and_the_message_says_how(tmp_path: Path) -> None:
    row = {"question": "What?", "chosen": "Yes.", "rejected": "No."}
    with pytest.raises(ValueError, match=r"no 'prompt' field, .* data\.columns={prompt: \.\.\.}"):
        read(tmp_path / "rows.jsonl", [row])
    found, report = read(tmp_path / "rows.jsonl", [row | {"prompt": "old", "id": 3}], columns={"prompt": "question"})
    assert found == [Feedback("What?", ("Yes.", "No."))]
    assert dict(report.unread) == {"id": 1}


def test_bad_rows_are_left_out_counted_and_listed_where_that_is_wanted(tmp_path: Path) -> None:
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    rows = [{"nothing": 1}, good, good | {"chosen": None}, *[good | {"confidence": 2}] * 20, good]
    found, report = read(tmp_path / "rows.jsonl", rows, on_bad_row=OnBadRow.skip)
    assert found == [Feedback("p", ("a", "b"))] * 2
    assert (report.num_bad, report.num_rows) == (22, 2)
    notes = "\n".join(report.notes(RowSource("data.path", [str(tmp_path / "rows.jsonl")], None, "train")))
    assert "22 bad rows left out:" in notes
    assert "rows.jsonl:1: expected prompt, chosen, rejected" in notes
    assert "rows.jsonl:3: the field 'chosen' is null" in notes
    assert "... and 12 more" in notes
    with pytest.raises(ValueError, match=r"none of its 2 rows can be read, such as .*rows\.jsonl:1: expected prompt"):
        read(tmp_path / "rows.jsonl", [{"nothing": 1}] * 2, on_bad_row=OnBadRow.skip)


def test_a_text_prompt_becomes_what_a_user_says_where_that_is_wanted(tmp_path: Path) -> None:
    row = {"prompt": "Hi!", "chosen": "yes", "rejected": "no"}
    assert read(tmp_path / "rows.jsonl", [row], as_chat=True)[0] == [CHAT]


RATINGS = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=6)


@given(ours=RATINGS, theirs=RATINGS)
def test_ratings_become_the_share_of_rater_pairs_that_agree(ours: list[float], theirs: list[float]) -> None:
    pairs = list(itertools.product(ours, theirs))
    expected = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)
    assert beats(ours, theirs) == pytest.approx(expected, abs=1e-12)
    assert beats(ours, theirs) + beats(theirs, ours) == pytest.approx(1, abs=1e-12)
    with pytest.raises(BadRowError, match="without ratings"):
        beats([], ours)


PAIRS = [
    {"prompt": f"p{i} é🙂\n", "chosen": ' "a", b', "rejected": "\tc", "score_chosen": i, "score_rejected": 0.5}
    for i in range(9)
]
EXPECTED = [Feedback(f"p{i} é🙂\n", (' "a", b', "\tc"), scores=(float(i), 0.5)) for i in range(9)]


def table(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def test_every_kind_of_file_holds_the_same_rows(tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in PAIRS)
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "b.json").write_text(lines, encoding="utf-8-sig")  # lines that are called a list: seen by the first character
    (tmp_path / "c.json").write_text(json.dumps(PAIRS, ensure_ascii=False), encoding="utf-8-sig")
    (tmp_path / "d.json").write_text("\n " + json.dumps(PAIRS, indent=2) + "\n", encoding="utf-8")
    (tmp_path / "e.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    table(tmp_path / "f.csv", PAIRS)
    table(tmp_path / "g.tsv", PAIRS, "\t")
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame(PAIRS).to_parquet(tmp_path / "h.parquet")
    for file in sorted(tmp_path.iterdir()):
        assert read_feedback(str(file)) == EXPECTED, file.name
    both = [str(tmp_path / "a.jsonl"), str(tmp_path / "f.csv")]
    assert read_feedback(*both) == EXPECTED * 2
    assert read_feedback(str(tmp_path / "[ag].*")) == EXPECTED * 2
    assert read_feedback(str(tmp_path)) == EXPECTED * 8


def test_conversations_and_lists_stand_in_the_cells_of_a_table_as_json(tmp_path: Path) -> None:
    row = {"prompt": json.dumps([ASKED]), "completions": json.dumps(["[a", "b"]), "ratings": "[[2], [1, 0]]"}
    table(tmp_path / "a.csv", [row])
    assert read_feedback(str(tmp_path / "a.csv")) == [Feedback((USER,), ("[a", "b"))]
    table(tmp_path / "b.csv", [{"prompt": "[1, 2", "chosen": "[3]", "rejected": "{}", "confidence": ""}])
    assert read_feedback(str(tmp_path / "b.csv")) == [Feedback("[1, 2", ("[3]", "{}"))]


def test_a_data_set_that_the_librarys_own_folder_holds_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(PAIRS).save_to_disk(str(tmp_path / "saved"))
    assert read_feedback(f"hub:{tmp_path / 'saved'}") == EXPECTED
    source = PairsSource(path=f"hub:{tmp_path / 'saved'}")
    assert source.fingerprint() == PairsSource(path=f"hub:{tmp_path / 'saved'}").fingerprint()
    datasets.DatasetDict({"test": datasets.Dataset.from_list(PAIRS[:3])}).save_to_disk(str(tmp_path / "splits"))
    found = RowSource("data.path", [f"hub:{tmp_path / 'splits'}"], None, "test")
    assert list(RowReader(found).read(ReadReport())) == EXPECTED[:3]
    with pytest.raises(ValueError, match=r"data\.path: cannot load the split 'train' of hub:.*splits"):
        RowSource("data.path", [f"hub:{tmp_path / 'splits'}"], None, "train")


def test_paths_that_name_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, message in (
        (str(tmp_path / "*.json"), r"data\.path: there is no file .*\*\.json"),
        (str(tmp_path / "empty"), r"data\.path: no file in .*empty ends with \.jsonl, "),
        ("somebody/prompts", r"there is no file somebody/prompts; a data set of the hub is data\.path=hub:somebody/prompts"),
    ):
        with pytest.raises(ValueError, match=message):
            RowSource("data.path", [path], None, "train")
    for value in (3, [], [""], ["a", 3]):
        with pytest.raises(ValueError, match=r"data\.path must be a path or a list of paths|data\.path is not set"):
            PairsSource(path=value).load()
    with pytest.raises(ValueError, match=r"data\.columns: there is no field 'promt'\. Did you mean 'prompt'\?"):
        PairsSource(path="x", columns={"promt": "question"})
