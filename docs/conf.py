"""The site of `make docs`: these pages, the README and the studies, at the places where they lie in the repository."""

from __future__ import annotations

import re

from sphinx.application import Sphinx

project = "dpo_lab"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "docs/index"
include_patterns = ["docs/**", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "experiments/*/README.md", "experiments/LOG.md"]
exclude_patterns = ["docs/_templates"]
html_theme = "furo"
html_title = "dpo_lab"
html_show_copyright = False
html_copy_source = False
templates_path = ["_templates"]
html_additional_pages = {"index": "to_the_first_page.html"}

myst_heading_anchors = 3

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
default_role = "code"
SPECIAL = re.compile(r"([*|]|_\b)")


def sidebar(app: Sphinx, name: str, source: list[str]) -> None:
    """The pages that docs/index.md links to, in its order, become the sidebar: its headings are the captions there."""
    if name == root_doc:
        for title, section in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", source[0], re.MULTILINE | re.DOTALL):
            pages = re.findall(r"^- \[.*?\]\(([^)#]+)\.(?:md|rst)\)", section, re.MULTILINE)
            if pages:
                source[0] += "\n".join(["", "", "```{toctree}", ":hidden:", f":caption: {title}", "", *pages, "```", ""])


def in_rst(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain text with `code` and indented examples: what reStructuredText would read as more is escaped."""
    plain, example = list(lines), False
    lines.clear()
    for line in plain:
        if line.startswith("    ") and not example and not (lines and lines[-1].strip()):
            lines += ["::", ""]
            example = True
        elif line.strip() and not line.startswith("    "):
            example = False
        parts = [line] if example else re.split(r"(`[^`]*`)", line)
        lines.append("".join(part if example or part.startswith("`") else SPECIAL.sub(r"\\\1", part) for part in parts))


def setup(app: Sphinx) -> None:
    app.connect("source-read", sidebar)
    app.connect("autodoc-process-docstring", in_rst)
