"""What holds for every test: shapes and dtypes are enforced, one thread, drawn examples repeat on CI."""

from __future__ import annotations

import os
import signal
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import shape_checks
import torch
from hypothesis import HealthCheck, Phase, settings

import dpo_lab.artifacts.fingerprint  # noqa: F401  # it holds no shapes, and a run asks it thousands of small questions: it stays as it is

shape_checks.install()  # before anything else of dpo_lab is imported

with warnings.catch_warnings():
    # It scripts functions while it is imported, and torch 2.13 warns of that. Ours stay errors.
    warnings.filterwarnings("ignore", message=r".*torch\.jit\.", category=DeprecationWarning)
    import x_transformers  # noqa: F401

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so would the runs it starts

settings.register_profile(
    "lab",
    deadline=None,
    max_examples=25,
    derandomize="CI" in os.environ,
    database=None,  # a test leaves no files in the repository
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("lab")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--user-module",
        action="append",
        default=[],
        help="import this module, so that the laws are run on the losses it registers",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with an argument `loss_class` runs for every registered loss, the user's and installed plugins' included."""
    if "loss_class" in metafunc.fixturenames:
        from dpo_lab.losses import LOSSES
        from dpo_lab.registry import load_user_modules

        load_user_modules(metafunc.config.getoption("--user-module"))
        metafunc.parametrize("loss_class", [LOSSES[name] for name in LOSSES], ids=list(LOSSES))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests of a file that has a fixture of its own for all of them run in one worker, where it is made once."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if _shares_a_fixture(config.rootpath / file) else nodeid

    return Scheduling(config, log)


@cache
def _shares_a_fixture(file: Path) -> bool:
    return 'scope="module"' in file.read_text()
