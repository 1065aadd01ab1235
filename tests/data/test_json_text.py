"""Values of JSON text one by one, wherever the blocks end in which it is read."""

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instsel.data import json_text
from instsel.data.json_text import JsonText, json_rows

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_infinity=False, allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class Trickle(io.BytesIO):
    """A stream that gives a few bytes at a time."""

    def __init__(self, content: bytes, size: int) -> None:
        super().__init__(content)
        self.size = size

    def read1(self, size: int | None = -1, /) -> bytes:
        return super().read1(self.size)


def rows(text: str, *path: str, size: int = 5, **how: Any) -> Iterator[Any]:
    return (json.loads(row) for row in json_rows(Trickle(text.encode(), size), path, **how))


@settings(deadline=None, max_examples=60)
@given(st.lists(VALUES, max_size=5), st.integers(1, 9), st.sampled_from([None, 0, 3]), st.booleans())
def test_the_elements_of_an_array_are_its_elements(
    values: list[Any], size: int, indent: int | None, is_ascii: bool
) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=is_ascii)
    if not any("\ud800" <= char <= "\udfff" for char in text):
        assert list(rows(text, size=size)) == values


@settings(deadline=None, max_examples=60)
@given(st.lists(st.dictionaries(st.text(), VALUES), max_size=4), st.integers(1, 9), st.sampled_from(["", " ", "\r\n"]))
def test_objects_one_after_another_are_rows(values: list[Any], size: int, between: str) -> None:
    assert list(rows(between.join(json.dumps(value) for value in values), size=size)) == values


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ('{"n": [0], "rows": [1, {"a": 2}], "m": {"rows": [3]}}', ("rows",), [1, {"a": 2}]),
        ('{"test": [{"a": 9}], "data": {"test": [8], "train": [1, 2]}}', ("data", "train"), [1, 2]),
        ('{"rows": []}', ("rows",), []),
        ("\ufeff// of June\n[1, # one\n /* two,\n three */ 4,]\n# end", (), [1, 4]),
        ("[1] [2]\n[]", (), [1, 2]),
        ("12 34", (), [12, 34]),
        ("[NaN, -Infinity]", (), ["nan", "-inf"]),
        (f"[{'9' * 5000}]", (), ["9" * 5000]),
    ],
)
def test_what_is_between_values_is_passed_over(text: str, path: tuple[str, ...], expected: list[Any]) -> None:
    for size in (1, 7, 1 << 20):
        values = [json.loads(row, parse_int=str) for row in json_rows(Trickle(text.encode(), size), path)]
        assert str(values).replace("'", "") == str(expected).replace("'", "")


@pytest.mark.parametrize(
    ("text", "path", "count", "error"),
    [
        ('[{"a": 1}, {"a": "x', (), 1, "EOFError: it ends within a value"),
        ('[{"a": 1}, {"a": tru', (), 1, "EOFError: it ends within a value"),
        ('[{"a": 1},', (), 1, "EOFError: it ends before ]"),
        ('{"a": 1}, {"a": 2', (), 1, "EOFError: it ends within a value"),
        ('{"rows": [1], "b": 2', ("rows",), 1, "EOFError: it ends before }"),
        ('{"rows": [1]', ("rows",), 1, "EOFError: it ends before }"),
        ("[1, /* 2]", (), 1, "EOFError: it ends before */"),
        ('[{"a": 1}, {"a" 1, "b": "and so on"}]', (), 1, "ValueError: broken JSON: Expecting ':' delimiter"),
        ("[1] </html>", (), 1, "ValueError: '<' where a value is expected"),
        ("[1, :]", (), 1, "ValueError: ':' where a value is expected"),
        ('{"a": [1], "b": 2}', ("rows",), 0, "ValueError: no rows under `rows`"),
        ('{"rows" [1]}', ("rows",), 0, "ValueError: '[' where : is expected"),
        ("{rows: [1]}", ("rows",), 0, "ValueError: 'r' where } is expected"),
        ("[" * 200_000, (), 0, "ValueError: JSON that is nested too deep"),
    ],
)
def test_an_error_comes_after_the_values_before_it(text: str, path: tuple[str, ...], count: int, error: str) -> None:
    for size in (3, 1 << 20):
        values: list[str] = []
        with pytest.raises((EOFError, ValueError)) as raised:
            values += json_rows(Trickle(text.encode(), size), path)
        assert f"{type(raised.value).__name__}: {raised.value}" == error
        assert len(values) == count


def test_rows_under_two_unusual_keys_are_an_error_where_that_matters() -> None:
    text = '{"mine": [1], "names": ["x"], "yours": [{"a": 1}]}'
    assert list(rows(text, "mine")) == [1]
    with pytest.raises(ValueError, match="rows under `mine` and under another key"):
        list(rows(text, "mine", is_sole=True))


def test_bytes_and_line_ends_that_are_no_json_stay_in_their_row() -> None:
    text = b'[{"a": 1}, {"a": "\xe9"}, {"a": "x\ny"}]'
    values = [row.encode("utf-8", "surrogateescape") for row in json_rows(io.BytesIO(text))]
    assert values == [b'{"a": 1}', b'{"a": "\xe9"}', b'{"a": "x\ny"}']


def test_no_more_is_held_than_a_value_and_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "MOST_VALUE", 100)
    monkeypatch.setattr(json_text, "BLOCK", 10)
    assert sum(1 for _ in rows(f"[{', '.join(['12345'] * 1000)}]")) == 1000
    with pytest.raises(ValueError, match="a value longer than 0 MiB"):
        list(rows(f'["{"a" * 200}"]'))
    text = JsonText(io.BytesIO(b'{"a": [' + b"1, " * 1000 + b'2], "b": 3}'))
    assert [(key, text.skip()) for key in text.keys()] == [("a", False), ("b", False)]  # noqa: SIM118
