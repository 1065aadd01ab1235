"""Layouts of texts by their beginning, those that look alike beside each other."""

import json
from typing import Any

import pytest

from instsel.data.text_types import text_type
from instsel.errors import InputError

ROW = '{"instruction": "a", "output": "b"}'
PRINTED = json.dumps(json.loads(ROW), indent=2)
TURNS = '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]'


def layout_of(text: str, name: str = "rows.jsonl", split: str | None = "train", is_whole: bool = True) -> Any:
    kind = text_type(text, is_whole, name, split)
    assert kind is not None
    return (kind.layout, *kind.path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # JSON lines, and what is in their place.
        (ROW, "lines"),
        (f"{ROW}\n{ROW}\n", "lines"),
        (f"\n\n// ours\n# too\n{ROW}\n", "lines"),
        (f"{ROW},\n{ROW},\n", "lines"),
        (f"{ROW} and so on\n{ROW}\n", "lines"),
        (f"[1, 2]\n{ROW}\n", "lines"),
        (f"{TURNS}\n{TURNS}\n", "lines"),
        ('{"a": "cut\n' + f"{ROW}\n{ROW}\n", "lines"),
        ('{"a": "open"\n' + f"{ROW}\n{ROW}\n", "lines"),
        ('{"a": broken}\n' + f"{ROW}\n", "lines"),
        ('{"a": "cut', "lines"),
        (f"loading rows\n{ROW}\n", "lines"),
        ("  \n\n", "lines"),
        ("12\n13\n", "lines"),
        ('"a text"\n"another"\n', "lines"),
        ('{"a": "two\nlines"}\n' + ROW, "values"),
        # Arrays, and values that are not a line each.
        (f"[{ROW}, {ROW}]", "values"),
        (f"[{ROW}]\n", "values"),
        (f"[{ROW}]\n[{ROW}]", "values"),
        (f"{TURNS}\n{TURNS}", "lines"),
        (f"[\n{ROW},\n{ROW}\n]\n[\n{ROW}\n]", "values"),
        (f"[{ROW}]\n</html>", "values"),
        (f"[\n{ROW},\n", "values"),
        (f"[\n{ROW},\n broken, {ROW}]", "values"),
        ("[{broken}]", "values"),
        ("[]", "values"),
        ('["a", "b"]', "values"),
        (PRINTED, "values"),
        (f"{PRINTED}\n{PRINTED}", "values"),
        (f"{PRINTED}\n{PRINTED[:20]}", "values"),
        (f"{ROW}{ROW}\n{ROW}", "values"),
        (f"{ROW}, {ROW}\n", "values"),
    ],
)
def test_lines_and_values(text: str, expected: str) -> None:
    assert layout_of(text) == (expected,)
    assert layout_of(text.replace("\n", "\r\n")) == (expected,)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Rows under a key.
        (f'{{"data": [{ROW}]}}', ("values", "data")),
        (f'{{"version": 1, "by": "us", "data": [{ROW}], "more": [{ROW}]}}', ("values", "data")),
        (f'{{"canary": "x", "examples": [{ROW}]}}', ("values", "examples")),
        (f'{{"Positive Examples": [{ROW}], "Instances": [{ROW}], "URL": ["x"]}}', ("values", "Instances")),
        (f'{{"mine": [{ROW}], "n": 1}}', ("values", "mine")),
        (f'{{"data": {{"train": [{ROW}], "test": []}}}}', ("values", "data", "train")),
        (f'{{"train": [{ROW}], "test": [{ROW}]}}', ("values", "train")),
        (f'{{"info": {{"a": 1}}, "train": [{ROW}]}}', ("values", "train")),
        (f'{{"data": [{ROW}, {ROW[:20]}', ("values", "data")),
        ('{"rows": []}', ("values", "rows")),
        (f'{{"conversations": [{{"id": 1, "conversations": {TURNS}}}]}}', ("values", "conversations")),
        # A row that is alone.
        (f'{{"messages": {TURNS}}}', ("lines",)),
        (f'{{"messages": {TURNS}, "tools": [{{"type": "function"}}]}}', ("lines",)),
        ('{"messages": []}', ("lines",)),
        ('{"conversations": ["What?", "That."]}', ("lines",)),
        ('{"conversation": [{"human": "What?", "assistant": "That."}]}', ("lines",)),
        (f'{{"prompt": "x", "chosen": {TURNS}, "rejected": {TURNS}}}', ("lines",)),
        ('{"instruction": "a", "output": "b", "pages": [{"title": "c"}]}', ("lines",)),
        ("{}", ("lines",)),
        # Columns.
        ('{"instruction": ["a", "b"], "output": ["c", "d"]}', ("columns",)),
        (f'{{"id": [1, 2], "meta": [{{"a": 1}}, {{"a": 2}}], "messages": [{TURNS}, {TURNS}]}}', ("columns",)),
        ('{"text": ["a", "b"]}', ("columns",)),
        (f'{{"messages": [{TURNS}]}}', ("columns",)),
        ('{"a": {"0": "x", "1": "y"}, "b": {"0": "z", "1": "w"}}', ("columns",)),
        ('{"a": {"0": "x"}}', ("columns",)),
        ('{"0": {"a": "x"}, "1": {"a": "y"}}', ("columns",)),
        ('{"q1": {"a": "x"}, "q2": {"a": "y"}}', ("columns",)),
        # Rows by name, of different keys.
        (f'{{"q1": {{"messages": {TURNS}}}, "q2": {{"id": 1, "messages": {TURNS}}}}}', ("columns",)),
        ('{"q1": {"prompt": "x", "response": "y"}, "q2": {"prompt": "x"}}', ("columns",)),
        ('{"columns": ["a"], "index": [0, 1], "data": [["x"], ["y"]]}', ("columns",)),
        ('{"a": ["x"], "b": ["y", "z"]}', ("lines",)),
        ('{"translation": {"en": "x", "fr": "y"}}', ("lines",)),
    ],
)
def test_a_single_object(text: str, expected: tuple[str, ...]) -> None:
    assert layout_of(text) == expected


def test_the_split_decides_where_keys_are_splits() -> None:
    text = f'{{"train": [{ROW}], "dev": [{ROW}], "test": [{ROW}]}}'
    assert layout_of(text, split="validation") == layout_of(text, split="dev") == ("values", "dev")
    assert layout_of(f'{{"test": [{ROW}]}}', split=None) == ("values", "test")


@pytest.mark.parametrize(
    ("text", "split", "message"),
    [
        (f'{{"train": [{ROW}], "test": [{ROW}]}}', "dev", "it has no split `dev`, but train, test; name one of them"),
        (f'{{"test": [{ROW}]}}', "train", "it has no split `train`, but test; name one of them with `split`"),
        (f'{{"train": [{ROW}], "test": [{ROW}]}}', None, "it holds the splits train, test; give the path of one of"),
        (f'{{"mine": [{ROW}], "yours": [{ROW}]}}', "train", "it has rows under mine, yours; keep one of these keys"),
        (
            f'{{"a": {{"train": [{ROW}]}}, "b": {{"train": [{ROW}]}}}}',
            "train",
            "it has rows under a.train, b.train; keep",
        ),
        (
            "{'a': 'b'}\n{'a': 'c'}",
            "train",
            "rows as Python prints them, in single quotes, and not JSON; write each by",
        ),
        ("[{'a': 1}, {'a': 2}]", "train", "rows as Python prints them"),
        ("['a', 'b']", "train", "rows as Python prints them"),
        ("Some prose.\n\nMore of it.", "train", "plain text, neither JSON nor CSV; write one JSON object a line"),
        ("- a: 1\n- a: 2\n", "train", "plain text, neither JSON nor CSV"),
    ],
)
def test_what_holds_no_rows_is_an_error(text: str, split: str | None, message: str) -> None:
    with pytest.raises(InputError) as error:
        layout_of(text, split=split)
    assert str(error.value).startswith(message)


def test_text_in_single_quotes_is_no_python() -> None:
    with pytest.raises(InputError, match="plain text, neither JSON nor CSV"):
        layout_of("'Tis true: 'all', he said.\nAnd so it ended.")


def test_a_longer_beginning_is_asked_for_where_the_first_value_is_cut() -> None:
    for text in ('{"a": "', f'{{"mine": [{ROW}', f'{{"data": {ROW}', "{", "\n\n"):
        assert text_type(text, False, "rows.jsonl", "train", may_grow=True) is None
    assert layout_of(f'{{"data": [{ROW}', is_whole=False) == ("values", "data")
    assert layout_of(f'{{"a": ["{"x" * 50}", "y', is_whole=False) == ("columns",)
    assert layout_of('{"a": "' + "x" * 50, is_whole=False) == ("lines",)
    # Not where it is clear without.
    for text, layout in ((f"{ROW}\n{ROW[:9]}", "lines"), (f"[{ROW},", "values"), (f'{{"data": [{ROW}', "values")):
        kind = text_type(text, False, "rows.jsonl", "train", may_grow=True)
        assert kind is not None
        assert kind.layout == layout


def test_a_split_that_comes_late_is_looked_for() -> None:
    text = f'{{"test": [{ROW}, {ROW}], "train": [{ROW}]}}'
    assert layout_of(text) == ("values", "train")
    cut = text[:60]
    assert text_type(cut, False, "rows.json", "train", may_grow=True) is None
    assert layout_of(cut, is_whole=False) == ("values", "train")
    with pytest.raises(InputError, match="it has no split `train`, but test"):
        layout_of(cut)


def test_the_only_array_of_objects_may_have_any_name() -> None:
    usual, unusual = (text_type(f'{{"{key}": [{ROW}]}}', True, "rows.json", "train") for key in ("data", "mine"))
    assert usual is not None
    assert unusual is not None
    assert (usual.is_sole, unusual.is_sole) == (False, True)
