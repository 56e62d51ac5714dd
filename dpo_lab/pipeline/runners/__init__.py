"""Runners: one file each, named as `runner=` names it."""

from dpo_lab.pipeline.runners import benchmark, evaluate, export, inspect, preference, sample, store

__all__ = ["benchmark", "evaluate", "export", "inspect", "preference", "sample", "store"]
