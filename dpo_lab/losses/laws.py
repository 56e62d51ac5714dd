"""The properties that a preference loss can declare."""

from __future__ import annotations

from dataclasses import dataclass, fields

from dpo_lab.registry import suggestion


@dataclass(frozen=True)
class Laws:
    """What a loss with its default settings promises of itself, beyond what every loss must keep.

    `python -m dpo_lab.check` tests every promise, and that none is missing.
    """

    shift_invariant: bool = False
    """One constant added to all log-probabilities of a prompt, under the policy or under the reference, changes nothing."""
    ratios_only: bool = False
    """One constant added to the log-probability of one candidate under policy and reference both changes nothing."""
    scaling: bool = False
    """beta and the log-probabilities enter as their product only."""
    monotone: bool = False
    """Never rises as the chosen completion becomes more likely, or the rejected one less."""
    convex: bool = False
    """In the log-probability of each candidate."""
    swap_linear: bool = False
    """L(chosen, rejected) - L(rejected, chosen) is proportional to the difference of the two rewards."""
    raises_margin: bool = True
    """The first step down the gradient, while the policy equals the reference, lowers no prompt's margin."""
    rowwise: bool = False
    """A prompt's value does not depend on the other prompts of the batch."""
    nonnegative: bool = False
    """Never below 0."""

    @classmethod
    def of(cls, names: str, raises_margin: bool = True) -> Laws:
        """The laws with these names, such as `Laws.of("convex rowwise")`. Raises ValueError for a name that is none."""
        known = [law.name for law in fields(cls)]
        for name in names.split():
            if name not in known:
                raise ValueError(f"there is no law '{name}'.{suggestion(name, known)}")
        return cls(**{"raises_margin": raises_margin, **dict.fromkeys(names.split(), True)})

    @property
    def names(self) -> list[str]:
        """Of the laws that hold."""
        return [law.name for law in fields(self) if getattr(self, law.name)]
