"""What a finished run prints: a table, samples, a figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpo_lab.artifacts.json_files import read_lines
from dpo_lab.compare.figures.run import draw_run
from dpo_lab.compare.formatting import measured
from dpo_lab.pipeline.context import Context


def report(context: Context, summary: Mapping[str, Any]) -> None:
    """Print the table, a few samples, the figure, and the paths of the results."""
    console, run = context.console, context.run
    rows = _rows(summary)
    if rows:
        console.table("Held-out prompts", ["", "KL (nats)", "gold reward", "training reward", "positive", "win rate"], rows)
    for note in _notes(summary) if rows else []:
        console.note(note)
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
        rows.append(_row("reference", summary, "/reference", kl="0", win_rate="50 %"))
        for best in summary.get("best_of_n", []):
            rows.append(_row(f"best of {best['n']}", best, "", kl=_kl_of_best(best), win_rate=""))
    won = measured(summary, "win_rate", share=True)
    return [*rows, _row("policy", summary, "/policy", kl=measured(summary, "kl"), win_rate=won)]


def _row(title: str, values: Mapping[str, Any], who: str, kl: str, win_rate: str) -> list[str]:
    rewards = (measured(values, f"{name}{who}", sign="+") for name in ("reward", "proxy"))
    cells = [kl, *rewards, measured(values, f"positive{who}", share=True), win_rate]
    return [title, *(cell.replace(" \N{PLUS-MINUS SIGN} ", "\N{PLUS-MINUS SIGN}") for cell in cells)]  # 80 columns hold it


def _kl_of_best(best: Mapping[str, Any]) -> str:
    """The estimate where ties make it smaller than the bound; else the bound, which it is at most."""
    if "kl_se" in best and f"{best['kl']:.2f}" != f"{best['kl_bound']:.2f}":
        return measured(best, "kl")
    return f"at most {best['kl']:.2f}"


def _notes(summary: Mapping[str, Any]) -> list[str]:
    notes = []
    if any(f"{name}_se" in summary for name in ("kl", "reward/policy")):
        different = f" ({summary['num_prompts']:,} different ones)" if "num_prompts" in summary else ""
        notes.append(f"\N{PLUS-MINUS SIGN}: one standard error, with prompts as clusters{different}")
    if summary.get("ideal_share") is not None:
        share, mark = measured(summary, "ideal_share", share=True), "*" if summary.get("ideal_extrapolated") else ""
        notes.append(f"{share}{mark} of the ideal gain in training reward at {summary['kl']:.2f} nats")
        if mark:
            notes.append("* beyond the frontier's last point: extrapolated as the square root of KL")
    elif "ideal_share_reason" in summary:
        notes.append(f"no share of the ideal gain: {summary['ideal_share_reason']}")
    return notes
