"""Tokenizers: text comes back, candidates are cut where they part, completions end."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dpo_lab.data.tokenizers import TOKENIZERS, Tokenizer

TEXTS = [
    "the cat sat on the mat.",
    "the catalogue of cats, and the mats!",
    "don't sit; it's 3 o'clock — naïve café 漢字 🙂",
] * 3
TRAINED = {
    "byte": TOKENIZERS["byte"]().train(TEXTS),
    "bpe": TOKENIZERS["bpe"](vocab_size=300).train(TEXTS),
    "word": TOKENIZERS["word"](vocab_size=40).train(TEXTS),
}
WORDS = st.lists(st.sampled_from(["the", "cat", "catalogue", "sat", "mats", " ", "  ", ".", "é", "🙂"]), max_size=5).map(
    "".join
)
ANY_TEXT = st.text(max_size=12) | WORDS
byte_level = pytest.mark.parametrize("name", ["byte", "bpe"])
every = pytest.mark.parametrize("name", list(TRAINED))


def test_every_registered_tokenizer_is_tested() -> None:
    assert set(TRAINED) == set(TOKENIZERS)


@byte_level
@given(text=ANY_TEXT)
@example(text="</s>")
@example(text="a <s> b <unk>")
@example(text="\r\n\t \x00")
def test_byte_level_tokenizers_give_any_text_back(name: str, text: str) -> None:
    tokenizer = TRAINED[name]
    assert tokenizer.decode(tokenizer.encode(text)) == text


@every
@given(text=ANY_TEXT)
@example(text="</s>")
@example(text="<s>x</s>")
def test_no_text_holds_a_start_or_end_token(name: str, text: str) -> None:
    tokenizer = TRAINED[name]
    assert not {tokenizer.start, tokenizer.end} & set(tokenizer.encode(text))


@every
@given(text=ANY_TEXT)
def test_ids_lie_within_the_vocabulary(name: str, text: str) -> None:
    assert all(0 <= i < TRAINED[name].vocab_size for i in TRAINED[name].encode(text))


def test_the_byte_tokenizer_has_a_token_for_each_byte() -> None:
    tokenizer = TRAINED["byte"]
    assert tokenizer.vocab_size == 256 + 3
    assert len(tokenizer.encode("é🙂a")) == 2 + 4 + 1


def test_pairs_of_bytes_that_come_often_become_one_token() -> None:
    assert TRAINED["bpe"].vocab_size == 300
    assert len(TRAINED["bpe"].encode("the cat")) < len(TRAINED["byte"].encode("the cat"))


@byte_level
@given(prompt=ANY_TEXT, completions=st.lists(ANY_TEXT, min_size=1, max_size=3))
def test_prompt_and_completion_decode_to_the_joint_text(name: str, prompt: str, completions: list[str]) -> None:
    tokenizer = TRAINED[name]
    start, rows = tokenizer.encode_candidates(prompt, completions)
    assert start[0] == tokenizer.start
    assert len(rows) == len(completions)
    for completion, row in zip(completions, rows, strict=True):
        assert row[-1] == tokenizer.end
        assert tokenizer.end not in row[:-1]
        assert tokenizer.decode([*start, *row]) == prompt + completion


@every
@given(prompt=WORDS, completions=st.lists(WORDS, min_size=1, max_size=3))
def test_candidates_are_cut_where_they_and_the_prompt_last_agree(name: str, prompt: str, completions: list[str]) -> None:
    tokenizer = TRAINED[name]
    start, rows = tokenizer.encode_candidates(prompt, completions)
    joint = [tokenizer.encode(prompt + completion) for completion in completions]
    assert [[*start[1:], *row[:-1]] for row in rows] == joint, "together they are what running text gives"
    columns = list(zip(tokenizer.encode(prompt), *joint, strict=False))
    parted = [i for i, column in enumerate(columns) if len(set(column)) > 1]
    assert len(start) - 1 == (parted[0] if parted else len(columns))


def test_a_word_that_only_begins_in_the_prompt_belongs_to_the_completion() -> None:
    tokenizer = TRAINED["word"]
    start, (chosen, rejected) = tokenizer.encode_candidates("the cat", ["alogue", "s"])
    assert tokenizer.decode(start) == "the"
    assert (tokenizer.decode(chosen), tokenizer.decode(rejected)) == ("catalogue", "cats")


def test_the_word_tokenizer_lower_cases_and_has_one_token_for_all_it_does_not_know() -> None:
    tokenizer = TRAINED["word"]
    assert tokenizer.encode("The CAT") == tokenizer.encode("the cat")
    known, unknown, other = tokenizer.encode("cat zebra xylophone")
    assert unknown == other == tokenizer.unknown != known
    assert tokenizer.decode(tokenizer.encode("The cat sat, on it's mat!")) != ""
    assert tokenizer.decode(tokenizer.encode("don't sit on the mat.")) == "don't sit on the mat."


def test_the_word_tokenizer_keeps_the_most_frequent_words() -> None:
    tokenizer = TOKENIZERS["word"](vocab_size=5).train(["a a a b b c"])
    assert tokenizer.vocab_size == 5
    assert [i == tokenizer.unknown for i in tokenizer.encode("a b c")] == [False, False, True]


@every
@given(text=ANY_TEXT)
@example(text="</s>")
def test_a_loaded_tokenizer_is_the_saved_one(name: str, text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.getbasetemp() / f"tokenizer-{name}"
    if not directory.exists():
        directory.mkdir()
        TRAINED[name].save(directory)
    loaded = Tokenizer.load(directory)
    assert loaded.vocab_size == TRAINED[name].vocab_size
    assert loaded.encode(text) == TRAINED[name].encode(text)
    assert (loaded.start, loaded.end, loaded.unknown) == (TRAINED[name].start, TRAINED[name].end, TRAINED[name].unknown)


@every
def test_the_same_text_trains_the_same_tokenizer(name: str, tmp_path: Path) -> None:
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        TOKENIZERS[name]().train(TEXTS).save(tmp_path / run)
    assert (tmp_path / "one" / "tokenizer.json").read_bytes() == (tmp_path / "two" / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(("name", "size"), [("bpe", 258), ("word", 3)])
def test_a_vocabulary_that_is_too_small_is_refused(name: str, size: int) -> None:
    with pytest.raises(ValueError, match=rf"tokenizer\.vocab_size .*got {size}"):
        TOKENIZERS[name](vocab_size=size)


@every
@given(before=ANY_TEXT, text=ANY_TEXT)
def test_the_pieces_of_a_text_are_the_text(name: str, before: str, text: str) -> None:
    tokenizer = TRAINED[name]
    after = [tokenizer.start, *tokenizer.encode(before)]
    ids = [*tokenizer.encode(text), tokenizer.end]
    pieces = tokenizer.pieces(ids, after)
    assert len(pieces) == len(ids)
    whole = tokenizer.spelled([*after, *ids])
    assert whole.endswith("</s>")
    if name != "word":  # whose decoder closes up what came before
        assert tokenizer.spelled(after) + "".join(pieces) == whole


def test_the_text_of_a_special_token_is_told_apart_from_the_token() -> None:
    tokenizer = TOKENIZERS["byte"]().train([])
    assert tokenizer.start is not None
    ids = [tokenizer.start, *tokenizer.encode("é<s>, </s><S>"), tokenizer.end]
    assert "".join(tokenizer.told_apart(ids)) == "<s>é\\<s>, \\</s>\\<S></s>"
    assert "".join(tokenizer.pieces(ids)) == "<s>é<s>, </s><S></s>"
    assert tokenizer.told_apart(ids[:-1])[3:] == tokenizer.told_apart(ids[3:-1], after=ids[:3])
