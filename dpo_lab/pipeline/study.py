"""The whole configuration of a run as one dataclass, and the way from text to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from dpo_lab.artifacts.safe_config import read_config
from dpo_lab.artifacts.store import is_key
from dpo_lab.data import DataSource
from dpo_lab.data.tokenizers import TokenizerSpec
from dpo_lab.evaluation.policy import EvaluationSettings
from dpo_lab.losses import PreferenceLoss
from dpo_lab.models.base import ModelSpec
from dpo_lab.pipeline.base import RunnerSpec
from dpo_lab.pipeline.varying import Vary, check_all_follow
from dpo_lab.preferences import CandidatesSpec
from dpo_lab.preferences.rewards import RewardSpec
from dpo_lab.registry import Registry, suggestion
from dpo_lab.tracking.run_directory import path_below
from dpo_lab.training.compute import Compute
from dpo_lab.training.optim import OptimizerSpec, ScheduleSpec
from dpo_lab.training.references import ReferenceSpec
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
    """Texts are cut to so many tokens (a cut one gets no end token)."""
    whole_at_end: float = 0.0
    """Share of the steps, at the end, that see whole texts only: fragments teach words, but not where a text ends."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"base.max_tokens must be at least 1, got {self.max_tokens}")
        if not 0 <= self.whole_at_end <= 1:
            raise ValueError(f"base.whole_at_end is a share of the steps, in [0, 1], got {self.whole_at_end}")
        self.trainer.check_base_fit()


@dataclass
class Study:
    """Everything a run is. The fields of a registered choice (data, loss, ...) are those of its own class."""

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
    """auto: the same command again goes on with a run that has not ended; never: it starts a new one; or a run directory to go
    on with, whose settings then hold.
    """
    user_modules: list[str] = field(default_factory=list)
    """Modules of yours to import first, for the components they register."""
    compute: Compute = field(default_factory=Compute)
    runner: RunnerSpec = MISSING
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
            check_all_follow(self)
        if self.loss.needs_reference and self.reference.name == "none":
            raise ValueError(f"loss={self.loss.name} needs a reference: choose reference=cached or reference=frozen")
        if self.loss.needs_kl and not self.reference.runs_model:
            raise ValueError(
                f"loss={self.loss.name} compares whole next-token distributions, which reference={self.reference.name} does "
                "not have: choose reference=frozen"
            )
        if self.candidates.num_candidates is not None:
            self.loss.check_count(self.candidates.num_candidates)
        if self.candidates.sampled and self.reward.name == "none":
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


def to_study(config: DictConfig) -> Study:
    """Ready, validated objects. Raises ValueError with one sentence for whatever is wrong."""
    with environment_refused():
        return _checked(config)


def _checked(config: DictConfig) -> Study:
    refuse_unknown_keys(config)
    for path, kind in CHOICES.items():
        node = OmegaConf.select(config, path)
        if not isinstance(node, DictConfig):
            raise ValueError(f"{path} is not set: choose one with {path}=...")
        name = node.name
        expected = OmegaConf.get_type(node)
        if Registry.all[kind][str(name)] is not expected:
            raise ValueError(f"{path}.name cannot be set by itself; choose with {path}={name}")
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ValueError(f"{missing[0]} is not set: give {missing[0]}=...")
    try:
        study = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise ValueError(f"{error.full_key}: {str(error.__cause__ or error).splitlines()[0]}") from error
    assert isinstance(study, Study)
    return study


@contextmanager
def environment_refused() -> Iterator[None]:
    """Inside, ${oc.env:NAME} is a mistake: a run's settings are written to config.yaml, and the environment holds secrets."""

    def refuse(name: str, default: object = None) -> object:
        raise ValueError(f"${{oc.env:{name}}} would write the environment into config.yaml; give the value itself")

    OmegaConf.register_new_resolver("oc.env", refuse, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def refuse_unknown_keys(config: DictConfig) -> None:
    """Raises ValueError for a setting that no schema has."""
    for path, known in _unknown_keys(config):
        known += [] if "." in path else ["+experiment"]
        raise ValueError(f"there is no setting '{path}'.{suggestion(path.rpartition('.')[2], known)}")


def study_from_file(path: Path) -> Study:
    """The study that a run directory's config.yaml describes."""
    config = config_from_file(path)
    try:
        return to_study(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def config_from_file(path: Path) -> DictConfig:
    """A run directory's config.yaml under the schema. It can name registered components only, and runs nothing."""
    saved = read_config(path)
    config = OmegaConf.structured(Study)
    try:
        for choice, kind in CHOICES.items():
            name = OmegaConf.select(saved, f"{choice}.name")
            if name is None:
                raise ValueError(f"{choice}.name is not set")
            OmegaConf.update(config, choice, OmegaConf.structured(Registry.all[kind][str(name)]), merge=False)
        merged = OmegaConf.merge(config, saved)
        assert isinstance(merged, DictConfig)
        refuse_remote_code(merged)
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}: {error.full_key}: {str(error).splitlines()[0]}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return merged


def refuse_remote_code(config: DictConfig) -> None:
    """Raises ValueError where a configuration would have code run that comes with a model."""
    if OmegaConf.select(config, "model.trust_remote_code"):
        raise ValueError("model.trust_remote_code is for the command line alone: a file may not ask for it")


def _unknown_keys(config: DictConfig, prefix: str = "") -> Iterator[tuple[str, list[str]]]:
    """Settings that no schema has (they come in with + and ++), each with the names that the schema does have."""
    schema = OmegaConf.get_type(config)
    if schema in (None, dict):
        return
    known = [f.name for f in fields(schema)]
    for key in map(str, config):
        path = f"{prefix}{key}"
        if key not in known:
            yield path, known
        elif OmegaConf.is_missing(config, key):
            continue
        elif isinstance(config._get_node(key), DictConfig) and config[key] is not None:
            yield from _unknown_keys(config[key], f"{path}.")
