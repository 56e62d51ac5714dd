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

from dpo_lab.data.files.csv_values import cells
from dpo_lab.data.formats.values import BadRowError

Row = tuple[str, dict[str, Any] | BadRowError]
"""Where it stands, as file:line, and its fields, or why it has none."""

CHUNK = 1 << 20
PARQUET_ROWS = 256


def read_rows(path: Path, name: str, columns: Mapping[str, str]) -> Iterator[Row]:
    """The rows of a file in order, each field under the name that `columns` gives its column.

    Raises ValueError, naming the file, where no more rows can be told apart in it.
    """
    kind = next((suffix for suffix in reversed(path.suffixes) if suffix != ".gz"), "").lower()
    try:
        if kind == ".parquet":
            yield from (_renamed(row, columns) for row in _parquet(path, name))
            return
        with _opened(path) as file:
            if kind in (".csv", ".tsv"):
                yield from _csv(file, name, columns, "\t" if kind == ".tsv" else ",")
            elif _first_character(file) == b"[" and kind != ".jsonl":
                yield from (_renamed(row, columns) for row in _json_list(file, name))
            else:
                yield from (_renamed(row, columns) for row in _json_lines(file, name))
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8 ({error.reason}); convert it, such as with iconv -t utf-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{name}: cannot be read ({error})") from error


def renamed(fields: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The fields under our names: `columns` says what the file calls them."""
    ours = {theirs: name for name, theirs in columns.items()}
    taken = {name for name, theirs in columns.items() if theirs in fields}
    return {ours.get(name, name): value for name, value in fields.items() if name in ours or name not in taken}


def _renamed(row: Row, columns: Mapping[str, str]) -> Row:
    where, fields = row
    return where, fields if isinstance(fields, BadRowError) else renamed(fields, columns)


def _opened(path: Path) -> io.BufferedIOBase:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _as_text(file: io.BufferedIOBase, newline: str | None = None) -> io.TextIOWrapper:
    binary: Any = file
    return io.TextIOWrapper(binary, encoding="utf-8-sig", newline=newline)


def _first_character(file: io.BufferedIOBase) -> bytes:
    """The first byte that is no white space and no byte order mark; the file stands at its beginning again."""
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
        except BadRowError as error:
            yield where, error
        except (ValueError, RecursionError) as error:
            yield where, BadRowError(f"not JSON ({error})")


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRowError(f"expected an object with fields, found {type(value).__name__}")
    return value


def _json_list(file: io.BufferedIOBase, name: str) -> Iterator[Row]:
    """The items of one JSON list, decoded one by one so that the list is never held whole."""
    with _as_text(file) as text:
        reader = _Growing(text)
        reader.skip("[")
        number, line = 0, 1
        while reader.peek() != "]":
            number, line = number + 1, reader.line
            try:
                item = reader.item()
            except (ValueError, RecursionError) as error:
                reason = "the file ends within" if reader.ended else "not JSON from"
                raise ValueError(f"{name}:{line}: {reason} item {number} of the list ({error})") from error
            where = f"{name}:{line}" if line > 1 else f"{name} item {number}"
            try:
                yield where, _object(item)
            except BadRowError as error:
                yield where, error
            following = reader.peek()
            if following == ",":
                reader.skip(",")
            elif following != "]":
                found = f"found {following!r}" if following else "the file ends"
                raise ValueError(f"{name}:{reader.line}: expected , or ] after item {number} of the list, {found}")


class _Growing:
    """Text of a file from where it has been read up to, as much of it as one item needs."""

    def __init__(self, file: io.TextIOWrapper) -> None:
        self.file = file
        self.buffer, self.at, self.line, self.ended = "", 0, 1, False
        self.decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is no white space; '' at the end."""
        while True:
            while self.at < len(self.buffer):
                if not self.buffer[self.at].isspace():
                    return self.buffer[self.at]
                self._advance(self.at + 1)
            if not self._grow(CHUNK):
                return ""

    def skip(self, character: str) -> None:
        assert self.peek() == character, (self.peek(), character)
        self._advance(self.at + 1)

    def item(self) -> Any:
        """The next value. Raises ValueError for what is no JSON, also because the file ends."""
        self.peek()
        size = CHUNK
        while True:
            try:
                value, end = self.decoder.raw_decode(self.buffer, self.at)
                goes_on = isinstance(value, int | float) and self.buffer[end:].strip()[:1] not in (",", "]")
                if not goes_on or not self._grow(size):
                    self._advance(end)
                    return value
            except json.JSONDecodeError as error:
                unfinished = error.msg.startswith("Unterminated") or self._near(error.pos)
                if not unfinished or not self._grow(size):
                    raise
            size *= 2  # so that a very long item is not decoded too many times

    def _near(self, position: int) -> bool:
        """Whether an error may be that the buffer ends there: in the middle of a word or of white space."""
        return len(self.buffer) - position < 16 or self.buffer[position:].isspace()

    def _advance(self, to: int) -> None:
        self.line += self.buffer.count("\n", self.at, to)
        self.at = to

    def _grow(self, size: int) -> bool:
        """Reads on; false at the end of the file."""
        more = self.file.read(size)
        self.ended = self.ended or not more
        self.buffer, self.at = self.buffer[self.at :] + more, 0
        return bool(more)


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
                    yield where, cells(renamed(dict(zip(header, row, strict=True)), columns))
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
