"""The command line: words become validated studies, one or a sweep of them."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"  # in a wheel, or beside the sources
"""The folder of the configuration's YAML files."""
