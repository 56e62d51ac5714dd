"""Sweeps: many runs by one command. Which have been run, which still have to be, where, and what became of them."""

from dpo_lab.cli.sweeps.ledger import Ledger
from dpo_lab.cli.sweeps.task import Task

__all__ = ["Ledger", "Task"]
