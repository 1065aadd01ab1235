"""A choice as rows in the formats that other trainers read."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from instsel.choice.output import ROWS
from instsel.data.keys import CALLS, LOSS_MARKS, MASKS, REASONING
from instsel.data.messages import BadRow, Turn, is_trained, parsed_arguments
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.study.reader import StudyReader

_SHAREGPT_ROLES = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
_SHAREGPT_KEYS = (*REASONING, *LOSS_MARKS, *MASKS, "name", "tool_call_id")

BLOCK_BYTES = 2**24

_Convert = Callable[[Mapping[str, Any]], dict[str, Any]]


def export_rows(study: str, selection: str, row_format: str) -> tuple[Iterator[str], list[str]]:
    """Read a selection of a study as lines of JSON in another format.

    Args:
        study: folder of the study.
        selection: name of a selection: of one of the study's runs, or made by `instsel select`.
        row_format: messages, sharegpt, alpaca or prompt_completion.

    Returns:
        The lines, in pick order, and a list to which the reason is added of each row that the format cannot hold.

    Raises:
        InputError: the study has no such selection, or the format is not known.
    """
    if row_format not in _CONVERTERS:
        raise InputError(f"--rows {row_format}: no such format; one of {', '.join(_CONVERTERS)}")
    folder = _selection_folder(study, selection)
    rejected: list[str] = []
    return _lines(folder, _CONVERTERS[row_format], rejected), rejected


def write_lines(lines: Iterator[str], out: Path | None) -> int:
    """Write lines to a file, whole or not at all, or to standard output; return how many."""
    count = 0
    with _stream(out) as stream:
        for line in lines:
            stream.write((line + "\n").encode("utf-8", "surrogatepass"))
            count += 1
    return count


def _stream(out: Path | None) -> AbstractContextManager[Any]:
    if out is None:
        return nullcontext(sys.stdout.buffer)
    path = out.expanduser().resolve()
    return Folder.at(path.parent).create().writer(path.name)


def _selection_folder(study: str, selection: str) -> Folder:
    folder = StudyReader(Folder.at(study)).study
    choices = {
        name: folder / part / name
        for part in ("selections", "select")
        for name in (folder / part).names()
        if (folder / part / name).exists(ROWS)
    }
    if selection not in choices:
        raise InputError(f"{study} has no selection {selection!r}; it has {', '.join(sorted(choices)) or 'none'}")
    return choices[selection]


def _lines(folder: Folder, convert: _Convert, rejected: list[str]) -> Iterator[str]:
    for line in _lines_of(folder):
        row = json.loads(line.decode("utf-8", "surrogatepass"))
        try:
            yield json.dumps(convert(row), ensure_ascii=False)
        except BadRow as error:
            rejected.append(f"{row['id']}: {error}")


def _lines_of(folder: Folder) -> Iterator[bytes]:
    """Yield the lines of a selection, with a block of the file in memory at a time."""
    rest = b""
    with folder.open(ROWS) as stream:
        while block := stream.read(BLOCK_BYTES):
            # Not `splitlines`: texts may hold U+2028 and other signs that it takes for the end of a line.
            *lines, rest = (rest + block).split(b"\n")
            yield from lines
    if rest:
        yield rest


def _messages(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("messages", "tools", "id") if key in row}


def _sharegpt(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return turns as from and value; calls are a turn, and tools are JSON in a text, as LLaMA-Factory has it.

    Thoughts, names and loss marks stay keys of their turn; ids of calls have no place.

    Raises:
        BadRow: a text stands beside a call.
    """
    turns: list[Turn] = []
    for turn in row["messages"]:
        kept = {key: turn[key] for key in _SHAREGPT_KEYS if turn.get(key) is not None}
        content, calls = turn.get("content"), turn.get("tool_calls") or []
        if not calls:
            turns.append({"from": _SHAREGPT_ROLES[turn["role"]], "value": _text(content), **kept})
            continue
        if content:
            raise BadRow("a text beside a call, for which sharegpt has no place")
        functions = [call.get("function", call) for call in calls]
        called = [{"name": each["name"], "arguments": parsed_arguments(each.get("arguments"))} for each in functions]
        value = json.dumps(called if len(called) > 1 else called[0], ensure_ascii=False)
        turns.append({"from": "function_call", "value": value, **kept})
    # An empty one stays a turn: an empty column would be none.
    system = turns.pop(0)["value"] if turns[0]["from"] == "system" and turns[0]["value"] else None
    tools = json.dumps(row["tools"], ensure_ascii=False) if row.get("tools") else None
    return {
        "conversations": turns,
        **({} if system is None else {"system": system}),
        **({} if tools is None else {"tools": tools}),
        "id": row["id"],
    }


def _alpaca(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return instruction and output; what was said before is `history`."""
    system, pairs = _pairs(row)
    *before, (instruction, output) = pairs
    return {
        "instruction": instruction,
        "input": "",
        "output": output,
        **({} if system is None else {"system": system}),
        **({"history": [list(pair) for pair in before]} if before else {}),
        "id": row["id"],
    }


def _prompt_completion(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the turns before the last answer, and that answer, each as messages, as TRL has it."""
    messages = row["messages"]
    last = max(number for number, turn in enumerate(messages) if turn["role"] == "assistant")
    if last == 0:
        raise BadRow("no turn before the answer")
    return {
        "prompt": messages[:last],
        "completion": messages[last : last + 1],
        **({"tools": row["tools"]} if row.get("tools") else {}),
        "id": row["id"],
    }


def _pairs(row: Mapping[str, Any]) -> tuple[str | None, list[tuple[str, str]]]:
    """Return the system text, and questions with their answers.

    Raises:
        BadRow: the turns are not such pairs, or have what is not text.
    """
    messages = list(row["messages"])
    system = messages.pop(0)["content"] if messages[0]["role"] == "system" else None
    if row.get("tools") or any(turn.get(key) for turn in messages for key in (*CALLS, *REASONING)):
        raise BadRow("tools, calls or thoughts, for which alpaca has no place")
    if system == "":
        raise BadRow("an empty system turn, for which alpaca has no place")
    if any(is_trained(turn) is False for turn in messages):
        raise BadRow("an answer that is not trained on, for which alpaca has no mark")
    roles = [turn["role"] for turn in messages]
    if roles != ["user", "assistant"] * (len(roles) // 2) or not roles:
        raise BadRow("turns that are not a question and an answer by turns")
    contents = [turn["content"] for turn in messages]
    return system, list(zip(contents[::2], contents[1::2], strict=True))


def _text(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


_CONVERTERS: dict[str, _Convert] = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "prompt_completion": _prompt_completion,
}
