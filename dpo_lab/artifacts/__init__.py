"""Artifacts: results of stages, stored under keys that say what made them."""
