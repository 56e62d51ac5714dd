"""Sweeps: many runs by one command, on this machine or others."""

from dpo_lab.cli.sweeps.ledger import Ledger
from dpo_lab.cli.sweeps.task import Task

__all__ = ["Ledger", "Task"]
