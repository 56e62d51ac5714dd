"""Laws of a loss's settings: a shared one either does something or is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import torch

from dpo_lab.check.law import law, values
from dpo_lab.check.strategies import fixed
from dpo_lab.losses.base import PreferenceLoss
from dpo_lab.losses.divergences import Divergence
from dpo_lab.losses.margins import Margin
from dpo_lab.losses.options import Weighting
from dpo_lab.records import Aggregate, CandidateBatch, Logps


def alternatives(loss: PreferenceLoss) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Every shared setting: its name, what it needs beside it, and another value."""
    yield "beta", {}, {"beta": 1.7 * loss.beta}
    for aggregate in Aggregate:
        if aggregate is not loss.options.aggregate:
            yield "aggregate", {}, {"aggregate": aggregate}
    yield "shared_rest", {"aggregate": Aggregate.shared}, {"shared_rest": 0.25}
    for divergence in Divergence:
        if divergence is not loss.options.divergence:
            yield "divergence", {}, {"divergence": divergence}
    yield "divergence_alpha", {"divergence": Divergence.alpha}, {"divergence_alpha": 0.25}
    yield "label_smoothing", {}, {"label_smoothing": 0.2}
    yield "weighting", {}, {"weighting": Weighting.wpo}
    for part in fields(Margin):
        yield "margin", {}, {"margin": Margin(**{part.name: 0.7})}
    yield "nll", {}, {"nll": 1.5}


@law(fixed)
def a_setting_works_or_is_refused(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> None:
    """Every shared setting changes some value, or is refused by name and with the reason; none is silently ignored."""
    for name, beside, setting in alternatives(loss):
        shown = ", ".join(f"{key}={getattr(value, 'value', value)}" for key, value in setting.items())
        before, _ = tried(loss, beside)
        if before is None:
            continue  # what it needs is refused itself
        after, complaint = tried(before, setting)
        if after is None:
            assert f"loss.{name}" in complaint, f"{shown} is refused without its name: {complaint}"
            assert loss.unsupported.get(name, "") in complaint, f"{shown} is refused without the reason: {complaint}"
            continue
        assert name not in loss.unsupported, f"it declares to refuse {name}, but takes {shown}"
        changed = not torch.equal(values(after, logps, batch), values(before, logps, batch))
        assert changed, f"{shown} is taken, but changes nothing"


def tried(loss: PreferenceLoss, setting: dict[str, Any]) -> tuple[PreferenceLoss | None, str]:
    """The loss with the setting, or its complaint."""
    try:
        return replace(loss, **setting), ""
    except ValueError as error:
        return None, str(error)


@law(fixed, k=(2,))
def confidence_is_read_as_declared(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> None:
    """Confidence in the labels changes some value if reads_confidence, else none."""
    unsure = replace(batch, confidence=torch.full_like(batch.confidence, 0.7))
    changed = not torch.equal(values(loss, logps, unsure), values(loss, logps, batch))
    what = "changes values" if changed else "changes nothing"
    assert changed == loss.reads_confidence, f"reads_confidence={loss.reads_confidence}, but confidence {what}"


@law(fixed)
def needs_are_declared(loss: PreferenceLoss, logps: Logps, batch: CandidateBatch) -> None:
    """What a loss does not declare to need may be missing."""
    slim = replace(
        logps,
        kl=logps.kl if loss.needs_kl else None,
        collision=logps.collision if loss.needs_collision else None,
        mismatched=logps.mismatched if loss.needs_mismatched else None,
    )
    unpaired = batch.num_candidates == 1
    bare = replace(
        batch,
        scores=batch.scores if loss.needs_scores else None,
        desirable=batch.desirable if unpaired else None,
        margin=None,
    )
    values(loss, slim, bare)
