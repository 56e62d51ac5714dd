"""The losses as a table in Markdown, from what they say of themselves: `print(loss_table())`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from enum import Enum
from inspect import getdoc
from typing import Any

from dpo_lab.losses.base import LOSSES, PreferenceLoss
from dpo_lab.losses.mix import MixLoss
from dpo_lab.losses.options import LossOptions

Loss = type[PreferenceLoss]
COLUMNS = ("`loss=`", "formula", "source", "own settings", "laws")
SPECIAL = re.compile(r"([|*_<\\])")
SENTENCE = re.compile(r"(?<! al)\. (?=\S)")
KINDS = {
    "Pairs, by log-ratios": lambda loss: True,
    "Pairs, without a reference": lambda loss: not loss.needs_reference,
    "Scored pairs": lambda loss: loss.needs_scores,
    "Rankings, and pairs": lambda loss: loss.listwise,
    "Single completions, and pairs": lambda loss: loss.min_candidates == 1,
    "Several losses at once": lambda loss: issubclass(loss, MixLoss),
}
"""A loss is of the last kind that it fits."""


def loss_table(losses: Mapping[str, Loss] | None = None, results: tuple[str, Mapping[str, str]] | None = None) -> str:
    """A heading and a table for each kind of loss; by default of all registered ones.

    `results`: the title of one more column, and what stands there for each loss that has a result.
    """
    title, cells = results or ("", {})
    columns = [*COLUMNS, *([title] if title else [])]
    parts = []
    for kind, of_kind in losses_by_kind(losses).items():
        rows = [columns, ["---"] * len(columns)]
        rows += [[*row_of(name, loss), *([cells.get(name, "")] if title else [])] for name, loss in of_kind.items()]
        parts.append(f"### {kind}\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows))
    return "\n".join(parts)


def losses_by_kind(losses: Mapping[str, Loss] | None = None) -> dict[str, dict[str, Loss]]:
    by_kind: dict[str, dict[str, Loss]] = {kind: {} for kind in KINDS}
    for name, loss in (LOSSES if losses is None else losses).items():
        by_kind[[kind for kind, fits in KINDS.items() if fits(loss)][-1]][name] = loss
    return {kind: of_kind for kind, of_kind in by_kind.items() if of_kind}


def row_of(name: str, loss: Loss) -> list[str]:
    formula, source = formula_and_source(loss)
    linked = re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", plain(source))
    own = ", ".join(f"`{setting}`" for setting in own_settings(loss))
    return [f"`{name}`", plain(formula), linked, own, ", ".join(law.replace("_", " ") for law in loss.laws.names)]


def formula_and_source(loss: Loss) -> tuple[str, str]:
    """The docstring's first paragraph, before and from the sentence that names the paper."""
    first = " ".join((getdoc(loss) or "").split("\n\n")[0].split())
    sentences = SENTENCE.split(first)
    at = next((i for i, sentence in enumerate(sentences) if "arXiv:" in sentence), len(sentences))
    return ". ".join(sentences[:at]).removesuffix("."), ". ".join(sentences[at:])


def own_settings(loss: Loss) -> list[str]:
    """Settings that only this loss has, and defaults of shared ones that are not the usual."""
    usual = {setting.name: default(setting) for cls in (PreferenceLoss, LossOptions) for setting in fields(cls)}
    own = {setting.name: default(setting) for setting in fields(loss) if setting.name != "name"}
    return [f"{name}={shown(value)}" for name, value in own.items() if name not in usual or value != usual[name]]


def default(setting: Field[Any]) -> Any:
    return setting.default if setting.default_factory is MISSING else setting.default_factory()


def shown(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(shown, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {shown(part)}" for key, part in value.items()) + "}"
    return str(value.value) if isinstance(value, Enum) else f"{value:g}" if isinstance(value, float) else str(value)


def plain(text: str) -> str:
    """The text as Markdown that shows it as it is, in a cell of a table."""
    return SPECIAL.sub(r"\\\1", text)
