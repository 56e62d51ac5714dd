"""The digest of code is that of the modules which a computation imports, and of no others."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

import pytest

from dpo_lab.artifacts.fingerprint import Code, code, code_of, component_classes, describe_changes, interactive
from dpo_lab.losses import LOSSES
from dpo_lab.losses.mix import MixLoss
from dpo_lab.preferences.rewards import REWARDS

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module of the package `a_lab`, which is forgotten in the end."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def to_file(name: str, text: str) -> None:
        file = tmp_path / "a_lab" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        importlib.invalidate_caches()
        for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == "a_lab"]:
            del sys.modules[loaded]

    yield to_file
    to_file("over", "")


def modules_of(*roots: str) -> set[str]:
    return set(code_of(*roots).modules)


def test_a_module_stands_for_its_file_and_all_that_it_imports(write: Write) -> None:
    write("__init__", "")
    write("deep", "x = 1")
    write("middle", "from a_lab import deep")
    write("reward", "import json\nimport torch\nfrom a_lab.middle import deep as other")
    found = code_of("a_lab.reward")
    assert set(found.modules) == {"a_lab.reward", "a_lab.middle", "a_lab.deep"}
    assert found.versions.keys() == {"python", "torch"}
    assert found == code_of("a_lab.reward")
    write("deep", "x = 2")
    assert {name for name, digest in code_of("a_lab.reward").modules.items() if digest != found.modules[name]} == {"a_lab.deep"}


@pytest.mark.parametrize(
    "text",
    [
        *("from .deep import x", "from . import deep", "import a_lab.deep", "def f():\n    from a_lab import deep"),
        "import importlib\ndeep = importlib.import_module('a_lab.deep').x",
    ],
)
def test_however_it_is_imported(text: str, write: Write) -> None:
    write("deep", "x = 1")
    write("reward", text)
    assert modules_of("a_lab.reward") == {"a_lab.reward", "a_lab.deep"}, "without an __init__.py it is a package all the same"


def test_what_only_a_type_checker_reads_does_not_count(write: Write) -> None:
    write("deep", "x = 1")
    write("reward", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a_lab import deep\nelse:\n    deep = None")
    assert modules_of("a_lab.reward") == {"a_lab.reward"}


def test_a_package_that_passes_a_name_on_leads_to_where_the_name_is_defined(write: Write) -> None:
    write("one", "x = 1")
    write("two", "y = 1")
    write("reward", "from a_lab import x")
    write("__init__", '"""A facade."""\nfrom a_lab.one import x\nfrom a_lab.two import y\n__all__ = ["x", "y"]')
    assert modules_of("a_lab.reward") == {"a_lab.reward", "a_lab.one"}
    write("__init__", "from a_lab.one import x\nfrom a_lab.two import y\nx += 1")
    assert modules_of("a_lab.reward") == {"a_lab.reward", "a_lab.one", "a_lab.two", "a_lab"}, "what it defines counts"


def test_a_process_computes_with_what_it_has_loaded(write: Write, tmp_path: Path) -> None:
    write("reward", "x = 1")
    module = importlib.import_module("a_lab.reward")
    before = code_of(module)
    (tmp_path / "a_lab" / "reward.py").write_text("x = 2  # while a sweep is under way")
    assert code_of("a_lab.reward") == before
    importlib.reload(module)
    assert code_of("a_lab.reward") != before


def test_a_function_stands_for_its_own_source() -> None:
    def one() -> int:
        return 1

    def other() -> int:
        return 2

    (name,) = code_of(one).modules
    assert name.endswith(":test_a_function_stands_for_its_own_source.one")
    assert code_of(one) == code_of(one) != code_of(other)


def test_a_loss_is_its_file_and_what_all_losses_share() -> None:
    found = modules_of(LOSSES["ipo"])  # type: ignore[arg-type]
    assert {"dpo_lab.losses.ipo", "dpo_lab.losses.base", "dpo_lab.losses.pairs"} <= found
    assert not {"dpo_lab.losses", "dpo_lab.losses.dpo", "dpo_lab.registry"} & found
    assert code_of(REWARDS["sentiment"]).versions.keys() >= {"scikit-learn", "numpy", "scipy"}


def test_a_mix_is_made_of_its_parts() -> None:
    mix = MixLoss(parts=[{"name": "ipo"}, {"name": "sft"}])
    assert {LOSSES["ipo"], LOSSES["sft"], MixLoss} <= set(component_classes(mix))


TYPED = """
from dataclasses import dataclass
from a_lab.deep import x as deep
SIGN = 1
OTHER = 1

def of(text):
    return [SIGN * one.count("a") for one in (text, text)]

@dataclass
class Typed:
    scale: float = 1.0

    def load(self):
        return lambda text: self.scale * of(text) * deep()
"""


def test_what_was_typed_into_an_interpreter_is_what_it_says_and_uses(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("deep", "def x():\n    return 1")
    main = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)

    def after(*changes: tuple[str, str]) -> Code:
        text = TYPED
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        exec(text, vars(main))
        return code_of(main.Typed)

    once = after()
    assert set(once.modules) == {"__main__", "a_lab.deep"}
    assert once == after() == after(("OTHER = 1", "OTHER = 2")), "typed again, and what it does not use"
    edits = [("SIGN = 1", "SIGN = -1"), ('"a"', '"b"'), ("* deep", "+ deep"), ("float = 1.0", "float = 2.0")]
    found = [after(edit).modules["__main__"] for edit in edits]
    assert len({*found, once.modules["__main__"]}) == 1 + len(edits)
    write("deep", "def x():\n    return 2")
    assert after().modules["a_lab.deep"] != once.modules["a_lab.deep"]
    interactive.process.cache_clear()
    assert once != after(), "another process cannot know what is the same"


def test_a_folder_without_init_and_what_has_been_compiled_count_as_well(write: Write, tmp_path: Path) -> None:
    write("__init__", "from . import sub\nfrom .reward import x")
    write("reward", "from a_lab import sub\nx = 1\ndef f():\n    from a_lab import _fast")
    write("sub/deep", "y = 1")
    assert modules_of("a_lab.reward") == {"a_lab.reward", "a_lab"}
    found = set()
    for content in (b"1", b"2"):
        (tmp_path / "a_lab" / f"_fast{EXTENSION_SUFFIXES[0]}").write_bytes(content)
        importlib.invalidate_caches()
        found.add(code_of("a_lab.reward").modules["a_lab._fast"])
    assert len(found) == 2


def test_another_version_of_a_library_is_other_code(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_of("dpo_lab.scoring.logps")
    monkeypatch.setattr(code, "version", lambda name: "0.1")
    after = code_of("dpo_lab.scoring.logps")
    assert before.modules == after.modules
    assert before != after
    assert after.versions["torch"] == "0.1"
    assert any(line.startswith("torch: ") for line in describe_changes(before.versions, after.versions))


def test_a_package_outside_of_the_libraries_is_its_source_and_its_version(write: Write, tmp_path: Path) -> None:
    write("deep", "x = 1")
    before = code_of("a_lab.deep")
    for number in ("1.0", "2.0"):
        folder = tmp_path / f"a_lab-{number}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: a_lab\nVersion: {number}\n")
        importlib.invalidate_caches()
        found = code_of("a_lab.deep")
        assert found.modules == before.modules
        assert found.versions == {**before.versions, "a_lab": number}
        (folder / "METADATA").unlink()
        folder.rmdir()


def test_changes_are_named_as_files() -> None:
    then, now = ({"code": {"dpo_lab.models.transformer": digest, "a_lab.x:f": digest}, "threads": 1} for digest in "ab")
    assert describe_changes(then, then) == []
    assert describe_changes(then, now) == ["a_lab/x.py (f), models/transformer.py changed"]
    assert describe_changes({"code": "0" * 16}, {"code": "1" * 16}) == [f"code: {'0' * 16} then, {'1' * 16} now"]
    many = {f"m{i}": "0" for i in range(7)}
    assert describe_changes({"code": {}}, {"code": many})[0].endswith(" and 3 more changed")
    assert (Code({"a": "1"}) | Code({"b": "2"}, {"torch": "2"})) == Code({"a": "1", "b": "2"}, {"torch": "2"})


def test_imports_within_functions_of_this_package_belong_to_what_was_chosen() -> None:
    """They are not followed elsewhere, so they stand where the module is that of a component, or prints and starts things."""
    late = set()
    package = Path(code.__file__).parents[2]
    for file in package.rglob("*.py"):
        name = ".".join(("dpo_lab", *file.relative_to(package).with_suffix("").parts)).removesuffix(".__init__")
        source = code.source_of(name)
        assert source is not None
        if any(each.late and each.module.startswith("dpo_lab") for each in source.imports):
            late.add(name)
    shown = {name for name in late if name.startswith("dpo_lab.compare.")}
    registered = {"dpo_lab.models.pretrained"}
    assert late - shown - {"dpo_lab", "dpo_lab.__main__", "dpo_lab.check.__main__"} <= registered, (
        "an import here would be left out of keys: put it at the top of its module"
    )
