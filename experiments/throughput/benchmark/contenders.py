"""Contenders: the lab's own step, a plain loop of four forward passes, and x_transformers.dpo."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
import x_transformers.dpo
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dpo_lab.losses.dpo import DPOLoss
from dpo_lab.models.copies import freeze, independent_copy
from dpo_lab.models.layer_wrappers import wrap_layers
from dpo_lab.models.transformer import TransformerPolicy
from dpo_lab.records import CandidateBatch
from dpo_lab.scoring.logps import Scoring
from dpo_lab.scoring.self_check import exact_layouts
from dpo_lab.training.objective import Objective
from dpo_lab.training.references import REFERENCES, Reference
from experiments.throughput.benchmark.base import CONTENDERS, Contender, Setting, Step


@dataclass
class Lab(Contender):
    """The trainer's step, its metrics included, under the study's `compute` and `trainer` settings."""

    name: str = ""

    def reference(self, model: nn.Module, batch: CandidateBatch, scoring: Scoring) -> tuple[Reference, CandidateBatch]:
        raise NotImplementedError

    def prepare(self, setting: Setting) -> Step:
        compute = setting.compute
        setting.policy.train(setting.trainer.dropout)
        layouts = exact_layouts(setting.policy, compute.layout, lambda reason: None)
        scoring = Scoring(layouts, compute.head_portion, *setting.trainer.micro_batch_limits)
        reference, batch = self.reference(freeze(independent_copy(setting.policy)), setting.batch, scoring)
        wrap_layers(setting.policy, compute.compile, compute.checkpointing)
        loss = DPOLoss(beta=setting.beta)
        objective = Objective(setting.policy, loss, reference, compute, scoring)
        return lambda: objective.fill_gradients(batch)


@CONTENDERS.register
@dataclass
class Live(Lab):
    """The reference runs at every step."""

    name: str = "live"

    def reference(self, model: nn.Module, batch: CandidateBatch, scoring: Scoring) -> tuple[Reference, CandidateBatch]:
        return Reference(REFERENCES["frozen"](name="frozen"), model, scoring=scoring), batch


@CONTENDERS.register
@dataclass
class Cached(Lab):
    """The reference has run once, before training."""

    name: str = "cached"

    def reference(self, model: nn.Module, batch: CandidateBatch, scoring: Scoring) -> tuple[Reference, CandidateBatch]:
        scored = REFERENCES["frozen"](name="frozen").score(model, batch, scoring)
        return Reference(REFERENCES["cached"](name="cached"), model, scoring=scoring), replace(batch, reference=scored)


@CONTENDERS.register
@dataclass
class Compiled(Cached):
    """The same with compute.compile."""

    name: str = "compiled"

    def prepare(self, setting: Setting) -> Step:
        return super().prepare(replace(setting, compute=replace(setting.compute, compile=True)))


@CONTENDERS.register
@dataclass
class Plain(Contender):
    """Four forward passes over whole sequences: policy and reference, chosen and rejected."""

    name: str = "plain"

    def prepare(self, setting: Setting) -> Step:
        policy, reference = setting.policy, freeze(independent_copy(setting.policy))
        sides = [side_by_side(setting.batch, candidate) for candidate in range(2)]

        def logps(model: nn.Module) -> list[Float[Tensor, " b"]]:
            return [sum_of_logps(model, tokens, scored) for tokens, _, scored in sides]

        def step() -> None:
            with setting.compute.autocast():
                chosen, rejected = logps(policy)
                with torch.no_grad():
                    ref_chosen, ref_rejected = logps(reference)
            margins = (chosen - ref_chosen) - (rejected - ref_rejected)
            (-F.logsigmoid(setting.beta * margins).mean()).backward()

        return step


@CONTENDERS.register
@dataclass
class PublishedFlash(Contender):
    """`x_transformers.dpo.DPO`, in a model with fused attention."""

    name: str = "published_flash"

    def prepare(self, setting: Setting) -> Step:
        assert isinstance(setting.policy, TransformerPolicy)
        published = x_transformers.dpo.DPO(setting.policy.net, beta=setting.beta)
        (chosen, chosen_mask, _), (rejected, rejected_mask, _) = (
            side_by_side(setting.batch, candidate, setting.batch.mask.shape[-1]) for candidate in range(2)
        )
        positions = torch.arange(chosen.shape[1], device=chosen.device)
        prompt_mask = positions < rearrange(setting.batch.prompt_mask.sum(dim=1), "b -> b 1")

        def step() -> None:
            with setting.compute.autocast():
                loss = published(
                    chosen,
                    rejected,
                    prompt_mask=prompt_mask,
                    preferred_seq_mask=chosen_mask,
                    unpreferred_seq_mask=rejected_mask,
                )
            loss.backward()

        return step


@CONTENDERS.register
@dataclass
class Published(PublishedFlash):
    """`x_transformers.dpo.DPO` with the attention that x-transformers has by default: whole matrices of weights."""

    name: str = "published"

    def prepare(self, setting: Setting) -> Step:
        for module in setting.policy.modules():
            if getattr(module, "flash", None) is True:
                module.flash = False  # type: ignore[assignment]
        return super().prepare(setting)


def side_by_side(
    batch: CandidateBatch, candidate: int, room: int | None = None
) -> tuple[Int[Tensor, "b n"], Bool[Tensor, "b n"], Bool[Tensor, "b n"]]:
    """One candidate of each pair behind its prompt: tokens, which of them are real, which of them belong to the completion.

    Padding is at the end, as little of it as there can be; with `room`, as much as a completion of so many tokens needs.
    """
    ends = batch.prompt_mask.sum(dim=1)
    lengths = batch.mask[candidate].sum(dim=1)
    width = int((ends + lengths).max()) if room is None else int(ends.max()) + room
    positions = torch.arange(width, device=ends.device)
    after = positions - rearrange(ends, "b -> b 1")
    in_prompt, real = after < 0, after < rearrange(lengths, "b -> b 1")
    prompt = batch.prompt.gather(1, positions.clamp(max=batch.prompt.shape[1] - 1).expand(len(ends), -1))
    completion = batch.completions[candidate].gather(1, after.clamp(0, batch.mask.shape[-1] - 1))
    return torch.where(in_prompt, prompt, completion) * real, real, real & ~in_prompt


def sum_of_logps(model: nn.Module, tokens: Int[Tensor, "b n"], scored: Bool[Tensor, "b n"]) -> Float[Tensor, " b"]:
    logits = model(tokens[:, :-1]).float()
    logps = logits.log_softmax(dim=-1).gather(-1, rearrange(tokens[:, 1:], "b n -> b n 1"))
    return (rearrange(logps, "b n 1 -> b n") * scored[:, 1:]).sum(dim=-1)
