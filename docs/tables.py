"""Writes the generated tables of README.md and docs/: `make tables`. A test keeps them in step with the code."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from dpo_lab.losses import LOSSES, Laws, PreferenceLoss
from dpo_lab.tracking.glossary import SECTIONS

ROOT = Path(__file__).parents[1]
STUDY = ROOT / "experiments" / "imdb_sentiment"
MARKED = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end of generated -->)", re.DOTALL)
KINDS = {
    "several": "Several at once",
    "unpaired": "Of unpaired feedback, and of pairs",
    "rankings": "Of rankings, and of pairs",
    "scores": "Of scored pairs",
    "free": "Of pairs, without a reference",
    "pairs": "Of pairs, by log-ratios",
}


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [columns, ["---"] * len(columns), *rows]) + "\n"


def results() -> str:
    """The main experiment: mean and standard deviation over its seeds, beside the reference and the best of 8."""
    runs = [json.loads(line) for line in (STUDY / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    best = [next(row for row in run["best_of_n"] if row["n"] == 8) for run in runs]

    def cell(values: Iterable[float], form: str = ".2f") -> str:
        numbers = list(values)
        spread = statistics.stdev(numbers)
        return f"{statistics.fmean(numbers):{form}}" + (f" ± {spread:{form}}" if spread else "")

    rows = [
        [
            "reference",
            "0",
            *(cell(run[f"{name}/reference"] for run in runs) for name in ("proxy", "reward", "positive")),
            ".50",
            "",
        ],
        ["best of 8", *(cell(row[name] for row in best) for name in ("kl", "proxy", "reward", "positive")), "", ""],
        [
            "DPO",
            *(cell(run[name] for run in runs) for name in ("kl", "proxy/policy", "reward/policy", "positive/policy")),
            *(cell(run[name] for run in runs) for name in ("win_rate", "ideal_share")),
        ],
    ]
    columns = ["", "KL (nats)", "training reward", "gold reward", "positive", "win rate", "share of the ideal gain"]
    note = f"\n`+experiment={STUDY.name}`, mean ± standard deviation over {len(runs)} seeds; "
    return table(columns, rows) + note + f"[what the columns say, and how sure they are](experiments/{STUDY.name}/README.md).\n"


def metrics() -> str:
    parts = []
    for title, section in SECTIONS.items():
        parts.append(
            f"### {title}\n\n"
            + table(["metric", "meaning"], ([f"`{name}`", text.replace("|", r"\|")] for name, text in section.items()))
        )
    return "\n".join(parts)


def losses() -> str:
    by_kind: dict[str, list[type[PreferenceLoss]]] = {kind: [] for kind in reversed(KINDS)}
    for cls in (LOSSES[name] for name in LOSSES):
        if cls.__module__.startswith("dpo_lab."):
            by_kind[kind_of(cls)].append(cls)
    parts = []
    for kind, classes in by_kind.items():
        rows = [[f"`{cls.name}`", formula(cls), settings(cls), laws_of(cls)] for cls in classes]
        parts.append(f"### {KINDS[kind]}\n\n" + table(["`loss=`", "formula and source", "settings of its own", "laws"], rows))
    return "\n".join(parts)


def kind_of(cls: type[PreferenceLoss]) -> str:
    if cls.name == "mix":
        return "several"
    if cls.min_candidates == 1:
        return "unpaired"
    if cls.name in ("plackett_luce", "lipo_lambda"):
        return "rankings"
    if cls.needs_scores:
        return "scores"
    return "pairs" if cls.needs_reference else "free"


def formula(cls: type[PreferenceLoss]) -> str:
    first = inspect.getdoc(cls).split("\n\n")[0]  # type: ignore[union-attr]
    return " ".join(first.split()).replace("|", r"\|").replace("*", r"\*").replace("_", r"\_")


def settings(cls: type[PreferenceLoss]) -> str:
    shared = {field.name for field in dataclasses.fields(PreferenceLoss)}
    own = [field for field in dataclasses.fields(cls) if field.name not in shared]
    return ", ".join(f"`{f.name}={f.default if f.default_factory is dataclasses.MISSING else '...'}`" for f in own)


def laws_of(cls: type[PreferenceLoss]) -> str:
    return ", ".join(field.name.replace("_", " ") for field in dataclasses.fields(Laws) if getattr(cls.laws, field.name))


def laws() -> str:
    texts = attribute_docs(Laws)
    return table(["law", "promise"], ([name.replace("_", " "), text] for name, text in texts.items()))


def attribute_docs(cls: type) -> dict[str, str]:
    """The docstrings below a dataclass's fields, by field."""
    found = re.findall(r'^    (\w+): .*?\n    """(.*?)"""', inspect.getsource(cls), re.MULTILINE | re.DOTALL)
    return {name: " ".join(text.split()) for name, text in found}


TABLES: dict[str, Callable[[], str]] = {"results": results, "metrics": metrics, "losses": losses, "laws": laws}


def renewed(text: str) -> str:
    """The page with its tables as they should be."""
    return MARKED.sub(lambda match: match[1] + TABLES[match[2]]() + match[3], text)


if __name__ == "__main__":
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        page.write_text(renewed(page.read_text(encoding="utf-8")), encoding="utf-8")
