"""Checks of a training before its work, from its settings and the first row of the data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from dpo_lab.pipeline.study import Study
from dpo_lab.records import CandidateBatch, Logps
from dpo_lab.registry import suggestion
from dpo_lab.training.metrics import means, preference_metrics

OF_SAMPLES = ("kl", "entropy", "distinct_2", "length/policy")
OF_REWARDS = (
    *("reward/policy", "reward/reference", "proxy/policy", "proxy/reference"),
    *("positive/policy", "positive/reference", "win_rate"),
)
"""Metrics of an evaluation; of means also the standard error, as NAME_se."""


@dataclass
class Kind:
    """The kind of the data's rows: how many candidates, and which labels."""

    num_candidates: int
    scores: bool = False
    margin: bool = False


def check_training(study: Study) -> None:
    """Raises ValueError for settings that would fail only after hours of work, or would silently have no effect."""
    kind, trainer = row_kind(study), study.trainer
    context, longest = getattr(study.model, "context", None), study.candidates.max_tokens
    if context is not None and longest > context:
        raise ValueError(f"candidates.max_tokens={longest} exceeds model.context={context}: lower the one or raise the other")
    if study.evaluation.best_of is not None and not study.reward.has_scores:
        raise ValueError(
            "evaluation.best_of chooses by a reward, and there is none: choose one with reward=..., or leave it out"
        )
    if kind is not None:
        study.loss.check(_rows(kind))
    if trainer.guards.max_margin is not None and kind is not None and kind.num_candidates == 1:
        raise ValueError(
            "trainer.guards.max_margin is a bound on the margin of pairs, and this data has single completions: choose "
            "trainer.guards.max_drop or max_kl"
        )
    if trainer.guards.max_drop is not None and not study.reference.has_logps:
        raise ValueError(
            "trainer.guards.max_drop is a bound on how far completions fall below the reference, and reference=none: choose "
            "reference=cached"
        )
    name = trainer.best_metric
    if name != "loss":
        known = metric_names(study, kind)
        if name not in known and name.removesuffix("_se") not in known:
            raise ValueError(f"trainer.best_metric: no evaluation of this run measures '{name}'.{suggestion(name, known)}")


def row_kind(study: Study) -> Kind | None:
    """The kind of the study's rows; None where it is known only once the data is read."""
    if study.candidates.sampled:
        count = study.candidates.num_candidates
        return None if count is None else Kind(count, scores=True)
    first = study.data.first()
    return None if first is None else Kind(len(first.completions), first.scores is not None, first.margin is not None)


def metric_names(study: Study, kind: Kind | None) -> set[str]:
    """Every metric that an evaluation of this study may measure."""
    names = {*OF_SAMPLES, *(OF_REWARDS if study.reward.has_scores else ())}
    for row_kind in [kind] if kind is not None else _kinds(study):
        names |= _of_preferences(study, row_kind)
    return names | ({"displacement/chosen"} if "logps/chosen" in names else set())


def _kinds(study: Study) -> Iterator[Kind]:
    for count in (1, 2):
        if count >= study.loss.min_candidates:
            yield Kind(count, scores=True, margin=count == 2)


def _of_preferences(study: Study, kind: Kind) -> set[str]:
    """The metrics of preferences, found by computing them on two rows of one token."""
    loss, rows = study.loss, _rows(kind)
    rows = rows.with_mismatched() if loss.needs_mismatched else rows
    logps = _logps(rows, study.reference.has_logps)
    state = loss.initial_state()
    if loss.couples_batch:
        state = loss.observe(logps, rows, state)
    return set(means(preference_metrics(loss, loss(logps, rows, state), logps, rows, state)))


def _rows(kind: Kind) -> CandidateBatch:
    k = kind.num_candidates
    mask = torch.ones(k, 2, 1, dtype=torch.bool)
    return CandidateBatch(
        prompt=torch.tensor([[0], [1]]),
        prompt_mask=mask[0],
        completions=torch.zeros(k, 2, 1, dtype=torch.long),
        mask=mask,
        ids=torch.arange(2),
        confidence=torch.ones(2),
        scores=torch.arange(float(k), 0, -1)[:, None].repeat(1, 2) if kind.scores else None,
        desirable=torch.tensor([[True, False]]) if k == 1 else None,
        margin=torch.ones(2) if kind.margin else None,
    )


def _logps(rows: CandidateBatch, has_reference: bool) -> Logps:
    shape = rows.mask.shape
    policy = -torch.linspace(1, 2, rows.mask.numel()).reshape(shape)
    reference = torch.full(shape, -1.5) if has_reference else None
    mismatched = None if rows.mismatched is None else _logps(replace(rows.mismatched, mismatched=None), has_reference)
    return Logps(policy, reference, rows.mask, torch.zeros(shape), torch.zeros(shape), mismatched)
