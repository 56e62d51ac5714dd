"""How a policy ranks the pairs of a file, by what it has come to prefer over its reference."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from dpo_lab.candidates.given import GivenCandidates
from dpo_lab.data.base import Feedback
from dpo_lab.data.overlap import overlap
from dpo_lab.data.pairs import PairsSource
from dpo_lab.models.copying import freeze
from dpo_lab.objective import Objective
from dpo_lab.policies import Policy
from dpo_lab.records import CandidateBatch
from dpo_lab.references import REFERENCES, Reference
from dpo_lab.runners.context import Context
from dpo_lab.scoring import Scoring
from dpo_lab.self_check import trusted

TOKENS_AT_ONCE = 4096


def scored(context: Context, path: str, policy: Policy, reference: Policy) -> dict[str, Any]:
    """The metrics of training on all pairs of a file, in the run's own loss. Too long ones are left out and counted."""
    study = context.study
    rows = PairsSource(eval_path=path).held_out()
    given = study.candidates if isinstance(study.candidates, GivenCandidates) else GivenCandidates()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pairs.safetensors"
        counts = given.write(rows, policy.tokenizer, file)
        pairs = CandidateBatch.from_tensors(load_file(file))
    left_out = "".join(f", {count:,} {what}" for what, count in counts.items() if count)
    also_trained_on = _also_trained_on(context, rows)
    module = freeze(policy.module.to(study.compute.torch_device))
    layouts = trusted(module, study.compute.layout, context.console.note)
    objective = Objective(
        module,
        study.loss,
        Reference(REFERENCES["frozen"](name="frozen"), freeze(reference.module), scoring=Scoring(layouts)),
        study.compute,
        micro_batch_tokens=study.trainer.micro_batch_tokens or TOKENS_AT_ONCE,
        scoring=Scoring(layouts, study.compute.head_portion),
    )
    with context.stage("pairs", f"{len(pairs):,} of {path}{left_out}"):
        metrics = objective.evaluate(pairs)
    for name in ("loss", "rewards/accuracies", "rewards/margins"):
        context.console.note(f"  {name:<20} {metrics[name]:.4f}")
    return {**metrics, "num_pairs": len(pairs), **also_trained_on}


def _also_trained_on(context: Context, rows: list[Feedback]) -> dict[str, int]:
    """How many of the rows the run has trained on, said and counted, as far as its own data can still be read."""
    study = context.study
    try:
        found = overlap(rows, study.data.load(), study.candidates.sampled)
    except ValueError as error:
        context.console.warn(f"whether the run was trained on these pairs is not known: its own data cannot be read ({error})")
        return {}
    (context.console.warn if found.prompts_trained_on else context.console.note)(str(found))
    return {"num_trained_on": found.trained_on, "num_prompts_trained_on": found.prompts_trained_on}
