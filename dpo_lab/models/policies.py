"""A policy on disk: model.safetensors, config.yaml with its architecture, tokenizer.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from dpo_lab.artifacts.digests import cached_file_digest, digest, file_digest
from dpo_lab.artifacts.directory import MANIFEST, DamagedError, verify_directory, write_directory
from dpo_lab.artifacts.safe_config import component, read_config
from dpo_lab.artifacts.tensors import storable
from dpo_lab.data.tokenizers import Tokenizer
from dpo_lab.models.base import MODELS, ModelSpec
from dpo_lab.models.checkpoint import CheckpointSpec
from dpo_lab.models.copies import independent_copy
from dpo_lab.models.foreign_directory import ADAPTER
from dpo_lab.models.memory_estimate import fixed_weights
from dpo_lab.models.pretrained import PretrainedSpec

WEIGHTS, CONFIG = "model.safetensors", "config.yaml"


@dataclass
class Policy:
    """A network with its tokenizer and the model choice it was built from."""

    spec: ModelSpec
    module: nn.Module
    tokenizer: Tokenizer

    def save(self, path: Path) -> None:
        """Write a policy directory; it appears whole or not at all."""
        write_directory(path, self.write_files)

    def write_files(self, directory: Path) -> None:
        asked_by_transformers = {"format": "pt"}
        save_file(storable(self.module.state_dict()), directory / WEIGHTS, metadata=asked_by_transformers)
        self.describe(directory)

    def describe(self, directory: Path) -> None:
        """Write a policy directory's files but the weights."""
        spec = self.spec.write(self.module, directory)
        OmegaConf.save(OmegaConf.create({"model": OmegaConf.structured(spec)}), directory / CONFIG)
        self.tokenizer.save(directory)

    def copy(self, device: torch.device | None = None) -> nn.Module:
        """A copy of the network that shares nothing but weights that are never trained: those under an adapter."""
        return independent_copy(self.module, {id(weight): weight for weight in fixed_weights(self.module)}).to(device)


def policy_directory(path: Path) -> Path:
    """`path` itself, or the policy directory in it if it is a run directory."""
    return path / "policy" if (path / "policy").is_dir() else path


def load_policy(path: Path) -> Policy:
    """The policy in a policy directory, or in the run directory that holds one.

    Raises ValueError where there is none, or where a file is missing or altered.
    """
    directory = policy_directory(path)
    try:
        verify_directory(directory)
        spec = component(MODELS, read_config(directory / CONFIG), directory / CONFIG, "model")
        tokenizer = _tokenizer(directory)
        module = spec.rebuild(directory, tokenizer.vocab_size)
        _fill(module, directory / WEIGHTS)
    except (DamagedError, ValueError) as error:
        raise ValueError(f"model.path: {error}; it is no complete policy: name another run or policy directory") from error
    return Policy(spec, module, tokenizer)


def _tokenizer(directory: Path) -> Tokenizer:
    try:
        return Tokenizer.load(directory)
    except Exception as error:  # the library raises plain Exceptions
        raise ValueError(f"{directory}: no readable tokenizer ({str(error)[:100]})") from error


def _fill(module: nn.Module, file: Path) -> None:
    """Load a safetensors file, the only kind that is read: it holds numbers and nothing that could be run."""
    try:
        module.load_state_dict(load_file(file))
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: no safetensors file ({error})") from error
    except RuntimeError as error:
        raise ValueError(f"{file}: not the weights of this model ({' '.join(str(error).split())[:150]} ...)") from error


def starting_policy(spec: ModelSpec) -> tuple[Policy, str] | None:
    """The policy that a model choice names, and a digest of it; None: it is to be fitted. Errors as `load_policy`."""
    directory = spec.weights()
    if directory is None:
        return None
    opened = spec.open()
    if opened is not None:
        return Policy(spec, opened.module, opened.tokenizer), opened.key
    return load_policy(directory), file_digest(policy_directory(directory) / MANIFEST)[:16]


def files_key(path: Path) -> str:
    """A digest of the policy's files in a run, a policy directory or a Hugging Face model's directory: names and sha256.

    Of a policy directory the manifest is enough: it holds the sums of all other files.
    """
    directory = policy_directory(path)
    if (directory / MANIFEST).is_file():
        return file_digest(directory / MANIFEST)
    return digest({file.name: cached_file_digest(file) for file in sorted(directory.iterdir()) if file.is_file()})


def spec_class(path: Path) -> type[ModelSpec]:
    """The class of the model choice behind a run, a policy directory or a Hugging Face model's directory.

    Raises ValueError where nothing says it.
    """
    directory = policy_directory(path)
    if _of_others(directory):
        return PretrainedSpec
    return MODELS[str(OmegaConf.select(read_config(directory / CONFIG), "model.name"))]


def load_any_policy(path: Path) -> tuple[Policy, str]:
    """The policy in a run, a policy directory or a Hugging Face model's directory, and its digest. Errors as `load_policy`."""
    policy = starting_policy((PretrainedSpec if _of_others(policy_directory(path)) else CheckpointSpec)(path=str(path)))
    assert policy is not None
    return policy


def _of_others(directory: Path) -> bool:
    """Whether these are other tools' files: an export of ours, too."""
    return not (directory / CONFIG).is_file() and any((directory / file).is_file() for file in ("config.json", ADAPTER))
