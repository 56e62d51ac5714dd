"""The command line: `python -m dpo_lab +experiment=quickstart loss.beta=0.03`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run what the command line says.

    Exit status: 0 done, or stopped by SIGTERM or Ctrl-C and saved; 1 failed or diverged; 2 a mistake in the command; 130 for a
    sweep that was interrupted.
    """
    # The directory the user stands in holds the user's modules, for the installed command as for `python -m`.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    if sys.argv[1:] in (["--help"], ["-h"]):  # answered without torch
        from dpo_lab.cli.help_text import help_text

        print(help_text(), end="")
        return

    from dpo_lab.cli.main import run_command

    sys.exit(run_command(sys.argv[1:]))


if __name__ == "__main__":
    main()
