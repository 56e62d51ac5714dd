"""All laws, in the order in which they are reported."""

from __future__ import annotations

from dataclasses import fields

from dpo_lab.check import declared_laws, general_laws, numeric_laws, option_laws
from dpo_lab.check.law import Law
from dpo_lab.losses import Laws

UNIVERSAL: tuple[Law, ...] = tuple(
    law for module in (general_laws, numeric_laws, option_laws) for law in vars(module).values() if isinstance(law, Law)
)
"""Laws that every loss keeps."""
DECLARED: dict[str, Law] = {promise.name: vars(declared_laws)[promise.name] for promise in fields(Laws)}
"""Laws that a loss may declare."""
