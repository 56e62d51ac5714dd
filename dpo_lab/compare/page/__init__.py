"""A comparison as one HTML page that needs no network and no other file."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from dpo_lab.compare.comparison import Comparison
from dpo_lab.compare.figures import figures, to_svg
from dpo_lab.compare.page.samples import samples_of
from dpo_lab.compare.page.svg import inline
from dpo_lab.compare.page.table import results
from dpo_lab.compare.settings import varying

HERE = Path(__file__).parent
MOST_COLUMNS = 8


def to_html(comparison: Comparison, title: str, command: str = "") -> str:
    """The comparison as a page. Text from runs is escaped, and no script but the page's own may run."""
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    script = (HERE / "page.js").read_text(encoding="utf-8")
    columns, rows = results(comparison)
    settings = [run.settings for run in comparison.runs]
    keys = varying(settings)
    return environment.get_template("page.html").render(
        title=title,
        runs=len(comparison.runs),
        groups=len(comparison.groups),
        baseline=None if comparison.baseline is None else comparison.baseline.label,
        remarks=comparison.warnings,
        columns=columns,
        rows=rows,
        sentences=comparison.verdicts,
        notes=comparison.notes,
        figures=[
            {"title": description, "svg": Markup(inline(to_svg(figure), name, description))}
            for name, description, figure in figures(comparison)
        ],
        samples=samples_of(comparison),
        varying=_table(comparison, keys),
        same={key: value for key, value in sorted(settings[0].items()) if key not in keys},
        commands=Counter(str(run.facts.get("command", "unknown")) for run in comparison.runs),
        own_command=command,
        versions=_versions(comparison),
        left_out=comparison.left_out,
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _table(comparison: Comparison, keys: list[str]) -> dict[str, Any]:
    """The values of the settings that vary: a column for each of a few groups, a row for each of many."""
    groups = comparison.groups
    values = [
        [", ".join(dict.fromkeys(str(run.settings.get(key, "")) for run in group.runs)) for key in keys] for group in groups
    ]
    labels = [group.label for group in groups]
    if len(groups) > MOST_COLUMNS:
        return {"head": ["", *keys], "rows": [[label, *row] for label, row in zip(labels, values, strict=True)] if keys else []}
    return {"head": ["", *labels], "rows": [[key, *(row[place] for row in values)] for place, key in enumerate(keys)]}


def _versions(comparison: Comparison) -> list[str]:
    """Every combination of code and library versions that occurs."""
    lines = []
    for run in comparison.runs:
        git, versions = run.facts.get("git") or {}, run.facts.get("versions") or {}
        code = f"git {git.get('sha', 'unknown')}" + (" with changes" if git.get("dirty") else "")
        lines.append(", ".join([code, *(f"{name} {version}" for name, version in versions.items())]))
    return list(dict.fromkeys(lines))
