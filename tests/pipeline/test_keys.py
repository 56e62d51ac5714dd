"""Two studies that can give different bits have different keys; any that cannot share theirs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from processes import QUICKSTART, runs_of

from dpo_lab.artifacts.digests import file_digest, json_value
from dpo_lab.artifacts.fingerprint import HOUSEKEEPING, ROUNDING, decisive, flat, group_key, is_seed
from dpo_lab.cli.composing import composed
from dpo_lab.models.checkpoint import CheckpointSpec
from dpo_lab.pipeline import execute as executing
from dpo_lab.pipeline.execute import execute
from dpo_lab.pipeline.study import Study
from dpo_lab.pipeline.study_config import to_study
from dpo_lab.pipeline.study_keys import code_of_study, config_key
from dpo_lab.training.references.frozen import FrozenReference

OTHER = {"auto": "never", "": str(Path(__file__).parent)}
"""Where a type does not say what else a setting could be."""


@pytest.fixture(scope="module")
def study() -> Study:
    return to_study(composed(QUICKSTART))


def changes(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The study with one setting changed, for each setting whose other value it takes, by the setting's dotted name."""
    for field in dataclasses.fields(value):
        held = getattr(value, field.name)
        name = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(held):
            others: Any = changes(held, f"{name}.")
        else:
            others = ((name, other) for other in _other(held) if other != held)
        for changed, other in others:
            try:
                yield changed, dataclasses.replace(value, **{field.name: other})
            except (ValueError, TypeError):  # no value that it can have, or none beside the others
                continue


def _other(held: Any) -> list[Any]:
    if isinstance(held, Enum):
        return [other for other in type(held) if other is not held][:1]
    if isinstance(held, bool):
        return [not held]
    if isinstance(held, int | float):
        return [held + 1, held // 2 if isinstance(held, int) else held / 2]
    if isinstance(held, str):
        return [OTHER.get(held, f"{held}x")]
    if isinstance(held, list):
        return [[*held, "0" * 16]]
    return [7, True] if held is None else [{**held, "x": 1.0}]


def test_every_setting_that_can_change_a_bit_is_in_the_key_and_no_other(study: Study) -> None:
    key = config_key(study)
    assert config_key(dataclasses.replace(study)) == key
    settings = {name for name, _ in flat(json_value(study)) if not name.startswith("reward.values.")}
    seen: set[str] = set()
    for name, other in changes(study):
        if name.rpartition(".")[2] == "name" and name != "name":
            continue  # of a component, chosen by its class
        seen.add(name)
        assert (config_key(other) == key) == (name in HOUSEKEEPING and name != "name"), name
    assert len(seen) > 60
    assert {name for name in HOUSEKEEPING | ROUNDING if name in settings} - seen <= {"compute.device"}, (
        "none that is never tried"
    )


def test_repetitions_of_an_experiment_share_a_group(study: Study) -> None:
    def group(study: Study) -> str:
        return group_key(dict(flat(json_value(study))), {"a": "1"}, {"torch": "2"})

    own = group(study)
    for name, other in changes(study):
        expected = name in HOUSEKEEPING | ROUNDING or is_seed(name)
        assert (group(other) == own) == expected, name
    settings = dict(flat(json_value(study)))
    assert group_key(settings, {"a": "2"}, {"torch": "2"}) != own != group_key(settings, {"a": "1"}, {"torch": "3"})
    assert decisive(settings, seeds=True).keys() - decisive(settings).keys() == {name for name in settings if is_seed(name)} - {
        "vary"
    }


def test_what_counts_as_housekeeping_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(executing, "report", lambda context, summary: None)
    other = ["runs=runs/elsewhere", "trainer.checkpoint_every=1", "trainer.keep_last=1", "trainer.keep_every=2"]
    other += ["trainer.preflight=true", "evaluation.num_shown=1", "resume=never", "name=another", "store=elsewhere"]
    for words in ([], other):
        config = composed([*QUICKSTART, *words])
        assert execute(to_study(config), config, [], "x") == 0
    one, another = runs_of(tmp_path)
    for file in ("policy/model.safetensors", "samples.jsonl"):
        assert file_digest(one / file) == file_digest(another / file)


def test_the_code_of_a_run_holds_that_of_the_networks_it_starts_from(study: Study, tmp_path: Path) -> None:
    transformer = code_of_study(study).modules["dpo_lab.models.transformer"]
    (tmp_path / "none").mkdir()
    other = dataclasses.replace(study, model=CheckpointSpec(path=str(tmp_path / "none")))
    assert "dpo_lab.models.transformer" not in code_of_study(other).modules, "there is no policy yet"
    (tmp_path / "config.yaml").write_text("model:\n  name: transformer\n")
    (tmp_path / "manifest.json").write_text("{}")
    for change in ({"model": CheckpointSpec(path=str(tmp_path))}, {"reference": FrozenReference(path=str(tmp_path))}):
        found = code_of_study(dataclasses.replace(other, **change))
        assert found.modules["dpo_lab.models.transformer"] == transformer
        assert "x-transformers" in found.versions


def test_the_code_of_a_judgement_holds_that_of_the_run_it_judges(study: Study, tmp_path: Path) -> None:
    judging = to_study(composed(["runner=evaluate", "model=checkpoint", f"model.path={tmp_path}"]))
    assert "dpo_lab.preferences.rewards.lexicon" not in code_of_study(judging).modules, "there is no run yet"
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(composed(QUICKSTART), resolve=True))
    (tmp_path / "run.json").write_text("{}")
    assert code_of_study(study).modules.items() <= code_of_study(judging).modules.items()
