"""The cached reference."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
from dpo_lab.scoring.logps import Scoring, score
from dpo_lab.scoring.micro_batches import split_for_inference
from dpo_lab.training.compute import rounding_on
from dpo_lab.training.references.base import REFERENCES, ReferenceSpec, existing_directory
from dpo_lab.training.references.frozen import FrozenReference

FORMAT = 1


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
        return existing_directory(self.path)

    @torch.no_grad()
    def prepare(
        self, model: nn.Module, data: CandidateBatch, key: str, store: Store, scoring: Scoring | None = None
    ) -> CandidateBatch:
        if data.mismatched is not None:
            data = replace(data, mismatched=self.prepare(model, data.mismatched, key, store, scoring))
        device, scoring = next(model.parameters()).device, scoring or Scoring()

        def build(directory: Path) -> None:
            logps = torch.zeros(data.mask.shape)
            for rows in split_for_inference(data, scoring.micro_batch_size, scoring.micro_batch_tokens):
                batch = data.select(rows)
                scores = score(model, batch.to(device), scoring).float().cpu()
                logps[:, rows] = logps[:, rows].masked_scatter(data.mask[:, rows], scores[batch.mask])
            save_file({"logps": logps}, directory / "logps.safetensors")

        tokens = digest([tensor_digest(t) for t in (data.prompt, data.prompt_mask, data.completions, data.mask)])
        determined_by = {"format": FORMAT, "model": key, "tokens": tokens, "autocast": _autocast_dtype(device.type)}
        rounding = {**rounding_on(device), **scoring.rounding()}
        code = code_of(type(self), *{type(module) for module in model.modules()})
        path, _ = store.get("reference_scores", determined_by, build, code, rounding)
        return replace(data, reference=load_file(path / "logps.safetensors")["logps"])

    def score(self, model: nn.Module, batch: CandidateBatch, scoring: Scoring | None = None) -> Float[Tensor, "k b m"] | None:
        assert batch.reference is not None, "the data was not prepared by this reference"
        return batch.reference

    def unprepared(self) -> ReferenceSpec:
        return FrozenReference(path=self.path)


def _autocast_dtype(device: str) -> str | None:
    return str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else None
