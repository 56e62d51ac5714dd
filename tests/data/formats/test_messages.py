"""Messages carry more than role and content: it reaches the chat template, or is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend

from dpo_lab.data.files.source import RowSource
from dpo_lab.data.messages import Message, plain
from dpo_lab.data.row_reader import ReadReport, RowReader, read_feedback
from dpo_lab.data.tokenizers import TOKENIZERS, Tokenizer
from dpo_lab.preferences.given import GivenCandidates

ASKED = {"role": "user", "content": "weather in Ulm?"}
FUNCTIONS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}\n{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content or '' }}"
    "{{ m.reasoning_content or '' }}{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def call(city: str, **more: Any) -> dict[str, Any]:
    function = {"name": "weather", "arguments": json.dumps({"city": city})}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": function}], **more}


def chat(template: str | None = TEMPLATE) -> Tokenizer:
    bytes_only = TOKENIZERS["byte"]().train([])
    return Tokenizer(Backend.from_str(bytes_only.backend.to_str()), chat_template=template)


def read(path: Path, *rows: dict[str, Any]) -> tuple[list[Any], list[str]]:
    file = path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report, source = ReadReport(), RowSource("data.path", [str(file)], None, "train")
    return list(RowReader(source).read(report)), report.notes(source)


def laid_out(row: Any, template: str | None = TEMPLATE) -> list[str]:
    tokenizer = chat(template)
    prompt, completions = tokenizer.encode_candidates(row.prompt, row.completions)
    return [tokenizer.decode([*prompt, *ids]) for ids in completions]


def test_calls_results_and_functions_on_offer_reach_the_template(tmp_path: Path) -> None:
    asked = [ASKED, call("Ulm"), {"role": "tool", "tool_call_id": "c", "content": {"sky": "blue"}}]
    row, notes = read(tmp_path, {"tools": FUNCTIONS, "prompt": asked, "chosen": [call("Ulm")], "rejected": [call("Bonn")]})
    chosen, rejected = laid_out(row[0])
    begin = json.dumps(FUNCTIONS) + '\nuser: weather in Ulm?\nassistant: {"name": "weather", "arguments": {"city": "Ulm"}}\n'
    begin += 'tool: {"sky": "blue"}\nassistant: {"name": "weather", "arguments": {"city": '
    assert (chosen, rejected) == (begin + '"Ulm"}}', begin + '"Bonn"}}')
    (note,) = (note for note in notes if "besides role and content" in note)
    assert "'tool_calls' (1 rows)" in note
    assert "'tool_call_id' (1 rows)" in note


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_reaches_the_template_by_whichever_name_it_has(tmp_path: Path, name: str) -> None:
    sides = {side: {"role": "assistant", "content": "sunny", name: why} for side, why in (("chosen", "A"), ("rejected", "B"))}
    row, _ = read(tmp_path, {"prompt": [ASKED], **sides})
    assert [text.rpartition(": ")[2] for text in laid_out(row[0])] == ["sunnyA", "sunnyB"]
    assert not chat().unread(row[0].prompt, row[0].completions)


def test_what_the_template_does_not_read_is_named_and_counted(tmp_path: Path) -> None:
    sides = {"chosen": {"role": "assistant", "content": "a", "weight": 2}, "rejected": {"role": "assistant", "content": "b"}}
    rows, _ = read(tmp_path, {"tools": FUNCTIONS, "prompt": [ASKED], **sides}, {"prompt": [ASKED], **sides})
    short = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}{{ 'assistant: ' if add_generation_prompt }}"
    counts = GivenCandidates().write(rows, chat(short), tmp_path / "out.safetensors")
    named = {reason: count for reason, count in counts.items() if "does not read" in reason}
    end = "in their messages, which the chat template does not read"
    assert named == {f"with 'weight' {end}": 2, f"with 'tools' {end}": 1}


def test_without_a_template_everything_is_written_out(tmp_path: Path) -> None:
    row, _ = read(tmp_path, {"tools": FUNCTIONS, "prompt": [ASKED], "chosen": call("Ulm"), "rejected": call("Bonn")})
    chosen, rejected = laid_out(row[0], template=None)
    assert chosen.startswith(f"tools: {json.dumps(FUNCTIONS)}\nuser: weather in Ulm?\nassistant: {{")
    assert "Ulm" in chosen.rpartition("assistant:")[2]
    assert "Bonn" in rejected.rpartition("assistant:")[2]
    assert plain(row[0].prompt) in chosen


def test_a_template_that_needs_arguments_as_text_gets_them_and_one_that_asks_for_null_gets_null() -> None:
    said = Message("assistant", "", json.dumps({"tool_calls": call("Ulm")["tool_calls"]}))
    joined = "{% for m in messages %}{{ 'call ' + m.tool_calls[0].function.arguments }}{% endfor %}"
    assert chat(joined).decode(chat(joined).encode_chat([said])) == 'call {"city": "Ulm"}'
    asks = "{% for m in messages %}{% if m['content'] is none %}null{% else %}some{% endif %}{% endfor %}"
    assert chat(asks).decode(chat(asks).encode_chat([said])) == "null"
    prints = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    assert chat(prints).decode(chat(prints).encode_chat([said])) == "[]"


ROLES = {
    "user": ["human", "user"],
    "system": ["developer", "system"],
    "assistant": ["gpt", "model", "tool_call", "function_call"],
    "tool": ["tool_response", "observation", "ipython", "function", "tool"],
}


@pytest.mark.parametrize(("ours", "theirs"), [(ours, name) for ours, names in ROLES.items() for name in names])
def test_a_role_of_others_is_the_one_that_templates_know(tmp_path: Path, ours: str, theirs: str) -> None:
    turns = [{"from": theirs, "value": "x"}, {"from": "human", "value": "y"}]
    row, _ = read(
        tmp_path, {"conversations": turns, "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}}
    )
    assert row[0].prompt[0] == Message(ours, "x")


def test_two_dialects_in_one_table_are_read_by_the_one_that_has_values(tmp_path: Path) -> None:
    def both(**given: Any) -> dict[str, Any]:
        return dict.fromkeys(("role", "content", "from", "value", "tool_calls")) | given

    sides = {"chosen": [both(role="assistant", content="a")], "rejected": [both(**{"from": "gpt", "value": "b"})]}
    nulls = dict.fromkeys(("completion", "completions", "label", "system", "tools", "conversations"))
    row, notes = read(tmp_path, {**nulls, "prompt": [both(**{"from": "human", "value": "hi"})], **sides})
    assert row[0].prompt == (Message("user", "hi"),)
    assert row[0].completions == ("a", "b")
    assert "data.format=chat" in notes[0]


def test_words_that_are_missing_are_still_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"prompt": [{"role": "user", "content": None}], "chosen": "a", "rejected": "b"})
    )
    with pytest.raises(ValueError, match=r"a\.jsonl:1: 'prompt\[0\]\.content' must be a string, found NoneType"):
        read_feedback(str(tmp_path / "a.jsonl"))
