"""README and documentation: what they show works as it stands there, and what is generated is up to date."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from processes import ENVIRONMENT, SMALL_MODEL, SMALL_RUN, SMALL_SAMPLES, runs_of

import dpo_lab
from dpo_lab.check.__main__ import requested
from dpo_lab.cli.composing import Composer, composed
from dpo_lab.cli.planning import jobs_of_command
from dpo_lab.compare.__main__ import _parser
from dpo_lab.losses import LOSSES
from dpo_lab.pipeline.study_config import refuse_unknown_keys
from dpo_lab.pipeline.upfront_checks import OF_REWARDS, OF_SAMPLES, metric_names
from dpo_lab.registry import load_user_modules
from dpo_lab.tracking.glossary import meaning

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}


def commands(program: str) -> list[str]:
    """The words after `python -m <program>` in all pages, each once, in order."""
    lines = re.findall(rf"^    python -m {re.escape(program)}( .+?)?(?:\s+#.*)?$", "\n".join(TEXTS.values()), re.MULTILINE)
    return list(dict.fromkeys(line.strip() for line in lines))


def is_short(command: str) -> bool:
    """Whether it is tried here as it stands, with sizes made small; the others are only composed."""
    words = shlex.split(command)
    marks = ("+experiment=quickstart", "runner=", "data=pairs", "user_modules=[my_lab")
    return (
        words[:1] != []
        and words[0].startswith(marks)
        and "-m" not in words
        and "DIRECTORY" not in command
        and "--cfg" not in words
    )


COMMANDS = commands("dpo_lab")
SHORT = [command for command in COMMANDS if is_short(command)]
LONG = [command for command in COMMANDS if not is_short(command) and "resume=" not in command and "--help" not in command]
MODULES = re.findall(r"In `(my_lab/\w+\.py)`[^`]*?```python\n(.*?)```", "\n".join(TEXTS.values()), re.DOTALL)

SESSION = """
import json, sys
from pathlib import Path

from dpo_lab.check.__main__ import main
from dpo_lab.cli.main import run_command
from dpo_lab.cli.validation import validate
from dpo_lab.registry import load_user_modules

sys.path.insert(0, "")
commands, small, modules, block = json.loads(sys.argv[1])
load_user_modules(modules)
trained = set()
for command in commands:
    chosen = {word.partition("=")[0] for word in command} - {"candidates"}  # what is chosen has its own settings
    words = [*command]
    if "runner" not in chosen:
        kind = " ".join(word for word in words if word.startswith(("data=", "user_modules=[my_lab.losses")))
        if kind in trained:  # one of a kind is run, the others must be such that they could be
            validate(words)
            continue
        trained.add(kind)
        words += [word for word in small if not {word.partition("=")[0], word.partition(".")[0]} & chosen]
    if "data=pairs" in command:
        words = [word for word in words if not word.startswith("candidates.")]
    run = next(iter(sorted(Path("runs/quickstart").glob("*"))), None)
    key = next(iter(sorted(Path("artifacts/base").glob("*/manifest.json"))), None)
    words = [word.replace("runs/...", str(run)) for word in words]
    words = [f"runner.key={key.parent.name}" if word.startswith("runner.key=") else word for word in words]
    assert run_command(words) == 0, words
exec(block)
assert main(["user_modules=[my_lab.losses]", "loss=squared_hinge", "examples=8"]) == 0
"""


@pytest.mark.slow
def test_short_commands_run_in_one_session_with_the_modules_shown(tmp_path: Path) -> None:
    """And the loss shown obeys its laws, the comparison shown runs, and every metric that is logged has a meaning."""
    assert len(SHORT) >= 10
    for name, text in MODULES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    rows = [{"prompt": f"{w} b {i}", "chosen": f" {w} h g", "rejected": f" {w} a b"} for w in "abcdefgh" for i in range(12)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    small = ["data.num_sentences=200", *SMALL_MODEL, *SMALL_RUN, *SMALL_SAMPLES]
    (block,) = re.findall(r"```python\n(.*?)```", TEXTS["compare.md"], re.DOTALL)
    in_order = sorted(SHORT, key=lambda command: "+experiment=" not in command)  # what others read is made first
    modules = [name.removesuffix(".py").replace("/", ".") for name in dict(MODULES)]
    request = json.dumps([[shlex.split(command) for command in in_order], small, modules, block])
    call = [sys.executable, "-c", SESSION, request]
    done = subprocess.run(call, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    logged = [file for run in runs_of(tmp_path) for file in run.glob("metrics.jsonl")]
    names = {name for file in logged for line in file.read_text().splitlines() for name in json.loads(line)}
    assert {name for name in names - {"step", "split", "pairs"} if meaning(name) is None} == set()


@pytest.mark.parametrize("command", LONG)
def test_long_commands_compose(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "=throughput" in command:
        monkeypatch.syspath_prepend(ROOT)
        load_user_modules(["experiments.throughput.benchmark"])
    words = [word for word in shlex.split(command) if word not in {"-m", "--cfg", "job"}]
    jobs = jobs_of_command(words, "-m" in shlex.split(command), Composer()).jobs
    for job in (jobs[0], jobs[-1])[: len(jobs)]:
        refuse_unknown_keys(composed(job))


@pytest.mark.parametrize("command", commands("dpo_lab.compare"))
def test_comparisons_can_be_read(command: str) -> None:
    _parser().parse_args(shlex.split(command))


@pytest.mark.parametrize("command", commands("dpo_lab.check"))
def test_checks_can_be_read(command: str) -> None:
    words = [word for word in shlex.split(command) if not word.startswith(("user_modules", "loss=squared"))]
    assert set(requested(words).loss) <= set(LOSSES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`]*`", "", TEXTS[page.name], flags=re.DOTALL)
    for link in re.findall(r"\]\(((?!https?://)[^)]+)\)", text):
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-") for title in titles], link


def test_the_training_loop_of_the_library_page_learns(capsys: pytest.CaptureFixture[str]) -> None:
    block = re.findall(r"```python\n(.*?)```", TEXTS["library.md"], re.DOTALL)[0]
    assert len(block.splitlines()) <= 35
    exec(compile(block, "library.md", "exec"), {})
    margins = [float(number) for number in re.findall(r"margin (-?[\d.]+)", capsys.readouterr().out)]
    assert margins[0] == 0
    assert margins[-1] > 1


def test_the_package_offers_its_names_without_loading_torch() -> None:
    code = "import sys, dpo_lab; assert 'torch' not in sys.modules; from dpo_lab import *; print(*dir())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) >= set(dpo_lab.__all__)
    shown = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`\w+`.*?) \|", TEXTS["library.md"], re.MULTILINE))))
    assert shown == set(dpo_lab.__all__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_folders_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:conf|docs|dpo_lab|experiments|tests)/[\w./-]*)`", TEXTS[page.name])
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_readme_is_one_page_with_a_picture() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 120
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", TEXTS["README.md"])
    assert pictures
    assert [name for name in pictures if not (ROOT / name).is_file()] == []


def test_the_readme_maps_every_folder_and_file_it_says_to_read() -> None:
    shown = set(re.findall(r"^      (\w+)(?:/|\.py) ", TEXTS["README.md"], re.MULTILINE))
    there = {path.stem for path in (ROOT / "dpo_lab").iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert shown == there | {"records", "registry"}
    files = re.findall(r"^\d\. `([\w/.]+)`", TEXTS["README.md"], re.MULTILINE)
    assert len(files) == 6
    assert [name for name in files if not (ROOT / name).is_file()] == []


def test_generated_tables_are_up_to_date() -> None:
    """Where this fails: make tables."""
    tables = module_of(ROOT / "docs" / "tables.py")
    shown = [name for text in TEXTS.values() for _, name, _ in tables.MARKED.findall(text)]
    assert set(shown) == set(tables.TABLES)
    assert [name for name, text in TEXTS.items() if tables.renewed(text) != text] == []


def test_every_loss_is_in_the_table() -> None:
    own = {name for name in LOSSES if LOSSES[name].__module__.startswith("dpo_lab.")}
    table = TEXTS["losses.md"].split("generated: losses")[1].split("end of generated")[0]
    assert own == set(re.findall(r"^\| `([a-z_0-9]+)` \| ", table, re.MULTILINE))


def test_every_page_is_in_the_index() -> None:
    linked = set(re.findall(r"\]\(([\w./]+)\)", TEXTS["index.md"]))
    pages = {path.name for path in (ROOT / "docs").iterdir() if path.suffix in {".md", ".rst"}} - {"index.md"}
    studies = {f"../experiments/{path.parent.name}/README.md" for path in (ROOT / "experiments").glob("*/README.md")}
    assert linked >= pages | studies


def test_what_a_run_foresees_and_every_loss_logs_has_a_meaning() -> None:
    found = {*OF_SAMPLES, *OF_REWARDS}
    for name in LOSSES:
        study: Any = SimpleNamespace(
            loss=LOSSES[name](), reference=SimpleNamespace(has_logps=True), reward=SimpleNamespace(has_scores=True)
        )
        found |= metric_names(study, None)
    assert len(found) > 30
    assert {name for name in found if meaning(name) is None} == set()


def test_the_layers_shown_are_those_that_are_checked() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract.get("containers") == ["dpo_lab"])
    assert [layer.replace(" | ", " , ") for layer in layers] == [
        line.strip() for line in TEXTS["architecture.md"].split("```text\n")[-1].split("```")[0].splitlines()
    ]


def test_the_citation_is_valid() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= citation.keys()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert f"## [{project['version']}]" in TEXTS["CHANGELOG.md"]


def module_of(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
