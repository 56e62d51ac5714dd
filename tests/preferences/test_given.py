"""The data's own feedback: every row is encoded with what was said of it, or counted as left out."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load

from dpo_lab.data import Feedback
from dpo_lab.data.messages import Message
from dpo_lab.data.tokenizers import TOKENIZERS, Tokenizer
from dpo_lab.preferences import CANDIDATES, writing
from dpo_lab.preferences.base import noun
from dpo_lab.preferences.given import GivenCandidates, OnLong
from dpo_lab.records import CandidateBatch

BYTES = TOKENIZERS["byte"]().train([])
WORDS = TOKENIZERS["word"]().train(["a b c"])
TEXT = st.text("ab", min_size=1, max_size=6)
NUMBER = st.floats(-8, 8, width=32)


@st.composite
def feedback(draw: st.DrawFn, text: st.SearchStrategy[str] = TEXT) -> list[dict[str, Any]]:
    """Fields of rows of one kind: pairs, rankings or single completions, with or without scores and margins."""
    k, scored = draw(st.integers(1, 4)), draw(st.booleans())
    extra: dict[str, st.SearchStrategy[Any]] = {"prompt": st.text("ab", max_size=6), "completions": st.tuples(*[text] * k)}
    if scored:
        extra["scores"] = st.lists(NUMBER, min_size=k, max_size=k, unique=True).map(lambda s: tuple(sorted(s, reverse=True)))
    if k == 1:
        extra["desirable"] = st.booleans()
    if k == 2:
        extra["confidence"] = st.sampled_from([0.5, 0.75, 1.0])
        extra |= {"margin": NUMBER} if draw(st.booleans()) else {}
    return draw(st.lists(st.fixed_dictionaries(extra), min_size=1, max_size=6))


def records(rows: list[dict[str, Any]]) -> list[Feedback]:
    """Not made while drawing: the type checks of the record use chance, which a strategy must not."""
    return [Feedback(**row) for row in rows]


def encode(spec: GivenCandidates, rows: list[Feedback], tokenizer: Tokenizer) -> tuple[CandidateBatch, dict[str, int]]:
    """The rows as they are read again from the file they are written to."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.safetensors"
        counts = spec.write(rows, tokenizer, path)
        return CandidateBatch.from_tensors(load(path.read_bytes())), counts


def decoded(batch: CandidateBatch, i: int) -> Feedback:
    """Row i of a batch as it was in the data."""
    prompt = batch.prompt[i][batch.prompt_mask[i]].tolist()
    rows = [batch.completions[c, i][batch.mask[c, i]].tolist() for c in range(batch.num_candidates)]
    assert prompt[0] == BYTES.start
    assert all(row[-1] == BYTES.end for row in rows)
    return Feedback(
        BYTES.decode(prompt),
        tuple(BYTES.decode(row) for row in rows),
        confidence=float(batch.confidence[i]),
        scores=None if batch.scores is None else tuple(batch.scores[:, i].tolist()),
        margin=None if batch.margin is None else float(batch.margin[i]),
        desirable=None if batch.desirable is None else bool(batch.desirable[0, i]),
    )


@given(fields=feedback())
def test_every_row_is_encoded_with_what_was_said_of_it_or_counted(fields: list[dict[str, Any]]) -> None:
    rows, spec = records(fields), CANDIDATES["given"](max_prompt_tokens=5, max_tokens=5)
    long_prompt = [row for row in rows if len(row.prompt) + 1 > 5]
    short = [row for row in rows if len(row.prompt) + 1 <= 5]
    fitting = [row for row in short if max(map(len, row.completions)) + 1 <= 5]
    kept = [row for row in fitting if len(set(row.completions)) == len(row.completions)]
    if not kept:
        with pytest.raises(ValueError, match=rf"of {len(rows)} {noun(len(rows[0].completions))} none is left"):
            encode(spec, rows, BYTES)
        return
    batch, counts = encode(spec, rows, BYTES)
    assert counts == {
        "left out, prompt over max_prompt_tokens": len(long_prompt),
        "left out, completion over max_tokens": len(short) - len(fitting),
        "left out, equal after tokenisation": len(fitting) - len(kept),
        "with the beginning of the prompt cut off": 0,
        "with a completion cut off, which then has no end token": 0,
    }
    assert batch.ids.tolist() == list(range(len(kept)))
    assert [decoded(batch, i) for i in range(len(batch))] == kept


@given(fields=feedback(text=st.text(min_size=1, max_size=4)), data=st.data())
def test_encoding_then_selecting_then_decoding_gives_back_every_row(fields: list[dict[str, Any]], data: st.DataObject) -> None:
    rows = [replace(row, completions=tuple(f"{i}{t}" for i, t in enumerate(row.completions))) for row in records(fields)]
    batch, _ = encode(CANDIDATES["given"](), rows, BYTES)
    picked = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=6))
    chosen = batch.select(torch.tensor(picked))
    assert [decoded(chosen, i) for i in range(len(picked))] == [rows[i] for i in picked]


@given(fields=feedback())
def test_pairs_keep_their_confidence_and_rankings_are_certain_except_where_scores_tie(fields: list[dict[str, Any]]) -> None:
    k = len(fields[0]["completions"])
    rows = [replace(row, completions=tuple(map(str, range(k)))) for row in records(fields)]
    if rows[0].scores is not None:
        rows = [replace(row, scores=tuple(float(round(score) // 4) for score in row.scores or ())) for row in rows]
    batch, _ = encode(CANDIDATES["given"](), rows, BYTES)
    found = batch.preferences()
    for b, row in enumerate(rows):
        for q, (i, j) in enumerate(itertools.combinations(range(k), 2)):
            tie = row.scores is not None and row.scores[i] == row.scores[j]
            expected = row.confidence if k == 2 else 0.5 if tie else 1.0
            assert float(found[q, b]) == expected


def test_rows_that_the_tokenizer_cannot_tell_apart_are_left_out_and_counted() -> None:
    for completions in ((" b", " B"), (" b", " B", " c"), (" b", " c", " B")):
        rows = [Feedback("a", completions), Feedback("a", (" b", " c", " a")[: len(completions)])]
        batch, counts = encode(CANDIDATES["given"](), rows, WORDS)
        assert len(batch) == 1
        assert counts["left out, equal after tokenisation"] == 1


def test_where_no_row_is_left_the_message_says_why_and_what_to_raise() -> None:
    message = (
        "of 2 pairs none is left .1 left out, prompt over max_prompt_tokens, 1 left out, completion over max_tokens.; "
        "raise candidates.max_tokens or candidates.max_prompt_tokens"
    )
    rows = [Feedback("a" * 9, ("b", "c")), Feedback("a", ("b" * 9, "c"))]
    with pytest.raises(ValueError, match=message):
        encode(CANDIDATES["given"](max_prompt_tokens=5, max_tokens=5), rows, BYTES)
    rows = [Feedback("a", (" x", " y", " b"))]  # two words that the tokenizer does not know
    with pytest.raises(ValueError, match=r"of 1 rankings of 3 none is left \(1 left out, equal .*\); choose a tokenizer that"):
        encode(CANDIDATES["given"](), rows, WORDS)
    with pytest.raises(ValueError, match=r"none is left .*; raise candidates\.max_tokens$"):
        encode(CANDIDATES["given"](max_prompt_tokens=5, max_tokens=5), [Feedback("a", ("b" * 9, "c"))], BYTES)
    cut = CANDIDATES["given"](max_tokens=5, on_long_completion=OnLong.truncate)
    with pytest.raises(ValueError, match=r"equal after tokenisation\); raise candidates\.max_tokens; choose"):
        encode(cut, [Feedback("a", ("b" * 9 + "c", "b" * 9))], BYTES)
    assert [noun(k) for k in (1, 2, 3)] == ["completions", "pairs", "rankings of 3"]


@given(fields=feedback(text=st.text("ab", min_size=1, max_size=40)), buffered=st.integers(1, 9), cells=st.integers(1, 99))
def test_rows_are_the_same_however_few_of_them_are_held(fields: list[dict[str, Any]], buffered: int, cells: int) -> None:
    rows = [replace(row, completions=tuple(f"{i}{t}" for i, t in enumerate(row.completions))) for row in records(fields)] * 3
    whole, _ = encode(GivenCandidates(max_tokens=64), rows, BYTES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "BUFFERED", buffered)
        patch.setattr(writing, "CELLS", cells)
        parts, _ = encode(GivenCandidates(max_tokens=64), rows, BYTES)
    assert whole.tensors().keys() == parts.tensors().keys()
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, parts.tensors()[name]), name


@given(fields=feedback(), cut=st.tuples(st.booleans(), st.booleans()))
def test_what_is_too_long_is_cut_where_it_may_be_and_does_not_end_there(fields: list[dict[str, Any]], cut: Any) -> None:
    rows = [replace(row, completions=tuple(f"{i}{t}" for i, t in enumerate(row.completions))) for row in records(fields)]
    actions = [OnLong.truncate if may else OnLong.drop for may in cut]
    spec = GivenCandidates(max_prompt_tokens=3, max_tokens=4, on_long_prompt=actions[0], on_long_completion=actions[1])
    expected, counts = [], [0, 0, 0, 0]
    for row in rows:
        texts = [list(text.encode()) for text in row.completions]
        long = [len(row.prompt) + 1 > 3, max(map(len, texts)) + 1 > 4]
        if long[0] and not cut[0]:
            counts[0] += 1
        elif long[1] and not cut[1]:
            counts[1] += 1
        else:
            prompt = row.prompt[-2:] if long[0] else row.prompt
            completions = [[*BYTES.encode(bytes(text).decode()), BYTES.end][:4] for text in texts]
            expected.append(([BYTES.start, *BYTES.encode(prompt)], completions))
            counts[2] += long[0]
            counts[3] += long[1]
    if not expected:
        return
    batch, found = encode(spec, rows, BYTES)
    left, other = list(found.values())[:2], list(found.values())[3:]
    assert [*left, *other] == counts
    for i, (prompt_ids, completions) in enumerate(expected):
        assert batch.prompt[i][batch.prompt_mask[i]].tolist() == prompt_ids
        for k, ids in enumerate(completions):
            assert batch.completions[k, i][batch.mask[k, i]].tolist() == ids


def test_what_is_too_long_is_an_error_where_that_is_wanted() -> None:
    rows = [Feedback("aaaaaaaa", ("b", "c")), Feedback("a", ("b" * 9, "c"))]
    with pytest.raises(ValueError, match=r"a prompt of 9 tokens, over candidates\.max_prompt_tokens=3, in the row that .* 'aa"):
        encode(GivenCandidates(max_prompt_tokens=3, on_long_prompt=OnLong.error), rows, BYTES)
    with pytest.raises(ValueError, match=r"a completion of 10 tokens, over candidates\.max_tokens=4, in the row that .* 'a'"):
        encode(GivenCandidates(max_tokens=4, on_long_completion=OnLong.error), rows, BYTES)


def test_a_conversation_is_cut_from_the_left_without_a_start_token() -> None:
    turns = (Message("user", "hello"),)
    template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    tokenizer = Tokenizer(BYTES.backend, start=None, chat_template=template)
    spec = GivenCandidates(max_prompt_tokens=2, on_long_prompt=OnLong.truncate)
    batch, _ = encode(spec, [Feedback(turns, ("b", "c"))], tokenizer)
    assert tokenizer.decode(batch.prompt[0].tolist()) == "o\n"


def test_rows_of_different_kinds_are_refused() -> None:
    one = Feedback("a", ("b", "c"))
    for other, message in (
        (Feedback("a", ("b",), desirable=True), r"equally many completions, found rows with \[1, 2\]"),
        (replace(one, scores=(1.0, 0.0)), "some rows of the data have scores and some have none"),
        (replace(one, margin=1.0), "some rows of the data have margin and some have none"),
        (replace(one, desirable=True), "some rows of the data have desirable and some have none"),
    ):
        with pytest.raises(ValueError, match=message):
            encode(CANDIDATES["given"](), [one, other], BYTES)


@pytest.mark.parametrize("field", ["max_tokens", "max_prompt_tokens"])
def test_a_limit_below_one_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=rf"candidates\.{field} must be at least 1, got 0"):
        CANDIDATES["given"](**{field: 0})


REFUSING = Tokenizer(
    BYTES.backend,
    chat_template=(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{{ bos_token if loop.first }}{{ m.content | replace('<|', '</') | replace('|>', '>') }}{% endfor %}"
    ),
)
READABLE = Feedback((Message("user", "hello"),), (" b", " c"), where="pairs.jsonl:1")
BAD_ROWS = {
    "refuses a conversation of system, user: System": (
        REFUSING,
        Feedback((Message("system", "x"), Message("user", "y")), ("b", "c")),
    ),
    "an empty prompt, and the tokenizer has no start token": (Tokenizer(BYTES.backend, start=None), Feedback("", (" b", "!c"))),
    "a message holds the text of a special token, and the chat template reads it as its own": (
        Tokenizer(
            BYTES.backend, chat_template="{% for m in messages %}{{ '!' if '</s>' in m.content else m.content }}{% endfor %}"
        ),
        Feedback((Message("user", "</s>"),), ("b", "c")),
    ),
    "a completion of 10 tokens, over candidates.max_tokens=6": (BYTES, Feedback("a", ("b" * 9, "c"))),
    "a prompt of 100 tokens, over candidates.max_prompt_tokens=64": (BYTES, Feedback("a" * 99, ("b", "c"))),
}


@pytest.mark.parametrize("said", BAD_ROWS)
def test_a_row_that_cannot_become_tokens_is_named_by_file_and_line_or_left_out(said: str) -> None:
    tokenizer, row = BAD_ROWS[said]
    spec = GivenCandidates(max_tokens=6, on_long_prompt=OnLong.error, on_long_completion=OnLong.error)
    bad = replace(row, where="pairs.jsonl:38")
    rows = [READABLE, bad, READABLE]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.safetensors"
        with pytest.raises(ValueError, match=r"^pairs\.jsonl:38: .*; data\.on_bad_row=skip leaves such rows out$") as caught:
            spec.write(rows, tokenizer, path)
        assert said in str(caught.value)
        messages: list[str] = []
        counts = spec.write(rows, tokenizer, path, messages.append)
        assert counts["left out, bad rows"] == 1
        assert len(CandidateBatch.from_tensors(load(path.read_bytes()))) == 2
        (message,) = messages
        assert message.startswith("pairs.jsonl:38: ")
        assert said in message
        with pytest.raises(ValueError, match=r"none is left \(1 left out, bad rows, such as pairs\.jsonl:38: [^;]*\)$"):
            spec.write([bad], tokenizer, path, messages.append)


def test_text_that_spells_special_tokens_is_read_as_characters_and_counted() -> None:
    rows = [
        Feedback("<s>a", ("b</s>", "c")),
        Feedback("a", ("b", "c")),
        Feedback("<|im_start|>user\na", ("b", "c")),
        Feedback((Message("user", "what is </s>?"),), ("b", "c")),
    ]
    batch, counts = encode(GivenCandidates(), rows, BYTES)
    (said,) = [what for what in counts if "spells" in what]
    assert counts[said] == 3
    assert said.startswith("whose text spells </s>, <s>, <|im_start|>: read as characters, not as special tokens")
    assert decoded(batch, 0).completions == ("b</s>", "c")
    assert batch.prompt[0][batch.prompt_mask[0]].tolist() == [BYTES.start, *BYTES.encode("<s>a")]
    assert not any("spells" in what for what in encode(GivenCandidates(), rows[1:2], BYTES)[1])
