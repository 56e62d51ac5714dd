"""A finished run, as it was when its training ended: its settings, its policy and its reference."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from dpo_lab.artifacts.directory import DamagedError, verify_directory
from dpo_lab.losses.base import State
from dpo_lab.models.policies import Policy, load_policy
from dpo_lab.pipeline.reference_model import reference_model
from dpo_lab.pipeline.study import Study
from dpo_lab.pipeline.study_config import study_from_file
from dpo_lab.pipeline.training import tensors_digest
from dpo_lab.scoring.logps import Scoring
from dpo_lab.tracking import read_run, read_summary
from dpo_lab.training.checkpoints import Checkpoint
from dpo_lab.training.references import Reference
from dpo_lab.training.train_state import below, loss_values, weights_of


@dataclass
class TrainedRun:
    """A finished training at `path`."""

    path: Path

    @classmethod
    def at(cls, weights: Path) -> TrainedRun:
        """The run that a policy directory is of. Raises ValueError where that is no run."""
        run = weights.parent if weights.name == "policy" else weights
        if not (run / "config.yaml").is_file() or not (run / "run.json").is_file():
            raise ValueError(f"model.path: {run} is no run directory: run.json and config.yaml are not both there")
        return cls(run)

    @cached_property
    def study(self) -> Study:
        return study_from_file(self.path / "config.yaml")

    @cached_property
    def policy(self) -> Policy:
        return load_policy(self.path)

    def check_base(self, base: Policy) -> None:
        """Raises ValueError where the run has begun from another policy than `base`, which its settings give now."""
        facts = read_run(self.path)
        then, kept = facts.get("made_from", {}).get("base"), facts.get("artifacts", {}).get("base", [])
        if then not in (None, tensors_digest(weights_of(base.module))):
            raise ValueError(
                f"model.path: {self.path} began from another base policy than its settings give now, so it cannot be compared "
                f"with where it began: store.accept={kept[0] if kept else 'base'} takes that one from the store"
            )

    def reference(self, base: Policy, key: str, scoring: Scoring) -> Reference:
        """The reference at the end of the training: frozen, another policy, or wherever it had moved."""
        spec = self.study.reference
        model, _ = reference_model(spec, base, key)
        live = spec.unprepared()
        reference = Reference(live, model, scoring=scoring)
        if spec.moves:
            reference.restore(below("reference", self._state(f"reference={spec.name}")))
        return reference

    def loss_state(self, base: Policy) -> State:
        """The state of the run's loss at the end of the training."""
        loss = self.study.loss
        if not loss.initial_state():
            return loss.initial_state()
        return loss_values(below("loss", self._state(f"loss={loss.name}")), next(base.module.parameters()).device)

    def _state(self, why: str) -> dict[str, Tensor]:
        """The train state in the checkpoint whose weights the policy has."""
        step = int(read_run(self.path).get("policy_step", read_summary(self.path).get("step", 0)))
        path = self.path / "checkpoints" / f"step-{step:08}"
        try:
            verify_directory(path)
        except DamagedError as error:
            raise ValueError(f"model.path: {why} was left in the checkpoint of the policy's step: {error}") from error
        return Checkpoint(path, step).state()
