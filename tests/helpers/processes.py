"""The lab as its user meets it: a command, run in a directory of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
LAB = [sys.executable, "-m", "dpo_lab"]

SMALL_MODEL = ["model.dim=32", "model.depth=1", "model.heads=2"]
SMALL_RUN = [
    *("base.trainer.max_steps=4", "base.trainer.batch_size=16"),
    *("trainer.max_steps=4", "trainer.batch_size=16", "trainer.eval_every=2", "trainer.log_every=2"),
    *("evaluation.num_prompts=16", "evaluation.num_prompts_during=8"),
]
SMALL_SAMPLES = ["candidates.num_prompts=40", "candidates.samples_per_prompt=4"]
QUICKSTART = ["+experiment=quickstart", "data.num_sentences=200", *SMALL_MODEL, *SMALL_RUN, *SMALL_SAMPLES]


def run(folder: Path, words: Sequence[str], status: int = 0, program: Sequence[str] = LAB) -> subprocess.CompletedProcess[str]:
    """The finished process. Asserts its exit status."""
    done = subprocess.run([*program, *words], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=240)
    assert done.returncode == status, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def runs_of(folder: Path) -> list[Path]:
    """The run directories below `folder`, oldest first."""
    return sorted((file.parent for file in folder.glob("runs/**/run.json")), key=lambda path: path.stat().st_ctime_ns)
