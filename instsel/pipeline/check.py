"""A look at a study before it runs: what the first rows of its files hold, and rows as the model sees them."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa

from instsel.config.study import StudyConfig
from instsel.console import Terminal
from instsel.data.chat import IGNORED, check_tokenizer
from instsel.data.encode import EXAMPLES, count_unread, encode_lines, encoding_options, reasons, was_readable
from instsel.data.readers import SourceFile, read_chunks
from instsel.data.sources import readable_pool_files, target_files
from instsel.errors import InputError
from instsel.filters.base import why_filtered
from instsel.io.store import Folder
from instsel.pipeline.benchmarks import task_spec
from instsel.pipeline.preflight import preflight
from instsel.study.folder import MANIFEST, find_folder
from instsel.tracking import check_tracking

SAMPLE_ROWS = 200
MOST_ROWS = 20_000
"""Rows of a file that are looked at where none of them is usable."""

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
    """A row as the model sees it: where it is from, its tokens, what was dropped, and its text."""

    file: str
    line: int
    tokens: int
    answer_tokens: int
    truncated: bool
    dropped_reasoning: int
    segments: list[Segment]


@dataclass(frozen=True)
class StudyCheck:
    """What was looked at: all that is wrong, what is only worth a mention, files, and rows to show."""

    problems: list[str]
    notes: list[str]
    files: list[FileCheck]
    shown: list[ShownRow]


def check_study(config: StudyConfig, show: int = 0) -> StudyCheck:
    """Look for what would end a study, and at the first rows of each of its files, without Ray.

    Args:
        config: the study file.
        show: rows of the pool to show, the first usable ones of its entries in turn.

    Returns:
        All that is wrong: what `preflight` finds, files that cannot be read, entries of the pool and splits of targets
        of whose first rows none is usable; and what the files hold.
    """
    from instsel.models.loading import load_tokenizer

    before_a_run = preflight(config)
    problems = [str(problem) for problem in before_a_run if problem.is_fatal]
    problems += _folder_problems(config)
    notes = [str(problem) for problem in before_a_run if not problem.is_fatal]
    try:
        tokenizer = load_tokenizer(config.model)
        check_tokenizer(tokenizer)
    except Exception as error:
        # Files of a tokenizer are anybody's. What can be known of them on this machine, `preflight` has said.
        if any(problem.is_fatal and problem.key.startswith("model.") for problem in before_a_run):
            return StudyCheck(problems, notes, [], [])
        if isinstance(error, InputError):
            return StudyCheck([*problems, str(error)], notes, [], [])
        raise
    checks: list[FileCheck] = []
    shown: list[list[ShownRow]] = []
    for key, files in _parts(config).items():
        rows: list[ShownRow] = []
        of_part: list[FileCheck] = []
        is_read = bool(files)
        for file in files:
            try:
                check, examples = _check_file(key, file, tokenizer, config)
            except InputError as error:
                problems.append(str(error))
                is_read = False
                continue
            of_part.append(check)
            rows += [_shown(tokenizer, row) for row in examples.slice(0, show - len(rows)).to_pylist()]
        # Of files that cannot be read, or hold nothing, it is said already.
        is_known = not is_read or any(problem.startswith(f"{key}.") for problem in problems)
        if not is_known and not _gives_rows(config, of_part):
            problems.append(f"{key}: none of the rows looked at is usable; {_why(of_part)}")
        checks += of_part
        if _is_pool(key):
            shown.append(rows)
    problems += _missing_tasks(config)
    of_pool = [check for check in checks if _is_pool(check.key)]
    if of_pool and not problems and not any(check.usable for check in of_pool):
        problems.append(f"pool: none of the rows looked at is usable; {_why(of_pool)}")
    return StudyCheck(list(dict.fromkeys(problems)), notes, checks, list(islice(_in_turn(shown), show)))


def _folder_problems(config: StudyConfig) -> Iterator[str]:
    """Say why nothing can be written to the study's folder or to its trackers."""
    checks: list[Callable[[], object]] = [
        lambda: check_tracking(config.tracking),
        lambda: find_folder(config.out, config.name),
    ]
    for check in checks:
        try:
            check()
        except InputError as error:
            yield str(error)


def _missing_tasks(config: StudyConfig) -> Iterator[str]:
    """Say which tasks of targets and guards lm-eval does not have; their data sets are not loaded."""
    for name, each in config.scored.items():
        if each.task is not None:
            from instsel.evaluation.tasks import check_task

            try:
                check_task(task_spec(config, name))
            except InputError as error:
                yield str(error)


def _is_pool(key: str) -> bool:
    return key.startswith("pool.")


def _gives_rows(config: StudyConfig, of_part: Sequence[FileCheck]) -> bool:
    """Whether a part may stay as it is, as stage *prepare* has it: filtered rows of the pool were readable."""
    if any(check.usable for check in of_part):
        return True
    key = of_part[0].key
    if not _is_pool(key):
        return False
    is_unwanted = any(was_readable(reason) for check in of_part for reason in check.rejected)
    return is_unwanted or config.pool[int(key.removeprefix("pool."))].allow_empty


def _parts(config: StudyConfig) -> dict[str, list[SourceFile]]:
    """Return the files of each entry of the pool and each split of a target, those that are there."""
    parts = {f"pool.{number}": files for number, files in enumerate(readable_pool_files(config))}
    for name, target in config.targets.items():
        # Rows of a task of lm-eval are there once its stage has run.
        if target.task is None or (Folder.at(config.out) / BENCHMARKS).exists(MANIFEST):
            with suppress(InputError):
                files = target_files(config, name)
                parts |= {f"targets.{name}.{split}": of_split for split, of_split in files.items()}
    return parts


def _check_file(key: str, file: SourceFile, tokenizer: Any, config: StudyConfig) -> tuple[FileCheck, pa.Table]:
    """Look at the first rows of a file, and on to the first usable one where that comes later."""
    looked_at = 0
    rejected: Counter[str] = Counter()
    usable = EXAMPLES.empty_table()
    whole = True
    for first, lines in read_chunks(file, SAMPLE_ROWS):
        if len(usable) or looked_at >= MOST_ROWS:
            whole = False
            break
        usable, bad = encode_lines(
            lines,
            first,
            file.uri,
            tokenizer=tokenizer,
            options=encoding_options(config.data),
            layout=file.layout,
            source=file.source,
            default_source=file.stem,
            filters=config.data.filters if _is_pool(key) else (),
        )
        looked_at += len(usable) + len(bad)
        rejected.update(reasons(bad))
    tokens = sum(usable["tokens"].to_pylist())
    check = FileCheck(
        key, file.uri, looked_at, len(usable), tokens, dict(rejected.most_common()), count_unread(usable), whole
    )
    return check, usable


def _shown(tokenizer: Any, row: dict[str, Any]) -> ShownRow:
    pieces: list[tuple[bool, list[int]]] = []
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        is_answer = label != IGNORED
        if not pieces or pieces[-1][0] != is_answer:
            pieces.append((is_answer, []))
        pieces[-1][1].append(token)
    segments = [Segment(tokenizer.decode(tokens, skip_special_tokens=False), is_answer) for is_answer, tokens in pieces]
    columns = ("file", "line", "tokens", "answer_tokens", "truncated", "dropped_reasoning")
    return ShownRow(**{name: row[name] for name in columns}, segments=segments)


def _in_turn(lists: Sequence[Sequence[ShownRow]]) -> Iterator[ShownRow]:
    for number in range(max(map(len, lists), default=0)):
        yield from (rows[number] for rows in lists if number < len(rows))


def _why(checks: Sequence[FileCheck]) -> str:
    counts = sum((Counter(check.rejected) for check in checks), Counter[str]())
    filtered = why_filtered(counts)
    return (
        filtered
        or ", ".join(f"{count} x {reason}" for reason, count in counts.most_common(3))
        or "its files hold no rows"
    )


def show_check(check: StudyCheck, terminal: Terminal) -> None:
    """Print what each file holds, and the rows to show with their answers marked."""
    for each in check.files:
        rows = "1 row" if each.rows == 1 else f"{each.rows:,} rows"
        rows = rows if each.whole else f"of the first {rows}"
        mean = f", {each.tokens / each.usable:,.0f} tokens a row" if each.usable else ""
        why = ", ".join(f"{count:,} x {reason}" for reason, count in each.rejected.items())
        rejected = f"; rejected: {why}" if why else ""
        terminal.say(f"{each.key}: {each.uri}: {rows}, {each.usable:,} usable{mean}{rejected}")
    for key, keys in _unread_by_entry(check.files).items():
        terminal.say(f"{key}: keys that no training sees, kept in selections: {', '.join(keys)}")
    for row in check.shown:
        dropped = ", cut at data.max_length" if row.truncated else ""
        if row.dropped_reasoning:
            dropped += f", without the reasoning of {row.dropped_reasoning} turns, which the chat template leaves out"
        terminal.head(f"{row.file}, line {row.line}: {row.tokens:,} tokens, {row.answer_tokens:,} trained on{dropped}")
        terminal.marked([(segment.text, segment.is_answer) for segment in row.segments])
    for note in check.notes:
        terminal.say(f"note: {note}")


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
