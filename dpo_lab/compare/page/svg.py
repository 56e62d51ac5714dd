"""A figure as part of a page: with ids of its own, and colours that follow the page from light to dark."""

from __future__ import annotations

import re

from markupsafe import escape

from dpo_lab.compare.figures.theme import INK, MUTED, OTHERS

ROLES = {
    INK: "ink",
    MUTED: "muted",
    "#9aa5b1": "edge",
    "#e8ebef": "grid",
    "#ffffff": "paper",
    OTHERS: "others",
}


def inline(svg: str, name: str, description: str) -> str:
    """The <svg> element alone, `name` before every id of it."""
    body = svg[svg.index("<svg") :]
    start, _, rest = body.partition(">")
    box = re.search(r'viewBox="[^"]*"', start)
    rest = re.sub(r"<metadata>.*?</metadata>", "", rest, flags=re.DOTALL)
    rest = re.sub(r'\bid="', f'id="{name}-', rest)
    rest = re.sub(r'href="#', f'href="#{name}-', rest)
    rest = rest.replace("url(#", f"url(#{name}-")
    # Hexadecimal colours stand in style attributes only: text is escaped, and a setting may be called '#123456'.
    rest = re.sub(r'style="[^"]*"', lambda style: re.sub(r"#[0-9a-f]{6}\b", _colour, style.group()), rest)
    rest = rest.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
    label = escape(description)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box.group() if box else ""} role="img" aria-label="{label}">{rest}'


def _colour(match: re.Match[str]) -> str:
    colour = match.group()
    return f"var(--{ROLES[colour]})" if colour in ROLES else f"color-mix(in oklab, {colour}, white var(--lift))"
