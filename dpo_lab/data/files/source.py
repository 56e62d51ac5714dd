"""The files or data sets that data.path names, and their rows in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from dpo_lab.artifacts.digests import file_digest
from dpo_lab.data.files.folders import files_of, is_saved, split_of
from dpo_lab.data.files.hub import HUB, dataset_digests, dataset_rows, open_dataset
from dpo_lab.data.files.reading import Row, read_rows


class RowSource:
    """Files in order, or one split of data sets of the hub."""

    def __init__(self, setting: str, paths: Sequence[str], subset: str | None, split: str) -> None:
        """Raises ValueError, naming the setting, for what is not there."""
        paths = [f"{HUB}{path}" if is_saved(Path(path).expanduser()) else path for path in paths]
        names = [path.removeprefix(HUB) for path in paths if path.startswith(HUB)]
        self.notes: list[str] = []
        """What to tell the user about files that are read, or not."""
        self.files = [file for path in paths if not path.startswith(HUB) for file in self._files(setting, path, split)]
        has_splits = any(split_of(Path(file)) == split for file in self.files)
        if not names and setting != "data.eval_path" and (subset is not None or (split != "train" and not has_splits)):
            given = "subset" if subset is not None else "split"
            raise ValueError(f"data.{given} is for data sets of the hub, and {setting} names none: leave it out")
        self.datasets = {name: open_dataset(name, subset, split) for name in names}

    def rows(self, columns: Mapping[str, str]) -> Iterator[Row]:
        for file in self.files:
            yield from read_rows(Path(file).expanduser(), file, columns)
        for name, dataset in self.datasets.items():
            yield from dataset_rows(dataset, f"{HUB}{name}", columns)

    def _files(self, setting: str, path: str, split: str) -> list[str]:
        """The files that a path, a folder or a glob names, by name in order."""
        full = Path(path).expanduser()
        if full.is_file():
            return [path]
        if full.is_dir():
            chosen, note = files_of(setting, full, split)
            self.notes += [] if note is None else [note]
            return [str(file) for file in chosen]
        files = sorted(file for file in glob(str(full), recursive=True) if Path(file).is_file()) if has_magic(path) else []
        if not files:
            hint = f"; a data set of the hub is {setting}={HUB}{path}" if path.count("/") == 1 and not full.suffix else ""
            raise ValueError(f"{setting}: there is no file {path}{hint}")
        splits = {name for name in map(split_of, map(Path, files)) if name is not None}
        if len(splits) > 1:
            self.notes.append(f"{path}: files of the splits {', '.join(sorted(splits))} are all read")
        return files

    @cached_property
    def digests(self) -> list[Any]:
        """Digests of all files. Kept, since they are asked for several times before a run begins and files may be large."""
        files = [file_digest(Path(file).expanduser()) for file in self.files]
        return [*files, *(dataset_digests(dataset) for dataset in self.datasets.values())]

    def __str__(self) -> str:
        names = [*self.files, *(f"{HUB}{name}" for name in self.datasets)]
        return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def paths_of(setting: str, value: Any) -> list[str]:
    """One path or several, as a list. Raises ValueError for anything else."""
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
        raise ValueError(f"{setting} must be a path or a list of paths, got {value!r}")
    return paths
