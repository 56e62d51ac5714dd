"""Reward functions of text."""

from dpo_lab.preferences.rewards.base import REWARDS, RewardSpec, Scorer

__all__ = ["REWARDS", "RewardSpec", "Scorer"]
