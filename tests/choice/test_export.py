"""Rows of a choice in the formats of other trainers, and back."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from instsel.choice.export import _alpaca, _sharegpt, export_rows
from instsel.choice.output import ROWS, write_rows
from instsel.choice.picks import SELECTED, Picks
from instsel.cli.app import app
from instsel.data.encode import encode_lines
from instsel.data.formats import parse_row
from instsel.data.messages import BadRow
from instsel.data.turns import EncodingOptions
from instsel.errors import InputError
from instsel.io.store import Folder

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 4}}}
TOOL = {"name": "add", "parameters": {"type": "object"}}
RAW: dict[str, dict[str, Any]] = {
    "plain": {"id": 17, "instruction": "Why?", "output": "Because.", "license": "MIT", "task": "causes"},
    "chat": {
        "messages": [
            {"role": "system", "content": "Be brief."},
            *({"role": role, "content": f"{role} {n}"} for n in range(2) for role in ("user", "assistant")),
        ]
    },
    "tools": {
        "messages": [
            {"role": "user", "content": "2 + 2?"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "4"},
            {"role": "assistant", "content": "Four.", "weight": 1, "rating": 5},
        ],
        "tools": [TOOL],
    },
    "more": {
        "messages": [
            {"role": "user", "content": "2 + 2\u2028and 3 + 3?\x85"},
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "Two sums.",
                "tool_calls": [{**CALL, "function": {"name": "add", "arguments": text}} for text in ('{"a": 4}', "{a")],
            },
            {"role": "tool", "content": "4", "name": "add"},
            {"role": "assistant", "content": "Four.", "thinking": "Hm."},
        ],
    },
}


@pytest.fixture
def study(tmp_path: Path, tiny_tokenizer: Any) -> Path:
    """A study folder with one selection, made of rows as `encode_lines` stores them."""
    import pyarrow as pa

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content or '' }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}"
        "{% endif %}</{{ m.role }}>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    lines = [json.dumps(raw).encode() for raw in RAW.values()]
    rows, rejected = encode_lines(
        lines, 5, "rows.jsonl", tokenizer=tokenizer, options=EncodingOptions(500), default_source="x"
    )
    assert not len(rejected), rejected.to_pylist()
    prepared = Folder.at(tmp_path) / "prepare"
    (prepared / "pool").write_table("00000-000000.parquet", rows)
    index = rows.select(["id"]).append_column("shard", pa.array(["00000-000000"] * len(rows)))
    prepared.write_table("index.parquet", index)
    columns = {"rank": [1, 2, 3, 4], "id": rows["id"], "score": [4.0, 3.0, 2.0, 1.0], "reason": list("abcd")}
    write_rows(prepared, Folder.at(tmp_path) / "select" / "bids", Picks(pa.table(columns)))
    return tmp_path


def exported(study: Path, row_format: str) -> tuple[list[dict[str, Any]], list[str]]:
    lines, rejected = export_rows(str(study), "bids", row_format)
    return [json.loads(line) for line in lines], rejected


def test_a_selection_has_everything_that_its_rows_had(study: Path) -> None:
    text = (study / "select" / "bids" / ROWS).read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.rstrip("\n").split("\n")]
    assert [line["messages"] for line in lines[1:]] == [RAW[name]["messages"] for name in ("chat", "tools", "more")]
    assert lines[2]["tools"] == [TOOL]
    assert lines[0]["extra"] == {"id": 17, "license": "MIT"}
    assert [(line["original_id"], line["file"], line["line"]) for line in lines] == [
        ("17", "rows.jsonl", 5),
        (None, "rows.jsonl", 6),
        (None, "rows.jsonl", 7),
        (None, "rows.jsonl", 8),
    ]
    table = (Folder.at(study) / "select" / "bids").read_table(SELECTED).to_pylist()
    assert [(row["original_id"], row["task"], row["line"]) for row in table] == [
        ("17", "causes", 5),
        (None, None, 6),
        (None, None, 7),
        (None, None, 8),
    ]
    assert json.loads(table[0]["extra"]) == lines[0]["extra"]


@pytest.mark.parametrize("row_format", ["messages", "sharegpt", "prompt_completion"])
def test_exported_rows_are_the_same_rows(study: Path, row_format: str) -> None:
    rows, rejected = exported(study, row_format)
    assert not rejected
    assert (
        [parse_row(row).id for row in rows]
        == [row["id"] for row in rows]
        == [parse_row(raw).id for raw in RAW.values()]
    )


def test_alpaca_has_no_place_for_calls(study: Path) -> None:
    rows, rejected = exported(study, "alpaca")
    assert rows[1]["history"] == [["user 0", "assistant 0"]]
    assert [parse_row(row).id for row in rows] == [parse_row(RAW[name]).id for name in ("plain", "chat")]
    assert rejected == [
        f"{parse_row(RAW[name]).id}: tools, calls or thoughts, for which alpaca has no place"
        for name in ("tools", "more")
    ]


def test_several_calls_of_a_turn_are_one_turn_of_sharegpt(study: Path) -> None:
    rows, _ = exported(study, "sharegpt")
    turn = rows[3]["conversations"][1]
    assert (turn["from"], turn["reasoning_content"]) == ("function_call", "Two sums.")
    assert [call["arguments"] for call in json.loads(turn["value"])] == [{"a": 4}, "{a"]


def test_a_text_beside_a_call_does_not_fit_sharegpt() -> None:
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "Hm.", "tool_calls": [CALL]}]
    with pytest.raises(BadRow, match="^a text beside a call, for which sharegpt has no place$"):
        _sharegpt({"id": "1", "messages": turns})


def test_an_empty_system_turn_stays(study: Path) -> None:
    turns = [{"role": "system", "content": ""}, *RAW["chat"]["messages"][1:]]
    assert parse_row(_sharegpt({"id": "1", "messages": turns})).messages == turns
    with pytest.raises(BadRow, match="^an empty system turn, for which alpaca has no place$"):
        _alpaca({"id": "1", "messages": turns})


def test_the_command_writes_a_file_and_says_what_did_not_fit(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "rows.jsonl"
    result = CliRunner().invoke(
        app, ["export", str(study), "--selection", "bids", "--rows", "alpaca", "--out", str(out)]
    )
    assert result.exit_code == 0
    assert "2 rows; 2 do not fit, such as " in result.output
    assert len(out.read_text().splitlines()) == 2
    printed = CliRunner().invoke(app, ["export", str(study), "--selection", "bids"])
    rows = [json.loads(line) for line in filter(None, printed.stdout.split("\n"))]
    assert rows[0]["messages"][0] == {"role": "user", "content": "Why?"}
    assert printed.stderr.startswith(f"{len(rows)} rows"), "beside the rows, not among them"


@pytest.mark.parametrize(
    ("selection", "row_format", "why"),
    [
        ("less", "alpaca", "has no selection 'less'; it has bids"),
        ("../select/bids", "alpaca", "has no selection '../select/bids'; it has bids"),
        ("bids", "parquet", "--rows parquet: no such format; one of messages, sharegpt, alpaca, prompt_completion"),
    ],
)
def test_what_cannot_be_exported_is_named(study: Path, selection: str, row_format: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        export_rows(str(study), selection, row_format)
