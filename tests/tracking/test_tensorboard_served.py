"""TensorBoard itself, started on a sweep and asked over HTTP what it shows."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dpo_lab.tracking.run_directory import RunDirectory
from dpo_lab.tracking.tensorboard import LAYOUT, seedless

Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """A function that gets an address below /data, from a server of two settings with two seeds each."""
    root = tmp_path_factory.mktemp("served")
    for beta in (0.1, 0.5):
        for seed in (0, 1):
            run = RunDirectory.create(root, "sweep", label=f"beta-{beta}_seed-{seed}")
            config = {"seed": seed, "base": {"steps": 3}, "candidates": {"seed": seed}, "loss": {"name": "dpo", "beta": beta}}
            run.log_hparams(config, group_name=json.dumps(seedless(config)))
            for step in range(3):
                run.log(step, "train", {"rewards/chosen": 0.1 * step, "rewards/rejected": -0.1 * step})
                run.log(step, "eval", {"kl": beta * step})
            run.write_summary({"step": 2, "kl": 10 * beta + seed})
            run.add_text("samples", "**prompt**\n\n    one <b>two</b>")
            run.finish("done")
            run.close()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--logdir", str(root), "--host", "127.0.0.1", "--port", str(port), "--load_fast", "false"]
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-m", "tensorboard.main", *words], **quiet) as process:

        def get(path: str, body: dict[str, Any] | None = None) -> Any:
            data = None if body is None else json.dumps(body).encode()
            kind = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"http://127.0.0.1:{port}/data/{path}", data=data, headers=kind)
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read())

        try:
            deadline = time.monotonic() + 180
            while True:
                try:
                    if len(get("plugin/scalars/tags")) == 4:
                        break
                except (urllib.error.URLError, ConnectionError):
                    assert process.poll() is None, "TensorBoard has ended"
                assert time.monotonic() < deadline
                time.sleep(0.2)
            yield get
        finally:
            process.kill()


def test_a_sweep_is_one_table_with_a_row_for_each_setting(ask: Ask) -> None:
    shown = {"allowedStatuses": ["STATUS_SUCCESS"], "colParams": [], "startIndex": 0, "sliceSize": 100}
    groups = ask("plugin/hparams/session_groups", {"experimentName": "", **shown})["sessionGroups"]
    assert len(groups) == 2
    for group in groups:
        assert len(group["sessions"]) == 2  # the seeds
        kl = {value["name"]["tag"]: value["value"] for value in group["metricValues"]}["summary/kl"]
        assert kl == pytest.approx(10 * group["hparams"]["loss.beta"] + 0.5)
    experiment = ask("plugin/hparams/experiment", {"experimentName": ""})
    columns = [info["name"] for info in experiment["hparamInfos"]]
    assert columns == ["loss.beta", "loss.name", "base.steps"], "the fit of the base policy comes last: few columns are shown"


def test_charts_of_what_belongs_together_are_laid_out(ask: Ask) -> None:
    layout = ask("plugin/custom_scalars/layout")
    assert {category["title"] for category in layout["category"]} == set(LAYOUT)
    (rewards,) = (category for category in layout["category"] if category["title"] == "rewards (train)")
    assert rewards["chart"][0]["multiline"]["tag"] == ["train/rewards/chosen", "train/rewards/rejected"]


def test_curves_and_samples_of_every_run_are_there(ask: Ask) -> None:
    tags = ask("plugin/scalars/tags")
    assert all({"train/rewards/chosen", "eval/kl", "summary/kl"} <= set(found) for found in tags.values())
    assert all("samples/text_summary" in found for found in ask("plugin/text/tags").values())
