"""The base policy's own samples, labelled by a reward."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Int
from torch import Tensor, nn

from dpo_lab.data.tokenizers import Tokenizer
from dpo_lab.models.generation import sample
from dpo_lab.preferences.base import CANDIDATES, CandidatesSpec, certain_utilities
from dpo_lab.preferences.labelling import Labels, Pairing, unpaired
from dpo_lab.preferences.rewards import Scorer
from dpo_lab.records import CandidateBatch
from dpo_lab.seeding import Streams, streams_of_prompts


@CANDIDATES.register
@dataclass
class SampledCandidates(CandidatesSpec):
    """Several samples of the base policy for each training prompt, compared by the training scorer.

    With soft labels DPO has an exact optimum, the reference tilted by exp(reward / (beta * label_temperature)): a point on
    the frontier of reward against KL. Hard labels have none, and the distance from the reference is set by when to stop.
    """

    name: str = "sampled"
    num_prompts: int = 2000
    samples_per_prompt: int = 8
    temperature: float = 1.0
    pairing: Pairing = Pairing.all
    labels: Labels = Labels.hard
    label_temperature: float = 1.0
    desirable_above: float | None = None
    """With pairing=unpaired: the reward above which a sample is desirable. None: the mean reward of all samples."""
    seed: int = 0

    sampled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples_per_prompt < 2:
            raise ValueError(f"candidates.samples_per_prompt must be at least 2 to make a pair, got {self.samples_per_prompt}")
        if self.num_prompts < 1:
            raise ValueError(f"candidates.num_prompts must be at least 1, got {self.num_prompts}")
        for field in ("temperature", "label_temperature"):
            if not getattr(self, field) > 0:
                raise ValueError(f"candidates.{field} must be > 0, got {getattr(self, field)}")
        if self.pairing is Pairing.unpaired and self.labels is Labels.soft:
            raise ValueError(
                "candidates.labels=soft cannot be used with candidates.pairing=unpaired: a completion of its own is desirable "
                "or it is not; choose hard or bradley_terry"
            )
        if self.desirable_above is not None and self.pairing is not Pairing.unpaired:
            raise ValueError(
                f"candidates.desirable_above is for candidates.pairing=unpaired, got it with pairing={self.pairing.value}"
            )
        if self.desirable_above is not None and not math.isfinite(self.desirable_above):
            raise ValueError(f"candidates.desirable_above must be finite, got {self.desirable_above}")

    @property
    def num_candidates(self) -> int | None:
        return {Pairing.all: self.samples_per_prompt, Pairing.unpaired: 1}.get(self.pairing, 2)

    @property
    def most_rows(self) -> int | None:
        k = self.samples_per_prompt
        of_prompt = {Pairing.all: 1, Pairing.best_worst: 1, Pairing.unpaired: k}.get(self.pairing, k // 2)
        return self.num_prompts * of_prompt

    def pairs(self, samples: CandidateBatch, *, like: CandidateBatch | None = None) -> tuple[CandidateBatch, dict[str, int]]:
        """What the samples teach (k of them compared, 2 or 1), and what was left out because rewards tie.

        Samples that are held out are judged `like` those that are trained on: the mean reward that stands for
        `desirable_above` is theirs. Chance decides of each prompt by itself.
        """
        assert samples.scores is not None, "the samples have not been scored"
        side = "train" if like is None else "held out"
        chance, order_of_chance = (
            streams_of_prompts(self.seed, purpose, samples.prompt, samples.prompt_mask, side)
            for purpose in ("label", "partner")
        )
        if self.pairing is Pairing.all:
            return self._everyone(samples, chance)
        if self.pairing is Pairing.unpaired:
            measure = samples if like is None else like
            assert measure.scores is not None, "the samples have not been scored"
            # The double mean of equal float32 rewards is exact: they are then not above it.
            threshold = float(measure.scores.double().mean()) if self.desirable_above is None else self.desirable_above
            temperature = self.label_temperature if self.labels is Labels.bradley_terry else None
            return unpaired(samples, threshold, temperature, chance)
        k = samples.num_candidates
        order = samples.scores.argsort(dim=0, descending=True, stable=True)
        first, second = self._partners(k, order, order_of_chance)
        num_pairs = first.shape[0]
        prompts = repeat(torch.arange(len(samples)), "b -> (q b)", q=num_pairs)
        two = torch.stack((rearrange(first, "q b -> (q b)"), rearrange(second, "q b -> (q b)")))
        scores = samples.scores[two, prompts]
        two = torch.where(scores[0] >= scores[1], two, two.flip(0))
        scores = samples.scores[two, prompts]
        keep = scores[0] > scores[1]
        two, prompts, scores = two[:, keep], prompts[keep], scores[:, keep]
        confidence = torch.ones(len(prompts))
        probability = torch.sigmoid((scores[0] - scores[1]) / self.label_temperature)
        if self.labels is Labels.soft:
            confidence = probability
        elif self.labels is Labels.bradley_terry:
            upset = rearrange(chance.uniform(num_pairs), "b q -> (q b)")[keep] > probability
            two, scores = (torch.where(upset, t.flip(0), t) for t in (two, scores))
        made = CandidateBatch(
            prompt=samples.prompt[prompts],
            prompt_mask=samples.prompt_mask[prompts],
            completions=samples.completions[two, prompts],
            mask=samples.mask[two, prompts],
            ids=torch.arange(len(prompts)),
            confidence=confidence,
            scores=scores,
        )
        return made, {"pairs": len(prompts), "left out, equal rewards": int((~keep).sum())}

    def _everyone(self, samples: CandidateBatch, chance: Streams) -> tuple[CandidateBatch, dict[str, int]]:
        """All samples of each prompt, best first; prompts whose samples all have one reward are left out."""
        assert samples.scores is not None
        utilities = samples.scores / self.label_temperature
        if self.labels is Labels.bradley_terry:
            # Ordering by utility + Gumbel noise draws each pair's winner with probability sigmoid(difference).
            numbers = rearrange(chance.uniform(samples.num_candidates), "b k -> k b")
            utilities = utilities - (-torch.log1p(-numbers)).log()
        keep = (samples.scores != samples.scores[0]).any(dim=0).nonzero()[:, 0]
        order = utilities[:, keep].argsort(dim=0, descending=True, stable=True)
        known: Tensor | None = utilities[order, keep]
        if self.labels is Labels.bradley_terry:
            known = None  # the draw has decided: the order is all there is
        elif self.labels is Labels.hard:
            known = certain_utilities(samples.scores[order, keep])
        made = replace(
            samples,
            prompt=samples.prompt[keep],
            prompt_mask=samples.prompt_mask[keep],
            completions=samples.completions[order, keep],
            mask=samples.mask[order, keep],
            ids=torch.arange(len(keep)),
            confidence=torch.ones(len(keep)),
            scores=samples.scores[order, keep],
            utilities=known,
        )
        counts = {"prompts": len(keep), "pairs": len(keep) * math.comb(samples.num_candidates, 2)}
        return made, {**counts, "prompts left out, equal rewards": len(samples) - len(keep)}

    def _partners(self, k: int, order: Int[Tensor, "k b"], chance: Streams) -> tuple[Int[Tensor, "q b"], Int[Tensor, "q b"]]:
        """The two samples of each pair, q pairs a prompt."""
        if self.pairing is Pairing.best_worst:
            return order[:1], order[-1:]
        if self.pairing is Pairing.extremes:
            return order[: k // 2], order.flip(0)[: k // 2]
        shuffled = rearrange(chance.uniform(k), "b k -> k b").argsort(dim=0, stable=True)
        return shuffled[: k // 2], shuffled[k // 2 : k // 2 * 2]


def draw(
    model: nn.Module,
    tokenizer: Tokenizer,
    scorer: Scorer | None,
    prompt: Int[Tensor, "b p"],
    prompt_mask: Bool[Tensor, "b p"],
    num_samples: int,
    max_tokens: int,
    *,
    temperature: float = 1.0,
    seed: int,
    purpose: str,
) -> CandidateBatch:
    """`num_samples` completions of each prompt (k of them), with the scorer's rewards of prompt and completion together.

    A prompt's samples depend on the seed, the purpose, its tokens, and how many equal prompts stand before it: what other
    prompts there are changes nothing, and more samples begin with the same ones.
    """
    device = next(model.parameters()).device
    streams = streams_of_prompts(seed, purpose, prompt, prompt_mask).branches(num_samples)
    rows, rows_mask = (repeat(t, "b p -> (k b) p", k=num_samples).to(device) for t in (prompt, prompt_mask))
    drawn, drawn_mask = sample(model, rows, rows_mask, max_tokens, end=tokenizer.end, streams=streams, temperature=temperature)
    completions, mask = (rearrange(t.cpu(), "(k b) m -> k b m", k=num_samples) for t in (drawn, drawn_mask))
    made = CandidateBatch(prompt, prompt_mask, completions, mask, torch.arange(len(prompt)), torch.ones(len(prompt)))
    if scorer is not None:
        made.scores = torch.stack([scorer(texts) for texts in texts_of(made, tokenizer)])
    return made


def texts_of(batch: CandidateBatch, tokenizer: Tokenizer) -> list[list[str]]:
    """The text of prompt and completion, decoded together, of each candidate of each prompt: `[k][b]`."""
    prompts = _rows(batch.prompt, batch.prompt_mask)
    candidates = [_rows(completions, mask) for completions, mask in zip(batch.completions, batch.mask, strict=True)]
    return [tokenizer.decode_many([[*prompt, *row] for prompt, row in zip(prompts, rows, strict=True)]) for rows in candidates]


def prompts_of(batch: CandidateBatch, tokenizer: Tokenizer) -> list[str]:
    """The text of each prompt."""
    return tokenizer.decode_many(_rows(batch.prompt, batch.prompt_mask))


def _rows(ids: Int[Tensor, "n m"], mask: Bool[Tensor, "n m"]) -> list[list[int]]:
    """Each row's real tokens."""
    return [row.tolist() for row in ids[mask].split(mask.sum(dim=1).tolist())]
