"""Which run a command resumes, and what it says where it does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from processes import QUICKSTART

from dpo_lab.cli.composing import composed
from dpo_lab.cli.sweeps.ledger import JobState, Ledger
from dpo_lab.pipeline.execute import execute
from dpo_lab.pipeline.resume import finished_run, run_to_resume, unfinished_run
from dpo_lab.pipeline.runners.evaluate import EvaluateRunner
from dpo_lab.pipeline.study import Study
from dpo_lab.pipeline.study_config import to_study
from dpo_lab.pipeline.study_keys import config_key, input_digests, run_environment, settings_key
from dpo_lab.tracking import RunDirectory, read_run


@pytest.fixture(scope="module")
def config() -> Any:
    return composed(QUICKSTART)


@pytest.fixture
def study(config: Any, tmp_path: Path) -> Study:
    return replace(to_study(config), runs=str(tmp_path / "runs"))


def keys(study: Study) -> dict[str, str]:
    return {"config_key": config_key(study), "settings_key": settings_key(study)}


def other_code(study: Study) -> dict[str, str]:
    return {**run_environment(study)["code"], "dpo_lab.losses.dpo": "0"}


@pytest.fixture
def left(study: Study) -> Callable[..., Path]:
    """A run of the study, as a process leaves it that was killed; `changed` are its facts."""

    def leave(**changed: Any) -> Path:
        run = RunDirectory.create(Path(study.runs), study.name)
        run.start({**keys(study), **run_environment(study), "read": input_digests(study)})
        run.update(**changed)
        run.close()
        return run.path

    return leave


def test_the_unfinished_run_of_the_same_study_is_gone_on_with(study: Study, left: Callable[..., Path]) -> None:
    assert run_to_resume(study, True, pytest.fail) is None
    path = left()
    assert run_to_resume(study, True, pytest.fail) == path
    assert run_to_resume(study, False, pytest.fail) is None, "another process is at this study"
    assert run_to_resume(replace(study, resume="never"), True, pytest.fail) is None
    assert run_to_resume(replace(study, seed=1), True, pytest.fail) is None
    seldom = replace(study, trainer=replace(study.trainer, keep_last=1, keep_every=3, checkpoint_every=7))
    assert run_to_resume(seldom, True, pytest.fail) == path, "what is kept changes nothing of what is computed"


@pytest.mark.parametrize("status", ["done", "diverged"])
def test_after_a_run_that_has_ended_a_new_one_starts(status: str, study: Study, left: Callable[..., Path]) -> None:
    left()
    path = left(status=status)
    assert run_to_resume(study, True, pytest.fail) is None
    with pytest.raises(ValueError, match=f"has ended \\({status}\\)"):
        run_to_resume(replace(study, resume=str(path)), True, pytest.fail)


def test_a_run_that_a_process_is_at_is_left_to_it(study: Study) -> None:
    run = RunDirectory.create(Path(study.runs), study.name)
    run.start({**keys(study), **run_environment(study)})
    assert unfinished_run(study) is None
    with pytest.raises(ValueError, match="another process is at"):
        run_to_resume(replace(study, resume=str(run.path)), True, pytest.fail)
    run.close()
    assert unfinished_run(study) == run.path


OTHERWISE = {
    "code": ({"code": "0" * 16}, "code: 0000000000000000 then, "),
    "versions": ({"versions": {"torch": "1.0"}}, "versions.torch: 1.0 then, "),
    "threads": ({"threads": 99}, "threads: 99 then, 1 now"),
    "device": ({"device": "cuda"}, "device: cuda then, cpu now"),
}


@pytest.mark.parametrize("what", OTHERWISE)
def test_what_is_no_longer_the_same_is_named(what: str, study: Study, left: Callable[..., Path]) -> None:
    changed, phrase = OTHERWISE[what]
    path = left(**changed)
    told: list[str] = []
    assert run_to_resume(study, True, told.append) is None
    (line,) = told
    assert phrase in line
    assert f"resume={path}" in line
    told.clear()
    assert run_to_resume(replace(study, resume=str(path)), True, told.append) == path
    assert any(phrase in line for line in told)


def test_other_hardware_is_told_of_and_gone_on_with(study: Study, left: Callable[..., Path]) -> None:
    path = left(hardware={"cpu": "another"})
    told: list[str] = []
    assert run_to_resume(study, True, told.append) == path
    assert any("cpu: another then" in line for line in told)


def test_other_data_is_refused_and_named(study: Study, left: Callable[..., Path]) -> None:
    path = left(settings_key="0", read={"data": {"sha256": "abc"}})
    with pytest.raises(ValueError, match=r"data\.sha256: abc then, None now"):
        run_to_resume(replace(study, resume=str(path)), True, pytest.fail)


def test_the_settings_of_a_run_that_is_named_are_its_own(config: Any, study: Study, left: Callable[..., Path]) -> None:
    path = left()
    from omegaconf import OmegaConf

    (path / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    again = to_study(composed([f"resume={path}"]))
    assert config_key(again) == config_key(study)
    assert Path(again.runs) == Path(study.runs)
    with pytest.raises(ValueError, match=r"other settings \(loss\.beta: .* then, 7\.0 now\)") as raised:
        composed([*QUICKSTART, f"resume={path}", "loss.beta=7"])
    assert len(str(raised.value)) < 400
    with pytest.raises(ValueError, match="no run directory"):
        composed([f"resume={path.parent}"])


def test_another_base_or_other_pairs_are_refused_and_named(
    config: Any, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    study = replace(study, trainer=replace(study.trainer, max_steps=2))
    assert execute(study, config, [], "x") == 0
    (path,) = Path(study.runs).glob("*/*")
    facts = read_run(path)
    altered = {**facts, "status": "failed", "made_from": {**facts["made_from"], "base": "0" * 16}}
    (path / "run.json").write_text(json.dumps(altered))
    assert execute(study, config, [], "x") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "base: 0000000000000000 then, " in error
    assert "resume=never" in error
    assert "tokenizer" not in error


@pytest.mark.parametrize("field", ["runs", "store"])
def test_a_folder_that_cannot_be_written_is_named(
    field: str, config: Any, study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "x", Path("/proc")):  # nobody can write there, root included
        changed = replace(replace(study, store=str(tmp_path)), **{field: str(folder)})
        code = execute(changed, config, [], "x")
        error = capsys.readouterr().err
        assert error.count("error: ") == 1
        assert "Traceback" not in error
        assert code in (1, 2)
        assert str(folder) in error
    assert [read_run(file.parent)["status"] for file in tmp_path.glob("runs/*/*/run.json")] in ([], ["failed"])


def test_a_finished_run_of_other_code_is_told_of_and_does_not_count(study: Study, left: Callable[..., Path]) -> None:
    told: list[str] = []
    old = left(status="done", config_key="0", code=other_code(study))
    (old / "summary.json").write_text("{}")
    assert finished_run(study, told.append) is None
    (line,) = told
    assert str(old) in line
    assert "losses/dpo.py" in line
    path = left(status="done")
    (path / "summary.json").write_text("{}")
    assert finished_run(study, pytest.fail) == path


def test_a_run_that_went_on_under_other_code_is_like_no_other(config: Any, study: Study, left: Callable[..., Path]) -> None:
    study = replace(study, trainer=replace(study.trainer, max_steps=2), store=str(Path(study.runs).parent / "store"))
    path = left(settings_key=settings_key(study), code=other_code(study))
    assert execute(replace(study, resume=str(path)), config, [], "x") == 0
    facts = read_run(path)
    assert (facts["status"], facts["config_key"]) == ("done", "mixed")
    assert any("losses/dpo.py" in line for line in facts["changed_on_the_way"])
    told: list[str] = []
    assert finished_run(study, told.append) is None
    assert told == [f"{path} is finished, but run again: it was resumed under other code than it began with"]


def test_what_only_looks_or_judges_is_done_again_each_time(study: Study, left: Callable[..., Path]) -> None:
    """What it depends on (the run that it judges, a file of pairs) is not all in its settings."""
    judging = replace(study, runner=EvaluateRunner())
    for each, counts in ((study, True), (judging, False)):
        path = left(status="done", **keys(each))
        (path / "summary.json").write_text("{}")
        assert (finished_run(each, pytest.fail) == path) == counts
        ledger = Ledger()
        assert (ledger.add(["x"], each).state is JobState.reused) == counts


def test_a_run_of_an_older_version_is_refused_as_that(study: Study, left: Callable[..., Path]) -> None:
    path = left(code="0" * 16)
    facts = {name: value for name, value in read_run(path).items() if name != "settings_key"}
    (path / "run.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="is of an older version"):
        run_to_resume(replace(study, resume=str(path)), True, pytest.fail)
