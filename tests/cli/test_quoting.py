"""Paths and prompts are taken as they are written; of any other value the message shows how it is quoted."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpo_lab.cli.arguments import parse_arguments
from dpo_lab.cli.composing import composed
from dpo_lab.cli.grammar import parsed, quoted
from dpo_lab.cli.quoting import as_written

ANY = st.text(st.sampled_from("ab '\"\\=~[](){},ü:$!\n"), max_size=8)


def read(word: str, multirun: bool = False) -> object:
    (override,) = parsed([as_written(word, multirun)])
    return list(override.sweep_string_iterator()) if override.is_sweep_override() else override.value()


@given(ANY)
def test_a_quoted_text_is_read_as_it_was(text: str) -> None:
    assert parsed([f"name={quoted(text)}"])[0].value() == text


@pytest.mark.parametrize("key", ["data.path", "+data.eval_path", "model.path", "reference.path", "runner.to", "runs", "resume"])
@pytest.mark.parametrize(
    "path", ["a=b/ü.jsonl", "a b/c (1).jsonl", "epoch=3", "it's.csv", "x{1}", "[ab]*.jsonl", "2024", "a;b"]
)
def test_a_path_is_taken_as_it_is_written(key: str, path: str) -> None:
    assert read(f"{key}={path}") == path


def test_a_path_in_the_home_directory_is_found() -> None:
    assert read("store=~/artifacts") == str(Path("~/artifacts").expanduser())


def test_what_the_grammar_reads_of_a_path_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read("data.path=[a.jsonl,b=c.jsonl]") == ["a.jsonl", "b=c.jsonl"]
    assert read("data.path='a, b.jsonl'") == "a, b.jsonl"
    assert read("data.path=a.jsonl,b=c.jsonl", multirun=True) == ["a.jsonl", '"b=c.jsonl"']
    assert as_written("data.path=${oc.env:HOME}/x", False) == "data.path=${oc.env:HOME}/x"
    assert as_written("loss.beta=a=b", False) == "loss.beta=a=b"
    (tmp_path / "a, b.jsonl").touch()
    assert read("data.path=a, b.jsonl") == "a, b.jsonl", "there is such a file"


@pytest.mark.parametrize(
    "prompt", ['"Hi," she said.', "one, two [three] (four)", "x=1; y={2}", " it's ", "1e3", "null", "Grüße!"]
)
def test_a_prompt_is_taken_as_it_is_written(prompt: str) -> None:
    assert read(f"runner.prompt={prompt}") == prompt


def test_a_prompt_in_quotes_is_what_they_hold_and_several_are_a_sweep() -> None:
    assert read("runner.prompt='Hi, you'") == "Hi, you"
    assert read("runner.prompt=Hi,you", multirun=True) == ["Hi", "you"]


def test_the_settings_hold_what_was_written() -> None:
    command = parse_arguments(["runner=sample", "model=checkpoint", "model.path=a=b/ü", "runner.prompt=Well, (now)"])
    config = composed(command.words)
    assert (config.model.path, config.runner.prompt) == ("a=b/ü", "Well, (now)")


@pytest.mark.parametrize("word", ["tokenizer.mine=a=b", "k=~/x", "k=ü!", "k=it's (x)", 'k="a" b', "k=[1"])
def test_the_message_shows_how_to_quote_this_very_word(word: str) -> None:
    with pytest.raises(ValueError, match="with quotes around it: ") as caught:
        parsed([word])
    assert "Exception" not in str(caught.value)
    (shown,) = shlex.split(str(caught.value).partition("with quotes around it: ")[2])
    assert parsed([shown])[0].value() == word.partition("=")[2]
