"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from processes import QUICKSTART, run

from dpo_lab.grammar import parsed
from dpo_lab.losses import LOSSES

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
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


def test_the_pictures_of_the_readme_are_there() -> None:
    assert PICTURES
    assert [name for name in PICTURES if not (Path(__file__).parent.parent / name).is_file()] == []


def test_every_loss_is_in_the_readmes_table() -> None:
    own = {name for name in LOSSES if LOSSES[name].__module__.startswith("dpo_lab.")}
    table = README.split("| kind | `loss=` |")[1].split("\n\n")[0]
    assert own <= set(re.findall(r"`([a-z_0-9]+)`", table))
