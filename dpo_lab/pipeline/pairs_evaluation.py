"""Metrics of a finished policy on the pairs of a file, by the implicit rewards of its loss."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from dpo_lab.data.base import Feedback
from dpo_lab.data.pairs import PairsSource
from dpo_lab.data.row_reader import listed
from dpo_lab.data.statistics import overlap
from dpo_lab.models.copies import freeze
from dpo_lab.pipeline.context import Context
from dpo_lab.pipeline.stages import Stages
from dpo_lab.pipeline.trained_run import TrainedRun
from dpo_lab.preferences import GivenSource
from dpo_lab.preferences.given import GivenCandidates
from dpo_lab.records import CandidateBatch
from dpo_lab.scoring.layouts import Layout
from dpo_lab.scoring.logps import Scoring
from dpo_lab.scoring.self_check import exact_layouts
from dpo_lab.training.objective import Objective

SHOWN = ("loss", "rewards/accuracies", "rewards/margins")


def evaluate_pairs(context: Context, path: str, run: TrainedRun, stages: Stages) -> dict[str, Any]:
    """The metrics of training on all pairs, rankings or single completions of a file: in the run's own loss, against its own
    reference, read as it read its data. What is too long is left out and counted.

    Raises ValueError, before the models are run, for what the loss cannot take.
    """
    study, policy = context.study, run.policy
    own = study.data if isinstance(study.data, PairsSource) else PairsSource()
    rows = replace(own, path="", eval_path=path).held_out()
    candidates = study.candidates
    given = candidates if isinstance(candidates, GivenSource) else GivenCandidates(max_tokens=candidates.max_tokens)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pairs.safetensors"
        bad: list[str] = []
        counts = given.write(rows, policy.tokenizer, file, bad.append if own.skips_bad_rows else None)
        for line in listed(bad):
            context.console.note(f"  {line}")
        pairs = CandidateBatch.from_tensors(load_file(file))
    left_out = "".join(f", {count:,} {what}" for what, count in counts.items() if count)
    study.loss.check(pairs)
    also_trained_on = _also_trained_on(context, rows)
    base, key = stages.base
    run.check_base(base)
    module = freeze(policy.module.to(study.compute.torch_device))
    layouts = exact_layouts(module, study.compute.layout, context.console.note)
    if study.reference.weights() is not None:  # it may be of another architecture
        layouts = (Layout.rows,)
    scoring = Scoring(layouts, study.compute.head_portion, *study.trainer.micro_batch_limits)
    reference = run.reference(base, key, Scoring(layouts))
    objective = Objective(module, run.study.loss, reference, study.compute, scoring, loss_state=run.loss_state(base))
    with context.stage("pairs", f"{len(pairs):,} of {path}{left_out}"):
        metrics = objective.evaluate(pairs)
    for name in (name for name in SHOWN if name in metrics):
        error = f" \N{PLUS-MINUS SIGN} {metrics[f'{name}_se']:.4f}" if f"{name}_se" in metrics else ""
        context.console.note(f"  {name:<20} {metrics[name]:.4f}{error}")
    return {**metrics, "num_pairs": len(pairs), **also_trained_on}


def _also_trained_on(context: Context, rows: list[Feedback]) -> dict[str, int]:
    """How many of the rows the run has trained on, said and counted, as far as its own data can still be read."""
    study = context.study
    try:
        overlapping = overlap(rows, study.data.load(), study.candidates.sampled)
    except ValueError as error:
        context.console.warn(f"whether the run was trained on these pairs is not known: its own data cannot be read ({error})")
        return {}
    (context.console.warn if overlapping.prompts_trained_on else context.console.note)(str(overlapping))
    return {"num_trained_on": overlapping.trained_on, "num_prompts_trained_on": overlapping.prompts_trained_on}
