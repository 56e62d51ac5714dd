"""The reference: what the policy is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dpo_lab.artifacts.digests import digest
from dpo_lab.artifacts.fingerprint import code_of
from dpo_lab.artifacts.store import Store
from dpo_lab.artifacts.tensors import tensor_digest
from dpo_lab.records import CandidateBatch
from dpo_lab.registry import Registry
from dpo_lab.scoring.logps import Scoring, score
from dpo_lab.scoring.micro_batches import split_for_inference
from dpo_lab.training.compute import rounding_on

FORMAT = 1


@dataclass
class ReferenceSpec:
    """How the reference's log-probabilities are come by."""

    name: str

    runs_model: ClassVar[bool] = True
    """The reference's whole next-token distributions can be had, not just the log-probabilities of given tokens."""
    moves: ClassVar[bool] = False
    """Its weights change while the policy trains."""

    def prepare(
        self, model: nn.Module, data: CandidateBatch, key: str, store: Store, scoring: Scoring | None = None
    ) -> CandidateBatch:
        """`data`, with whatever can be computed once before training.

        `key` stands in the store for the model's weights.
        """
        return data

    def score(self, model: nn.Module, batch: CandidateBatch, scoring: Scoring | None = None) -> Float[Tensor, "k b m"] | None:
        """The reference's log-probabilities of a batch, without gradients; None where there is no reference."""
        raise NotImplementedError

    def weights(self) -> Path | None:
        """The directory of the policy that is the reference; None: it is where the policy begins."""
        return None

    def follow(self, model: nn.Module, policy: nn.Module, step: int, memory: dict[str, Tensor]) -> None:
        """Move the reference's weights after an optimiser step (the first is 1); `memory` is kept from call to call."""

    def remarks(self, num_steps: int) -> list[str]:
        """What a user would want to be told of these settings, in a run of so many steps."""
        return []


@dataclass
class Reference:
    """A reference at work. Calling it scores a batch."""

    spec: ReferenceSpec
    model: nn.Module
    memory: dict[str, Tensor] = field(default_factory=dict)
    """What a moving reference keeps beside its weights."""
    scoring: Scoring | None = None

    def __call__(self, batch: CandidateBatch) -> Float[Tensor, "k b m"] | None:
        return self.spec.score(self.model, batch, self.scoring)

    @torch.no_grad()
    def follow(self, policy: nn.Module, step: int) -> None:
        """To be called after every optimiser step."""
        self.spec.follow(self.model, policy, step, self.memory)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold to go on with this reference: nothing, if it never moves."""
        if not self.spec.moves:
            return {}
        weights = {f"model.{name}": tensor.detach() for name, tensor in self.model.state_dict().items()}
        return weights | {f"memory.{name}": tensor for name, tensor in self.memory.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""
        if not state:
            return
        device = next(self.model.parameters()).device
        parts = {name.partition("."): tensor.to(device) for name, tensor in state.items()}
        self.model.load_state_dict({name: tensor for (kind, _, name), tensor in parts.items() if kind == "model"})
        self.memory = {name: tensor for (kind, _, name), tensor in parts.items() if kind == "memory"}


REFERENCES: Registry[ReferenceSpec] = Registry("reference", "dpo_lab.training.references")


@dataclass
class LiveReference(ReferenceSpec):
    """A model that is run beside the policy on every batch."""

    @torch.no_grad()
    def score(self, model: nn.Module, batch: CandidateBatch, scoring: Scoring | None = None) -> Float[Tensor, "k b m"] | None:
        return score(model, batch, scoring)


@REFERENCES.register
@dataclass
class FrozenReference(LiveReference):
    """The initial policy, run beside it on every batch. Under an adapter both share all weights but the adapter's."""

    name: str = "frozen"
    path: str = ""
    """Another policy instead: a run, a policy directory, or a Hugging Face model with the same tokenizer."""

    def weights(self) -> Path | None:
        return _directory(self.path)


@REFERENCES.register
@dataclass
class CachedReference(ReferenceSpec):
    """The initial policy's log-probabilities, computed once for the whole data set and kept in the store.

    Per token, in float32: one cache serves every loss, beta, seed and aggregate.
    """

    name: str = "cached"
    path: str = ""
    """Another policy instead: a run, a policy directory, or a Hugging Face model with the same tokenizer."""

    runs_model: ClassVar[bool] = False

    def weights(self) -> Path | None:
        return _directory(self.path)

    @torch.no_grad()
    def prepare(
        self, model: nn.Module, data: CandidateBatch, key: str, store: Store, scoring: Scoring | None = None
    ) -> CandidateBatch:
        if data.mismatched is not None:
            data = replace(data, mismatched=self.prepare(model, data.mismatched, key, store, scoring))
        device, how = next(model.parameters()).device, scoring or Scoring()

        def build(directory: Path) -> None:
            logps = torch.zeros(data.mask.shape)
            for rows in split_for_inference(data, how.micro_batch_size, how.micro_batch_tokens):
                batch = data.select(rows)
                found = score(model, batch.to(device), how).float().cpu()
                logps[:, rows] = logps[:, rows].masked_scatter(data.mask[:, rows], found[batch.mask])
            save_file({"logps": logps}, directory / "logps.safetensors")

        tokens = digest([tensor_digest(t) for t in (data.prompt, data.prompt_mask, data.completions, data.mask)])
        determined_by = {"format": FORMAT, "model": key, "tokens": tokens, "autocast": _autocast_dtype(device.type)}
        rounding = {**rounding_on(device), **how.rounding()}
        code = code_of(type(self), *{type(module) for module in model.modules()})
        path, _ = store.get("reference_scores", determined_by, build, code, rounding)
        return replace(data, reference=load_file(path / "logps.safetensors")["logps"])

    def score(self, model: nn.Module, batch: CandidateBatch, scoring: Scoring | None = None) -> Float[Tensor, "k b m"] | None:
        assert batch.reference is not None, "the data was not prepared by this reference"
        return batch.reference


@REFERENCES.register
@dataclass
class NoReference(ReferenceSpec):
    """No reference: for losses that need none."""

    name: str = "none"

    runs_model: ClassVar[bool] = False

    def score(self, model: nn.Module, batch: CandidateBatch, scoring: Scoring | None = None) -> Float[Tensor, "k b m"] | None:
        return None


def _directory(path: str) -> Path | None:
    if path and not Path(path).expanduser().is_dir():
        raise ValueError(f"reference.path: there is no directory {path}")
    return Path(path).expanduser() if path else None


def _autocast_dtype(device: str) -> str | None:
    return str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else None
