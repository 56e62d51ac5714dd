"""The preference losses. A new one: its file, a line here, a YAML in conf/loss."""

from dpo_lab.losses import dpo, ipo, sft
from dpo_lab.losses.base import LOSSES, Laws, PairLoss, PreferenceLoss

__all__ = ["LOSSES", "Laws", "PairLoss", "PreferenceLoss", "dpo", "ipo", "sft"]
