"""Feedback from a file: nothing leaks from one side of the split to the other, and what is left out is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpo_lab.data import Feedback
from dpo_lab.data.formats.base import Format
from dpo_lab.data.pairs import PairsSource
from dpo_lab.data.row_reader import OnBadRow, RepeatedPrompt, best_first, read_feedback


def written(path: Path, rows: list[Any], **options: Any) -> PairsSource:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return PairsSource(path=str(path), **options)


def many(count: int = 60) -> list[dict[str, Any]]:
    return [{"prompt": f"prompt {i}", "chosen": " yes", "rejected": " no"} for i in range(count)]


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
    for items in (corpus.text, corpus.train_prompts, corpus.eval_prompts, corpus.train, corpus.eval):
        assert len(list(items)) == len(items)
    assert not train & held_out
    assert train | held_out == set(prompts)
    assert (set(corpus.train_prompts), set(corpus.eval_prompts)) == (train, held_out)
    assert len(set(corpus.train_prompts)) == len(corpus.train_prompts)
    assert list(corpus.text) == [p.prompt + p.completions[0] for p in corpus.train]
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
    assert {p.completions for p in [*corpus.train, *corpus.eval]} == {("a", "b")}
    counts = corpus.counts
    assert counts["pairs read"] == 150
    assert counts["left out, empty completion"] == 90
    assert counts["left out, identical completions"] == 30
    assert counts["pairs to train on"] == len(corpus.train)
    assert counts["pairs held out"] == len(corpus.eval)
    assert len(corpus.train) + len(corpus.eval) == 30


def test_the_text_and_the_confidence_are_taken_as_they_are(tmp_path: Path) -> None:
    rows = [row | {"confidence": 0.75, "chosen": "  é\u2028 "} for row in many()]
    corpus = written(tmp_path / "a", rows).load()
    assert {(p.completions, p.confidence) for p in corpus.train} == {(("  é\u2028 ", " no"), 0.75)}
    (tmp_path / "b").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "a").read_bytes().replace(b"\n", b"\r\n"))
    other = PairsSource(path=str(tmp_path / "b")).load()
    assert (list(other.train), list(other.eval)) == (list(corpus.train), list(corpus.eval))


def test_the_fingerprint_is_that_of_the_bytes(tmp_path: Path) -> None:
    one, other = written(tmp_path / "a", many(3)), written(tmp_path / "b", many(3))
    assert one.fingerprint() == other.fingerprint() != written(tmp_path / "b", many(4)).fingerprint()


def test_a_missing_file_an_empty_one_and_an_impossible_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.path is not set"):
        PairsSource().load()
    with pytest.raises(ValueError, match=r"data\.path: there is no file .*nowhere"):
        PairsSource(path=str(tmp_path / "nowhere")).load()
    with pytest.raises(ValueError, match="it holds no rows"):
        written(tmp_path / "a", []).load()
    with pytest.raises(ValueError, match=r"1 usable pairs leave [01] to train on and [01] held out; both are needed"):
        written(tmp_path / "a", many(1)).load()
    for share in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"data\.eval_share must be between 0 and 1"):
            PairsSource(path="x", eval_share=share)


def ranked(count: int, completions: list[str], scores: list[float] | None) -> list[dict[str, Any]]:
    extra = {} if scores is None else {"scores": scores}
    return [{"prompt": f"prompt {i}", "completions": completions, **extra} for i in range(count)]


SCORED = st.lists(st.tuples(st.text(max_size=2), st.integers(-2, 2).map(float)), min_size=2, max_size=5)


@given(items=SCORED)
def test_best_first_is_a_stable_order_that_takes_each_completion_with_its_score(items: list[tuple[str, float]]) -> None:
    texts, scores = zip(*items, strict=True)
    row = best_first(Feedback("p", texts, scores=scores), Format.ranking)
    assert row.scores is not None
    left = list(items)
    for text, score in zip(row.completions, row.scores, strict=True):
        # By hand: the first of those that are left with the highest score comes next.
        best = next(item for item in left if item[1] == max(s for _, s in left))
        assert (text, score) == best
        left.remove(best)
    assert best_first(row, Format.ranking) is row


def test_rankings_are_put_in_the_order_of_their_scores_and_that_is_counted(tmp_path: Path) -> None:
    rows = ranked(40, ["a", "b", "c"], [3, 3, 1]) + ranked(40, ["a", "b", "c"], [1.5, 2, 9])
    corpus = written(tmp_path / "a", rows).load()
    found = {(row.completions, row.scores) for row in [*corpus.train, *corpus.eval]}
    assert found == {(("a", "b", "c"), (3, 3, 1)), (("c", "b", "a"), (9, 2, 1.5))}
    assert "40 of the rankings are put in the order of their scores or ratings" in corpus.notes
    assert list(corpus.text) == [row.prompt + row.completions[0] for row in corpus.train]


def test_rankings_with_nothing_to_learn_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = ranked(30, ["a", "b", "c"], [3, 2, 1]) + ranked(3, ["a", "", "c"], [3, 2, 1])
    rows += ranked(4, ["a", "b", "a"], [3, 2, 1]) + ranked(5, ["a", "b", "c"], [2, 2, 2])
    corpus = written(tmp_path / "a", rows).load()
    assert corpus.counts == {
        "rankings read": 42,
        "left out, empty completion": 3,
        "left out, identical completions": 4,
        "left out, equal scores": 5,
        "rankings to train on": len(corpus.train),
        "rankings held out": len(corpus.eval),
    }
    assert len(corpus.train) + len(corpus.eval) == 30
    unscored = written(tmp_path / "b", ranked(30, ["z", "b", "c"], None)).load()
    assert {(row.completions, row.scores) for row in unscored.train} == {(("z", "b", "c"), None)}


def test_labelled_completions_keep_their_label_and_the_base_is_fitted_on_desirable_ones(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i} ", "completion": "yes" if i % 3 else "no", "label": bool(i % 3)} for i in range(60)]
    rows.append({"prompt": "x", "completion": "", "label": True})
    corpus = written(tmp_path / "a", rows).load()
    both = [*corpus.train, *corpus.eval]
    assert {(row.completions, row.desirable) for row in both} == {(("yes",), True), (("no",), False)}
    assert list(corpus.text) == [row.prompt + "yes" for row in corpus.train if row.desirable]
    assert corpus.counts == {
        "completions read": 61,
        "left out, empty completion": 1,
        "completions to train on": len(corpus.train),
        "completions held out": len(corpus.eval),
        "desirable ones to train on": len(corpus.text),
    }
    assert len(both) == 60


def test_a_pair_keeps_its_label_where_its_scores_say_otherwise_and_that_is_counted(tmp_path: Path) -> None:
    rows = [row | {"score_chosen": i % 2, "score_rejected": 0.5, "margin": -i} for i, row in enumerate(many())]
    corpus = written(tmp_path / "a", rows).load()
    said = [note.partition(", ")[2] for note in corpus.notes if "score the rejected side higher" in note]
    assert sum(int(note.split()[0]) for note in said) == 30
    for row in [*corpus.train, *corpus.eval]:
        i = int(row.prompt.split()[1])
        assert (row.completions, row.scores, row.margin) == ((" yes", " no"), (i % 2, 0.5), -i)


def test_where_no_row_is_left_the_message_has_the_reason_and_advice_that_can_help(tmp_path: Path) -> None:
    empty = [row | {"chosen": ""} for row in many(9)]
    with pytest.raises(ValueError, match=r"0 usable pairs .* \(9 left out, empty completion\).*no row of it has completions"):
        written(tmp_path / "a", empty).load()
    held_out = written(tmp_path / "b", many(9)).path
    with pytest.raises(ValueError, match=r"9 left out, also held out\).*name other rows in data\.eval_path than in data\.path"):
        PairsSource(path=held_out, eval_path=held_out).load()
    with pytest.raises(ValueError, match=r"9 left out, empty completion\).*no row of data\.path has") as raised:
        PairsSource(path=str(tmp_path / "a"), eval_path=held_out).load()
    assert "eval_share" not in str(raised.value), "it decides nothing where data.eval_path is set"
    bad = [*many(1), *[{"prompt": "p", "chosen": 1, "rejected": "b"}] * 8]
    with pytest.raises(ValueError, match=r"8 bad rows left out, such as .*c:2: 'chosen' must be a string, found int"):
        written(tmp_path / "c", bad, on_bad_row=OnBadRow.skip).load()


def test_conversations_that_all_open_alike_are_to_be_held_out_by_a_path(tmp_path: Path) -> None:
    opening = [{"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hello."}]
    rows = [{"prompt": [*opening, {"role": "user", "content": f"{i}"}], "chosen": "a", "rejected": "b"} for i in range(20)]
    with pytest.raises(ValueError, match=r"all prompts open alike.*data\.eval_path") as raised:
        written(tmp_path / "a", rows).load()
    assert "eval_share" not in str(raised.value)


ASKED = "What is it,  then?"
SPACES = st.sampled_from([" ", "\n", "  ", "\t"])


@given(before=SPACES, between=SPACES, rows=st.integers(10, 30))
def test_a_prompt_that_both_sides_repeat_is_asked_once_and_that_is_said(
    before: str, between: str, rows: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "repeated.jsonl"
    again = before + ASKED.replace("  ", between)
    fields = [{"prompt": ASKED, "chosen": f"{again} yes {i}", "rejected": f"{again} no {i}"} for i in range(rows)]
    for chat, space in ((False, " "), (True, "")):
        read = written(path, [*fields, *many(30)], chat=chat).load()
        found = {row.completions for row in [*read.train, *read.eval]}
        assert found == {(f"{space}yes {i}", f"{space}no {i}") for i in range(rows)} | {(" yes", " no")}
        assert any(note.startswith(f"{rows} of the pairs begin every completion with the prompt again") for note in read.notes)
    kept = written(path, [*fields, *many(30)], repeated_prompt=RepeatedPrompt.keep).load()
    assert {row.completions for row in [*kept.train, *kept.eval]} >= {(row["chosen"], row["rejected"]) for row in fields}


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "said"),
    [
        ("Good morning", "Good morning!", "Good morning to you.", "left there"),
        (ASKED, f"{ASKED} a", "b", "begin one completion with the prompt again"),
        ("the old cat", "the old cats a", "the old cats b", ""),
        ("", "a", "b", ""),
    ],
)
def test_what_may_be_an_answer_is_left_as_it_is(tmp_path: Path, prompt: str, chosen: str, rejected: str, said: str) -> None:
    row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    read = written(tmp_path / "a", [*many(40), row]).load()
    assert (chosen, rejected) in {row.completions for row in [*read.train, *read.eval]}
    assert any(said in note for note in read.notes)
    assert any("prompt again" in note for note in read.notes) is bool(said)


def test_a_prompt_that_the_messages_do_not_say_is_told(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": "Bye!" if i % 2 else f"Hi,\n{i}!",
            "chosen": [{"role": "user", "content": f"Hi, {i}!"}, {"role": "assistant", "content": "a"}],
            "rejected": [{"role": "user", "content": f"Hi, {i}!"}, {"role": "assistant", "content": "b"}],
        }
        for i in range(40)
    ]
    assert (
        "20 of the pairs have a 'prompt' that their messages do not say: it is not read"
        in written(tmp_path / "a", rows).load().notes
    )


def test_messages_that_both_the_prompt_and_the_sides_hold_are_said_once(tmp_path: Path) -> None:
    system, asked = {"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who are you?"}
    sides = {name: [asked, {"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    row = read_feedback(written(tmp_path / "a.jsonl", [{"prompt": [system, asked], **sides}]).path)[0]
    assert [(m.role, m.content) for m in row.prompt] == [("system", "Be kind."), ("user", "Who are you?")]
