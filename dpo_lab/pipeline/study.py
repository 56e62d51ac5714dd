"""The study: the whole configuration of a run as one dataclass."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from dpo_lab.artifacts.store import is_key
from dpo_lab.data import DataSource
from dpo_lab.data.tokenizers import TokenizerSpec
from dpo_lab.evaluation.policy import EvaluationSettings
from dpo_lab.losses import PreferenceLoss
from dpo_lab.models.base import ModelSpec
from dpo_lab.pipeline.runner_settings import RunnerSettings
from dpo_lab.pipeline.seeds import Vary, check_vary
from dpo_lab.preferences import CandidatesSpec
from dpo_lab.preferences.rewards import RewardSpec
from dpo_lab.registry import suggestion
from dpo_lab.tracking.run_directory import path_below
from dpo_lab.training.compute import Compute
from dpo_lab.training.optimizers import OptimizerSpec
from dpo_lab.training.references import ReferenceSpec
from dpo_lab.training.schedules import ScheduleSpec
from dpo_lab.training.settings import TrainerSettings

STAGES = ("tokenizer", "base", "reward", "candidates", "reference_samples", "pairs", "reference_scores")
"""Kinds of artifacts."""


@dataclass
class BaseFit:
    """How the base policy is fitted to the text, by maximum likelihood, before any preference."""

    optimizer: OptimizerSpec = MISSING
    schedule: ScheduleSpec = MISSING
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    max_tokens: int = 64
    """Longest text in tokens; a longer one is cut, and gets no end token."""
    whole_at_end: float = 0.0
    """Share of the steps, at the end, that see whole texts only: fragments teach words, but not where a text ends."""
    seed: int = 0
    """Seed of the order of the texts and of the first weights."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"base.max_tokens must be at least 1, got {self.max_tokens}")
        if not 0 <= self.whole_at_end <= 1:
            raise ValueError(f"base.whole_at_end is a share of the steps, in [0, 1], got {self.whole_at_end}")
        self.trainer.check_base_fit()


@dataclass
class Study:
    """The settings of a run. Those of a registered choice (data, loss, ...) are the fields of its own class."""

    name: str = "dpo"
    """First part of the run directory's path."""
    seed: int = 0
    """Seed of the run; `vary` says what it varies."""
    vary: Vary = Vary.training
    """training: the seed of the training and of the policy's samples alone varies; all: every other seed follows it."""
    store: str = "artifacts"
    """Directory of the artifacts shared by all runs."""
    accept: list[str] = field(default_factory=list)
    """Written store.accept=...: kinds of stages (tokenizer, base, reward, ...), or keys of artifacts, that are taken from the
    store although other code, versions or threads made them. The run says so, and records it.
    """
    runs: str = "runs"
    """Directory of the run directories."""
    resume: str = "auto"
    """auto: the same command again resumes a run that has not ended; never: it starts a new one; or a run directory to
    resume, whose settings then hold.
    """
    user_modules: list[str] = field(default_factory=list)
    """Modules of yours to import first, for the components they register."""
    compute: Compute = field(default_factory=Compute)
    runner: RunnerSettings = MISSING
    data: DataSource = MISSING
    tokenizer: TokenizerSpec = MISSING
    model: ModelSpec = MISSING
    base: BaseFit = field(default_factory=BaseFit)
    reward: RewardSpec = MISSING
    candidates: CandidatesSpec = MISSING
    reference: ReferenceSpec = MISSING
    loss: PreferenceLoss = MISSING
    optimizer: OptimizerSpec = MISSING
    schedule: ScheduleSpec = MISSING
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)

    def __post_init__(self) -> None:
        for setting, value in (("store", self.store), ("runs", self.runs)):
            if not value:
                raise ValueError(f"{setting} must name a directory, got ''")
        path_below(Path(self.runs), self.name)
        for accepted in self.accept:
            if accepted not in STAGES and not is_key(accepted):
                known = suggestion(accepted, STAGES)
                raise ValueError(f"store.accept: '{accepted}' is neither a kind of stage nor a key of 16 digits.{known}")
        for part in (self, self.base, self.data, self.candidates, self.evaluation, self.runner):
            seed = getattr(part, "seed", None)
            if seed is not None and not -(2**63) <= seed < 2**63:
                raise ValueError(f"a seed has at most 63 bits, got seed={seed}")
        if self.vary is Vary.all:
            check_vary(self)
        if self.loss.needs_reference and not self.reference.has_logps:
            raise ValueError(f"loss={self.loss.name} needs a reference: choose reference=cached or reference=frozen")
        if self.loss.needs_kl and not self.reference.runs_model:
            raise ValueError(
                f"loss={self.loss.name} compares whole next-token distributions, which reference={self.reference.name} does "
                "not have: choose reference=frozen"
            )
        if self.candidates.num_candidates is not None:
            self.loss.check_count(self.candidates.num_candidates)
        if self.candidates.sampled and not self.reward.has_scores:
            raise ValueError(
                f"candidates={self.candidates.name} needs a reward to label the samples: choose one with reward=..."
            )


CHOICES = {
    name: name
    for name in ("runner", "data", "tokenizer", "model", "reward", "candidates", "reference", "loss", "optimizer", "schedule")
}
"""Fields of a Study that are a registered component, and the registry of each."""
CHOICES |= {"base.optimizer": "optimizer", "base.schedule": "schedule"}

ConfigStore.instance().store(name="schema", node=Study)
