"""Every choice in conf/ composes and builds, and says only what the code does not say already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from dpo_lab.cli import CONF
from dpo_lab.cli.composing import Composer, composed
from dpo_lab.cli.planning import jobs_of_command
from dpo_lab.cli.validation import validate
from dpo_lab.pipeline.study import CHOICES
from dpo_lab.pipeline.study_config import to_study
from dpo_lab.registry import Registry, load_user_modules
from dpo_lab.training.schedules import SCHEDULES
from dpo_lab.training.schedules.linear import LinearSchedule

EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
FILES = sorted(file.relative_to(CONF).as_posix() for file in CONF.rglob("*.yaml"))
YAML_OPTIONS = [file.removesuffix(".yaml") for file in FILES if "/" in file and not file.startswith("experiment/")]
LEXICON = ["reward=lexicon", "++reward.values={a: 1}"]
NEEDS = {
    "candidates/sampled": LEXICON,
    "reward/lexicon": LEXICON[1:],
    "reference/none": ["loss=sft"],
    "loss/tdpo1": ["reference=frozen"],
    "loss/tdpo2": ["reference=frozen"],
}
"""What a choice cannot do without."""


@pytest.fixture(autouse=True, scope="module")
def of_the_throughput_studies() -> None:
    """Their runner, as the command line imports it for them."""
    load_user_modules(["experiments.throughput.benchmark"])


def built_in(kind: str) -> set[str]:
    """Names of the package's own components: tests and plugins may have registered more."""
    return {name for name, cls in Registry.all[kind].items() if cls.__module__.startswith("dpo_lab.")}


OPTIONS = sorted(f"{kind}/{name}" for kind in set(CHOICES.values()) for name in built_in(kind))
"""With a YAML file or without."""


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything that is no mapping, and of empty mappings."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def contents(file: Path) -> dict[str, Any]:
    """A YAML file without its defaults list, where choices are made and no values given."""
    loaded = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(loaded, dict)
    return {str(key): value for key, value in loaded.items() if key not in ("defaults", "hydra")}


def chosen(experiment: str) -> list[str]:
    """The choices in the defaults list of an experiment, as override words."""
    entries = OmegaConf.to_container(OmegaConf.load(CONF / "experiment" / f"{experiment}.yaml")).get("defaults", [])  # type: ignore[union-attr]
    pairs = [next(iter(entry.items())) for entry in entries if isinstance(entry, dict)]
    return [f"{key.removeprefix('override').strip().removeprefix('/')}={value}" for key, value in pairs]


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_builds(option: str) -> None:
    group, name = option.split("/")
    study = to_study(composed([f"{group}={name}", *NEEDS.get(option, [])]))
    component = getattr(study, group)
    assert type(component) is Registry.all[group][name]
    assert component.name == name


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.startswith(("optimizer/", "schedule/"))])
def test_the_base_fit_has_the_same_choices(option: str) -> None:
    group, name = option.split("/")
    study = to_study(composed([f"{group}@base.{group}={name}"]))
    assert getattr(study.base, group).name == name


def test_without_any_word_the_configuration_builds() -> None:
    assert to_study(composed([])).loss.name == "dpo"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_builds(experiment: str) -> None:
    study = to_study(composed([f"+experiment={experiment}"]))
    assert study.name == experiment, "runs/<name> is where its runs are looked for"


@pytest.mark.parametrize("kind", sorted(set(CHOICES.values())))
def test_every_yaml_file_has_the_name_of_its_component(kind: str) -> None:
    assert {file.stem for file in (CONF / kind).glob("*.yaml")} <= built_in(kind)


def test_a_component_without_a_yaml_file_is_an_option_with_its_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass
    class Unwritten(LinearSchedule):
        name: str = "unwritten"

    monkeypatch.setattr(SCHEDULES, "_classes", dict(SCHEDULES))
    SCHEDULES.register(Unwritten)
    for folders in ([], [tmp_path]):
        study = to_study(composed(["schedule=unwritten", "schedule.warmup=0.5", "schedule@base.schedule=unwritten"], folders))
        assert (study.schedule, study.base.schedule) == (Unwritten(warmup=0.5), Unwritten())
    (tmp_path / "schedule").mkdir()
    (tmp_path / "schedule" / "unwritten.yaml").write_text("defaults: [/schema/schedule@_here_: unwritten]\nwarmup: 0.25\n")
    assert to_study(composed(["schedule=unwritten"], [tmp_path])).schedule == Unwritten(warmup=0.25), "a file may say more"
    with pytest.raises(ValueError, match="Did you mean 'unwritten'"):
        composed(["schedule=unwriten"])


def test_every_group_is_a_registry_or_the_experiments() -> None:
    groups = {folder.name for folder in CONF.iterdir() if folder.is_dir()}
    assert groups <= {*CHOICES.values(), "experiment"}
    assert {file.suffix for file in CONF.rglob("*") if file.is_file()} == {".yaml"}


@pytest.mark.parametrize("file", FILES)
def test_every_file_begins_with_a_comment(file: str) -> None:
    first, second, *_ = (CONF / file).read_text().splitlines()
    if first.startswith("# @package"):  # Hydra wants that line to come first
        first = second
    assert first.startswith("# ")
    assert len(first) > 8


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_says_its_question_and_its_time(experiment: str) -> None:
    header = [line for line in (CONF / "experiment" / f"{experiment}.yaml").read_text().splitlines() if line.startswith("#")]
    assert header[0] == "# @package _global_"
    assert header[1].startswith("# Question: ")
    assert "Time: " in " ".join(header)


@pytest.mark.parametrize("option", YAML_OPTIONS)
def test_an_option_repeats_no_default_of_its_class(option: str) -> None:
    group, name = option.split("/")
    defaults = dict(leaves(OmegaConf.to_container(OmegaConf.structured(Registry.all[group][name]), enum_to_str=True)))
    repeated = [key for key, value in leaves(contents(CONF / f"{option}.yaml")) if key and defaults.get(key, ...) == value]
    assert not repeated


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_repeats_no_default(experiment: str) -> None:
    """A value in an experiment differs from what its choices, or the experiment it extends, give without it."""
    defaults = OmegaConf.load(CONF / "experiment" / f"{experiment}.yaml").defaults
    extended = [f"+experiment={name}" for name in defaults if name in EXPERIMENTS]
    plain = OmegaConf.to_container(composed([*extended, *chosen(experiment)]), enum_to_str=True)
    before = dict(leaves(plain))
    written = list(leaves(contents(CONF / "experiment" / f"{experiment}.yaml")))
    repeated = [key for key, value in written if before.get(key, ...) == value or value == {}]
    assert not repeated


def test_config_yaml_chooses_and_sets_nothing() -> None:
    assert contents(CONF / "config.yaml") == {}


def test_every_experiment_has_its_folder_and_every_folder_its_experiment() -> None:
    root = CONF.parent / "experiments"
    folders = {folder.name for folder in root.iterdir() if folder.is_dir()}
    scripts = {name for name in folders if (root / name / f"{name}.py").is_file()}  # no run of one configuration
    assert folders - scripts == set(EXPERIMENTS)
    assert [name for name in folders if not (root / name / "README.md").is_file()] == []


def test_a_study_that_is_ready_to_run_passes_the_check() -> None:
    validate(["+experiment=quickstart"])


SWEEPS = [name for name in EXPERIMENTS if "sweeper:" in (CONF / "experiment" / f"{name}.yaml").read_text()]


@pytest.mark.parametrize("experiment", SWEEPS)
def test_every_job_of_a_sweep_composes_and_its_losses_are_known(experiment: str) -> None:
    composer = Composer()
    jobs = jobs_of_command([f"+experiment={experiment}"], True, composer).jobs
    assert len(jobs) > 1
    assert len({tuple(words) for words in jobs}) == len(jobs)
    for words in {tuple(word for word in words if not word.startswith("seed=")) for words in jobs}:
        to_study(composer.settings(words))


@pytest.mark.parametrize("experiment", SWEEPS)
def test_a_sweep_without_multirun_says_so_and_one_of_its_jobs_runs_alone(experiment: str) -> None:
    with pytest.raises(ValueError, match=r"is a sweep over .*: add -m to run its \d+ jobs"):
        jobs_of_command([f"+experiment={experiment}"], False, Composer())
    words = jobs_of_command([f"+experiment={experiment}"], True, Composer()).jobs[-1]
    assert jobs_of_command(words, False, Composer()).jobs == [words]


def test_a_value_on_the_command_line_replaces_the_sweeps_own() -> None:
    jobs = jobs_of_command(["+experiment=loss_shootout", "seed=7", "loss=dpo,ipo"], True, Composer()).jobs
    assert [sorted(words) for words in jobs] == [
        ["+experiment=loss_shootout", f"loss={loss}", "seed=7"] for loss in ("dpo", "ipo")
    ]


def test_the_shootout_has_every_loss_of_pairs() -> None:
    swept = {
        word.removeprefix("loss=")
        for words in jobs_of_command(["+experiment=loss_shootout"], True, Composer()).jobs
        for word in words
        if "loss=" in word
    }
    rankings_that_are_dpo_for_pairs = {"plackett_luce", "lipo_lambda"}
    assert swept == set(Registry.all["loss"]) - rankings_that_are_dpo_for_pairs


def test_a_pattern_stands_for_the_options_it_matches() -> None:
    jobs = jobs_of_command(["+experiment=quickstart", "loss=glob(apo_*)"], True, Composer()).jobs
    assert [job[-1] for job in jobs] == ["loss=apo_down", "loss=apo_zero"]
    with pytest.raises(ValueError, match=r"loss=glob\(zz\*\) gives no value: there is no such loss"):
        jobs_of_command(["loss=glob(zz*)"], True, Composer())
