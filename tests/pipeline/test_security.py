"""Attacks by files from somebody else, by names, texts and the environment: nothing runs, leaves its place or leaks."""

from __future__ import annotations

import ast
import csv
import io
import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import markdown
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from written_runs import write_run

from dpo_lab.artifacts.directory import write_directory
from dpo_lab.cli.composing import composed
from dpo_lab.cli.main import run_command
from dpo_lab.cli.validation import validate
from dpo_lab.compare.comparison import compare_runs
from dpo_lab.compare.exports import to_csv, to_latex
from dpo_lab.compare.study_folder import place_table
from dpo_lab.data.tokenizers import TOKENIZERS
from dpo_lab.models.policies import Policy, load_policy
from dpo_lab.models.transformer import TransformerSpec
from dpo_lab.pipeline.report import _markdown
from dpo_lab.pipeline.study_config import study_from_file, to_study

SECRET = "hunter2"
QUICK = "+experiment=quickstart"


@pytest.fixture(autouse=True)
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module that tells when it is imported or its function called, in a working directory of the test's own."""
    sprung = tmp_path / "sprung"
    spring = f"open({str(sprung)!r}, 'w').close()"
    (tmp_path / "trap.py").write_text(f"{spring}\ndef call(*a, **k):\n    {spring}\nclass Handler:\n    __init__ = call\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("SECRET_TOKEN", SECRET)
    handler, logs, level = signal.getsignal(signal.SIGTERM), list(logging.root.handlers), logging.root.level
    yield sprung
    signal.signal(signal.SIGTERM, handler)
    logging.root.handlers[:] = logs  # --info adds one that writes to this test's stdout
    logging.root.setLevel(level)
    sys.modules.pop("trap", None)
    assert not sprung.exists(), "the trap was sprung"


# ---- A configuration that comes with a file

EVIL = {
    "a target": "model: {name: transformer, _target_: trap.call}",
    "a target in place of a name": "model: {_target_: trap.call}",
    "a dotted name": "model: {name: trap.call}",
    "an object": "model: !!python/object/apply:trap.call []",
    "a module": "model: !!python/module:trap",
    "an interpolation": "model: {name: transformer, dim: '${oc.env:SECRET_TOKEN}'}",
    "an interpolation in disguise": 'model: {name: transformer, dim: "\\x24{oc.env:SECRET_TOKEN}"}',
    "an interpolation in two": "model: {name: transformer, dim: '${oc.${x}:SECRET_TOKEN}'}\nx: env",
    "a reference to itself": "model: &m {name: transformer, dim: *m}",
    "a bomb": "a: &a [1]\nmodel: {name: transformer, dim: [*a, *a]}",
    "a user's module": "user_modules: [trap]\nmodel: {name: trap}",
}


@pytest.mark.parametrize("name", EVIL)
def test_a_policys_configuration_is_data(name: str, tmp_path: Path) -> None:
    spec, tokenizer = TransformerSpec(dim=8, depth=1, heads=1, context=8), TOKENIZERS["word"]().train(["a b c d"])
    made = Policy(spec, spec.build(tokenizer.vocab_size), tokenizer)

    def write(directory: Path) -> None:
        made.write_files(directory)
        (directory / "config.yaml").write_text(EVIL[name])

    write_directory(tmp_path / "p", write)
    with pytest.raises(ValueError, match=r"model\.path: .*config\.yaml") as caught:
        load_policy(tmp_path / "p")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", EVIL)
def test_a_runs_configuration_is_data(name: str, tmp_path: Path) -> None:
    config = composed([QUICK])
    file = tmp_path / "config.yaml"
    plain = {key: value for key, value in yaml.safe_load(_saved(config)).items() if key not in EVIL[name]}
    file.write_text(yaml.safe_dump(plain) + EVIL[name])
    with pytest.raises(ValueError, match=r"config\.yaml") as caught:
        study_from_file(file)
    assert SECRET not in str(caught.value)


def _saved(config: Any) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(config, resolve=True)


# ---- A folder of configurations

HYDRA = {
    "a callback": "hydra: {callbacks: {x: {_target_: trap.call}}}",
    "a launcher": "hydra: {launcher: {_target_: trap.call}}",
    "a sweeper": "hydra: {sweeper: {_target_: trap.call}}",
    "a log handler": "hydra: {job_logging: {version: 1, handlers: {x: {class: trap.Handler}}, root: {handlers: [x]}}}",
    "a log factory": "hydra: {hydra_logging: {version: 1, handlers: {x: {(): trap.Handler}}, root: {handlers: [x]}}}",
    "a log's stream": "hydra: {job_logging: {version: 1, handlers: {x: {class: logging.StreamHandler, stream: 'ext://trap.call'}}}}",
    "another directory": "hydra: {run: {dir: /tmp}}",
}  # fmt: skip


@pytest.mark.parametrize("name", HYDRA)
@pytest.mark.parametrize("words", [[], ["-m", "seed=0,1"], ["--info", "config"]], ids=" ".join)
def test_a_configuration_names_no_code(name: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "evil.yaml").write_text(f"# @package _global_\ndefaults: [quickstart]\n{HYDRA[name]}\n")
    assert run_command(["--config-dir", "conf", "+experiment=evil", *words]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert {p.name for p in tmp_path.iterdir()} <= {"conf", "trap.py"}


# ---- The environment

READING = [
    "name=${oc.env:SECRET_TOKEN}",
    "name=${oc.${user_modules}:SECRET_TOKEN}",
    "name=x${oc.decode:${oc.env:SECRET_TOKEN}}",
    "runner.prompt=${oc.env:SECRET_TOKEN,none}",
    "data.words=[a,b,${oc.env:SECRET_TOKEN}]",
]


@pytest.mark.parametrize("word", READING)
def test_no_setting_reads_the_environment(word: str) -> None:
    with pytest.raises(ValueError, match=r"oc\.") as caught:
        validate([QUICK, "runner=sample", word])
    assert SECRET not in str(caught.value)


def test_the_resolver_works_again_afterwards() -> None:
    """Launchers' own settings may read the environment: they are written nowhere."""
    from omegaconf import OmegaConf

    to_study(composed([QUICK]))
    assert OmegaConf.create({"x": "${oc.env:SECRET_TOKEN}"}).x == SECRET


# ---- Code that would read code

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
FORBIDDEN_CALLS = {"torch.load", "np.load", "numpy.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec", "os.system"}
FORBIDDEN_OPTIONS = {"shell", "allow_pickle"}


def test_nothing_here_unpickles_evaluates_or_calls_a_shell() -> None:
    import dpo_lab

    found = []
    for file in Path(dpo_lab.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                found += [f"{file}: {name}" for name in names if name.partition(".")[0] in FORBIDDEN_MODULES]
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                found += [f"{file}:{node.lineno} {called}"] if called in FORBIDDEN_CALLS else []
                found += [f"{file}:{node.lineno} {word.arg}" for word in node.keywords if word.arg in FORBIDDEN_OPTIONS]
    assert found == []


# ---- Texts in reports


ENDS = st.text("\n\r\t\v\f\x1c\x1d\x1e\x85\u2028\u2029\x02\x03 a#>-1.", max_size=8)
"""Of what ends a line, to somebody."""


@given(
    ENDS | st.text(max_size=30),
    st.sampled_from(["", "<script>x</script>", "\n\n# x\n", "[x](javascript:y)", "\n<img src=x>", "```\n<b>"]),
)
def test_a_sample_is_shown_by_tensorboard_as_it_is(text: str, attack: str) -> None:
    shown = markdown.markdown(_markdown({"prompt": text + attack, "reference": attack + text, "policy": text}))
    tags = {part.partition(">")[0].strip("/") for part in shown.split("<")[1:]}
    assert tags <= {"p", "strong", "pre", "code"}


@pytest.mark.parametrize("attack", ["=1+cmd|' /C calc'!A0", "+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_spreadsheet_finds_no_formula(attack: str, tmp_path: Path) -> None:
    for seed, value in enumerate([attack, "plain"]):
        write_run(tmp_path, str(seed), {"loss": {"name": value}}, {"kl": -1.0})
    rows = list(csv.reader(io.StringIO(to_csv(compare_runs([tmp_path], metrics=["kl"])))))
    cells = [cell for row in rows for cell in row]
    assert f"'{attack.strip()}" in cells
    assert "-1.0" in cells, "a number stays one"
    assert not [cell for cell in cells if cell.strip()[:1] in tuple("=@")]


def test_latex_and_markdown_print_names_and_obey_none(tmp_path: Path) -> None:
    attack = "\\input{/etc/passwd}\n\n\\end{tabular} $x$ % <!-- end of results --> | <script>"
    for seed, value in enumerate([attack, "plain"]):
        write_run(tmp_path / "runs", str(seed), {"loss": {"name": value}})
    row = next(line for line in to_latex(compare_runs([tmp_path / "runs"], metrics=["kl"])).splitlines() if "input" in line)
    assert row.startswith(r"\textbackslash{}input\{/etc/passwd\} \textbackslash{}end\{tabular\} \$x\$ \% ")
    for _ in range(2):  # the second time, the first one's table is what is replaced
        place_table(tmp_path / "s", ["loss"], [[attack], ["plain"]])
    lines = (tmp_path / "s" / "README.md").read_text().splitlines()
    assert len([line for line in lines if line.startswith("| ")]) == 4
    assert sum("<!-- end of results -->" in line for line in lines) == 1
    assert not any("<script>" in line for line in lines)
