"""Writes the generated tables of README.md and docs/: `make tables`. A test keeps them in step with the code."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import get_type_hints

from dpo_lab.losses import LOSSES, Laws, PreferenceLoss
from dpo_lab.losses.margins import Margin
from dpo_lab.losses.options import LossOptions
from dpo_lab.losses.table import loss_table, plain, shown
from dpo_lab.tracking.glossary import SECTIONS

ROOT = Path(__file__).parents[1]
STUDY = ROOT / "experiments" / "imdb_sentiment"
MARKED = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end of generated -->)", re.DOTALL)
COMPONENTS = ROOT / "tests" / "helpers" / "new_components"


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
    mark = "\\*" if any(run["ideal_extrapolated"] for run in runs) else ""
    rows[-1][-1] += f" {mark}".rstrip()
    columns = ["", "KL (nats)", "training reward", "gold reward", "positive", "win rate", "share of the ideal gain"]
    note = f"\n`+experiment={STUDY.name}`, mean ± standard deviation over {len(runs)} seeds"
    note += f" ({mark} extrapolated); " if mark else "; "
    return table(columns, rows) + note + f"[what the columns say, and how sure they are](experiments/{STUDY.name}/README.md).\n"


def metrics() -> str:
    parts = []
    for title, section in SECTIONS.items():
        parts.append(
            f"### {title}\n\n"
            + table(["metric", "meaning"], ([f"`{name}`", text.replace("|", r"\|")] for name, text in section.items()))
        )
    return "\n".join(parts)


def laws() -> str:
    texts = attribute_docs(Laws)
    return table(["law", "promise"], ([name.replace("_", " "), text] for name, text in texts.items()))


def options() -> str:
    """What every loss has, with its default, the values there are, and what they mean."""
    rows = []
    for cls, prefix in ((PreferenceLoss, ""), (LossOptions, ""), (Margin, "margin.")):
        texts, kinds = attribute_docs(cls), get_type_hints(cls)
        for setting in dataclasses.fields(cls):
            kind = kinds[setting.name]
            if setting.name in ("name", "margin"):
                continue
            values, text = "", texts.get(setting.name, "In rewards." if cls is Margin else "")
            if issubclass(kind, Enum):
                values = ", ".join(f"`{value.value}`" for value in kind)
                text = " ".join((inspect.getdoc(kind) or "").split())
            rows.append([f"`{prefix}{setting.name}`", f"`{shown(setting.default)}`", values, plain(text)])
    return table(["`loss.`", "default", "values", "meaning"], rows)


def attribute_docs(cls: type) -> dict[str, str]:
    """The docstrings below a dataclass's fields, by field."""
    body = ast.parse(inspect.getsource(cls)).body[0].body  # type: ignore[attr-defined]
    found = {}
    for setting, text in pairwise(body):
        if isinstance(setting, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[setting.target.id] = " ".join(text.value.value.split())  # type: ignore[union-attr]
    return found


def own_losses() -> str:
    own = {name: LOSSES[name] for name in LOSSES if LOSSES[name].__module__.startswith("dpo_lab.")}
    return loss_table(own, ("reward at KL 1", shootout("proxy/policy at KL 1")))


def shootout(column: str) -> dict[str, str]:
    """What the shoot-out's own table says of each loss in a column, without the interval."""
    text = (ROOT / "experiments" / "loss_shootout" / "README.md").read_text(encoding="utf-8")
    lines = text.partition("<!-- results -->\n")[2].partition("\n\n")[0].splitlines()
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert column in head, head
    return {row[0]: row[head.index(column)].partition(" [")[0] for row in rows}


def example(file: Path) -> str:
    """A component in one file, which a test adds and runs; without its docstring, which names the command."""
    lines = file.read_text(encoding="utf-8").split("\n\n", 1)[1]
    return f"In `my_lab/{file.name}`:\n\n```python\n{lines}```\n"


TABLES: dict[str, Callable[[], str]] = {
    "results": results,
    "metrics": metrics,
    "losses": own_losses,
    "laws": laws,
    "options": options,
}
TABLES |= {f"example_{file.stem}": partial(example, file) for file in sorted(COMPONENTS.glob("*.py"))}


def renewed(text: str) -> str:
    """The page with its tables as they should be."""
    return MARKED.sub(lambda match: match[1] + TABLES[match[2]]() + match[3], text)


if __name__ == "__main__":
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        page.write_text(renewed(page.read_text(encoding="utf-8")), encoding="utf-8")
