"""The TensorBoard view shows what was logged, in one run, and never stops it."""

import logging
import struct
import zlib
from enum import Enum
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, metadata

from dpo_lab.artifacts.fingerprint import scalar_settings
from dpo_lab.tracking import RunDirectory, read_metrics
from dpo_lab.tracking.tensorboard import SUMMARY_METRICS, TensorBoard

CONFIG = {
    "seed": 1,
    "loss": {"name": "ipo", "beta": 0.1, "average": True},
    "model": {"depth": 2, "rope": None},
    "gammas": [1, 2],
}


def events(path: Path) -> EventAccumulator:
    return EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()


def tiny_png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 3, 2, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\0\0\0" * 2)) + chunk(b"IEND", b"")


def test_scalars_are_the_numbers_of_metrics_jsonl(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "imdb")
    for step in range(3):
        run.log(step, "train", {"loss": 1 / (step + 1)}, pairs=step * 8)
    run.log(2, "eval", {"reward/policy": 1.5, "reward/policy_se": 0.1})  # errors would double the charts
    run.write_summary({"step": 2, "kl": 3.5, "best_of_n": []})
    run.close()
    read = events(run.path)
    assert set(read.Tags()["scalars"]) == {"train/loss", "eval/reward/policy", "summary/step", "summary/kl"}
    logged = [(row["step"], row["loss"]) for row in read_metrics(run.path) if row["split"] == "train"]
    shown = [(event.step, event.value) for event in read.Scalars("train/loss")]
    assert shown == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in logged]  # events hold float32


def test_the_table_declares_the_config_and_only_the_summary_metrics(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "imdb")
    run.log_hparams(CONFIG, group_name="beta=0.1")
    run.log(0, "train", {"loss": 1.0})
    run.finish("done")
    run.close()
    content = events(run.path).summary_metadata
    plugin = {tag: content[tag].plugin_data.content for tag in content if tag.startswith("_hparams_")}
    experiment = metadata.parse_experiment_plugin_data(plugin[metadata.EXPERIMENT_TAG])
    start = metadata.parse_session_start_info_plugin_data(plugin[metadata.SESSION_START_INFO_TAG])
    end = metadata.parse_session_end_info_plugin_data(plugin[metadata.SESSION_END_INFO_TAG])

    assert [info.name.tag for info in experiment.metric_infos] == [f"summary/{metric}" for metric in SUMMARY_METRICS]
    kinds = {info.name: info.type for info in experiment.hparam_infos}
    assert kinds == {
        "loss.name": api_pb2.DATA_TYPE_STRING,
        "loss.beta": api_pb2.DATA_TYPE_FLOAT64,
        "loss.average": api_pb2.DATA_TYPE_BOOL,
        "model.depth": api_pb2.DATA_TYPE_FLOAT64,
        "gammas": api_pb2.DATA_TYPE_STRING,
    }
    assert start.group_name == "beta=0.1"
    assert start.hparams["loss.beta"].number_value == 0.1
    assert start.hparams["loss.name"].string_value == "ipo"
    assert start.hparams["loss.average"].bool_value is True
    assert end.status == api_pb2.STATUS_SUCCESS
    assert end.end_time_secs >= start.start_time_secs > 0


@pytest.mark.parametrize(("status", "ended"), [("failed", True), ("diverged", True), ("preempted", False)])
def test_a_run_that_may_go_on_has_no_end(tmp_path: Path, status: str, ended: bool) -> None:
    run = RunDirectory.create(tmp_path, "imdb")
    run.log_hparams(CONFIG, group_name="g")
    run.finish(status)
    run.close()
    content = events(run.path).summary_metadata
    assert (metadata.SESSION_END_INFO_TAG in content) == ended
    if ended:
        end = metadata.parse_session_end_info_plugin_data(content[metadata.SESSION_END_INFO_TAG].plugin_data.content)
        assert end.status == api_pb2.STATUS_FAILURE


def test_everything_of_a_run_is_in_its_own_directory(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "imdb")
    run.log_hparams(CONFIG, group_name="g")
    run.finish("done")
    run.close()
    assert {path.parent for path in tmp_path.rglob("*tfevents*")} == {run.path}  # add_hparams would make a sub-run
    assert len(list(tmp_path.rglob("*tfevents*"))) == 1


def test_resuming_shows_no_step_twice(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "imdb")
    for step in range(5):
        run.log(step, "train", {"loss": 1.0})
    run.close()
    again = RunDirectory.resume(run.path, step=2)
    for step in range(3, 6):
        again.log(step, "train", {"loss": 2.0})
    again.close()
    shown = [(event.step, event.value) for event in events(run.path).Scalars("train/loss")]
    assert sorted(shown) == [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]


def test_pictures_and_text_arrive(tmp_path: Path) -> None:
    png = tmp_path / "figure.png"
    png.write_bytes(tiny_png())
    run = RunDirectory.create(tmp_path, "imdb")
    run.add_figure("result", png)
    run.add_text("samples", "a **b**")
    run.close()
    read = events(run.path)
    (image,) = read.Images("result")
    assert (image.width, image.height, image.encoded_image_string) == (3, 2, tiny_png())
    assert "samples/text_summary" in read.Tags()["tensors"]


def test_without_tensorboard_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)  # importing it raises ImportError
    with caplog.at_level(logging.WARNING):
        run = RunDirectory.create(tmp_path, "imdb")
        run.log_hparams(CONFIG, group_name="g")
        for step in range(3):
            run.log(step, "train", {"loss": 1.0})
        run.finish("done")
        run.close()
    assert len(read_metrics(run.path)) == 3
    assert [record.getMessage().partition(" for ")[0] for record in caplog.records] == ["TensorBoard is off"]


def test_an_event_file_that_cannot_be_written_costs_the_view_only(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    board = TensorBoard(tmp_path / "file")
    board.scalars(1, {"train/loss": 1.0})
    board.image("x", tmp_path / "none.png")
    board.close()
    assert board.broken


KEYS = st.text("ab", min_size=1, max_size=2)
VALUES = (
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
)
INNER = st.dictionaries(KEYS, VALUES, max_size=3)


@settings(deadline=None)
@given(st.dictionaries(KEYS, VALUES | INNER | st.dictionaries(KEYS, INNER, max_size=2), max_size=3))
def test_flattening_keeps_every_value_that_is_not_none(config: dict) -> None:
    def leaves(node: dict, prefix: tuple[str, ...] = ()) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in node.items():
            found.update(leaves(value, (*prefix, key)) if isinstance(value, dict) else {".".join((*prefix, key)): value})
        return found

    flat = scalar_settings(config)
    assert flat.keys() == {name for name, value in leaves(config).items() if value is not None}
    assert all(isinstance(value, (bool, int, float, str)) for value in flat.values())


def test_an_enum_shows_as_its_name() -> None:
    assert scalar_settings({"loss": {"aggregate": Enum("Aggregate", "sum mean").mean}}) == {"loss.aggregate": "mean"}
