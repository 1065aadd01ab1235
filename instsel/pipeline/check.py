"""A look at a study before it runs: what the first rows of its files hold, and rows as the model sees them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import pyarrow as pa

from instsel.config.study import StudyConfig
from instsel.console import Terminal
from instsel.data.chat import IGNORED, check_tokenizer
from instsel.data.encode import count_unread, encode_lines, encoding_options, reasons
from instsel.data.readers import SourceFile, read_chunks
from instsel.data.sources import check_files, pool_files, target_files
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.study.folder import MANIFEST

SAMPLE_ROWS = 200
BENCHMARKS = "benchmarks"
MOST_KEYS = 20


@dataclass(frozen=True)
class FileCheck:
    """What the first rows of a file hold.

    Attributes:
        key: of the study file: `pool.0`, `targets.NAME.validation`.
        uri: of the file.
        rows: looked at.
        usable: of these.
        tokens: of the usable ones.
        rejected: reason -> rows.
        unread: key of a row that nothing reads -> rows.
        whole: whether these are all rows of the file.
    """

    key: str
    uri: str
    rows: int
    usable: int
    tokens: int
    rejected: dict[str, int]
    unread: dict[str, int]
    whole: bool


@dataclass(frozen=True)
class Segment:
    """A piece of a row's text as the model sees it, and whether it is trained on."""

    text: str
    is_answer: bool


@dataclass(frozen=True)
class ShownRow:
    """A row as the model sees it: where it is from, its tokens, and its text."""

    file: str
    line: int
    tokens: int
    answer_tokens: int
    truncated: bool
    segments: list[Segment]


@dataclass(frozen=True)
class StudyCheck:
    """What was looked at: all that is wrong, files, and rows to show."""

    problems: list[str]
    files: list[FileCheck]
    shown: list[ShownRow]


def check_study(config: StudyConfig, show: int = 0) -> StudyCheck:
    """Look at the first rows of each file of a study, without Ray.

    Args:
        config: the study file.
        show: rows of the pool to show, the first usable ones of its entries in turn.

    Returns:
        All that is wrong: files that cannot be read, entries of the pool and splits of targets of whose first rows none
        is usable; and what the files hold.
    """
    from instsel.models.loading import load_tokenizer

    problems = check_files(config)
    checks: list[FileCheck] = []
    shown: list[list[ShownRow]] = []
    try:
        tokenizer = load_tokenizer(config.model)
        check_tokenizer(tokenizer)
        parts = _parts(config)
    except InputError as error:
        return StudyCheck(problems if str(error) in problems else [str(error), *problems], [], [])
    for key, files in parts.items():
        rows: list[ShownRow] = []
        usable = 0
        for file in files:
            try:
                check, examples = _check_file(key, file, tokenizer, config)
            except InputError as error:
                problems += [] if str(error) in problems else [str(error)]
                continue
            checks.append(check)
            usable += check.usable
            rows += [_shown(tokenizer, row) for row in examples.slice(0, show - len(rows)).to_pylist()]
        is_read = any(check.key == key for check in checks)
        if not usable and is_read and not _may_be_empty(config, key):
            problems.append(f"{key}: none of the rows looked at is usable; {_why([c for c in checks if c.key == key])}")
        if key.startswith("pool"):
            shown.append(rows)
    return StudyCheck(problems, checks, list(islice(_in_turn(shown), show)))


def _parts(config: StudyConfig) -> dict[str, list[SourceFile]]:
    """Return the files of each entry of the pool and each split of a target."""
    parts: dict[str, list[SourceFile]] = {}
    for key, of_entry in groupby(pool_files(config), lambda file: file.key.removesuffix(".path")):
        parts[key] = list(of_entry)
    for name, target in config.targets.items():
        # Rows of a task of lm-eval are there once its stage has run.
        if target.task is None or (Folder.at(config.out) / BENCHMARKS).exists(MANIFEST):
            files = target_files(config, name)
            parts |= {f"targets.{name}.{split}": of_split for split, of_split in files.items()}
    return parts


def _may_be_empty(config: StudyConfig, key: str) -> bool:
    part, _, number = key.partition(".")
    return part == "pool" and config.pool[int(number)].allow_empty


def _check_file(key: str, file: SourceFile, tokenizer: Any, config: StudyConfig) -> tuple[FileCheck, pa.Table]:
    chunks = list(islice(read_chunks(file, SAMPLE_ROWS), 2))
    lines = chunks[0][1] if chunks else []
    examples, rejected = encode_lines(
        lines,
        1,
        file.uri,
        tokenizer=tokenizer,
        options=encoding_options(config.data),
        layout=file.layout,
        source=file.source,
        default_source=file.stem,
        filters=config.data.filters if key.startswith("pool") else (),
    )
    tokens = sum(examples["tokens"].to_pylist())
    looked_at = len(examples) + len(rejected)
    check = FileCheck(
        key, file.uri, looked_at, len(examples), tokens, reasons(rejected), count_unread(examples), len(chunks) < 2
    )
    return check, examples


def _shown(tokenizer: Any, row: dict[str, Any]) -> ShownRow:
    pieces: list[tuple[bool, list[int]]] = []
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        is_answer = label != IGNORED
        if not pieces or pieces[-1][0] != is_answer:
            pieces.append((is_answer, []))
        pieces[-1][1].append(token)
    segments = [Segment(tokenizer.decode(tokens, skip_special_tokens=False), is_answer) for is_answer, tokens in pieces]
    return ShownRow(row["file"], row["line"], row["tokens"], row["answer_tokens"], row["truncated"], segments)


def _in_turn(lists: Sequence[Sequence[ShownRow]]) -> Iterator[ShownRow]:
    for number in range(max(map(len, lists), default=0)):
        yield from (rows[number] for rows in lists if number < len(rows))


def _why(checks: Sequence[FileCheck]) -> str:
    counts = sum((Counter(check.rejected) for check in checks), Counter[str]())
    return ", ".join(f"{count} x {reason}" for reason, count in counts.most_common(3)) or "its files hold no rows"


def show_check(check: StudyCheck, terminal: Terminal) -> None:
    """Print what each file holds, and the rows to show with their answers marked."""
    for each in check.files:
        rows = f"{each.rows:,} rows" if each.whole else f"of the first {each.rows:,} rows"
        mean = f", {each.tokens / each.usable:,.0f} tokens a row" if each.usable else ""
        why = ", ".join(f"{count:,} x {reason}" for reason, count in each.rejected.items())
        rejected = f"; rejected: {why}" if why else ""
        terminal.say(f"{each.key}: {each.uri}: {rows}, {each.usable:,} usable{mean}{rejected}")
    for key, keys in _unread_by_entry(check.files).items():
        terminal.say(f"{key}: keys that no training sees, kept in selections: {', '.join(keys)}")
    for row in check.shown:
        cut = ", cut at data.max_length" if row.truncated else ""
        terminal.head(f"{row.file}, line {row.line}: {row.tokens:,} tokens, {row.answer_tokens:,} trained on{cut}")
        terminal.marked([(segment.text, segment.is_answer) for segment in row.segments])


def _unread_by_entry(files: Sequence[FileCheck]) -> dict[str, list[str]]:
    keys: dict[str, Counter[str]] = {}
    for each in files:
        keys.setdefault(each.key, Counter()).update(each.unread)
    return {
        key: [
            *(f"{name} ({count:,})" for name, count in of.most_common(MOST_KEYS)),
            *([f"{len(of) - MOST_KEYS:,} more"] if len(of) > MOST_KEYS else []),
        ]
        for key, of in keys.items()
        if of
    }
