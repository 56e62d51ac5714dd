"""The console says what happens, literally, on any stream and any width."""

import io
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo_lab.tracking.console import Console
from dpo_lab.tracking.progress import duration

METRICS = {"loss": 0.523, "rewards/margins": 1.24, "rewards/accuracies": 0.78, "pairs_per_s": 2100.0, "lr": 1e-4}
ROWS = [{"prompt": "The film", "reference": "was bad.", "policy": "was great.", "reward/reference": -1.2, "reward/policy": 2.3}]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def test_a_stage_is_one_line_with_its_seconds_and_its_outcome() -> None:
    out, clock = io.StringIO(), Clock()
    console = Console(out, clock=clock)
    with console.stage("tokenizer", "4,096 tokens"):
        clock.now += 1.25
    with console.stage("base") as stage:
        stage.reused = True
        stage.detail = "key 12ab"
    with pytest.raises(RuntimeError), console.stage("labels"):
        raise RuntimeError
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert lines == [
        ["tokenizer", "built", "1.2", "s", "4,096", "tokens"],
        ["base", "reused", "0.0", "s", "key", "12ab"],
        ["labels", "failed", "0.0", "s"],
    ]


@pytest.mark.parametrize("seconds_per_step", [0.01, 0.3, 3.0, 60.0])
def test_plain_progress_is_neither_chatty_nor_silent(seconds_per_step: float) -> None:
    out, clock = io.StringIO(), Clock()
    shown: list[float] = []
    with Console(out, clock=clock).progress(200, "training") as progress:
        for step in range(1, 201):
            clock.now += seconds_per_step
            before = out.tell()
            progress.update(step, METRICS)
            if out.tell() > before:
                shown.append(clock.now)
    gaps = [later - earlier for earlier, later in pairwise(shown)]
    assert all(gap >= 5 for gap in gaps[:-1])  # the last step is always told
    assert all(gap <= max(60 + seconds_per_step, 5) for gap in gaps)
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("training 1/200  loss 0.523  margin +1.24  acc 78%  2,100 pairs/s")
    assert lines[-1].startswith("training 200/200") and lines[-1].endswith("0:00 left")  # noqa: PT018


def test_time_left_does_not_count_the_steps_before_a_resume() -> None:
    out, clock = io.StringIO(), Clock()
    with Console(out, clock=clock).progress(1000, "training") as progress:
        progress.update(900, {})
        clock.now += 60
        progress.update(910, {})
    assert out.getvalue().splitlines()[-1].endswith("9:00 left")


@pytest.mark.parametrize("width", [30, 60, 80, 200])
def test_a_live_bar_fits_its_terminal(width: int) -> None:
    out, clock = Terminal(), Clock()
    console = Console(out, width=width, clock=clock)
    assert console.live
    with console.stage("training"), console.progress(400, "training") as progress:
        for step in (100, 200, 300):
            clock.now += 7
            progress.update(step, METRICS)
        console.warn("[red]loud[/red]")
    assert "[red]loud[/red]" in out.getvalue()
    if width >= 80:
        assert "loss 0.523" in out.getvalue()
    assert "300/400" in out.getvalue()
    assert "left" in out.getvalue() or width < 40  # metrics give way before the time left does


def test_no_color_means_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    console = Console(out)
    console.warn("careful")
    console.samples(ROWS)
    assert "\x1b[3" not in out.getvalue()
    assert "careful" in out.getvalue()


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    out = Terminal()
    console = Console(out)
    with console.progress(2, "training") as progress:
        progress.update(2, METRICS)
    assert out.getvalue().startswith("training 2/2")
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize("width", [20, 40, 80, 160])
def test_samples_fit_and_show_both_sides_with_their_rewards(width: int) -> None:
    out = io.StringIO()
    Console(out, width=width).samples([*ROWS, {"prompt": "x" * 300, "policy": "y" * 300}])
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert text.count("x") == 300
    assert text.count("y") == 300 + text.count("policy")
    for part in ("was bad.", "was great.", "-1.20", "+2.30"):
        assert part in text


def test_a_table_shows_every_cell() -> None:
    out = io.StringIO()
    Console(out, width=80).table("sweep", ["loss", "kl"], [["dpo", 3.61234567], ["ipo", 12]])
    assert {"sweep", "loss", "kl", "dpo", "3.612", "ipo", "12"} <= set(out.getvalue().split())


def test_a_path_is_never_broken() -> None:
    out = io.StringIO()
    path = Path("/runs") / "/".join(["a long directory"] * 20)
    Console(out, width=40).path("run", path)
    assert str(path) in out.getvalue()


@settings(deadline=None, max_examples=60)
@given(st.text())
def test_text_is_shown_literally_and_never_steers_the_terminal(text: str) -> None:
    out = io.StringIO()
    console = Console(out, width=80)
    console.note(text + "[bold]x[/bold] [/] :smile: \x1b[2J")
    console.table(text, [text], [[text]])
    console.samples([{"prompt": text, "policy": text, "reference": text}])
    with console.stage(text, text):
        pass
    assert "[bold]x[/bold] [/] :smile: \\x1b[2J" in out.getvalue()
    assert all(character.isprintable() or character == "\n" for character in out.getvalue())


def test_a_stream_that_knows_only_ascii_is_served() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    console = Console(out, width=80)
    console.note("caf\N{LATIN SMALL LETTER E WITH ACUTE}")
    console.samples([{"prompt": "\N{SNOWMAN}", "policy": "\N{SNOWMAN}"}])
    console.table("t", ["\N{SNOWMAN}"], [[1]])
    out.flush()
    assert b"caf\\xe9" in raw.getvalue()


@given(st.integers(0, 10**6))
def test_a_duration_reads_back(seconds: int) -> None:
    total = 0
    for part in duration(seconds).split(":"):
        total = 60 * total + int(part)
    assert total == seconds
