"""Near-copies in a pool: how many planted ones are found, what else is, and the time that takes.

    python -m benchmarks.near_duplicates 'POOL/*.jsonl.gz' [--rows N] [--planted 0.1] [--cores 2] [--pairs FILE]

To the rows of the pool (N of each file; all without) a tenth of them is added once more with a word changed, with a
prefix before the prompt, or with both. Then the passes of stage *prepare* run, as tasks of a Ray of `--cores` CPUs or
with `--cores 0` in this process. Tells the share of the planted rows that is found, by length of the row, and the other
near-copies by source; FILE gets 100 of these to read. With `--targets`, files of rows too, the check for contamination
is timed on the rows of the pool, and tried on rows of the targets that were changed.
"""

import argparse
import re
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa

from benchmarks import report
from instsel.config.study import Data, Resources
from instsel.console import Terminal
from instsel.data.contamination import LeakIndex
from instsel.data.encode import EXAMPLES
from instsel.data.formats import parse_row, row_id
from instsel.data.messages import BadRow, Message, texts
from instsel.data.readers import SourceFile, read_chunks, source_files
from instsel.data.row_changes import row_words
from instsel.data.words import UNSPACED
from instsel.io.store import Folder
from instsel.pipeline.near_duplicate_passes import TABLE
from instsel.pipeline.near_duplicates import find_near_duplicates, plan_passes, run_here, run_passes
from instsel.pipeline.prepare_index import find_exact_copies
from instsel.report.markdown import markdown_table

SHARD_ROWS = 1000
KINDS = ("word", "prefix", "word and prefix")
LENGTHS = (10, 20, 30, 50, 100, 200)
LEAST_WORDS = 30
CHANGES = ("answer", "answer and system turn", "answer and prefix", "word", "word and prefix")
PROMPT_LENGTHS = ("1-5", "6-12", "13-29", "30-")
CHANGED_ROWS = 60
PREFIXES = (
    "Question:", "Task:", "Please answer the following.", "Here is a task for you.", "Read this carefully and respond.",
    "I need some help with this one, thank you!", "Consider the request below and reply as well as you can.", "Hi!",
    "You are a helpful assistant.", "Instruction:", "Could you help me out here?", "As an expert, please reply:",
)  # fmt: skip
TOKEN = re.compile(f"[{UNSPACED}]{{1,2}}|[^\\s{UNSPACED}]+")

Conversation = list[Message]


@dataclass(frozen=True)
class PoolRow:
    """A row of the pool: who says what, its source, and for a planted row its original and what was done to it."""

    messages: Conversation
    source: str
    original: str | None = None
    kind: str = ""

    @property
    def id(self) -> str:
        return row_id(self.messages)


def main(argv: Sequence[str] | None = None) -> None:
    """Plants near-copies, looks for them, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pool", help="path or glob of files of rows")
    parser.add_argument("--targets", nargs="+", help="files of rows, to time the check for contamination")
    parser.add_argument("--rows", type=int, help="rows of each file; default all")
    parser.add_argument("--planted", type=float, default=0.1, help="near-copies to plant, as a share of the rows")
    parser.add_argument("--threshold", type=float, default=Data().near_duplicate_threshold, help="least similarity")
    parser.add_argument("--cores", type=int, default=2, help="CPUs of the Ray that is started; 0: this process alone")
    parser.add_argument("--pairs", type=Path, help="file for near-copies that were not planted")
    parser.add_argument("--seed", type=int, default=0, help="seed of what is planted and of what is shown")
    options = parser.parse_args(argv)
    lot = Random(options.seed)
    pool = [row for file in source_files(options.pool, limit=options.rows) for row in read_rows(file)]
    planted = plant(pool, round(options.planted * len(pool)), lot)
    command = shlex.join(["python", "-m", "benchmarks.near_duplicates", *(sys.argv[1:] if argv is None else argv)])
    print("# Near-copies\n")
    print(report.facts_list({**report.machine("cpu"), "command": f"`{command}`"}))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Folder.at(scratch)
        shards = write_shards(folder, [*pool, *planted])
        data = Data(near_duplicate_threshold=options.threshold)
        start = time.perf_counter()
        find(folder, shards, data, options.cores)
        minutes = (time.perf_counter() - start) / 60
        copies = folder.read_table(TABLE).to_pylist()
    where = "in one process" if not options.cores else f"on {options.cores} cores"
    print(f"{len(pool):,} rows and {len(planted):,} planted ones; {minutes:.2f} minutes {where}.\n")
    print(recall_table(pool, planted, copies))
    by_source, others = not_planted(pool, planted, copies)
    print(f"{len(others):,} near-copies were not planted:\n")
    print(markdown_table(["source", "rows", "near-copies"], by_source))
    if options.pairs is not None:
        options.pairs.write_text(pairs_to_read(pool, others, lot), encoding="utf-8")
    if options.targets:
        targets = [[row.messages for row in read_rows(SourceFile(path))] for path in options.targets]
        print(contamination_time(targets, pool))
        print(leaks_found(targets, pool, lot))


def read_rows(file: SourceFile) -> list[PoolRow]:
    """Reads the usable rows of a file."""
    rows = []
    for line in (line for _, lines in read_chunks(file, SHARD_ROWS) for line in lines if line):
        try:
            rows.append(PoolRow(texts(parse_row(line, "auto").messages), file.stem))
        except BadRow:
            continue
    return rows


def plant(pool: Sequence[PoolRow], count: int, lot: Random) -> list[PoolRow]:
    """Makes near-copies of different rows, none of them a row that is there."""
    known = {row.id for row in pool}
    originals = lot.sample(range(len(pool)), len(pool))
    planted: list[PoolRow] = []
    for number in originals:
        if len(planted) == count:
            break
        original, kind = pool[number], KINDS[len(planted) % len(KINDS)]
        messages = [Message(**message) for message in original.messages]
        if "word" in kind:
            change_word(messages, pool, lot)
        if "prefix" in kind:
            asked = next((message for message in messages if message["role"] == "user"), messages[0])
            asked["content"] = f"{lot.choice(PREFIXES)} {asked['content']}"
        row = PoolRow(messages, original.source, original.id, kind)
        if row.id not in known:
            known.add(row.id)
            planted.append(row)
    return planted


def change_word(messages: Conversation, pool: Sequence[PoolRow], lot: Random) -> None:
    """Puts a word of another row in place of a word, or two characters in a script without spaces."""
    spots = [(turn, spot) for turn, message in enumerate(messages) for spot in TOKEN.finditer(message["content"])]
    turn, spot = lot.choice(spots)
    word = spot.group()
    while word == spot.group():
        words = TOKEN.findall(lot.choice(lot.choice(pool).messages)["content"])
        word = lot.choice(words) if words else word
    text = messages[turn]["content"]
    messages[turn]["content"] = text[: spot.start()] + word + text[spot.end() :]


def write_shards(folder: Folder, rows: Sequence[PoolRow]) -> list[str]:
    """Writes the rows as stage *prepare* has them before it looks for copies, without tokens."""
    shards: list[str] = []
    for first in range(0, len(rows), SHARD_ROWS):
        part: list[dict[str, Any]] = [
            {
                "id": row.id,
                "source": row.source,
                "task": None,
                "messages": row.messages,
                "choices": [],
                "input_ids": [],
                "labels": [],
                "tokens": 0,
                "answer_tokens": 0,
                "truncated": False,
                "file": row.source,
                "line": number,
            }
            for number, row in enumerate(rows[first : first + SHARD_ROWS], start=first)
        ]
        shards.append(f"00000-{len(shards):06d}")
        (folder / "pool").write_table(f"{shards[-1]}.parquet", pa.Table.from_pylist(part, schema=EXAMPLES))
    return shards


def find(folder: Folder, shards: list[str], data: Data, cores: int) -> None:
    """Runs the passes."""
    if not cores:
        find_exact_copies(folder, shards)
        run_passes(plan_passes(folder, shards, data), run_here)
        return
    import ray

    from instsel.runtime.session import plan_resources, quiet_data

    ray.init(address="local", num_cpus=cores, include_dashboard=False, log_to_driver=False)
    quiet_data()
    find_near_duplicates(folder, shards, data, plan_resources(Resources()), Terminal())
    ray.shutdown()


def recall_table(pool: Sequence[PoolRow], planted: Sequence[PoolRow], copies: Sequence[dict[str, Any]]) -> str:
    """The share of planted rows that are called near-copies of their original, or of the row that it is one of."""
    kept = {copy["id"]: copy["kept_id"] for copy in copies}
    texts = {row.id: row for row in pool}
    hits, totals = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    labels = [*(f"{low}-{high - 1}" for low, high in zip((1, *LENGTHS), LENGTHS, strict=False)), f"{LENGTHS[-1]}-"]
    for row in planted:
        original = row.original or ""
        is_found = row.id in kept and kept[row.id] in (original, kept.get(original))
        words = texts[original].messages
        length = row_words(words).words
        by_space = sum(len(message["content"].split()) for message in words)
        groups = [labels[sum(length >= bound for bound in LENGTHS)]]
        groups += ["30 or more"] if length >= LEAST_WORDS else []
        groups += ["30 or more, by white space"] if by_space >= LEAST_WORDS else []
        for group in groups:
            for kind in (row.kind, "all"):
                totals[group, kind] += 1
                hits[group, kind] += is_found
    lines = [[name, *(_share(hits[name, kind], totals[name, kind]) for kind in (*KINDS, "all"))] for name in
             (*labels, "30 or more", "30 or more, by white space")]  # fmt: skip
    return (
        f"Planted rows that are found, by words of the original:\n\n{markdown_table(['words', *KINDS, 'all'], lines)}\n"
    )


def _share(hits: int, total: int) -> str:
    return f"{hits / total:.1%} of {total:,}" if total else "\N{EN DASH}"


def not_planted(
    pool: Sequence[PoolRow], planted: Sequence[PoolRow], copies: Sequence[dict[str, Any]]
) -> tuple[list[list[str]], list[dict[str, Any]]]:
    """Counts the near-copies among the pool's own rows by source; returns the lines and these near-copies."""
    ids = {row.id for row in planted}
    others = [copy for copy in copies if copy["id"] not in ids and copy["kept_id"] not in ids]
    rows, of_source = Counter(row.source for row in pool), Counter(copy["source"] for copy in others)
    return [[source, f"{count:,}", f"{of_source[source]:,}"] for source, count in sorted(rows.items())], others


def pairs_to_read(pool: Sequence[PoolRow], copies: Sequence[dict[str, Any]], lot: Random) -> str:
    """Writes some near-copies with the row that stays, one below the other."""
    texts = {row.id: row.messages for row in pool}
    shown = lot.sample(list(copies), min(100, len(copies)))
    return "\n".join(line for number, copy in enumerate(shown, start=1) for line in _pair(number, copy, texts))


def _pair(number: int, copy: dict[str, Any], texts: dict[str, Conversation]) -> Iterator[str]:
    kept, row = (f"{copy[f'{prefix}source']} {copy[f'{prefix}id']}" for prefix in ("kept_", ""))
    yield f"## {number}. {kept}, {row}: {copy['similarity']:.2f}"
    for which in ("kept_id", "id"):
        yield " || ".join(f"{turn['role']}: {turn['content']}" for turn in texts[copy[which]]).replace("\n", " / ")
        yield ""


def contamination_time(targets: Sequence[Sequence[Conversation]], pool: Sequence[PoolRow]) -> str:
    """The time that the check for contamination takes a row, in this process, and what it finds."""
    index = LeakIndex.of(targets, Data().leak_words)
    reasons = Counter[str | None](index.reason(row.messages) for row in pool[:SHARD_ROWS])
    start = time.process_time()
    reasons = Counter(index.reason(row.messages) for row in pool)
    each = (time.process_time() - start) / len(pool)
    lines = [[reason, f"{count:,}"] for reason, count in reasons.most_common() if reason is not None]
    return f"Contamination: {each * 1e3:.3f} ms a row.\n\n{markdown_table(['reason', 'rows'], lines)}"


def leaks_found(targets: Sequence[Sequence[Conversation]], pool: Sequence[PoolRow], lot: Random) -> str:
    """The share of rows of targets that are found after a change, by words of the prompt; of 60 rows of each file."""
    index = LeakIndex.of(targets, Data().leak_words)
    hits, totals = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for rows in targets:
        for row in lot.sample(list(rows), min(CHANGED_ROWS, len(rows))):
            words = sum(len(message["content"].split()) for message in row if message["role"] == "user")
            length = PROMPT_LENGTHS[sum(words >= bound for bound in (6, 13, 30))]
            for kind in CHANGES:
                totals[kind, length] += 1
                hits[kind, length] += index.leaks(changed_row(row, kind, pool, lot))
    lines = [[kind, *(_share(hits[kind, each], totals[kind, each]) for each in PROMPT_LENGTHS)] for kind in CHANGES]
    table = markdown_table(["", *PROMPT_LENGTHS], lines)
    return f"Changed rows of targets that are found, by words of the prompt:\n\n{table}"


def changed_row(row: Conversation, kind: str, pool: Sequence[PoolRow], lot: Random) -> Conversation:
    """Makes a copy of a target's row with another answer, system turn, prefix, or word of the prompt."""
    messages = [Message(**message) for message in row]
    asked = [message for message in messages if message["role"] == "user"]
    if "answer" in kind and messages[-1]["role"] == "assistant":
        messages[-1]["content"] = "I am not sure what to say here."
    if "word" in kind:
        change_word(asked, pool, lot)
    if "prefix" in kind:
        asked[0]["content"] = f"{lot.choice(PREFIXES)} {asked[0]['content']}"
    system = [Message(role="system", content="You are a helpful assistant.")] if "system" in kind else []
    return [*system, *messages]


if __name__ == "__main__":
    main()
