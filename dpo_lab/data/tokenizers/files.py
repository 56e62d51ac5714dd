"""Tokenizer files, as Hugging Face's libraries read and write them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing

VOCABULARY, SETTINGS, TEMPLATE, TOKEN_MAP = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
)
GENERATION, NETWORK = "generation_config.json", "config.json"
TOKENS = ("bos_token", "eos_token", "unk_token")
DEFAULT_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def write(
    directory: Path,
    backend: Backend,
    names: Mapping[str, str | None],
    chat_template: str | None,
    ends: Sequence[int],
) -> None:
    """tokenizer.json and tokenizer_config.json; with a start token, one that transformers puts in front of a text too.

    Several end tokens are written into generation_config.json, beside what stands there: transformers then stops at them too.
    """
    start = names["bos_token"]
    if start is not None and not _prepends_start(backend, start):
        backend = Backend.from_str(backend.to_str())
        backend.post_processor = TemplateProcessing(
            single=[start, "$A"], pair=[start, "$A", "$B:1"], special_tokens=[(start, backend.token_to_id(start))]
        )
    backend.save(str(directory / VOCABULARY))
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    settings |= {name: token for name, token in names.items() if token is not None}
    settings["add_bos_token"] = start is not None
    if chat_template is not None:
        settings["chat_template"] = chat_template
    (directory / SETTINGS).write_text(json.dumps(settings, indent=1, ensure_ascii=False), encoding="utf-8")
    if len(ends) > 1:
        generation = _object(directory / GENERATION) | {"eos_token_id": list(ends)}
        (directory / GENERATION).write_text(json.dumps(generation, indent=1), encoding="utf-8")


def read(directory: Path) -> tuple[Backend, dict[str, str | None], str | None]:
    """The tokenizer, its start, end and unknown token by transformers' names, and its chat template.

    The start token is None where transformers puts none in front of a text. Raises ValueError for what cannot be read.
    """
    path = directory / VOCABULARY
    if not path.is_file():
        raise ValueError(f"there is no {VOCABULARY} in {directory}")
    try:
        backend = Backend.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{path}: not a tokenizer ({error})") from error
    if not (directory / SETTINGS).is_file() and not (directory / TOKEN_MAP).is_file():
        if backend.token_to_id(DEFAULT_TOKENS["eos_token"]) is None:
            raise ValueError(f"there is no {SETTINGS} in {directory}, which would name the eos_token that ends a completion")
        return backend, {name: t for name, t in DEFAULT_TOKENS.items() if backend.token_to_id(t) is not None}, None
    settings = _object(directory / TOKEN_MAP) | _object(directory / SETTINGS)
    names = {name: _content(settings.get(name)) for name in TOKENS}
    if names["eos_token"] is None:
        raise ValueError(f"{directory / SETTINGS}: it names no eos_token, so nothing could end a completion")
    if names["unk_token"] is not None and backend.token_to_id(names["unk_token"]) is None:
        names["unk_token"] = None
    start = names["bos_token"]
    prepended = settings.get("add_bos_token")
    if start is not None and not (prepended if isinstance(prepended, bool) else _prepends_start(backend, start)):
        names["bos_token"] = None
    return backend, names, _template(directory, settings.get("chat_template"))


def stops(directory: Path) -> list[int]:
    """The tokens at which transformers stops to generate: those of generation_config.json, or else of config.json."""
    file = directory / (GENERATION if (directory / GENERATION).is_file() else NETWORK)
    settings = _object(file)
    found = settings.get("eos_token_id")
    if found is None and isinstance(settings.get("text_config"), dict):  # of a model that reads more than text
        found = settings["text_config"].get("eos_token_id")
    ids = [] if found is None else found if isinstance(found, list) else [found]
    if not all(type(i) is int for i in ids):
        raise ValueError(f"{file}: eos_token_id must be a token's number or a list of them, got {found!r}")
    return ids


def _prepends_start(backend: Backend, start: str) -> bool:
    return backend.encode("a").tokens[:1] == [start]


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: expected an object, found {type(settings).__name__}")
    return settings


def _content(token: Any) -> str | None:
    """A token's text, which may be a field of an object with its properties."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _template(directory: Path, given: Any) -> str | None:
    """The chat template: in a file of its own, in the settings, or there as the default one of several."""
    if (directory / TEMPLATE).is_file():
        return (directory / TEMPLATE).read_text(encoding="utf-8")
    if isinstance(given, list):
        named = {entry.get("name"): entry.get("template") for entry in given if isinstance(entry, dict)}
        given = named.get("default")
    return given if isinstance(given, str) else None
