"""What a finished run shows its user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpo_lab.runners.context import Context
from dpo_lab.tracking.json_files import read_lines
from dpo_lab.tracking.picture import draw_run


def report(context: Context, summary: Mapping[str, Any]) -> None:
    """The table, a few samples, the picture, and where everything lies."""
    console, run = context.console, context.run
    rows = _rows(summary)
    if rows:
        console.table("Held-out prompts", ["", "KL (nats)", "gold reward", "training reward", "positive", "win rate"], rows)
    share = summary.get("ideal_share")
    if share is not None:
        console.note(f"{share:.0%} of the ideal gain in training reward at {summary['kl']:.2f} nats")
    samples = read_lines(run.path / "samples.jsonl")[: context.study.evaluation.num_shown]
    if samples and "reference" in samples[0]:
        console.samples(samples)
        run.add_text("samples", "\n\n".join(_markdown(sample) for sample in samples))
    if "kl" in summary and (run.path / "metrics.jsonl").exists():
        picture = draw_run(run.path)
        run.add_figure("figure", picture)
        console.path("picture", picture)
    console.path("run", run.path)
    if context.study.runner.trains:
        console.path("curves", f"tensorboard --logdir {context.study.runs}")


def _markdown(sample: Mapping[str, Any]) -> str:
    """Prompt and completions as indented blocks, which Markdown shows as they are."""
    parts = []
    for key in ("prompt", "reference", "policy"):
        reward = sample.get(f"reward/{key}")
        parts += [f"**{key}**" + ("" if reward is None else f" {reward:+.2f}"), _literal(str(sample.get(key)))]
    return "\n\n".join(parts)


def _literal(text: str) -> str:
    """An indented block, which Markdown shows as it is. Lines are Markdown's: textwrap.indent knows ends that it does not."""
    return "\n".join(f"    {line}" for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))


def _rows(summary: Mapping[str, Any]) -> list[list[str]]:
    if "kl" not in summary:
        return []
    rows = []
    if "reward/reference" in summary:
        rows.append(_row("reference", summary, "reference", kl="0", win_rate="50 %"))
        for best in summary.get("best_of_n", []):
            entry = {f"{name}/x": value for name, value in best.items()}
            rows.append(_row(f"best of {best['n']}", entry, "x", kl=f"{best['kl']:.2f}", win_rate=""))
    won = f"{summary['win_rate']:.0%}" if "win_rate" in summary else ""
    rows.append(_row("policy", summary, "policy", kl=f"{summary['kl']:.2f} ± {summary['kl_se']:.2f}", win_rate=won))
    return rows


def _row(title: str, values: Mapping[str, Any], who: str, kl: str, win_rate: str) -> list[str]:
    def shown(name: str, form: str) -> str:
        return format(values[f"{name}/{who}"], form) if f"{name}/{who}" in values else ""

    return [title, kl, shown("reward", "+.2f"), shown("proxy", "+.2f"), shown("positive", ".0%"), win_rate]
