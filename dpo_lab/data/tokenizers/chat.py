"""Chat templates: the Jinja text that comes with a tokenizer and lays out a conversation, run in a sandbox."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from dpo_lab.data.messages import Message, UntokenizableError
from dpo_lab.data.tokenizers.turns import ALIASES, turns_of

OPAQUE = "\ue000"  # private use: no template and no special token holds it


NULL_CONTENT = re.compile(r"content['\"\]]*\s+is\s+(not\s+)?none", re.IGNORECASE)
"""Of templates that know a call by its message having no content; others would write the word None."""


class ChatTemplate:
    """A template as transformers runs it: the same environment, functions and filters, with the special tokens by name."""

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        self.source = source
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _refuse, "strftime_now": _now, "namespace": _Namespace, **tokens}
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ValueError(f"the tokenizer's chat template cannot be read: {error}") from error

    def render(self, messages: Sequence[Message], reply: bool = False) -> str:
        """The conversation as one text; `reply`: with the beginning of the assistant's next turn.

        Raises ValueError with what the template says of messages that it refuses.
        """
        try:
            return self._render(messages, reply, parse=True)
        except Exception as error:  # whatever a stranger's template does with these messages
            if any(message.more for message in messages):  # some join a call's arguments to text, and so need them as text
                with suppress(Exception):
                    return self._render(messages, reply, parse=False)
            roles = ", ".join(message.role for message in messages)
            raise UntokenizableError(f"the tokenizer's chat template refuses a conversation of {roles}: {error}") from error

    def _render(self, messages: Sequence[Message], reply: bool, parse: bool) -> str:
        turns, tools = turns_of(messages, parse, null=NULL_CONTENT.search(self.source) is not None)
        return self._template.render(messages=turns, tools=tools, documents=None, add_generation_prompt=reply)

    def reads(self, name: str) -> bool:
        """Whether the template mentions that field of a message, under one of its names."""
        return any(re.search(rf"\b{re.escape(alias)}\b", self.source) for alias in {name, *ALIASES.get(name, ())})

    def render_marked(self, messages: Sequence[Message], hide: Callable[[str], str], reply: bool = False) -> tuple[str, str]:
        """The text, and the same text with whatever `hide` hides of the messages as OPAQUE characters.

        Raises ValueError where the template does not lay out both alike, for then nothing tells its own text from theirs.
        """
        text = self.render(messages, reply)
        hidden = [Message(*map(hide, message)) for message in messages]
        if hidden == list(messages):
            return text, text
        marked = self.render(hidden, reply)
        if len(marked) != len(text) or any(a != b for a, b in zip(text, marked, strict=True) if b != OPAQUE):
            raise UntokenizableError("a message holds the text of a special token, and the chat template reads it as its own")
        return text, marked


class _GenerationTag(Extension):
    """{% generation %} marks the assistant's words for trainers that ask the template; here it only encloses them."""

    tags = {"generation"}  # noqa: RUF012  # as its base class has it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class _Namespace(Namespace):
    """A template's own variables; names with an underscore would reach into Python."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, rest = args[0], args[1:]
        given = dict(*rest, **kwargs)
        for name in given:
            _check_name(name)
        Namespace.__init__(self, given)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        Namespace.__setitem__(self, name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a chat template must not set '{name}'")


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Jinja's own escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
