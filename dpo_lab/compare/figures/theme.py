"""How a picture looks: light, few lines, colours of Okabe and Ito (2008) that the colour-blind tell apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

INK = "#1f2933"
MUTED = "#5f6c7b"
BLUE = "#0072b2"
ORANGE = "#d98200"
GREEN = "#00825e"
VERMILION = "#d55e00"

ROUND = [1, 2, 2.5, 5, 10]  # ticks at round numbers only

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "svg.hashsalt": "dpo_lab",  # the same run gives the same file
}


def quiet_grid(axes: Axes) -> None:
    """Faint horizontal lines, behind everything."""
    axes.grid(axis="y", color="#e8ebef", linewidth=0.8)
    axes.set_axisbelow(True)


def halo() -> list[withStroke]:
    """Path effects that keep a label readable where a line passes behind it."""
    return [withStroke(linewidth=3, foreground="white")]


def known(row: Mapping[str, Any], key: str) -> float | None:
    """The number under `key`, None if it is missing or not finite."""
    value = row.get(key)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def percent(share: float | int) -> str:
    """0.913 as '91 %', with a space that does not break."""
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%" if math.isfinite(share) else "?"


def best_of_n_title(rows: Sequence[Mapping[str, Any]]) -> str:
    """'best of 8', and whether the KL is the bound: that it is less than it is known only where rewards are seen to tie."""
    less = all("kl_se" in row and row["kl"] < 0.99 * row["kl_bound"] for row in rows if row["n"] > 1)
    return f"best of {max(row['n'] for row in rows)}" + ("" if less else "\n(KL at most)")


def measured(values: Mapping[str, Any], name: str, *, share: bool = False, sign: str = "") -> str:
    """'+2.40 ± 0.07', a share as '95 ± 1 %': the number and its standard error, as many of them as there are; '' for none."""
    value, error = known(values, name), known(values, f"{name}_se")
    if value is None:
        return ""
    digits, times = (0, 100) if share else (2, 1)
    text = f"{times * value:{sign}.{digits}f}"
    if error is not None:
        text += f" \N{PLUS-MINUS SIGN} {_shown(times * error, digits)}"
    return f"{text} %" if share else text


def _shown(error: float, digits: int) -> str:
    """One that rounds to 0 and is not 0 is below the last digit: '<0.01'."""
    text, last = f"{error:.{digits}f}", 10**-digits
    return f"<{last}" if error > 0 and float(text) == 0 else text
