"""Launchers of others."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import QUICKSTART, run, runs_of

pytestmark = pytest.mark.slow
SWEEP = ["-m", *QUICKSTART, "trainer.max_steps=2", "evaluation.best_of=[2]"]


def test_submitit_runs_a_sweep_and_a_job_that_fails_costs_no_other(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the extra: pip install 'dpo_lab[slurm]'")
    words = [*SWEEP, "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=3"]
    wild = ["optimizer=sgd", "trainer.clip=null", "optimizer.lr=1e30,0.01"]
    assert "sweep: 1 done, 1 diverged" in run(tmp_path, [*words, *wild], status=1).stdout
    assert len(runs_of(tmp_path)) == 2


def test_ray_runs_a_sweep(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="needs the extra: pip install 'dpo_lab[ray]'")
    assert "sweep: 2 done" in run(tmp_path, [*SWEEP, "seed=0,1", "hydra/launcher=ray"]).stdout
