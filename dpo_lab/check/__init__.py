"""The laws of preference losses, and `python -m dpo_lab.check`, which tests them on any loss."""

from dpo_lab.check.declared import DECLARED
from dpo_lab.check.finding import Verdict, Violation, examine, keeps_on_samples, violation
from dpo_lab.check.laws import Law
from dpo_lab.check.numbers import NUMBERS
from dpo_lab.check.settings import SETTINGS
from dpo_lab.check.universal import VALUES

UNIVERSAL = (*VALUES, *NUMBERS, *SETTINGS)
"""Laws that every loss keeps."""

__all__ = ["DECLARED", "UNIVERSAL", "Law", "Verdict", "Violation", "examine", "keeps_on_samples", "violation"]
