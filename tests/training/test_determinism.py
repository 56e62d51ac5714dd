"""The same command gives the same bits, and an algorithm that need not is refused where that is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from processes import QUICKSTART

from dpo_lab.cli.main import run_command
from dpo_lab.tracking import read_metrics
from dpo_lab.training.compute import Compute, Determinism

SPEEDS = {"tokens_per_s", "pairs_per_s"}


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("sys.argv", ["dpo_lab"])
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    yield
    Compute().set_up()


def test_the_same_command_twice_gives_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Base policy, samples, pairs and training are all done twice; strict, no operation of them lacks a fixed order."""
    found = []
    for turn in ("one", "two"):
        (tmp_path / turn).mkdir()
        monkeypatch.chdir(tmp_path / turn)
        torch.manual_seed(len(found))  # whatever came before
        assert run_command([*QUICKSTART, "compute.determinism=strict", "compute.threads=1"]) == 0
        (run,) = (tmp_path / turn / "runs" / "quickstart").iterdir()
        rows = [{key: value for key, value in row.items() if key not in SPEEDS} for row in read_metrics(run)]
        weights = (run / "policy" / "model.safetensors").read_bytes()
        found.append((weights, rows, (run / "samples.jsonl").read_bytes()))
    assert found[0] == found[1]


def test_strict_refuses_warn_warns_and_off_is_silent(recwarn: pytest.WarningsRecorder) -> None:
    Compute(determinism=Determinism.strict).set_up()
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    Compute(determinism=Determinism.warn).set_up()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    Compute().set_up()
    assert not torch.are_deterministic_algorithms_enabled()
