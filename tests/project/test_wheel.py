"""The lab works from a wheel: in an environment without the sources, from any directory."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from processes import ENVIRONMENT, QUICKSTART, run, runs_of

from dpo_lab.cli import CONF

pytestmark = pytest.mark.slow

ROOT = CONF.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console script of a new environment that has the wheel, and this one's other packages."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--python", str(folder), "install", "--no-deps", "--no-index", "--quiet", str(wheel)]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    # Behind the new environment's own packages, and without this one's .pth files: the editable install is one of them.
    (packages / "others.pth").write_text("\n".join({*site.getsitepackages(), sysconfig.get_path("purelib")}) + "\n")
    return folder / "bin" / "dpo-lab"


def test_the_wheel_carries_every_configuration_and_module(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for file in CONF.rglob("*.yaml"):
        assert f"dpo_lab/conf/{file.relative_to(CONF).as_posix()}" in names
    for file in (file for file in (ROOT / "dpo_lab").rglob("*.*") if file.suffix in {".py", ".html", ".css", ".js"}):
        assert file.relative_to(ROOT).as_posix() in names
    assert "dpo_lab/py.typed" in names, "annotations are for type checkers of others, too"
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"dpo_lab", "hydra_plugins"}


def test_the_installed_command_runs_from_another_directory(installed: Path, tmp_path: Path) -> None:
    done = run(tmp_path, QUICKSTART, program=[str(installed)])
    assert done.stderr == ""
    (path,) = runs_of(tmp_path)
    facts = json.loads((path / "run.json").read_text())
    assert facts["status"] == "done"
    assert facts["git"] is None, "an installed package is no work tree"
    assert {entry.name for entry in tmp_path.iterdir()} == {"runs", "artifacts"}


@pytest.mark.parametrize(("typed", "offered"), [("loss=", {"loss=dpo", "loss=ipo", "loss=sft"}), ("loss.be", {"loss.beta="})])
def test_the_shell_completes_words(typed: str, offered: set[str], installed: Path, tmp_path: Path) -> None:
    """As Hydra's bash completion asks: COMP_LINE holds the line typed, COMP_POINT the cursor."""
    line = f"dpo-lab {typed}"
    asked = {**ENVIRONMENT, "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    command = [str(installed), "-sc", "query=bash"]
    done = subprocess.run(command, cwd=tmp_path, env=asked, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) >= offered
    assert list(tmp_path.iterdir()) == []
    assert os.fspath(installed).endswith("dpo-lab")
