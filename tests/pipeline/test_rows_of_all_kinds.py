"""Files and rows of all kinds that people have, from the file to what of each row is trained on."""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from transformers import LlamaConfig, LlamaForCausalLM

from instsel.config.file import parse_study
from instsel.pipeline.check import StudyCheck, check_study
from tests.data.template_cases import templates, tokenizer_for

Row = dict[str, Any]
END = "<|im_end|>"
QUESTION, ANSWER = "What is felt?", "Pressed wool."
TURNS = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
TOOLS = [{"type": "function", "function": {"name": "mul", "description": "Multiply.", "parameters": {}}}]
SIZES = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
CALL = '<tool_call>\n{"name": "mul", "arguments": {"a": 4, "b": 3}}\n</tool_call>'
CALLED = {"name": "mul", "arguments": {"a": 4, "b": 3}}


@dataclass(frozen=True)
class Case:
    """A file that people have, and what is expected of it.

    Attributes:
        name: of the case.
        content: rows, written as JSON lines; or bytes; or what writes the file or folder at a path.
        trained: for each usable row the texts that are trained on.
        rejected: part of the reason of each row that is not usable.
        problem: part of the error, where the file cannot be used.
        file: its name.
        entry: keys of the pool's entry, beside its path.
        data: keys of the study's part `data`.
        unread: keys of rows that nothing reads.
        template: of the model.
    """

    name: str
    content: list[Any] | bytes | Callable[[Path], Any]
    trained: list[list[str]] = field(default_factory=lambda: [[ANSWER + END]])
    rejected: list[str] = field(default_factory=list)
    problem: str | None = None
    file: str = "rows.jsonl"
    entry: Row = field(default_factory=dict)
    data: Row = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    template: str = "qwen2_5"


def said(*texts: str) -> list[str]:
    return [text + END for text in texts]


def asked(question: str = QUESTION, **turn: Any) -> Row:
    """A row of one question and an answer with these keys."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", **turn}]}


def sharegpt(*turns: tuple[str, Any], **more: Any) -> Row:
    return {"conversations": [{"from": who, "value": value} for who, value in turns], **more}


def marked(key: str, bad: Any, good: Any) -> Row:
    wrong = {"role": "assistant", "content": "A metal.", key: bad}
    return {"messages": [TURNS[0], wrong, {"role": "user", "content": "No."}, {**TURNS[1], key: good}]}


def calling(**turn: Any) -> Row:
    """A row in which the assistant calls a tool, and answers by what that says."""
    call = {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": CALLED}], **turn}
    result = {"role": "tool", "tool_call_id": "c1", "name": "mul", "content": "12"}
    return {
        "messages": [{"role": "user", "content": "4 by 3?"}, call, result, {"role": "assistant", "content": "12."}],
        "tools": TOOLS,
    }


def as_json(value: Any, indent: int | None = None) -> bytes:
    return json.dumps(value, indent=indent).encode()


def as_csv(delimiter: str, *records: list[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(records)
    return text.getvalue().encode()


def dataset_dict(path: Path) -> None:
    other = Dataset.from_list([asked(content="No.")])
    DatasetDict({"train": other, "test": Dataset.from_list([{"messages": TURNS}])}).save_to_disk(path)


PAIR = {"prompt": QUESTION, "completion": ANSWER}
LINE = as_json(PAIR) + b"\n"
ALPACA = {"instruction": QUESTION, "input": "", "output": ANSWER}

SAYS = [
    # A. What a row says is used, or the row is rejected.
    Case("calls, content null", [calling(content=None)], [said(CALL, "12.")]),
    Case("calls, content empty", [calling(content="")], [said(CALL, "12.")]),
    Case("calls, no content", [calling()], [said(CALL, "12.")]),
    Case("calls with text", [calling(content="Let me see.")], [said(f"Let me see.\n{CALL}", "12.")]),
    Case(
        "arguments as JSON in a text",
        [calling(tool_calls=[{"type": "function", "function": {**CALLED, "arguments": '{"a": 4, "b": 3}'}}])],
        [said(CALL, "12.")],
    ),
    Case(
        "sharegpt with calls and tools as JSON in a text",
        [
            sharegpt(
                ("human", "4 by 3?"),
                ("function_call", json.dumps(CALLED)),
                ("observation", "12"),
                ("gpt", "12."),
                tools=json.dumps(TOOLS),
            )
        ],
        [said(CALL, "12.")],
    ),
    Case("tools that are no list", [{**calling(), "tools": 3}], [], ["`tools`"]),
    Case(
        "reasoning_content, which the template leaves out",
        [asked(content="42", reasoning_content="Six sevens.")],
        [said("42")],
        unread=["turn.reasoning"],
    ),
    *(
        Case(
            f"{key} of a turn, which the template writes",
            [asked(content="42", **{key: "Six sevens."})],
            [said("<think>\nSix sevens.\n</think>\n\n42")],
            template="qwen3",
        )
        for key in ("reasoning_content", "reasoning", "thinking")
    ),
    Case(
        "reasoning of a pair",
        [{"instruction": "6 by 7?", "reasoning": "Six sevens.", "output": "42"}],
        [said("<think>\nSix sevens.\n</think>\n\n42")],
        template="qwen3",
    ),
    Case(
        "reasoning not trained on",
        [asked(content="42", reasoning_content="Six sevens.")],
        [said("42")],
        data={"reasoning": "mask"},
        template="qwen3",
    ),
    Case("history", [{**ALPACA, "history": [["What is silk?", "A thread."]]}], [said("A thread.", ANSWER)]),
    *(
        Case(f"{key} of a turn", [marked(key, bad, good)], [said(ANSWER)])
        for key, bad, good in (
            ("weight", 0, 1),
            ("loss", False, True),
            ("train", False, True),
            ("loss_weight", 0.0, 1.0),
        )
    ),
    Case(
        "the last answer alone",
        [marked("note", 0, 0)],
        [said(ANSWER)],
        data={"train_on": "last"},
        unread=["turn.note"],
    ),
    Case(
        "marked answers alone",
        [marked("train", None, True), {"messages": TURNS}],
        [said(ANSWER)],
        ["no assistant turn is marked"],
        data={"train_on": "marked"},
    ),
    Case(
        "KTO as LLaMA-Factory has it, an array",
        as_json([{"messages": TURNS, "label": True}, {**asked("What is tin?", content="A fish."), "label": False}], 2),
        rejected=["`label` is false: an unwanted answer"],
        file="kto_demo.json",
    ),
    Case(
        "KTO",
        [{"messages": TURNS, "label": True}, {**asked("What is tin?", content="A fish."), "label": False}],
        rejected=["`label` is false: an unwanted answer"],
    ),
    Case("preference, whole conversations", [{"chosen": TURNS, "rejected": asked(content="A bird.")["messages"]}]),
    Case(
        "preference, turns and answers, an array",
        as_json(
            [
                {
                    **sharegpt(("human", QUESTION)),
                    "chosen": {"from": "gpt", "value": ANSWER},
                    "rejected": {"from": "gpt", "value": "A bird."},
                }
            ],
            indent=2,
        ),
        file="dpo_demo.json",
    ),
    Case("preference, answers in a list", [{"instruction": QUESTION, "output": [ANSWER, "A bird."]}]),
    Case(
        "preference, transcripts",
        [
            {
                "chosen": f"\n\nHuman: {QUESTION}\n\nAssistant: {ANSWER}",
                "rejected": f"\n\nHuman: {QUESTION}\n\nAssistant: No.",
            }
        ],
    ),
    Case(
        "preference rejected",
        [{"prompt": QUESTION, "chosen": ANSWER, "rejected": "A bird."}, PAIR],
        rejected=["preference"],
        data={"preference": "reject"},
    ),
    Case(
        "pictures",
        [
            {"messages": TURNS, "images": ["a.png"]},
            asked(content=[{"type": "image"}, {"type": "text", "text": "A cat."}]),
            asked(content=[{"type": "text", "text": ANSWER}]),
        ],
        rejected=["`images`: what it shows, a model of text cannot see", "`content` has a part of type 'image'"],
    ),
    Case("an empty system turn", [{"messages": [{"role": "system", "content": ""}, *TURNS]}]),
    Case("keys that nothing reads", [{**PAIR, "stars": 3, "id": "a"}], unread=["stars"]),
]

FILES = [
    # B. Files are told by what is in them.
    Case("JSON array", as_json([ALPACA], indent=2), file="rows.json"),
    Case("JSON array called .jsonl", as_json([ALPACA])),
    Case(
        "objects over several lines",
        as_json(ALPACA, indent=2) + b"\n" + as_json({**ALPACA, "output": "W."}, indent=2),
        [said(ANSWER), said("W.")],
    ),
    Case("rows under a key", as_json({"version": "1", "data": [ALPACA]}), file="rows.json"),
    Case("columns", as_json({"prompt": [QUESTION], "response": [ANSWER]}), file="rows.json"),
    Case("a split of several", as_json({"train": [asked(content="No.")], "test": [PAIR]}), entry={"split": "test"}),
    Case("CSV", as_csv(",", ["question", "answer"], [QUESTION, ANSWER]), file="rows.csv"),
    Case("TSV", as_csv("\t", ["instruction", "input", "output"], [QUESTION, "", ANSWER]), file="rows.tsv"),
    Case("MMLU", as_csv(",", ["Felt is", "wool", "tin", "salt", "ice", "A"]), [said("A")], file="rows.csv"),
    *(
        Case(f"packed by {packing.__name__}", packing.compress(LINE), file=name)
        for packing, name in ((bz2, "rows.jsonl.bz2"), (lzma, "rows.jsonl.xz"), (gzip, "rows.jsonl"))
    ),
    Case("UTF-16", LINE.decode().encode("utf-16")),
    Case("a mark and CRLF", b"\xef\xbb\xbf" + LINE.replace(b"\n", b"\r\n")),
    Case("CR alone", LINE.replace(b"\n", b"\r") + as_json({**PAIR, "completion": "W."}), [said(ANSWER), said("W.")]),
    Case("comments and commas", b"# mine\n// yours\n" + LINE.strip() + b",\n"),
    Case(
        "Latin-1",
        "".join(
            json.dumps({**PAIR, "completion": f"Caf\xe9 {n}."}, ensure_ascii=False) + "\n" for n in range(9)
        ).encode("latin-1"),
        problem="not in UTF-8, but by the look of it in",
    ),
    Case("LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", problem="git lfs pull"),
    Case("web page", b"<!DOCTYPE html><html></html>", problem="a web page"),
    Case("Python's quotes", str(PAIR).encode(), problem="rows as Python prints them"),
    Case(".txt", LINE, file="rows.txt", problem="called .txt"),
    Case("cut gzip", gzip.compress(LINE * 3)[:-9], problem="damaged after", file="rows.jsonl.gz"),
    Case("Parquet", lambda path: pq.write_table(pa.Table.from_pylist([PAIR]), path)),
    Case(
        "Parquet, text as bytes",
        lambda path: pq.write_table(pa.Table.from_pylist([{k: v.encode() for k, v in PAIR.items()}]), path),
    ),
    Case("a DatasetDict", dataset_dict, file="saved", entry={"split": "test"}),
    Case(
        "a DatasetDict without the split",
        dataset_dict,
        file="saved",
        entry={"split": "dev"},
        problem="no split `dev`, but train, test",
    ),
    Case("no rows", b"[]", problem="holds no row"),
    Case("nothing", b"", problem="is empty"),
]

COLUMNS = [
    # C. Columns and roles of other projects.
    *(
        Case(f"{prompt} and {answer}", [{prompt: QUESTION, answer: ANSWER}])
        for prompt, answer in (
            ("prompt", "completion"),
            ("prompt", "response"),
            ("question", "answer"),
            ("query", "response"),
            ("inputs", "targets"),
            ("input", "output"),
            ("problem", "solution"),
            ("instruction", "response"),
        )
    ),
    Case("prompt and completion as messages", [{"prompt": TURNS[:1], "completion": TURNS[1:]}]),
    Case("Dolly", [{"instruction": QUESTION, "context": "Wool can be pressed.", "response": ANSWER}]),
    Case("role and content under conversations", [{"conversations": TURNS}]),
    Case(
        "from and value under messages", [{"messages": sharegpt(("human", QUESTION), ("gpt", ANSWER))["conversations"]}]
    ),
    *(Case(f"turns under {key}", [{key: TURNS}]) for key in ("conversation", "dialogue", "turns", "items")),
    Case("LIMA", [{"conversations": [QUESTION, "Wool.", "Tell more.", ANSWER]}], [said("Wool.", ANSWER)]),
    Case("turns as JSON in a text", [{"messages": json.dumps(TURNS)}]),
    Case("an object of lists", [{"messages": {"role": ["user", "assistant"], "content": [QUESTION, ANSWER]}}]),
    Case(
        "numbers and booleans",
        [{"question": "2 + 2?", "answer": 4}, {"question": "Is it?", "answer": True}],
        [said("4"), said("true")],
    ),
    *(
        Case(f"role {role}", [{"messages": [TURNS[0], {"role": role, "content": ANSWER}]}])
        for role in ("GPT", "model", "bot", "Assistant", "chatbot")
    ),
    *(
        Case(f"role {role}", [{"messages": [{"role": role, "content": QUESTION}, TURNS[1]]}])
        for role in ("HUMAN", "prompter", "User")
    ),
    Case("role developer", [{"messages": [{"role": "developer", "content": "Be brief."}, *TURNS]}]),
    Case(
        "a role that is not known",
        [{"messages": [*TURNS, {"role": "narrator", "content": "The end."}]}],
        [],
        ["unknown role 'narrator' in turn 3"],
    ),
    Case(
        "a role that is named",
        [{"messages": [{"role": "narrator", "content": "Once."}, *TURNS]}],
        entry={"roles": {"narrator": "system"}},
    ),
    Case(
        "columns that are named",
        [{"ask": QUESTION, "reply": ANSWER}],
        entry={"columns": {"prompt": "ask", "answer": "reply"}},
    ),
    Case(
        "columns that are not known",
        [{"ask": QUESTION, "reply": ANSWER}],
        [],
        ["no turns and no prompt with an answer among its keys (ask, reply); name them under `columns`"],
    ),
    Case("a transcript", [{"text": f"### Human: {QUESTION}### Assistant: {ANSWER}"}]),
]

TEMPLATES = [
    # D. Templates that write the last turn otherwise than earlier ones.
    Case(
        "two answers of Qwen3",
        [sharegpt(("human", "A?"), ("gpt", "B."), ("human", "C?"), ("gpt", "D."))],
        [said("B.", "<think>\n\n</think>\n\nD.")],
        template="qwen3",
    ),
    Case(
        "two answers of Phi-3",
        [sharegpt(("human", "A?"), ("gpt", "B."), ("human", "C?"), ("gpt", "D."))],
        [["B.<|end|>", "D.<|end|>"]],
        template="phi3",
    ),
    Case("calls that a template loses", [calling()], [], ["a tool call of turn 2"], template="llama3"),
    Case(
        "no system turn in Gemma 2",
        [{**PAIR, "system": "Be brief."}],
        [],
        ["System role not supported"],
        template="gemma",
    ),
    Case(
        "system text before the question",
        [{**PAIR, "system": "Be brief."}],
        [[ANSWER + "<end_of_turn>"]],
        data={"system": "first_user"},
        template="gemma",
    ),
    Case(
        "a mark of the template in a text",
        [{**PAIR, "prompt": f"What is {END}?"}],
        [],
        ["the text contains a special token of the chat template"],
    ),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of toy models with published templates."""
    folders: dict[str, Path] = {}

    def folder(template: str) -> Path:
        if template not in folders:
            folders[template] = tmp_path_factory.mktemp(template)
            tokenizer = tokenizer_for(templates()[template])
            tokenizer.save_pretrained(folders[template])
            LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **SIZES)).save_pretrained(folders[template])
        return folders[template]

    return folder


def look(case: Case, folder: Path, model: Path) -> StudyCheck:
    path = folder / case.file
    if callable(case.content):
        case.content(path)
    elif isinstance(case.content, bytes):
        path.write_bytes(case.content)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in case.content))
    raw = {
        "name": "kinds",
        "out": str(folder / "out"),
        "model": {"name": str(model)},
        "pool": [{"path": str(path), **case.entry}],
        "data": {"max_length": 2048, **case.data},
        "selection": {"budget": 1, "methods": ["random"]},
    }
    return check_study(parse_study(raw, "study.yaml"), show=9)


@pytest.mark.parametrize("case", [*SAYS, *FILES, *COLUMNS, *TEMPLATES], ids=lambda case: case.name)
def test_files_and_rows_of_all_kinds(case: Case, tmp_path: Path, model: Callable[[str], Path]) -> None:
    checked = look(case, tmp_path, model(case.template))
    if case.problem is not None:
        (problem,) = checked.problems
        assert problem.startswith("pool.0")
        assert case.problem in problem
        return
    assert not checked.problems or not case.trained, checked.problems
    (file,) = checked.files
    assert [[s.text for s in row.segments if s.is_answer] for row in checked.shown] == case.trained
    assert (file.usable, file.rows) == (len(case.trained), len(case.trained) + len(case.rejected))
    reasons = sorted(reason for reason, count in file.rejected.items() for _ in range(count))
    assert len(reasons) == len(case.rejected)
    for part in case.rejected:
        # Reasons are counted by their kind, whatever turn they name.
        assert any(re.sub(r"turn \d", "a turn", part) in reason for reason in reasons), reasons
    assert sorted(file.unread) == case.unread
