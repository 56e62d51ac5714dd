"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from processes import QUICKSTART, run

from dpo_lab.cli.grammar import parsed
from dpo_lab.compare.__main__ import _parser
from dpo_lab.losses import LOSSES

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
PICTURES = re.findall(r"!\[.*?\]\((.*?)\)", README)
COMMANDS = re.findall(r"^    python -m dpo_lab (.+?)(?:\s+#.*)?$", README, re.MULTILINE)


def test_the_loss_in_the_readme_is_found_trains_and_obeys_its_laws(tmp_path: Path) -> None:
    (block,) = (block for block in BLOCKS if "@LOSSES.register" in block)
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab" / "losses.py").write_text(block)
    run(tmp_path, [*QUICKSTART, "user_modules=[my_lab.losses]", "loss=squared_hinge", "loss.target=2"])
    check = [sys.executable, "-m", "dpo_lab.check"]
    run(tmp_path, ["user_modules=[my_lab.losses]", "loss=squared_hinge", "examples=8"], program=check)


def test_the_readme_shows_commands() -> None:
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_in_the_readme_can_be_read(command: str) -> None:
    words = [word for word in shlex.split(command.replace("...", "x")) if word not in {"-m", "--help"}]
    assert [override.input_line for override in parsed(words)] == words


@pytest.mark.parametrize("command", re.findall(r"^    python -m dpo_lab\.compare (.+?)(?:\s+#.*)?$", README, re.MULTILINE))
def test_every_comparison_in_the_readme_can_be_read(command: str) -> None:
    _parser().parse_args(shlex.split(command))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in re.findall(r"\]\(((?!https?://)[^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-") for title in titles], link


def test_the_pictures_of_the_readme_are_there() -> None:
    assert PICTURES
    assert [name for name in PICTURES if not (Path(__file__).parents[2] / name).is_file()] == []


def test_every_loss_is_in_the_readmes_table() -> None:
    own = {name for name in LOSSES if LOSSES[name].__module__.startswith("dpo_lab.")}
    table = README.split("| kind | `loss=` |")[1].split("\n\n")[0]
    assert own <= set(re.findall(r"`([a-z_0-9]+)`", table))
