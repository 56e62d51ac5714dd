"""Data sets of the Hugging Face hub, or saved by its library `datasets`, which fetches them and keeps them as files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dpo_lab.artifacts.digests import file_digest
from dpo_lab.data.files.reading import Row, renamed

HUB = "hub:"


def open_dataset(name: str, subset: str | None, split: str) -> Any:
    """One split of a data set. Raises ValueError where the library is missing, or with what it says went wrong."""
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"data.path: {HUB}{name} needs the library datasets: pip install 'dpo_lab[hub]'") from error
    folder = Path(name).expanduser()
    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.utils.logging.disable_progress_bar()
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            saved = datasets.load_from_disk(str(folder))
            return saved if isinstance(saved, datasets.Dataset) else saved[split]
        return datasets.load_dataset(str(folder) if folder.is_dir() else name, subset, split=split)
    except Exception as error:  # the library raises whatever the network, the hub and the files lead to
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"data.path: cannot load the split '{split}' of {HUB}{name} ({type(error).__name__}: {reason})"
        ) from error
    finally:
        if shown:
            datasets.utils.logging.enable_progress_bar()


def dataset_rows(dataset: Any, name: str, columns: Mapping[str, str]) -> Iterator[Row]:
    """The rows of a data set, read one by one from the files that the library keeps."""
    for number, fields in enumerate(dataset, start=1):
        yield f"{name} row {number}", renamed(fields, columns)


def dataset_digests(dataset: Any) -> list[str]:
    return [file_digest(Path(file["filename"])) for file in dataset.cache_files]
