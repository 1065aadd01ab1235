"""CSV and TSV: which delimiter, which columns, and which rows."""

import csv
import io
import json
from typing import Any

import pytest

from instsel.data.cells import cell_rows, cell_type
from instsel.data.formats import MOST_BYTES
from instsel.errors import InputError


def read(text: str | bytes, name: str = "rows.csv", is_whole: bool = True) -> list[Any] | None:
    content = text.encode() if isinstance(text, str) else text
    cells = cell_type(content.decode("utf-8", "surrogateescape"), is_whole, name)
    return None if cells is None else [json.loads(row) for row in cell_rows(io.BytesIO(content), cells, name)]


QA = [{"question": "2, or 3?", "answer": "5"}, {"question": "a\nb", "answer": 'say "c"'}]


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["rows", "rows.csv", "rows.tsv"])
def test_what_a_writer_of_cells_wrote_is_read(delimiter: str, quoting: Any, end: str, name: str) -> None:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, ["question", "answer"], delimiter=delimiter, quoting=quoting, lineterminator=end)
    # Within a cell the writer quotes line ends of its own kind only.
    rows = [{**row, "question": row["question"].replace("\n", end)} for row in QA]
    writer.writeheader()
    writer.writerows(rows)
    assert read(stream.getvalue(), name) == rows


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b\n1,2\n\n3,4", [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]),
        ("a,b\n,\n", [{"a": "", "b": ""}]),
        (",a,b\n0,x,y\n1,z,w\n", [{"a": "x", "b": "y"}, {"a": "z", "b": "w"}]),
        ("a,b\nx\n", [{"a": "x"}]),
        ("text\nhello\nworld, too\n", None),
        ("text\nhello\nworld\n", [{"text": "hello"}, {"text": "world"}]),
        ("Frage;Antwort\nja, oder?;nein, danke\n", [{"Frage": "ja, oder?", "Antwort": "nein, danke"}]),
        ("问题,答案\n一,二\n", [{"问题": "一", "答案": "二"}]),
        ("\ufeffa,b\n1,2\n", [{"a": "1", "b": "2"}]),
        ("question,A,B,C,D,answer\n", []),
    ],
)
def test_rows_of_csv(text: str, expected: list[Any] | None) -> None:
    if expected is None:
        with pytest.raises(InputError, match="row 2 has 2 cells under 1 columns; put cells"):
            read(text)
    else:
        assert read(text.removeprefix("\ufeff")) == expected


def test_questions_with_options_and_a_letter_need_no_header() -> None:
    text = '"Which is odd, 2 or 3?",2,3,5,9,B\nWho is it?,I,you,he,she,D\n'
    assert read(text) == [
        {"question": "Which is odd, 2 or 3?", "A": "2", "B": "3", "C": "5", "D": "9", "answer": "B"},
        {"question": "Who is it?", "A": "I", "B": "you", "C": "he", "D": "she", "answer": "D"},
    ]
    assert read("Is it?,yes,no,A\nWas it?,yes,no,B\n") == [
        {"question": "Is it?", "A": "yes", "B": "no", "answer": "A"},
        {"question": "Was it?", "A": "yes", "B": "no", "answer": "B"},
    ]


@pytest.mark.parametrize(
    "text", ["What is it?,4\nAnd that?,5\n", "a,a\n1,2\n", "1,2\n3,4\n", "a,,c\n1,2,3\n", "12\n13\n"]
)
def test_a_csv_that_does_not_name_its_columns_is_an_error(text: str) -> None:
    with pytest.raises(InputError, match="does not name the columns .* put a row of names above it, such as question,"):
        read(text)
    assert cell_type(text, True, "rows.jsonl") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "Dear John,\nhow are you, friend\n",
        "# Title\n\nSome text, of two lines,\nor three.\n",
        "a: b\nc: d\n",
    ],
)
def test_prose_is_no_csv(text: str) -> None:
    assert read(text, "letter") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('q\ta\n"Hi" he said\tx\n', [{"q": '"Hi" he said', "a": "x"}]),
        ('q\ta\n"""Hi"" he said"\tx\n', [{"q": '"Hi" he said', "a": "x"}]),
        # Two rows that begin with a quote: not one whose cell has a line end.
        ('q\ta\n"Hi\tx\nhe" said\ty\n', [{"q": '"Hi', "a": "x"}, {"q": 'he" said', "a": "y"}]),
        ('q\ta\n"two\nlines"\ty\n', [{"q": "two\nlines", "a": "y"}]),
    ],
)
def test_quotes_of_tsv_are_quotes_where_they_can_be(text: str, expected: list[Any]) -> None:
    assert read(text, "rows.tsv") == expected


def test_more_cells_than_columns_and_stray_quotes_are_errors() -> None:
    with pytest.raises(InputError, match="rows.csv: row 2 has 3 cells under 2 columns; put cells that contain the"):
        read("a,b\n1,2\n3,4,5\n6,7\n")
    with pytest.raises(csv.Error, match="',' expected after '\"'"):
        read('a,b\n1,2\n"x" y,4\n')
    with pytest.raises(csv.Error, match="unexpected end of data"):
        read('a,b\n1,2\n"x,4\n')


def test_the_beginning_of_a_text_may_end_anywhere() -> None:
    text = 'question,answer\n"a, ""b""\nc",d\n' * 1 + '"e, f",g\n' * 20
    whole = cell_type(text, True, "rows")
    for end in range(60, len(text)):
        assert cell_type(text[:end], False, "rows") == whole, text[:end]


def test_bytes_that_are_not_utf8_stay_in_their_row() -> None:
    content = b"a,b\nx,y\n\xe9,z\n"
    cells = cell_type(content.decode("utf-8", "surrogateescape"), True, "rows.csv")
    assert cells is not None
    assert list(cell_rows(io.BytesIO(content), cells, "")) == [b'{"a": "x", "b": "y"}', b'{"a": "\xe9", "b": "z"}']


def test_a_cell_is_as_long_as_a_row_may_be() -> None:
    assert read(f"a,b\n{'x' * 200_000},y\n") == [{"a": "x" * 200_000, "b": "y"}]


def test_empty_cells_at_the_end_that_spreadsheets_write_are_passed_over() -> None:
    rows = [{"q": "1", "a": "2"}, {"q": "3", "a": "4"}]
    assert read("q,a,,\n1,2,,\n3,4,,\n") == rows
    assert read("q,a\n1,2,,\n3,4\n") == rows
    with pytest.raises(InputError, match="row 2 has 4 cells under 2 columns"):
        read("q,a\n1,2,,\n3,4,,x\n")


def test_a_cell_longer_than_a_row_may_be_rejects_its_row_alone() -> None:
    rows = list(read("a,b\n" + "x" * (MOST_BYTES + 1) + ",1\n2,3\n") or [])
    assert len(rows[0]["a"]) > MOST_BYTES and rows[1] == {"a": "2", "b": "3"}
