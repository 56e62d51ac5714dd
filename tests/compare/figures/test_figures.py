"""Every picture is drawn from run directories, shows all of them, and is left out where they have nothing for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from written_runs import betas, write_run

from dpo_lab.compare.__main__ import main
from dpo_lab.compare.at_kl import mean_path
from dpo_lab.compare.comparison import Comparison, compare_runs
from dpo_lab.compare.figures import PICTURES, curves, displacement, figures, frontier, lengths, parallel, sweep
from dpo_lab.compare.figures.looks import FEW, looks
from dpo_lab.compare.grouping import grouped


@pytest.fixture
def few(tmp_path: Path) -> Comparison:
    return compare_runs([betas(tmp_path, {0.1: [1.0, 2.0], 0.3: [2.0, 3.0], 1.0: [4.0, 5.0]})], baseline="0.1")


@pytest.fixture
def many(tmp_path: Path) -> Comparison:
    return compare_runs([betas(tmp_path, {0.1 * (i + 1): [1.0 + i, 2.0 + i] for i in range(FEW + 2)})], baseline="0.1")


def texts(figure: object) -> set[str]:
    from matplotlib.text import Text

    return {text.get_text() for text in figure.findobj(Text)}  # type: ignore[attr-defined]


def test_all_pictures_are_written_as_png_and_svg(tmp_path: Path) -> None:
    betas(tmp_path, {0.1: [1.0, 2.0], 0.3: [2.0, 3.0], 1.0: [4.0, 5.0]})
    assert main([str(tmp_path), "--figures", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{n}.{end}" for n in PICTURES for end in ("png", "svg")}
    first = (tmp_path / "out" / "frontier.svg").read_bytes()
    assert main([str(tmp_path), "--figures", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "frontier.svg").read_bytes() == first  # the same runs give the same file


def test_runs_without_evaluations_give_no_picture_and_no_error(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path, str(seed), seed=seed)
    assert list(figures(compare_runs([tmp_path]))) == []


def test_the_frontier_shows_every_evaluation_and_names_every_setting(few: Comparison) -> None:
    figure = frontier.draw(few)
    assert figure is not None
    dots = [line for line in figure.axes[0].get_lines() if line.get_marker() == "o"]
    assert sum(len(line.get_xdata()) for line in dots) == sum(len(run.evaluations) for run in few.runs) == 18
    assert {"0.1", "0.3", "1.0", "best of 4\n(KL at most)", "2"} <= texts(figure)


def test_the_panels_of_many_settings_reach_as_far_as_their_paths(many: Comparison) -> None:
    figure = frontier.draw(many)
    assert figure is not None
    reached = [(line.get_xdata(), line.get_ydata()) for line in figure.axes[0].get_lines() if line.get_linestyle() == "-"]
    assert reached
    for axes in figure.axes:
        (_, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        assert all(max(x) <= right and bottom <= min(y) <= max(y) <= top for x, y in reached)
        assert right > 1


def test_a_mean_path_goes_as_far_as_every_seed() -> None:
    first = [{"kl": 0.0, "r": 0.0}, {"kl": 2.0, "r": 2.0}]
    second = [{"kl": 0.0, "r": 0.0}, {"kl": 1.0, "r": 3.0}]
    kl, values = mean_path([first, second], "r", steps=4)
    assert kl == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert values == pytest.approx([(2 * (x / 2) ** 0.5 + 3 * x**0.5) / 2 for x in kl])  # straight in the square root of KL
    assert mean_path([first, []], "r", steps=4) == ([], [])
    assert mean_path([], "r") == ([], [])


def test_curves_are_means_over_seeds(few: Comparison) -> None:
    figure = curves.draw(few)
    assert figure is not None
    panels = {axes.get_title(): axes for axes in figure.axes}
    lines = {tuple(line.get_ydata()) for line in panels["KL to reference (nats)"].get_lines()}
    assert lines == {(0.0, 0.75, 1.5), (0.0, 1.25, 2.5), (0.0, 2.25, 4.5)}


def test_a_sweep_has_a_logarithmic_axis_and_its_values_as_ticks(few: Comparison) -> None:
    figure = sweep.draw(few)
    assert figure is not None
    assert figure.axes[0].get_xscale() == "log"
    assert figure.axes[0].get_xticks().tolist() == [0.1, 0.3, 1.0]
    two = grouped(few.runs[:4], ["loss.beta"]).groups
    assert sweep.swept(two) is None


def test_parallel_coordinates_have_an_axis_for_each_setting_and_number(few: Comparison) -> None:
    figure = parallel.draw(few)
    assert figure is not None
    assert {"loss.beta", "kl", "length/policy", "proxy/policy"} <= texts(figure)
    curved = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) > 2]
    assert len(curved) == len(few.groups)


def test_displacement_is_the_change_since_the_first_evaluation(few: Comparison) -> None:
    figure = displacement.draw(few)
    assert figure is not None
    lines = [tuple(line.get_ydata()) for line in figure.axes[0].get_lines()]
    assert (0.0, -0.75, -1.5) in lines  # chosen, mean of two seeds
    assert (0.0, -1.5, -3.0) in lines  # rejected


def test_length_against_reward_names_every_setting(few: Comparison) -> None:
    figure = lengths.draw(few)
    assert figure is not None
    assert {"0.1", "0.3", "1.0"} <= texts(figure)


def test_of_many_settings_the_baseline_and_the_best_are_named(many: Comparison) -> None:
    named = {look.label for look in looks(many) if look.label}
    assert "0.1" in named
    assert len(named) == 5
    assert len(looks(many)) == len(many.groups)
    assert {name for name, _, _ in figures(many)} == set(PICTURES)


def test_a_name_with_a_dollar_is_no_formula(tmp_path: Path) -> None:
    for name in ("a$b", "c$\\bad$"):
        folder = betas(tmp_path / name.replace("\\", ""), {0.1: [1.0, 2.0]})
        for config in folder.rglob("config.yaml"):
            config.write_text(f"loss: {{name: '{name}', beta: 0.1}}\n")
    for _, _, figure in figures(compare_runs([tmp_path])):
        figure.canvas.draw()
