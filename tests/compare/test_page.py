"""The page of a comparison: complete, escaped, without network; looked at by a parser and by a real browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import PROGRAM, REASON, browser
from written_runs import betas, write_run

from dpo_lab.compare.__main__ import main
from dpo_lab.compare.comparison import compare_runs
from dpo_lab.compare.page.samples import samples_of
from dpo_lab.compare.page.svg import inline

VOID = {"meta", "br", "link", "input", "img", "hr"}


class Outline(HTMLParser):
    """What a page consists of; fails on a tag that is closed out of order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("page")
    betas(root / "runs", {0.1: [1.0, 2.0, 3.0], 0.5: [9.0, 9.5, 11.0], 2.0: [4.0, 5.0, 6.5]})
    write_run(root / "runs", "stopped <i>", status="preempted")
    words = ["--metric", "kl", "proxy/policy", "--baseline", "0.5", "--html", str(root / "page.html")]
    assert main([str(root / "runs"), *words]) == 0
    return root / "page.html"


def test_every_tag_is_closed_and_every_id_is_one_of_a_kind(page: Path) -> None:
    outline = Outline(page.read_text())
    ids = [value for _, name, value in outline.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = {value[1:] for _, name, value in outline.attributes if name in ("href", "xlink:href") and value}
    assert targets <= set(ids)
    assert {"results", "figures", "samples", "settings", "reproduce", "left-out"} <= set(ids)


def test_nothing_is_fetched_from_elsewhere(page: Path) -> None:
    outline = Outline(page.read_text())
    assert not any(name in ("src", "srcset", "action", "data") for _, name, _ in outline.attributes)
    assert all(value.startswith("#") for _, name, value in outline.attributes if name.endswith("href") and value)
    assert not re.search(r"@import|url\((?!#)", page.read_text())


def test_text_of_runs_is_text(page: Path) -> None:
    outline = Outline(page.read_text())
    texts = [text for tag, text in outline.texts if tag == "p"]
    assert "one </script> beta 0.5 <b>bold</b>" in texts
    assert ("summary", "two & three") in outline.texts
    assert not any(tag in ("b", "i") and text.startswith(("bold", ":")) for tag, text in outline.texts)
    assert sum(tag == "script" for tag, _ in outline.texts) == 1


def test_the_page_holds_table_verdict_settings_command_and_what_was_left_out(page: Path) -> None:
    texts = [text.strip() for _, text in Outline(page.read_text()).texts]
    assert "2.000 ± 1.000 ‡" in texts
    assert "[0.000, 4.484]" in texts
    assert any(text.startswith("With 3 seeds the smallest p") for text in texts)
    assert "loss.beta" in texts
    assert "python -m dpo_lab seed=2" in texts
    assert any(text.endswith("preempted, left out") and "stopped <i>" in text for text in texts)
    assert page.read_text().count("<svg") == 6


def test_a_colour_follows_the_page_and_a_setting_that_looks_like_one_stays(page: Path) -> None:
    svg = '<?xml?><svg width="1" viewBox="0 0 2 2"><g id="a" style="fill: #1f2933; stroke: #0072b2"/><text>#1f2933</text></svg>'
    found = inline(svg, "name", 'a "title"')
    assert 'id="name-a" style="fill: var(--ink); stroke: color-mix(in oklab, #0072b2, white var(--lift))"' in found
    assert "<text>#1f2933</text>" in found
    assert 'aria-label="a &#34;title&#34;"' in found


def test_prompts_that_all_settings_have_are_shown_and_torn_lines_passed_over(tmp_path: Path) -> None:
    runs = betas(tmp_path, {0.1: [1.0], 0.5: [2.0]})
    file = runs / "0.1-0" / "samples.jsonl"
    file.write_text(
        '{"prompt": "only here", "policy": "x"}\n' + file.read_text() + '{"prompt": "half \\ud83d", "policy": "\\ud83d"}\n{"pro'
    )
    other = runs / "0.5-0" / "samples.jsonl"
    other.write_text(other.read_text() + '{"prompt": "half \\ud83d", "policy": "whole"}\n')
    found = samples_of(compare_runs([runs]))
    assert [sample["prompt"] for sample in found] == ["one </script>", "two & three", "half ?"]
    assert [card["who"] for card in found[0]["cards"]] == ["reference", "0.1", "0.5"]
    assert [card["text"] for card in found[2]["cards"]] == ["?", "whole"]


SORTED = "[...document.querySelectorAll('table.sortable tbody tr')].map(row => row.cells[0].textContent)"
HEADING = "document.querySelectorAll('table.sortable th button')"


@pytest.mark.skipif(PROGRAM is None, reason=REASON)
def test_a_browser_shows_it_sorts_it_and_stays_within_a_phone(page: Path, tmp_path: Path) -> None:
    with browser(tmp_path) as tab:
        tab.size(1200, 900)
        tab.open(page)
        assert tab.ask(SORTED) == ["0.1", "0.5", "2.0"]
        tab.ask(f"{HEADING}[2].click()")  # kl
        assert tab.ask(SORTED) == ["0.1", "2.0", "0.5"]
        tab.ask(f"{HEADING}[2].focus()")
        tab.press("Enter")
        assert tab.ask(SORTED) == ["0.5", "2.0", "0.1"]
        assert tab.ask(f"{HEADING}[2].parentElement.getAttribute('aria-sort')") == "descending"
        tab.press("Tab")
        tab.press(" ")
        assert tab.ask("document.activeElement === " + HEADING + "[3]") is True
        assert tab.ask(SORTED) == ["0.1", "2.0", "0.5"]  # by the difference; the baseline has none and stays last
        tab.press(" ")
        assert tab.ask(SORTED) == ["2.0", "0.1", "0.5"]

        for width in (320, 360, 1200):
            tab.size(width, 800)
            assert tab.ask("document.documentElement.scrollWidth") <= width
        grounds = {}
        for scheme in ("light", "dark"):
            tab.colours(scheme)
            grounds[scheme] = tab.ask("getComputedStyle(document.body).backgroundColor + getComputedStyle(document.body).color")
        assert grounds == {"light": "rgb(255, 255, 255)rgb(31, 41, 51)", "dark": "rgb(18, 22, 27)rgb(230, 234, 239)"}
        line = "getComputedStyle(document.querySelector('figure svg path[style*=color-mix]')).stroke"
        assert "none" not in tab.ask(line)  # the browser knows the mixed colours

        asked = [event["params"]["request"]["url"] for event in tab.events if event["method"] == "Network.requestWillBeSent"]
        assert asked == [page.resolve().as_uri()]
        wrong = [event for event in tab.events if event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")]
        assert wrong == []
        assert tab.ask("document.querySelectorAll('article b').length") == 0


@pytest.mark.skipif(PROGRAM is None, reason=REASON)
def test_no_script_but_the_pages_own_is_let_run(page: Path, tmp_path: Path) -> None:
    injected = tmp_path / "injected.html"
    injected.write_text(page.read_text().replace("<main>", "<main><script>window.x = 1</script>"))
    with browser(tmp_path / "profile") as tab:
        tab.open(injected)
        assert tab.ask("window.x === undefined") is True
