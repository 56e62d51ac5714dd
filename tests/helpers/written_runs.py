"""Run directories written by hand: every number in them can be checked by eye."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml


def write_run(
    root: Path,
    name: str,
    settings: dict[str, Any] | None = None,
    summary: dict[str, Any] | None = None,
    *,
    seed: int = 0,
    status: str = "done",
    rows: list[dict[str, Any]] | None = None,
    samples: list[dict[str, Any]] | None = None,
    facts: dict[str, Any] | None = None,
) -> Path:
    """The files of one run, with the given numbers; `facts` are added to run.json."""
    folder = root / name
    folder.mkdir(parents=True)
    own = {"status": status, "seed": seed, "command": f"python -m dpo_lab seed={seed}", "git": {"sha": "abc", "dirty": False}}
    (folder / "run.json").write_text(json.dumps({**own, **(facts or {})}))
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed": seed, **(settings or {})}))
    (folder / "summary.json").write_text(json.dumps({"kl": 1.0} if summary is None else summary))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows or []))
    if samples is not None:
        (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    return folder


def betas(root: Path, effects: dict[float, list[float]]) -> Path:
    """A run for each beta and seed with the given kl at its end, and evaluations that rise to it evenly."""
    for beta, values in effects.items():
        for seed, value in enumerate(values):
            steps = [0, 10, 20]
            rows = [
                {
                    "step": step,
                    "split": split,
                    "kl": value * step / 20,
                    "proxy/policy": 1 + 0.5 * value * step / 20,
                    "loss": 0.7 - 0.01 * step,
                    "rewards/accuracies": 0.5 + 0.01 * step,
                    "logps/chosen": -10 - value * step / 20,
                    "logps/rejected": -12 - 2 * value * step / 20,
                    "length/policy": 8.0 + beta,
                }
                for step in steps
                for split in ("train", "eval")
            ]
            last = {key: rows[-1][key] for key in ("kl", "proxy/policy", "length/policy")}
            best = [{"n": n, "kl": 0.2 * n, "proxy": 1 + 0.1 * n} for n in (2, 4)]
            summary = {**last, "proxy/reference": 1.0, "best_of_n": best}
            samples = [
                {"prompt": p, "policy": f"{p} beta {beta} <b>bold</b>", "reference": f"{p} plain", "reward/policy": value}
                for p in ("one </script>", "two & three")
            ]
            write_run(
                root, f"{beta}-{seed}", {"loss": {"name": "dpo", "beta": beta}}, summary, seed=seed, rows=rows, samples=samples
            )
    return root
