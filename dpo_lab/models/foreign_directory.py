"""What a model's directory must hold, told from its files' names and config.json before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ADAPTER = "adapter_config.json"
PICKLED = ("pytorch_model*.bin", "model*.bin", "consolidated*.pth", "*.ckpt")
VOCABULARIES = ("tokenizer.json", "*.model", "vocab.json", "vocab.txt", "tekken.json", "*.tiktoken")
"""Files that hold a tokenizer's words; settings alone do not make one."""


def check_directory(path: Path) -> None:
    """Raises ValueError, in one line with the way out, where the files are no causal language model that is read here."""
    if (path / ADAPTER).is_file():
        base = _object(path / ADAPTER).get("base_model_name_or_path")
        of = f"an adapter of {base}" if base else "an adapter"
        raise ValueError(
            f"model.path: {path} is {of} ({ADAPTER}), not a model: merge the two first (peft: merge_and_unload(), then "
            "save_pretrained; a run made here: runner=export) and name the merged directory"
        )
    if not (path / "config.json").is_file():
        raise ValueError(f"model.path: {path} holds no config.json; what was trained here loads with model=checkpoint")
    kinds = _object(path / "config.json").get("architectures") or []
    if any("MaskedLM" in str(kind) for kind in kinds):
        raise ValueError(
            f"model.path: {path} holds a {kinds[0]}, which fills in masked tokens and sees those that follow: name a causal "
            "language model (...ForCausalLM)"
        )
    if not any(path.glob("*.safetensors")):
        pickled = sorted(file.name for kind in PICKLED for file in path.glob(kind))
        if pickled:
            raise ValueError(
                f"model.path: the weights in {path} are pickled ({pickled[0]}), and such a file can run any code: convert them "
                "to safetensors where you trust them (transformers: from_pretrained, then save_pretrained)"
            )
        raise ValueError(f"model.path: {path} holds no weights; expected model.safetensors, whole or in parts with an index")
    if not any(file for kind in VOCABULARIES for file in path.glob(kind)):
        raise ValueError(
            f"model.path: {path} holds no tokenizer; expected tokenizer.json (or tokenizer.model, or vocab.json with "
            "merges.txt) and tokenizer_config.json: copy them from the model that it was trained from"
        )


def _object(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"model.path: {file} is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"model.path: {file} must hold an object, found {type(found).__name__}")
    return found
