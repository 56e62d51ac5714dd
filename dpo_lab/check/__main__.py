"""Do losses keep their laws?

    python -m dpo_lab.check                                                every registered loss
    python -m dpo_lab.check loss=dpo,ipo examples=200                      these, on more drawn comparisons each
    python -m dpo_lab.check loss=mine user_modules=[my_lab.losses]         a loss of your own
    python -m dpo_lab.check plot=true figure=zoo.png                       a picture of the losses instead

Exit status 1 where a law is violated, 2 for words that cannot be understood.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from dpo_lab.cli.grammar import parsed
from dpo_lab.losses import LOSSES, PreferenceLoss
from dpo_lab.registry import load_user_modules, suggestion
from dpo_lab.tracking.console import Console

WIDTH = 120  # where the output is no terminal that has a width of its own
MISSING = "error: dpo_lab.check draws its examples with hypothesis, which is not installed: pip install 'dpo_lab[check]'"


@dataclass
class Request:
    """What the words ask for."""

    loss: list[str] = field(default_factory=list)
    """All registered ones if none is named."""
    user_modules: list[str] = field(default_factory=list)
    examples: int = 25
    plot: bool = False
    figure: str = "zoo.png"


def requested(words: Sequence[str]) -> Request:
    """Raises ValueError for a word that is none of `Request`'s fields, or not of its kind."""
    request, known = Request(), [setting.name for setting in fields(Request)]
    for word in words:
        if "=" not in word or word.startswith("-"):
            raise ValueError(f"'{word}' is no setting: write key=value, such as loss=dpo")
    for override in parsed(words):
        key = override.get_key_element()
        if key not in known:
            raise ValueError(f"there is no setting '{key}'.{suggestion(key, known)}")
        sweep = override.is_sweep_override()
        value: Any = list(override.sweep_string_iterator()) if sweep else override.value()
        if isinstance(getattr(request, key), list):
            value = value if isinstance(value, list) else [value]
        setattr(request, key, value)
        if not _fits(getattr(request, key), getattr(Request(), key)):
            raise ValueError(f"cannot read '{override.input_line}': write, for example, {_EXAMPLE[key]}")
    if request.examples < 1:
        raise ValueError(f"examples must be > 0, got {request.examples}")
    return request


_EXAMPLE = {
    "loss": "loss=dpo,ipo",
    "user_modules": "user_modules=[my_lab.losses]",
    "examples": "examples=200",
    "plot": "plot=true",
    "figure": "figure=zoo.png",
}


def _fits(value: Any, default: Any) -> bool:
    return type(value) is type(default) and (not isinstance(value, list) or all(isinstance(x, str) and x for x in value))


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    try:
        request = requested(words)
        if "" not in sys.path:
            sys.path.insert(0, "")  # a user's module lies where the command is started
        load_user_modules(request.user_modules)
        chosen = {name: LOSSES[name] for name in request.loss or LOSSES}
    except ValueError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    try:
        return draw_losses(chosen, request) if request.plot else check_losses(chosen, request)
    except ModuleNotFoundError as error:
        if not f"{error.name}.".startswith("hypothesis."):
            raise
        print(MISSING, file=sys.stderr)
        return 2


def draw_losses(losses: Mapping[str, type[PreferenceLoss]], request: Request) -> int:
    from dpo_lab.check.plot import draw

    try:
        picture = draw(losses, Path(request.figure))
    except OSError as error:
        print(f"error: figure={request.figure} cannot be written ({error.strerror}): give another path", file=sys.stderr)
        return 2
    console().path("picture", picture)
    return 0


def check_losses(losses: Mapping[str, type[PreferenceLoss]], request: Request) -> int:
    from dpo_lab.check.report import row_of, show

    torch.set_num_threads(1)  # thousands of tiny tensors
    rows = []
    with console().progress(len(losses), "laws") as progress:
        for number, (name, loss_class) in enumerate(losses.items(), start=1):
            rows.append(row_of(name, loss_class, request.examples))
            progress.update(number, {})
    show(console(), rows, request.examples)
    return 1 if any(row.violations for row in rows) else 0


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else WIDTH)


if __name__ == "__main__":
    sys.exit(main())
