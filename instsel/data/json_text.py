"""Take values from a stream of JSON text one by one, as they are written, without holding all of it.

Not by ijson, which takes twice the time, stops at NaN and at a row with a byte that is not UTF-8, and gives a row as
values, which would have to be written again.
"""

import codecs
import io
import json
import re
from collections.abc import Iterator

BLOCK = 1 << 20
# Rows are rejected long before that; of a longer value not even the beginning is given.
MOST_VALUE = 256 << 20
# Line ends and tabs within texts make a row that its parser rejects, and not a damaged file. Numbers stay texts: Python
# refuses to convert those of thousands of digits.
DECODER = json.JSONDecoder(strict=False, parse_int=str, parse_float=str)
# Commas too: too many of them, or none, does not change what the values are.
BETWEEN = re.compile(r"(?:[\s,\ufeff]+|(?://|#)[^\n]*\n|/\*.*?\*/)*", re.DOTALL)
COMMENT = ("#", "//", "/*")
VALUE_STARTS = tuple('[{"-0123456789tfnNI')
# A text that is cut within a literal, a number or an escape is refused as far before its end as this.
LONGEST_TOKEN = 16


def skip_between(text: str, start: int) -> int:
    """Return where white space, commas and comments end."""
    match = BETWEEN.match(text, start)
    return match.end() if match else start


def value_end(text: str, start: int) -> int:
    """Return where the JSON value that starts at `start` ends.

    Raises:
        EOFError: the text ends within it.
        ValueError: it is not JSON.
    """
    try:
        return DECODER.raw_decode(text, start)[1]
    except json.JSONDecodeError as error:
        if error.pos >= len(text) - LONGEST_TOKEN or error.msg.startswith("Unterminated string"):
            raise EOFError("it ends within a value") from None
        raise ValueError(f"broken JSON: {error.msg}") from None
    except RecursionError:
        raise ValueError("JSON that is nested too deep") from None


class JsonText:
    """A stream of JSON text in UTF-8; methods take what comes next, and raise EOFError or ValueError if it is not that.

    White space, commas and comments (`#`, `//`, `/* */`) between values are passed over. Bytes that are not UTF-8 stay
    as they are.
    """

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._text, self._start, self._has_ended = "", 0, False

    def peek(self) -> str:
        """Return the first character of the next value or bracket; empty at the end."""
        while True:
            self._start = skip_between(self._text, self._start)
            is_comment = self._text.startswith(COMMENT, self._start)
            if self._start < len(self._text) - 1 and not is_comment:
                break
            if not self._fill():
                if self._text.startswith("/*", self._start):
                    raise self._unexpected("*/")
                if is_comment:
                    self._start = len(self._text)
                break
        return self._text[self._start : self._start + 1]

    def take(self, char: str) -> None:
        """Take a bracket or colon."""
        if self.peek() != char:
            raise self._unexpected(char)
        self._start += 1

    def take_value(self) -> str:
        """Take a whole value, as it is written."""
        self.peek()
        return self._take_value()

    def _take_value(self) -> str:
        if not self._text.startswith(VALUE_STARTS, self._start):
            raise self._unexpected("a value")
        while True:
            try:
                end = value_end(self._text, self._start)
            except EOFError:
                if not self._fill():
                    raise
                continue
            value = self._text[self._start : end]
            # A number may go on in the next block, also after a point or an exponent that is cut.
            is_number = value[0] in "-0123456789"
            if is_number and end + LONGEST_TOKEN > len(self._text) and self._fill():
                continue
            self._start += len(value)
            return value

    def elements(self) -> Iterator[str]:
        """Take an array, and yield its elements."""
        self.take("[")
        while (char := self.peek()) != "]":
            if not char:
                raise self._unexpected("]")
            yield self._take_value()
        self.take("]")

    def keys(self) -> Iterator[str]:
        """Take an object, and yield its keys; after each, its value has to be taken before the next."""
        self.take("{")
        while (char := self.peek()) != "}":
            if char != '"':
                raise self._unexpected("}")
            key = json.loads(self.take_value(), strict=False)
            self.take(":")
            yield key
        self.take("}")

    def skip(self) -> bool:
        """Take a value without holding all of an array; return whether it is an array of objects."""
        if self.peek() != "[":
            self.take_value()
            return False
        first = None
        for element in self.elements():
            first = first or element[0]
        return first == "{"

    def _unexpected(self, expected: str) -> Exception:
        following = self._text[self._start : self._start + 1]
        if not following or expected == "*/":
            return EOFError(f"it ends before {expected}")
        return ValueError(f"{following!a} where {expected} is expected")

    def _fill(self) -> bool:
        """Read a block more; return whether there was one."""
        if self._has_ended:
            return False
        held = self._text[self._start :]
        if len(held) > MOST_VALUE:
            raise ValueError(f"a value longer than {MOST_VALUE >> 20} MiB")
        # What lies before a damage counts, unless a value is so long that small blocks would take their square of time.
        block = self._stream.read1(BLOCK) if len(held) < BLOCK else self._stream.read(len(held))
        self._has_ended = not block
        self._text, self._start = held + self._decoder.decode(block, final=not block), 0
        return bool(block)


def json_rows(stream: io.BufferedIOBase, path: tuple[str, ...] = (), is_sole: bool = False) -> Iterator[str]:
    """Yield the rows of JSON text: values one after another, those of arrays by element.

    Args:
        stream: the text, in UTF-8.
        path: keys under which an array of rows is; empty where they are at the top.
        is_sole: an array of objects under another key is an error.

    Raises:
        EOFError: the text ends within a value or array.
        ValueError: it is not JSON.
    """
    text = JsonText(stream)
    while char := text.peek():
        if path:
            yield from _rows_at(text, path, is_sole)
        elif char == "[":
            yield from text.elements()
        else:
            yield text.take_value()


def _rows_at(text: JsonText, path: tuple[str, ...], is_sole: bool) -> Iterator[str]:
    is_there = False
    for key in text.keys():  # noqa: SIM118
        if key != path[0]:
            if text.skip() and is_sole:
                raise ValueError(f"rows under `{path[0]}` and under another key")
            continue
        is_there = True
        yield from text.elements() if len(path) == 1 else _rows_at(text, path[1:], is_sole)
    if not is_there:
        raise ValueError(f"no rows under `{path[0]}`")
