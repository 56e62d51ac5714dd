"""Rows of data files, one at a time: JSON Lines, a JSON list, CSV and TSV (each also gzipped), Parquet."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dpo_lab.data.files.csv_values import csv_values
from dpo_lab.data.files.json_list import json_items
from dpo_lab.data.formats.values import BadRowError

Row = tuple[str, dict[str, Any] | BadRowError]
"""Its place, as file:line, and its fields, or why it has none."""

PARQUET_ROWS = 256
"""Read at a time."""


def read_rows(path: Path, name: str, columns: Mapping[str, str]) -> Iterator[Row]:
    """The rows of a file in order; `columns` gives the file's own name of a field, where it has another.

    Raises ValueError, naming the file, where no more rows can be told apart in it.
    """
    kind = next((suffix for suffix in reversed(path.suffixes) if suffix != ".gz"), "").lower()
    try:
        if kind == ".parquet":
            yield from (_renamed_row(row, columns) for row in _parquet(path, name))
            return
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            if kind in (".csv", ".tsv"):
                yield from _csv(file, name, columns, "\t" if kind == ".tsv" else ",")
            elif _first_character(file) == b"[" and kind != ".jsonl":
                yield from (_renamed_row(row, columns) for row in _json_list(file, name))
            else:
                yield from (_renamed_row(row, columns) for row in _json_lines(file, name))
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8 ({error.reason}); convert it, such as with iconv -t utf-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{name}: cannot be read ({error})") from error


def renamed(fields: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The fields under the names that formats read; `columns` maps those to the names in the file."""
    names = {in_file: name for name, in_file in columns.items()}
    replaced = {name for name, in_file in columns.items() if in_file in fields}
    return {names.get(name, name): value for name, value in fields.items() if name in names or name not in replaced}


def _renamed_row(row: Row, columns: Mapping[str, str]) -> Row:
    where, fields = row
    return where, fields if isinstance(fields, BadRowError) else renamed(fields, columns)


def _as_text(file: io.BufferedIOBase, newline: str | None = None) -> io.TextIOWrapper:
    binary: Any = file
    return io.TextIOWrapper(binary, encoding="utf-8-sig", newline=newline)


def _first_character(file: io.BufferedIOBase) -> bytes:
    """The first byte that is not white space or a byte order mark; leaves the file at its beginning."""
    head = file.read(4096)
    file.seek(0)
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _json_lines(file: io.BufferedIOBase, name: str) -> Iterator[Row]:
    for number, line in enumerate(file, start=1):
        where = f"{name}:{number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            if text.strip():
                yield where, _object(json.loads(text))
        except UnicodeDecodeError as error:
            yield where, BadRowError(f"not UTF-8 (byte {error.start} of the line: {error.reason})")
        except (ValueError, RecursionError) as error:
            yield where, BadRowError(f"not JSON ({error})")


def _json_list(file: io.BufferedIOBase, name: str) -> Iterator[Row]:
    with _as_text(file) as text:
        yield from ((where, _object(item)) for where, item in json_items(text, name))


def _object(value: Any) -> dict[str, Any] | BadRowError:
    return value if isinstance(value, dict) else BadRowError(f"expected an object with fields, found {type(value).__name__}")


def _csv(file: io.BufferedIOBase, name: str, columns: Mapping[str, str], delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    with _as_text(file, newline="") as text:
        rows = csv.reader(text, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        line = 1
        try:
            for row in rows:
                where, line = f"{name}:{line}", rows.line_num + 1
                if header is None:
                    header = row
                    repeated = sorted({column for column in row if row.count(column) > 1})
                    if repeated:
                        raise ValueError(f"{where}: several columns are called {', '.join(map(repr, repeated))}")
                elif len(row) == len(header):
                    yield where, csv_values(renamed(dict(zip(header, row, strict=True)), columns))
                elif row:
                    yield where, BadRowError(f"{len(row)} cells, but the first line names {len(header)} columns")
        except csv.Error as error:
            raise ValueError(f"{name}:{line}: not CSV ({error})") from error


def _parquet(path: Path, name: str) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ValueError(f"{name}: Parquet files need pyarrow: pip install 'dpo_lab[parquet]'") from error
    try:
        number = 0
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                for fields in batch.to_pylist():
                    number += 1
                    yield f"{name} row {number}", fields
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{name}: not a whole Parquet file ({' '.join(str(error).split())})") from error
