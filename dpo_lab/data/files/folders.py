"""Folders of files: which of them hold rows, and which of these belong to the wanted split."""

from __future__ import annotations

import re
from pathlib import Path

READABLE = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
ABOUT = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")
"""Files about a data set, which hold none of its rows."""
SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("validation", "valid", "val", "dev", "eval", "evaluation"),
}
"""Splits, and the words in a file's name that stand for them."""
SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}")


def is_saved(folder: Path) -> bool:
    """Whether the library `datasets` has saved a data set there, whose rows it must read."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def split_of(file: Path) -> str | None:
    """The split that a file's name tells; None where it tells none."""
    stem = file.name.partition(".")[0]
    shard = SHARD.fullmatch(stem)
    if shard is not None:
        return shard.group(1)
    words = re.split(r"[-_ ]", stem.lower())
    return next((split for split, names in SPLITS.items() if any(word in names for word in words)), None)


def files_of(setting: str, folder: Path, split: str) -> tuple[list[Path], str | None]:
    """The files with rows in a folder, or in its folder `data`, by name in order, and what to tell the user of others.

    Where files are named by splits, only those of the wanted one, or else those of none. To hold out,
    all where there are no such ones. Raises ValueError where none is left.
    """
    files = _readable(folder) or (_readable(folder / "data") if (folder / "data").is_dir() else [])
    if not files:
        raise ValueError(
            f"{setting}: no file in {folder} ends with {', '.join(READABLE)}; a data set of several configurations is "
            f"{setting}=hub:{folder} with data.subset"
        )
    named = {file: split_of(file) for file in files}
    chosen = [file for file in files if named[file] == split] or [file for file in files if named[file] is None]
    if not chosen and setting == "data.eval_path":
        return files, None
    splits = sorted({name for name in named.values() if name is not None})
    if not chosen:
        raise ValueError(
            f"{setting}: no file in {folder} is named as the split {split}; found {', '.join(splits)}: data.split="
        )
    others = [file.name for file in files if file not in chosen]
    if not others:
        return chosen, None
    return chosen, f"{folder}: of its files those of data.split={split} alone are read, not {', '.join(others[:5])}" + (
        f" and {len(others) - 5} more" if len(others) > 5 else ""
    )


def _readable(folder: Path) -> list[Path]:
    files = (file for file in folder.iterdir() if file.name not in ABOUT and set(file.suffixes) & set(READABLE))
    return sorted(file for file in files if file.is_file())
