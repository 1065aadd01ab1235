"""Text that somebody else wrote, made safe to show: no sign of it steers a terminal or a Markdown viewer."""

import re

TAG = re.compile(r"<(?=[A-Za-z/!?])")
# Escape sequences begin with ESC or a C1 sign; the others move what stands on the line, or turn it round.
_CONTROLS = {*range(0x20), 0x7F, *range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)} - {0x09, 0x0A}
_SPELLED = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _CONTROLS}


def printable(text: str) -> str:
    r"""The text with its control signs but newline and tab spelled out, as in `\x1b`."""
    return text.translate(_SPELLED)


def one_line(text: str) -> str:
    """The text as one line of printable signs, with single spaces."""
    return printable(" ".join(text.split()))


def inline(text: str) -> str:
    """The text as part of a line of Markdown or as a cell of its tables: no link, picture, HTML or further cell.

    Emphasis is left: it does no harm, and names such as `a_b` stay readable.
    """
    for sign, safe in (("\\", "\\\\"), ("|", "\\|"), ("](", "]\\("), ("\n", " ")):
        text = text.replace(sign, safe)
    # A sign before a space or digit begins no HTML, and tables are read as they are, too: < 1 s.
    return TAG.sub(r"\\<", text)
