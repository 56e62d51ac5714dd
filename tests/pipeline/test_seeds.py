"""What a seed varies is one setting, and no seed contradicts it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from dpo_lab.cli.composing import composed
from dpo_lab.pipeline.seeds import Vary
from dpo_lab.pipeline.study import Study
from dpo_lab.pipeline.study_config import study_from_file, to_study

QUICK = ["+experiment=quickstart"]
LORA = ["model=pretrained", "model.path=/some/where", "model.lora.rank=2"]


def seeds(study: Study) -> dict[str, Any]:
    parts = {"data": study.data, "base": study.base, "candidates": study.candidates, "evaluation": study.evaluation}
    return {name: part.seed for name, part in parts.items() if hasattr(part, "seed")}


def test_by_default_the_runs_seed_leaves_the_others_alone() -> None:
    study = to_study(composed([*QUICK, "seed=3", "base.seed=2"]))
    assert study.vary is Vary.training
    assert seeds(study) == {"data": 0, "base": 2, "candidates": 0, "evaluation": 0}


@pytest.mark.parametrize("experiment", ["quickstart", "imdb_sentiment", "beta_sweep", "loss_shootout"])
def test_with_all_every_seed_follows_that_of_the_run(experiment: str) -> None:
    study = to_study(composed([f"+experiment={experiment}", "loss=dpo", "seed=3", "vary=all"]))
    assert set(seeds(study).values()) == {3}
    assert len(seeds(study)) == (4 if experiment in ("quickstart", "loss_shootout") else 3)  # imdb's data are the same ever


def test_of_an_adapter_too() -> None:
    study = to_study(composed([*LORA, "seed=4", "vary=all", "candidates=sampled", "reward=lexicon", "reward.values={a: 1}"]))
    assert study.model.lora.seed == 4  # type: ignore[attr-defined]


def test_a_saved_run_has_its_seeds_and_can_be_read_and_changed(tmp_path: Path) -> None:
    words = [*QUICK, "seed=3", "vary=all"]
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(composed(words), resolve=True))
    study = study_from_file(tmp_path / "config.yaml")
    assert study == to_study(composed(words)) == replace(study)
    assert seeds(replace(study, runs="elsewhere")) == seeds(study) == dict.fromkeys(seeds(study), 3)


@dataclass
class Contradiction:
    words: list[str]
    named: str


CONTRADICTIONS = {
    "another seed": Contradiction(["seed=3", "candidates.seed=5"], "candidates.seed=5"),
    "the default, but said": Contradiction(["seed=3", "data.seed=0"], "data.seed=0"),
    "said without a seed": Contradiction(["base.seed=1"], "base.seed=1"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_a_seed_of_its_own_is_refused(case: Contradiction) -> None:
    with pytest.raises(ValueError, match=rf"{case.named}, but with vary=all .* vary=training"):
        composed([*QUICK, "vary=all", *case.words])


def test_a_study_in_which_they_differ_is_refused() -> None:
    study = to_study(composed([*QUICK, "seed=3", "vary=all"]))
    with pytest.raises(ValueError, match=r"data.seed=3, but with vary=all"):
        replace(study, seed=4)


def test_the_same_seed_may_be_said() -> None:
    assert to_study(composed([*QUICK, "seed=3", "vary=all", "candidates.seed=3"])).candidates.seed == 3  # type: ignore[attr-defined]
