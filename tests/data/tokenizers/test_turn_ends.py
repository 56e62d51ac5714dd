"""A completion ends where the chat template ends a turn, and where the model's generation settings say."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from dpo_lab.data.messages import Message
from dpo_lab.data.tokenizers import Tokenizer

SPECIALS = ["<bos>", "<eos>", "<turn>", "</turn>", "<more>"]
TURNS = "{% for m in messages %}<turn>{{ m.role }}\n{{ m.content }}</turn>\n{% endfor %}"
OPENED = "{{ '<turn>assistant\n' }}"
ASKS = "{% if add_generation_prompt %}" + OPENED + "{% endif %}"
TEMPLATES = {
    "its own token": TURNS + ASKS,
    "a header that is always there": TURNS + OPENED,
    "an end of the whole": TURNS + "{{ '' if add_generation_prompt else '<eos>' }}" + ASKS,
    "no closing between turns": "{% for m in messages %}<turn>{{ m.role }}\n{{ m.content }}{% endfor %}"
    "{{ '<turn>assistant\n' if add_generation_prompt else '</turn>' }}",
    "turns in pairs": "{% if messages | length % 2 and not add_generation_prompt %}{{ raise_exception('odd') }}{% endif %}"
    + TURNS
    + ASKS,
}
ASKED = (Message("user", "hi"),)


@cache
def backend() -> Backend:
    made = Backend(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        [], trainers.BpeTrainer(vocab_size=270, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_tokens([AddedToken("<end>", special=False)])
    return made


def made(template: str | None, end: str = "<eos>", stops: tuple[int, ...] = ()) -> Tokenizer:
    return Tokenizer(backend(), "<bos>", end, None, template, stops)


def ids(*tokens: str) -> tuple[int, ...]:
    return tuple(backend().token_to_id(token) for token in tokens)


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_turn_ends_with_the_templates_token_and_nothing_behind_it_is_scored(kind: str) -> None:
    tokenizer = made(TEMPLATES[kind])
    assert tokenizer.ends == ids("<eos>", "</turn>")
    prompt, completions = tokenizer.encode_candidates(ASKED, ["yes", "no"])
    assert [tokenizer.spelled(row) for row in completions] == ["yes</turn>", "no</turn>"]
    assert prompt == tokenizer.encode_prompt(ASKED)
    assert tokenizer.decode(completions[0]) == "yes"


def test_a_template_that_knows_no_prompt_to_generate_from_gives_the_header_to_the_prompt() -> None:
    tokenizer = made(TURNS)
    prompt, completions = tokenizer.encode_candidates(ASKED, ["yes", "no"])
    assert tokenizer.spelled(prompt) == "<turn>user\nhi</turn>\n<turn>assistant\n"
    assert [tokenizer.spelled(row) for row in completions] == ["yes</turn>", "no</turn>"]
    assert prompt == tokenizer.encode_prompt(ASKED)


def test_a_template_that_ends_turns_with_the_end_token_adds_none() -> None:
    assert made(TEMPLATES["its own token"], end="</turn>").ends == ids("</turn>")
    thinking = TURNS.replace("</turn>", "<more></turn>")
    assert made(thinking, end="</turn>").ends == ids("</turn>")
    assert made(TURNS.replace("</turn>", ""), end="<eos>").ends == ids("<eos>")
    assert made("{{ raise_exception('no') }}").ends == made("{% broken").ends == made(None).ends == ids("<eos>")


def test_an_added_token_that_is_not_special_ends_a_turn_where_no_special_one_does() -> None:
    assert made("{% for m in messages %}{{ m.role }}: {{ m.content }}<end>\n{% endfor %}").ends == ids("<eos>", "<end>")
    assert made("{% for m in messages %}{{ m.role }}: {{ m.content }}<end></turn>\n{% endfor %}").ends == ids(
        "<eos>", "</turn>"
    )


def test_a_text_ends_with_the_end_token() -> None:
    assert made(TEMPLATES["its own token"]).encode_candidates("a", ["b", "c"])[1][0][-1] == ids("<eos>")[0]


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_what_the_generation_settings_stop_at_ends_a_completion(file: str, tmp_path: Path) -> None:
    made(None).save(tmp_path)
    assert not (tmp_path / file).exists()
    eos, more = ids("<eos>", "<more>")
    letter = backend().token_to_id("a")
    for given, expected in ((more, (eos, more)), ([more, eos, letter], (eos, more)), (None, (eos,)), ([], (eos,))):
        (tmp_path / file).write_text(json.dumps({"eos_token_id": given, "temperature": 0.5}))
        assert Tokenizer.load(tmp_path).ends == expected, "a letter may stand in any text"
    (tmp_path / file).write_text(json.dumps({"text_config": {"eos_token_id": [more]}}))
    assert Tokenizer.load(tmp_path).ends == (eos, more)
    for wrong in ("</s>", ["a"], [True], 1.0):
        (tmp_path / file).write_text(json.dumps({"eos_token_id": wrong}))
        with pytest.raises(ValueError, match=rf"{file}: eos_token_id must be a token's number or a list of them, got "):
            Tokenizer.load(tmp_path)


def test_generation_settings_go_before_the_networks(tmp_path: Path) -> None:
    made(None).save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": ids("<turn>")[0]}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ids("<more>")[0]}))
    assert Tokenizer.load(tmp_path).ends == ids("<eos>", "<more>")


def test_a_saved_tokenizer_ends_where_it_did_and_keeps_what_else_the_settings_say(tmp_path: Path) -> None:
    tokenizer = made(TEMPLATES["its own token"], stops=ids("<more>"))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 1, "temperature": 0.5}))
    tokenizer.save(tmp_path)
    assert Tokenizer.load(tmp_path).ends == tokenizer.ends == ids("<eos>", "<more>", "</turn>")
    found = json.loads((tmp_path / "generation_config.json").read_text())
    assert found == {"eos_token_id": list(tokenizer.ends), "temperature": 0.5}


def test_where_a_completion_ends_is_in_the_fingerprint() -> None:
    whole = TEMPLATES["its own token"]
    several = [made(None), made(whole), made(whole, stops=ids("<more>")), made(whole.replace("\n", " "))]
    assert len({json.dumps(tokenizer.fingerprint()) for tokenizer in several}) == 4
