"""The items of one JSON list, decoded one by one, so that a large file is never held whole.

By hand, because ijson does not tell the lines that items stand in, refuses NaN, and is five times slower where its C library is
missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import TextIOBase
from typing import Any

CHUNK = 1 << 20
"""Characters read at a time."""


def json_items(file: TextIOBase, name: str) -> Iterator[tuple[str, Any]]:
    """Each item with its place, as file:line (or its number, in a file of one line). Raises ValueError for what is no list."""
    text = _Window(file)
    text.skip("[")
    number, line = 0, 1
    while text.peek() != "]":
        number, line = number + 1, text.line
        try:
            item = text.decode()
        except (ValueError, RecursionError) as error:
            reason = "the file ends within" if text.ended else "not JSON from"
            raise ValueError(f"{name}:{line}: {reason} item {number} of the list ({error})") from error
        yield f"{name}:{line}" if line > 1 else f"{name} item {number}", item
        following = text.peek()
        if following == ",":
            text.skip(",")
        elif following != "]":
            what = f"found {following!r}" if following else "the file ends"
            raise ValueError(f"{name}:{text.line}: expected , or ] after item {number} of the list, {what}")


class _Window:
    """The part of a file that has been read and not yet decoded."""

    def __init__(self, file: TextIOBase) -> None:
        self.file = file
        self.buffer, self.at, self.line, self.ended = "", 0, 1, False
        self.decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is not white space; '' at the end of the file."""
        while True:
            while self.at < len(self.buffer):
                if not self.buffer[self.at].isspace():
                    return self.buffer[self.at]
                self._advance(self.at + 1)
            if not self._read_on(CHUNK):
                return ""

    def skip(self, character: str) -> None:
        assert self.peek() == character, (self.peek(), character)
        self._advance(self.at + 1)

    def decode(self) -> Any:
        """The next value. Raises ValueError where it is not JSON, also because the file ends."""
        self.peek()
        size = CHUNK
        while True:
            try:
                value, end = self.decoder.raw_decode(self.buffer, self.at)
                may_be_cut = isinstance(value, int | float) and self.buffer[end:].strip()[:1] not in (",", "]")
                if not may_be_cut or not self._read_on(size):
                    self._advance(end)
                    return value
            except json.JSONDecodeError as error:
                may_be_cut = error.msg.startswith("Unterminated") or self._is_near_end(error.pos)
                if not may_be_cut or not self._read_on(size):
                    raise
            size *= 2  # so that a very long item is decoded a few times only

    def _is_near_end(self, position: int) -> bool:
        """Whether an error there may come from the end of the buffer, within a word or white space."""
        return len(self.buffer) - position < 16 or self.buffer[position:].isspace()

    def _advance(self, to: int) -> None:
        self.line += self.buffer.count("\n", self.at, to)
        self.at = to

    def _read_on(self, size: int) -> bool:
        """Read more of the file; false at its end."""
        more = self.file.read(size)
        self.ended = self.ended or not more
        self.buffer, self.at = self.buffer[self.at :] + more, 0
        return bool(more)
