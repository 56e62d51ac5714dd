"""TensorBoard's view of a run: scalars, images, text, and one row of the HPARAMS table.

A view only: an error here is logged once, and the run goes on without TensorBoard.
"""

from __future__ import annotations

import functools
import logging
import struct
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from dpo_lab.artifacts.fingerprint import Scalar, is_seed, scalar_settings

NOTES = logging.getLogger(__name__)
P = ParamSpec("P")

# The columns of the HPARAMS table. Undeclared, every scalar tag would become a column.
SUMMARY_METRICS = (
    "proxy/policy",
    "reward/policy",
    "reward/reference",
    "positive/policy",
    "positive/reference",
    "kl",
    "ideal_share",
    "win_rate",
    "loss",
    "rewards/accuracies",
    "rewards/margins",
)


# The charts of the page CUSTOM SCALARS: the tags that each one shows together.
LAYOUT = {
    f"{which} ({split})": {
        title: ["Multiline", [f"{split}/{metric}" for metric in metrics]] for title, metrics in charts.items()
    }
    for which, charts in {
        "rewards": {"rewards": ["rewards/chosen", "rewards/rejected"], "margins": ["rewards/margins"]},
        "log-probabilities": {
            "policy": ["logps/chosen", "logps/rejected"],
            "per token": ["logps_mean/chosen", "logps_mean/rejected"],
            "reference": ["ref_logps/chosen", "ref_logps/rejected"],
        },
        "distance": {"KL": ["kl"], "displacement of the chosen": ["displacement/chosen"]},
        "samples": {"reward": ["proxy/policy", "reward/policy", "reward/reference"], "length": ["length/policy"]},
    }.items()
    for split in (["eval"] if which in ("distance", "samples") else ["train", "eval"])
}


def seedless(config: Mapping[str, Any]) -> dict[str, Scalar]:
    """The config as dotted names and scalars, without any seed: runs that agree in it repeat one experiment."""
    return {name: value for name, value in scalar_settings(config).items() if not is_seed(name)}


def _never_fatal(method: Callable[Concatenate[TensorBoard, P], None]) -> Callable[Concatenate[TensorBoard, P], None]:
    """Make a method log its first failure instead of raising it, and do nothing from then on."""

    @functools.wraps(method)
    def wrapper(self: TensorBoard, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if self.broken or self.off:
            return
        try:
            method(self, *args, **kwargs)
        except Exception as error:  # missing package, full disk, dead writer thread: all of them cost the view only
            self.broken = True
            NOTES.warning("TensorBoard is off for %s: %s: %s", self.directory, type(error).__name__, error)

    return wrapper


class TensorBoard:
    """Writes the event file in `directory`, which appears with the first thing written.

    `purge_step` hides what an earlier, killed process logged at that step or later. With `off` nothing is ever written.
    """

    def __init__(self, directory: Path, purge_step: int | None = None, off: bool = False) -> None:
        self.directory = directory
        self.purge_step = purge_step
        self.off = off
        self.broken = False
        self._writer: Any = None

    def _open(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # here: an import error must cost the view only

            if threading.excepthook is not _without_the_writers:
                threading.excepthook = _without_the_writers
            self._writer = SummaryWriter(str(self.directory), purge_step=self.purge_step, flush_secs=10)
        return self._writer

    @_never_fatal
    def scalars(self, step: int, values: Mapping[str, float | int]) -> None:
        """Log `values` by tag as one event. Standard errors (NAME_se) are left out: they would double the charts."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        shown = {tag: value for tag, value in values.items() if not tag.endswith("_se")}
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in shown.items()])
        self._open().file_writer.add_summary(summary, step)

    @_never_fatal
    def image(self, tag: str, png_path: Path) -> None:
        """Log a PNG file as it is, not decoded."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        png = png_path.read_bytes()
        if not png.startswith(b"\x89PNG"):
            raise ValueError(f"{png_path} is not a PNG file")
        width, height = struct.unpack(">II", png[16:24])
        image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
        self._open().file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), 0)

    @_never_fatal
    def text(self, tag: str, text: str) -> None:
        """Log Markdown."""
        self._open().add_text(tag, text)

    @_never_fatal
    def start_session(self, config: Mapping[str, Any], group_name: str) -> None:
        """Declare the HPARAMS table and this run's row of it, from the plugin's own protos.

        torch's add_hparams would make a sub-run per call, and the plugin's public helpers import tensorflow.
        Seeds are left out: a row is the mean over the seeds of `group_name`. TensorBoard takes the columns of the table from
        one of the runs it shows: a hyperparameter that this one lacks has no column.
        """
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

        hparams = seedless(config)
        experiment = api_pb2.Experiment(
            hparam_infos=[
                api_pb2.HParamInfo(name=name, type=api_pb2.DataType.Value(_kind(value)), differs=_first(name))
                for name, value in hparams.items()
            ],
            metric_infos=[
                api_pb2.MetricInfo(name=api_pb2.MetricName(tag=f"summary/{metric}"), display_name=metric)
                for metric in SUMMARY_METRICS
            ],
            time_created_secs=time.time(),
        )
        start = plugin_data_pb2.SessionStartInfo(group_name=group_name, start_time_secs=time.time())
        for name, value in hparams.items():
            field = {"DATA_TYPE_BOOL": "bool_value", "DATA_TYPE_STRING": "string_value"}.get(_kind(value), "number_value")
            setattr(start.hparams[name], field, value)
        self._plugin(metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=experiment))
        self._plugin(metadata.SESSION_START_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_start_info=start))
        self._open().add_custom_scalars(LAYOUT)

    @_never_fatal
    def end_session(self, success: bool) -> None:
        """End this run's row of the HPARAMS table."""
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

        status = api_pb2.STATUS_SUCCESS if success else api_pb2.STATUS_FAILURE
        end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
        self._plugin(metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=end))

    def _plugin(self, tag: str, content: Any) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import metadata

        value = Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(content), tensor=metadata.NULL_TENSOR)
        self._open().file_writer.add_summary(Summary(value=[value]))

    @_never_fatal
    def flush(self) -> None:
        """Wait until everything is in the file: a kill would take what still waits in memory."""
        if self._writer is not None:
            self._writer.flush()

    @_never_fatal
    def close(self) -> None:
        """Flush and close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _first(name: str) -> bool:
    """Whether the table shows a column by default: not the settings of the base policy, which seldom differ."""
    return not name.startswith("base.")


def _without_the_writers(raised: threading.ExceptHookArgs) -> None:
    """Print a thread's traceback unless it is the event writer's: that error comes back with the next event."""
    if type(raised.thread).__name__ != "_AsyncWriterThread":
        threading.__excepthook__(raised)


def _kind(value: Scalar) -> str:
    if isinstance(value, bool):
        return "DATA_TYPE_BOOL"
    return "DATA_TYPE_STRING" if isinstance(value, str) else "DATA_TYPE_FLOAT64"
