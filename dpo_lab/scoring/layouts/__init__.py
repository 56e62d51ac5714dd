"""Ways to lay the tokens of a batch out, in which each token is scored once."""

from dpo_lab.scoring.layouts.base import Layout, Part, Plan, SharesPrompt, SplitsHead, Work
from dpo_lab.scoring.layouts.choose import EVERY, planned, work_of

__all__ = ["EVERY", "Layout", "Part", "Plan", "SharesPrompt", "SplitsHead", "Work", "planned", "work_of"]
