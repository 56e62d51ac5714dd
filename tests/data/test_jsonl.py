"""Labelled pairs from a file: bad rows are named, nothing leaks from one side of the split to the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dpo_lab.data import Corpus
from dpo_lab.data.jsonl import JSONLSource

GOOD = {"prompt": "p", "chosen": " a", "rejected": " b"}


def written(path: Path, rows: list[Any], **options: Any) -> JSONLSource:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return JSONLSource(path=str(path), **options)


def many(count: int = 60) -> list[dict[str, Any]]:
    return [{"prompt": f"prompt {i}", "chosen": " yes", "rejected": " no"} for i in range(count)]


BAD = {
    "no JSON": ('{"prompt": ', "not JSON"),
    "a list": ("[1]", "expected an object with prompt, chosen, rejected, found list"),
    "no field": ('{"prompt": "p", "chosen": "c", "x": 1}', r"no 'rejected' field; found \['chosen', 'prompt', 'x'\]"),
    "no string": ('{"prompt": "p", "chosen": 3, "rejected": "r"}', "'chosen' must be a string, found int"),
    "null": ('{"prompt": null, "chosen": "c", "rejected": "r"}', "'prompt' must be a string, found NoneType"),
    "low confidence": (json.dumps(GOOD | {"confidence": 0.4}), r"'confidence' must be a number in \[0.5, 1\], found 0.4"),
    "high confidence": (json.dumps(GOOD | {"confidence": 1.1}), "'confidence' must be"),
    "confidence NaN": (json.dumps(GOOD | {"confidence": float("nan")}), "'confidence' must be"),
    "confidence true": (json.dumps(GOOD | {"confidence": True}), "'confidence' must be"),
    "confidence text": (json.dumps(GOOD | {"confidence": "0.7"}), "'confidence' must be"),
    "half a character": ('{"prompt": "\\ud800", "chosen": "c", "rejected": "r"}', "surrogate"),
    "too deep": ("[" * 100_000, "not JSON|too deep|nested|recursion"),
}


@pytest.mark.parametrize(("line", "message"), BAD.values(), ids=BAD)
def test_a_bad_row_is_refused_with_its_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join([*map(json.dumps, many(3)), "", line, *map(json.dumps, many(3))]))
    with pytest.raises(ValueError, match=rf"(?s){path}:5: .*({message})"):
        JSONLSource(path=str(path)).load()


@pytest.mark.parametrize("before", [0, 2000])
def test_a_byte_that_is_no_utf_8_is_refused_with_its_file_and_line(tmp_path: Path, before: int) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes("".join(json.dumps(row) + "\n" for row in many(before)).encode() + b'{"prompt": "\xff"}\n')
    with pytest.raises(ValueError, match=f"{path}:{before + 1}: .*UTF-8"):
        JSONLSource(path=str(path)).load()


ROWS = st.fixed_dictionaries(
    {"prompt": st.text(max_size=3), "chosen": st.text(max_size=2), "rejected": st.text(max_size=2)},
    optional={"confidence": st.floats(0.5, 1) | st.just("x")},
)
LINES = st.one_of(st.binary(max_size=30), ROWS.map(lambda row: json.dumps(row).encode()), st.text(max_size=20).map(str.encode))


@settings(max_examples=100)
@given(lines=st.lists(LINES, max_size=6))
@example(lines=[b"[" * 100_000])
@example(lines=[b'{"a": ' * 100_000])
@example(lines=[b'{"confidence": 1' + b"0" * 5000 + b"}"])
@example(lines=[b"\xef\xbb\xbf", b"\xef\xbb\xbf"])
def test_any_bytes_give_a_corpus_or_a_message(lines: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    path.write_bytes(b"\n".join(lines))
    message = None
    try:
        corpus = JSONLSource(path=str(path), eval_share=0.5).load()
    except ValueError as error:
        message = str(error)
    else:
        assert isinstance(corpus, Corpus)
        assert corpus.train
        assert corpus.eval
    assert message is None or str(path) in message


@given(
    prompts=st.lists(st.integers(0, 20).map(str), min_size=10, max_size=40),
    share=st.floats(0.1, 0.9),
)
def test_a_prompt_is_trained_on_or_held_out_never_both(
    prompts: list[str], share: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "split.jsonl"
    rows = [{"prompt": p, "chosen": f" a{i}", "rejected": f" b{i}"} for i, p in enumerate(prompts)]
    try:
        corpus = written(path, rows, eval_share=share).load()
    except ValueError:
        return  # all on one side: refused, as tested below
    train, held_out = ({p.prompt for p in pairs} for pairs in (corpus.train, corpus.eval))
    assert not train & held_out
    assert train | held_out == set(prompts)
    assert (set(corpus.train_prompts), set(corpus.eval_prompts)) == (train, held_out)
    assert len(set(corpus.train_prompts)) == len(corpus.train_prompts)
    assert corpus.text == [p.prompt + p.chosen for p in corpus.train]
    assert len(corpus.train) + len(corpus.eval) == len(rows)


def test_more_data_moves_no_prompt_to_the_other_side(tmp_path: Path) -> None:
    few = written(tmp_path / "a", many(40)).load()
    more = written(tmp_path / "b", many(80)[::-1]).load()
    assert set(few.train_prompts) < set(more.train_prompts)
    assert set(few.eval_prompts) < set(more.eval_prompts)


def test_about_the_wanted_share_of_prompts_is_held_out(tmp_path: Path) -> None:
    corpus = written(tmp_path / "a", many(1000), eval_share=0.3).load()
    assert 240 < len(corpus.eval_prompts) < 360  # four standard deviations


def test_pairs_without_a_choice_are_left_out_and_counted(tmp_path: Path) -> None:
    choices = [("", "b"), ("a", ""), ("", ""), ("a", "a"), ("a", "b")]
    rows = [{"prompt": f"{i} {j}", "chosen": c, "rejected": r} for i in range(30) for j, (c, r) in enumerate(choices)]
    corpus = written(tmp_path / "a", rows).load()
    assert {(p.chosen, p.rejected) for p in corpus.train + corpus.eval} == {("a", "b")}
    counts = corpus.counts
    assert counts["pairs read"] == 150
    assert counts["left out, empty completion"] == 90
    assert counts["left out, identical pair"] == 30
    assert counts["pairs to train on"] == len(corpus.train)
    assert counts["pairs held out"] == len(corpus.eval)
    assert len(corpus.train) + len(corpus.eval) == 30


def test_the_text_and_the_confidence_are_taken_as_they_are(tmp_path: Path) -> None:
    rows = [row | {"confidence": 0.75, "chosen": "  é\u2028 "} for row in many()]
    corpus = written(tmp_path / "a", rows).load()
    assert {(p.chosen, p.rejected, p.confidence) for p in corpus.train} == {("  é\u2028 ", " no", 0.75)}
    (tmp_path / "b").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "a").read_bytes().replace(b"\n", b"\r\n"))
    assert JSONLSource(path=str(tmp_path / "b")).load() == corpus


def test_the_fingerprint_is_that_of_the_bytes(tmp_path: Path) -> None:
    one, other = written(tmp_path / "a", many(3)), written(tmp_path / "b", many(3))
    assert one.fingerprint() == other.fingerprint() != written(tmp_path / "b", many(4)).fingerprint()


def test_a_missing_file_an_empty_one_and_an_impossible_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.path is not set"):
        JSONLSource().load()
    with pytest.raises(ValueError, match=r"data\.path: there is no file .*nowhere"):
        JSONLSource(path=str(tmp_path / "nowhere")).load()
    with pytest.raises(ValueError, match="holds no pairs"):
        written(tmp_path / "a", []).load()
    with pytest.raises(ValueError, match=r"1 usable pairs leave [01] to train on and [01] held out; both are needed"):
        written(tmp_path / "a", many(1)).load()
    for share in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"data\.eval_share must be between 0 and 1"):
            JSONLSource(path="x", eval_share=share)
