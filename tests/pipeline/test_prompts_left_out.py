"""Prompts to sample from that cannot become tokens obey data.on_bad_row, as rows do."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from dpo_lab.cli.composing import composed
from dpo_lab.data.messages import Message, Prompt
from dpo_lab.data.tokenizers import TOKENIZERS, Tokenizer
from dpo_lab.pipeline.context import Context
from dpo_lab.pipeline.stages.samples import encoded_prompts
from dpo_lab.pipeline.stages.text import Text
from dpo_lab.pipeline.study_config import to_study
from dpo_lab.tracking import Console

REFUSED: Prompt = (Message("system", "x"), Message("user", "y"))
PROMPTS: list[Prompt] = [(Message("user", "hello"),), REFUSED, (Message("user", "you"),)]
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ m.content }}{% endfor %}"
)


def text_of(on_bad_row: str, printed: io.StringIO) -> Text:
    context = object.__new__(Context)  # of a run only these are looked at
    context.study = to_study(composed(["data=pairs", f"data.path={Path(__file__)}", f"data.on_bad_row={on_bad_row}"]))
    context.console = Console(printed, width=120)
    return Text(context)


def test_a_prompt_that_the_template_refuses_is_left_out_and_counted_or_ends_the_run() -> None:
    tokenizer, printed = Tokenizer(TOKENIZERS["byte"]().train([]).backend, chat_template=TEMPLATE), io.StringIO()
    expected = [tokenizer.encode("hello"), tokenizer.encode("you")]
    assert encoded_prompts(text_of("skip", printed), PROMPTS, tokenizer) == expected
    assert "1 of 3 prompts left out, as they cannot become tokens" in printed.getvalue()
    with pytest.raises(
        ValueError, match=r"refuses a conversation of system, user: no system, in the prompt that begins 'system: x"
    ):
        encoded_prompts(text_of("error", printed), PROMPTS, tokenizer)
    with pytest.raises(ValueError, match="of 1 prompts none can become tokens, such as: the tokenizer's chat template refuses"):
        encoded_prompts(text_of("skip", printed), [REFUSED], tokenizer)
