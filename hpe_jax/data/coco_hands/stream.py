"""Reads a large JSON object entry by entry, without ever holding the whole."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from hpe_jax.errors import UserError

CHUNK = 1 << 20  # characters
WHITESPACE = ' \t\n\r'


def entries(path: Path) -> Iterator[tuple[str, Any]]:
    """(key, element) of every list at the top of the object, and (key, value) of what is not a list, as they come.

    Raises:
      UserError: it cannot be read, or is not a JSON object.
    """
    try:
        with (
            path.open(encoding='utf-8-sig') as file,
            tqdm(
                total=path.stat().st_size, desc=f'Reading {path.name}', unit='B', unit_scale=True, disable=None
            ) as bar,
        ):
            yield from _Reader(file, bar).entries()
    except OSError as e:
        raise UserError(f'{path}: cannot be read: {e.strerror}') from e
    except (ValueError, RecursionError) as e:
        raise UserError(f'{path}: not COCO keypoint JSON ({e}); expected an object with images and annotations') from e


class _Reader:
    """The characters that are read and not yet used are text[at:]."""

    def __init__(self, file: TextIO, bar: tqdm):
        self._file, self._bar, self._text, self._at = file, bar, '', 0
        self._decoder = json.JSONDecoder()

    def entries(self) -> Iterator[tuple[str, Any]]:
        self._take('{')
        separator = self._take('}') if self._next() == '}' else ','
        while separator == ',':
            key = self._value()
            self._take(':')
            if self._next() != '[':
                yield key, self._value()
            else:
                self._take('[')
                inner = self._take(']') if self._next() == ']' else ','
                while inner == ',':
                    yield key, self._value()
                    inner = self._take(',]')
            separator = self._take(',}')

    def _next(self) -> str:
        """The next character that is no whitespace, which stays; '' at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in WHITESPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read():
                return ''

    def _take(self, expected: str) -> str:
        found = self._next()
        if not found or found not in expected:
            raise ValueError(f'found {found!r} where {" or ".join(expected)} belongs' if found else 'it ends too early')
        self._at += 1
        return found

    def _value(self) -> Any:
        self._next()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except ValueError:
                if not self._read():
                    raise
                continue
            if end == len(self._text) and self._read():  # a number may go on
                continue
            self._at = end
            return value

    def _read(self) -> bool:
        """Reads on, twice as much as is waiting; false at the end of the file."""
        chunk = self._file.read(max(CHUNK, len(self._text) - self._at))
        self._text, self._at = self._text[self._at :] + chunk, 0
        self._bar.update(len(chunk))
        return bool(chunk)
