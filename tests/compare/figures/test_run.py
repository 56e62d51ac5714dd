"""The picture of a run, from as much as the run directory holds."""

import json
import math
import struct
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from dpo_lab.compare.figures.curves import run_curves
from dpo_lab.compare.figures.labels import Labels
from dpo_lab.compare.figures.run import compose, draw_run, finding
from dpo_lab.compare.figures.run_frontier import run_path
from dpo_lab.tracking import RunDirectory, read_metrics

SUMMARY = {
    "step": 40,
    "positive/policy": 0.913,
    "positive/reference": 0.52,
    "proxy/policy": 2.5,
    "proxy/policy_se": 0.08,
    "proxy/reference": 0.1,
    "kl": 3.6,
    "kl_se": 0.06,
    "win_rate": 0.88,
    "ideal_share": 0.78,
    "best_of_n": [{"n": n, "kl": math.log(n) - (n - 1) / n, "proxy": 0.1 + math.log(n), "positive": 0.6} for n in (1, 2, 4)],
    "ideal_frontier": [{"kl": 0.1 * k, "proxy": 0.1 + math.sqrt(0.1 * k)} for k in range(60)],
}


def events(sampled: bool) -> list[dict]:
    rows = []
    for step in range(0, 41, 10):
        rows.append({"step": step, "split": "train", "loss": 0.7 - step / 100, "rewards/accuracies": 0.5 + step / 100})
        evaluation = {"step": step, "split": "eval", "loss": 0.7 - step / 200, "rewards/accuracies": 0.5 + step / 125}
        sampled_metrics = {"kl": step / 11, "kl_se": 0.1, "proxy/policy": 0.1 + step / 16, "positive/policy": 0.5 + step / 100}
        rows.append(evaluation | (sampled_metrics if sampled else {}))
    return rows


def write(directory: Path, rows: list[dict], summary: dict) -> Path:
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "summary.json").write_text(json.dumps(summary))
    return directory


def texts(directory: Path) -> list[str]:
    found = (text.get_text() for text in compose(directory).findobj(Text))
    return [text.replace("\N{NO-BREAK SPACE}", " ") for text in found if isinstance(text, str)]


def test_the_picture_names_the_finding_and_every_landmark(tmp_path: Path) -> None:
    png = draw_run(write(tmp_path, events(sampled=True), SUMMARY))
    assert png == tmp_path / "figure.png"
    assert struct.unpack(">II", png.read_bytes()[16:24]) == (1690, 884)
    shown = "\n".join(texts(tmp_path))
    for landmark in [
        "91 % positive at 3.6 nats: 78 % of the ideal gain in reward",
        "ideal frontier",
        "best of 4",
        "reference",
        "52 % positive",
        "this run",
        "KL to reference (nats)",
        "held-out",
    ]:
        assert landmark in shown, landmark


def test_a_bound_on_kl_an_error_and_an_extrapolation_are_named(tmp_path: Path) -> None:
    assert "best of 4\n(KL at most)" in texts(write(tmp_path, events(sampled=True), SUMMARY))
    rows = [{**row, "kl": 0.5 * row["kl"], "kl_bound": row["kl"], "kl_se": 0.01} for row in SUMMARY["best_of_n"]]
    estimated = texts(write(tmp_path, events(sampled=True), SUMMARY | {"best_of_n": rows}))
    assert "best of 4" in estimated
    assert not any("extrapolated" in text for text in estimated)
    far = SUMMARY | {"kl": 7.0, "ideal_share_se": 0.02, "ideal_extrapolated": True}
    found = texts(write(tmp_path, events(sampled=True), far))
    assert "91 % positive at 7.0 nats: 78 ± 2 %* of the ideal gain in reward" in found
    sure = far | {"positive/policy_se": 0.013, "win_rate": 0.8, "win_rate_se": 0.02}
    assert "91 ± 1 % positive at 7.0 nats: 78 ± 2 %* of the ideal gain in reward" in texts(
        write(tmp_path, events(sampled=True), sure)
    )
    assert any("preferred to the reference 80 ± 2 % of the time" in text for text in texts(tmp_path))
    assert "* extrapolated as √KL" in found


def test_labels_move_to_where_no_line_runs(tmp_path: Path) -> None:
    figure = Figure(figsize=(6, 6), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 10), ylim=(0, 10))
    labels = Labels(axes)
    labels.avoid([0, 5, 10], [4.6, 4.6, 4.6])  # just below the point
    labels.avoid([5, 5], [0, 5])
    for text in ("one", "two"):
        labels.annotate(text, (5, 5), gap=6, first=(0, -1))
    one, two = (label.get_window_extent(canvas.get_renderer()) for label in axes.texts)
    assert one.y0 > 460 * 0.6
    assert not one.overlaps(two)


@pytest.mark.parametrize(
    ("missing", "sampled"), [*((key, True) for key in SUMMARY), ("everything", True), ("everything", False)]
)
def test_whatever_is_missing_the_rest_is_drawn(tmp_path: Path, missing: str, sampled: bool) -> None:
    summary = {} if missing == "everything" else {key: value for key, value in SUMMARY.items() if key != missing}
    draw_run(write(tmp_path, events(sampled), summary))
    assert "Loss" in texts(tmp_path)


def test_a_run_that_diverged_is_drawn_as_far_as_it_is_finite(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for step, loss in enumerate([0.7, 0.6, math.nan, math.inf]):
        run.log(step, "train", {"loss": loss})
        run.log(step, "eval", {"loss": loss, "kl": loss, "proxy/policy": loss})
    run.write_summary({"kl": math.nan, "proxy/policy": math.nan, "best_of_n": [{"n": 2, "kl": math.nan, "proxy": 1.0}]})
    run.close()
    draw_run(tmp_path)
    assert list(run_curves(read_metrics(tmp_path))["loss"]["train"].steps) == [0, 1]
    assert "Loss" in texts(tmp_path)


def test_a_run_with_nothing_to_show_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_run(tmp_path)


def test_the_same_run_gives_the_same_picture(tmp_path: Path) -> None:
    write(tmp_path, events(sampled=True), SUMMARY)
    first = [draw_run(tmp_path).read_bytes(), (tmp_path / "figure.svg").read_bytes()]
    assert first == [draw_run(tmp_path).read_bytes(), (tmp_path / "figure.svg").read_bytes()]


def test_the_finding_says_as_much_as_the_numbers_allow() -> None:
    def said(summary: dict, rows: list[dict] | None = None) -> str:
        return finding(rows or [], summary).replace("\N{NO-BREAK SPACE}", " ")

    assert said(SUMMARY) == "91 % positive at 3.6 nats: 78 % of the ideal gain in reward"
    assert said(SUMMARY | {"ideal_share": None}) == "91 % positive at 3.6 nats, from 52 % for the reference"
    assert said({"proxy/policy": 2.5, "proxy/reference": 0.1}) == "Reward 2.50, from 0.10 for the reference"
    assert said({}, events(sampled=False)) == "82 % of the held-out pairs ranked right"
    assert said({}, [{"step": 0, "split": "train", "loss": 0.5}]) == "Loss 0.500 to 0.500"


def test_the_summary_stands_in_for_the_evaluation_of_its_step() -> None:
    points = run_path(events(sampled=True), SUMMARY)
    assert [point.step for point in points] == [0, 10, 20, 30, 40]
    assert (points[-1].kl, points[-1].kl_se, points[-1].reward, points[-1].reward_se) == (3.6, 0.06, 2.5, 0.08)
    assert [point.step for point in run_path(events(sampled=True), SUMMARY | {"step": 20})] == [0, 10, 20]
    assert [point.step for point in run_path(events(sampled=True), SUMMARY | {"step": 0})] == [0]  # the best was where it began


def test_metrics_logged_once_or_never_make_no_curve() -> None:
    rows = [*events(sampled=False), {"step": 3, "split": "train", "kl": 1.0}]
    assert {metric: set(splits) for metric, splits in run_curves(rows).items()} == {
        "loss": {"train", "eval"},
        "rewards/accuracies": {"train", "eval"},
    }
