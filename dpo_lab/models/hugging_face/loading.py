"""Reads and writes Hugging Face's directories: networks, tokenizers, configurations."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from dpo_lab.data.tokenizers import Tokenizer
from dpo_lab.data.tokenizers.files import GENERATION, NETWORK

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def read_network(path: Path, gguf_file: str | None, dtype: str, trust_remote_code: bool = False) -> PreTrainedModel:
    """The network in a directory, in evaluation mode. Raises ValueError where it cannot be read, or weights are missing."""
    options: dict[str, Any] = {"gguf_file": gguf_file} if gguf_file else {"use_safetensors": True}
    with _quiet():
        try:
            net, info = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=DTYPES[dtype],
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                **options,
            )
        except Exception as error:  # whatever is wrong with the files, in whatever way
            raise ValueError(f"model.path: {path} cannot be read: {_first_line(error)}") from error
    if info["missing_keys"] or info["mismatched_keys"]:
        names = sorted(map(str, {*info["missing_keys"], *info["mismatched_keys"]}))
        raise ValueError(f"model.path: {path} does not hold all weights of a {type(net).__name__}: {', '.join(names[:3])}")
    return net.eval()


def read_tokenizer(path: Path, gguf_file: str | None) -> Tokenizer:
    """The tokenizer in a directory. Raises ValueError where there is none that the lab can use."""
    if gguf_file is None and (path / "tokenizer.json").is_file():
        return Tokenizer.load(path)
    options: dict[str, Any] = {"gguf_file": gguf_file} if gguf_file else {}
    with _quiet(), TemporaryDirectory() as converted:
        try:
            AutoTokenizer.from_pretrained(path, local_files_only=True, **options).save_pretrained(converted)
        except Exception as error:
            raise ValueError(f"model.path: the tokenizer in {path} cannot be read: {_first_line(error)}") from error
        for name in (GENERATION, NETWORK):  # they say where a completion ends
            if (path / name).is_file():
                copyfile(path / name, Path(converted) / name)
        tokenizer = Tokenizer.load(Path(converted))
    if len(tokenizer.backend.get_vocab()) == len(tokenizer.backend.get_added_tokens_decoder()):
        raise ValueError(
            f"model.path: the tokenizer in {path} holds no words; expected tokenizer.json, or all files of its kind"
        )
    return tokenizer


def write_config(module: nn.Module, directory: Path) -> None:
    """Write config.json, which makes a directory with weights one that transformers loads."""
    assert isinstance(module.net, PreTrainedModel)
    module.net.config.save_pretrained(directory)
    if module.net.generation_config is not None:
        module.net.generation_config.save_pretrained(directory)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__} {lines[0]}"[:240]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars and warnings: what matters is checked."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with redirect_stderr(io.StringIO()):  # some bars ask nobody
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
