"""Text of somebody else is shown as it is written, and does nothing."""

import io
import re

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.markdown import Markdown

from instsel.console import inline, one_line, printable
from instsel.report.markdown import markdown_table

STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@given(st.text())
def test_no_sign_that_steers_a_terminal_is_left_and_all_others_are(text: str) -> None:
    assert not STEERING.search(printable(text))
    assert printable(STEERING.sub("", text)) == STEERING.sub("", text)
    assert len(one_line(text).splitlines()) <= 1


def test_control_signs_are_spelled_out() -> None:
    assert printable("a\x1b[31m\r\n\tb\x9b\u202e") == "a\\x1b[31m\\x0d\n\tb\\x9b\\u202e"
    assert one_line(" a\r\n b\x1b\x0b") == "a b\\x1b"


def test_a_cell_is_one_cell_and_holds_no_link_picture_or_html() -> None:
    hostile = "a\\|b|c\n[x](https://evil) ![](https://evil/pixel) <img src=x> <https://evil>"
    console = Console(file=io.StringIO(), force_terminal=True, width=400)
    console.print(Markdown(markdown_table(["name", "rows"], [[hostile, "1"]])))
    shown = console.file.getvalue()
    assert "\x1b]8;" not in shown, "a hyperlink"
    assert "[x](https://evil) ![](https://evil/pixel) <img src=x> <https://evil>" in shown
    assert "a\\|b|c" in shown


def test_names_stay_readable() -> None:
    assert inline("commonsense_qa/multiple-choice (v1.0)") == "commonsense_qa/multiple-choice (v1.0)"
