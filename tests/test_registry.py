"""A component is found by its name; every mistake on the way there is answered in words."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from dpo_lab.registry import Registry, load_user_modules, suggestion
from hydra_plugins.dpo_lab_sweeps import ComponentSource


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> Registry[object]:
    """A registry that leaves no trace in the lab's own."""
    monkeypatch.setattr(Registry, "all", dict(Registry.all))
    return Registry("shape", "dpo_lab.data.tokenizers")


@dataclass
class Square:
    name: str = "square"
    side: float = 1.0


@dataclass
class OtherSquare:
    name: str = "square"


@dataclass
class Nameless:
    side: float = 1.0


@dataclass
class WithoutDefault:
    name: str


class NoDataclass:
    name: str = "plain"


def test_a_registered_class_is_found_by_name(shapes: Registry[object]) -> None:
    assert shapes.register(Square) is Square
    assert shapes["square"] is Square
    assert dict(shapes) == {"square": Square}
    assert "square" in shapes
    assert "circle" not in shapes
    assert len(shapes) == 1
    assert Registry.all["shape"] is shapes


def test_names_come_in_alphabetical_order(shapes: Registry[object]) -> None:
    for name in ("b", "c", "a"):
        shapes.register(dataclass(type(name, (), {"__annotations__": {"name": str}, "name": name})))
    assert list(shapes) == ["a", "b", "c"]


def test_hydra_finds_it_as_a_schema(shapes: Registry[object]) -> None:
    shapes.register(Square)
    source = ComponentSource("components", "components://")
    for group in ("shape", "schema/shape"):
        assert source.is_group(group)
        assert source.list(group, None) == ["square"]
        assert source.is_config(f"{group}/square")
        assert source.load_config(f"{group}/square").config.side == 1.0
        assert not source.is_config(f"{group}/circle")


def test_a_name_that_is_taken_is_refused_and_stays_with_its_owner(shapes: Registry[object]) -> None:
    shapes.register(Square)
    with pytest.raises(ValueError, match=r"shape 'square' is already registered by .*\.Square"):
        shapes.register(OtherSquare)
    assert shapes["square"] is Square


def test_a_subclass_must_take_a_name_of_its_own(shapes: Registry[object]) -> None:
    shapes.register(Square)
    with pytest.raises(ValueError, match="already registered"):
        shapes.register(type("Rhombus", (Square,), {}))


def test_a_reloaded_module_may_register_its_classes_again(shapes: Registry[object]) -> None:
    shapes.register(Square)
    reloaded = dataclass(type("Square", (), {"__annotations__": {"name": str}, "name": "square", "__module__": __name__}))
    assert shapes.register(reloaded) is shapes["square"]


@pytest.mark.parametrize("cls", [Nameless, WithoutDefault, NoDataclass])
def test_a_class_without_a_name_is_refused(shapes: Registry[object], cls: type) -> None:
    with pytest.raises(ValueError, match=rf"{cls.__name__}: a shape is a @dataclass with a field `name: str"):
        shapes.register(cls)
    assert len(shapes) == 0


def test_an_unknown_name_is_answered_with_the_nearest_known(shapes: Registry[object]) -> None:
    shapes.register(Square)
    with pytest.raises(ValueError, match=r"there is no shape 'sqare'\. Did you mean 'square'\?"):
        shapes["sqare"]
    with pytest.raises(ValueError, match=r"there is no shape 'x'\. Known: square\."):
        shapes["x"]


def test_without_anything_known_nothing_is_suggested(shapes: Registry[object]) -> None:
    assert suggestion("x", []) == ""
    with pytest.raises(ValueError, match=r"there is no shape 'x'\.$"):
        shapes["x"]


def test_a_user_module_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_to_load.py").write_text("value = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    load_user_modules(["mine_to_load"])
    assert sys.modules.pop("mine_to_load").value == 3


def test_a_user_module_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match=r"user_modules: cannot import 'no_such_module' \(.*\); it is looked for in /.* PYTHONPATH"
    ):
        load_user_modules(["no_such_module"])
    (tmp_path / "mine_in_need.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"cannot import 'mine_in_need' \(No module named 'no_such_dependency'\)"):
        load_user_modules(["mine_in_need"])


def test_a_user_module_that_does_not_parse_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_broken.py").write_text("def broken(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="cannot import 'mine_broken'"):
        load_user_modules(["mine_broken"])
