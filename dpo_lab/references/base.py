"""The reference: what the policy is compared with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dpo_lab.artifacts import Store, digest
from dpo_lab.records import CandidateBatch
from dpo_lab.registry import Registry
from dpo_lab.scoring import score

FORMAT = 1
ROWS_AT_ONCE = 512


@dataclass
class ReferenceSpec:
    """How the reference's log-probabilities are come by."""

    name: str

    def prepare(self, model: nn.Module, data: CandidateBatch, key: str, store: Store) -> CandidateBatch:
        """`data`, with whatever can be computed once before training.

        `key` stands in the store for the model's weights.
        """
        return data

    def score(self, model: nn.Module, batch: CandidateBatch) -> Float[Tensor, "k b m"] | None:
        """The reference's log-probabilities of a batch, without gradients; None where there is no reference."""
        raise NotImplementedError


REFERENCES: Registry[ReferenceSpec] = Registry("reference")


@REFERENCES.register
@dataclass
class FrozenReference(ReferenceSpec):
    """A frozen copy of the initial policy, run beside it on every batch."""

    name: str = "frozen"

    @torch.no_grad()
    def score(self, model: nn.Module, batch: CandidateBatch) -> Float[Tensor, "k b m"] | None:
        return score(model, batch)


@REFERENCES.register
@dataclass
class CachedReference(ReferenceSpec):
    """The frozen copy's log-probabilities, computed once for the whole data set and kept in the store.

    Per token, in float32: one cache serves every loss, beta, seed and aggregate.
    """

    name: str = "cached"

    @torch.no_grad()
    def prepare(self, model: nn.Module, data: CandidateBatch, key: str, store: Store) -> CandidateBatch:
        device = next(model.parameters()).device

        def build(directory: Path) -> None:
            logps = torch.zeros(data.mask.shape)
            for rows in torch.arange(len(data)).split(max(ROWS_AT_ONCE // data.num_candidates, 1)):
                batch = data.select(rows)
                found = score(model, batch.to(device)).float().cpu()
                logps[:, rows] = logps[:, rows].masked_scatter(data.mask[:, rows], found[batch.mask])
            save_file({"logps": logps}, directory / "logps.safetensors")

        tokens = digest([_bytes_digest(t) for t in (data.prompt, data.prompt_mask, data.completions, data.mask)])
        determined_by = {"format": FORMAT, "model": key, "tokens": tokens, "autocast": _autocast_dtype(device.type)}
        path, _ = store.get("reference_scores", determined_by, build)
        return replace(data, reference=load_file(path / "logps.safetensors")["logps"])

    def score(self, model: nn.Module, batch: CandidateBatch) -> Float[Tensor, "k b m"] | None:
        assert batch.reference is not None, "the data was not prepared by this reference"
        return batch.reference


@REFERENCES.register
@dataclass
class NoReference(ReferenceSpec):
    """No reference: for losses that need none."""

    name: str = "none"

    def score(self, model: nn.Module, batch: CandidateBatch) -> Float[Tensor, "k b m"] | None:
        return None


def _autocast_dtype(device: str) -> str | None:
    return str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else None


def _bytes_digest(tensor: Tensor) -> str:
    return hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes()).hexdigest()
