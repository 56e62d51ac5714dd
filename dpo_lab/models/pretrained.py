"""model=pretrained: a Hugging Face causal language model with its tokenizer; trained whole, or through a low-rank adapter."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from dpo_lab.artifacts.digests import cached_file_digest, digest
from dpo_lab.models.base import MODELS, ModelSpec, Opened
from dpo_lab.models.foreign_directory import check_directory
from dpo_lab.models.lora import Lora

SOURCE = "base.json"
"""In the policy directory of an adapter: which model it belongs to."""


class Dtype(Enum):
    """Number type of the weights."""

    fp32 = "fp32"
    bf16 = "bf16"


@MODELS.register
@dataclass
class PretrainedSpec(ModelSpec):
    """A Hugging Face causal language model with its tokenizer, from the directory `path`: any architecture of transformers."""

    name: str = "pretrained"
    path: str = ""
    """A directory with config.json, safetensors and tokenizer files."""
    gguf_file: str | None = None
    """A file in that directory that holds both, instead of safetensors. Its weights are unpacked."""
    dtype: Dtype = Dtype.fp32
    """Weights in bf16 take half the memory; an adapter's own are float32 in either. See compute.precision, too."""
    lora: Lora = field(default_factory=Lora)
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only the command line can say so."""

    def __post_init__(self) -> None:
        if self.dtype is Dtype.bf16 and self.lora.rank is None:
            raise ValueError(
                "model.dtype=bf16 is for adapters (model.lora.rank=...): small steps are lost in the rounding of bf16 weights; "
                "to train all weights, use compute.precision=bf16 instead"
            )

    def weights(self) -> Path | None:
        if not self.path:
            raise ValueError("model.path is not set: model=pretrained needs model.path=DIRECTORY")
        path = Path(self.path).expanduser()
        if not path.is_dir():
            raise ValueError(f"model.path: there is no directory {self.path}; nothing is downloaded")
        if self.gguf_file is None:
            check_directory(path)
        elif not (path / self.gguf_file).is_file():
            raise ValueError(f"model.gguf_file: {path} holds no {self.gguf_file}")
        self._check_installed()
        return path

    def open(self) -> Opened:
        from dpo_lab.models.hugging_face.fitness import check_causal, check_vocabulary
        from dpo_lab.models.hugging_face.loading import read_tokenizer

        path = self.weights()
        assert path is not None
        key = self._key(path)
        module: Any = self._network(path, self.gguf_file, key, self.trust_remote_code)
        tokenizer = read_tokenizer(path, self.gguf_file)
        check_vocabulary(path, module.net, tokenizer)
        check_causal(path, module.net)
        return Opened(module, tokenizer, digest([key, self.lora, self.dtype]))

    def rebuild(self, directory: Path, vocab_size: int) -> nn.Module:
        self._check_installed()
        if self.lora.rank is None:
            return self._network(directory)
        path, key = Path(self.path), json.loads((directory / SOURCE).read_text())["key"]
        if not path.is_dir() or self._key(path) != key:
            raise ValueError(
                f"model.path: {directory} is an adapter of the model at {path}, which is not there as it was; "
                "runner=export merges an adapter into a model of its own"
            )
        return self._network(path, self.gguf_file, key)

    def write(self, module: nn.Module, directory: Path) -> ModelSpec:
        from dpo_lab.models.hugging_face.loading import write_config

        if self.lora.rank is None:  # a directory that needs no other
            write_config(module, directory)
            return replace(self, path="", gguf_file=None, trust_remote_code=False)
        (directory / SOURCE).write_text(json.dumps({"key": module.source}))
        return replace(self, path=str(Path(self.path).expanduser().absolute()), trust_remote_code=False)

    def export(self, module: nn.Module, directory: Path, merge: bool) -> None:
        from dpo_lab.models.hugging_face.adapters import merge_adapter, write_adapter

        net: Any = module.net
        if self.lora.rank is not None and not merge:
            write_adapter(net, self.lora, Path(self.path).expanduser().absolute(), module.state_dict(), directory)
            return
        if self.lora.rank is not None:
            merge_adapter(net)
        net.save_pretrained(directory)

    def _network(self, path: Path, gguf_file: str | None = None, key: str = "", trust_remote_code: bool = False) -> nn.Module:
        from dpo_lab.models.hugging_face.adapters import add_adapter
        from dpo_lab.models.hugging_face.causal_lm import wrap_network
        from dpo_lab.models.hugging_face.loading import read_network

        net = read_network(path, gguf_file, self.dtype.value, trust_remote_code)
        if self.lora.rank is not None:
            add_adapter(net, self.lora)
        module = wrap_network(net)
        module.source = key
        return module

    def _key(self, path: Path) -> str:
        """A digest of the files that a model and its tokenizer are read from."""
        weights = self.gguf_file or "*.safetensors"
        kinds = (weights, "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
        files = sorted(file for kind in kinds for file in path.glob(kind))
        return digest({file.name: cached_file_digest(file) for file in files})

    def _check_installed(self) -> None:
        needed = {"transformers": True, "peft": self.lora.rank is not None, "gguf": self.gguf_file is not None}
        for package, asked in needed.items():
            if asked and find_spec(package) is None:
                raise ValueError(f"model=pretrained needs the package {package}: pip install 'dpo_lab[hf]'")
