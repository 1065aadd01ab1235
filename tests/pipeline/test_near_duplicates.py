"""The passes over a pool's shards, in this process and as tasks of Ray, against all pairs of its rows."""

import copy
import json
import shutil
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest

from instsel.config.study import Data, Resources
from instsel.console import Terminal
from instsel.data.encode import DUPLICATE, EXAMPLES, NEAR_COPY, encode_lines, encoding_options
from instsel.data.formats import row_id
from instsel.data.near_duplicates import row_key, sampled_ngrams, template_ngrams
from instsel.data.row_changes import near_copy, row_words
from instsel.data.words import KnownHashes
from instsel.io.store import Folder
from instsel.pipeline import near_duplicate_passes, near_duplicates
from instsel.pipeline.near_duplicate_passes import SCRATCH, TABLE, Work
from instsel.pipeline.near_duplicates import (
    Pass,
    find_near_duplicates,
    near_duplicates_result,
    plan_passes,
    run_here,
    run_passes,
)
from instsel.pipeline.prepare_index import COPIES, NEAR_COPIES, find_exact_copies, finish_pool
from instsel.runtime.session import plan_resources

WORDS = [f"{first}{second}{third}" for first in "bdgklm" for second in "aeiou" for third in "nrst"]
FORM = "You will be given a list of words and have to say in one short sentence what you would use it for."

Row = list[dict[str, str]]


def make_rows(count: int = 150) -> list[Row]:
    """Rows of one form, every third of them an earlier one with a word changed, a prefix added or other punctuation."""
    lot = Random(1)
    rows: list[Row] = []
    for number in range(count):
        text = " ".join(lot.choice(WORDS) for _ in range(lot.randint(30, 60)))
        answer = f"I would use {text.split()[0]} for {text.split()[1]}, and {lot.choice(WORDS)} for all else."
        if number % 3 == 2:
            text, answer = (turn["content"] for turn in lot.choice(rows))
            text = text.removeprefix(FORM)
            if number % 2:
                words = text.split()
                words[lot.randrange(len(words))] = lot.choice(WORDS)
                text = " ".join(words)
            text = text if number % 4 else f"Note: {text.upper()}!"
        rows.append([{"role": "user", "content": f"{FORM} {text}"}, {"role": "assistant", "content": answer}])
    # Exact copies, which are no near-copies.
    return [*rows, rows[0], rows[7]] if count > 7 else rows


def source_of(number: int) -> str:
    return f"source-{number // 3 % 3}"


def write_pool(folder: Folder, rows: list[Row], shard_rows: int) -> list[str]:
    """Write shards as the encoders do."""
    shards = []
    for first in range(0, len(rows), shard_rows):
        part = [
            {
                "id": row_id(row),  # type: ignore[arg-type]
                "source": source_of(number),
                "task": None,
                "messages": row,
                "choices": [],
                "input_ids": [1, 2],
                "labels": [-100, 2],
                "tokens": 2,
                "answer_tokens": 1,
                "truncated": False,
                "file": "rows.jsonl",
                "line": number + 1,
            }
            for number, row in enumerate(rows[first : first + shard_rows], start=first)
        ]
        shards.append(f"00000-{first // shard_rows:06d}")
        (folder / "pool").write_table(f"{shards[-1]}.parquet", pa.Table.from_pylist(part, schema=EXAMPLES))
    find_exact_copies(folder, shards)
    return shards


def expected_copies(rows: list[Row], threshold: float) -> list[tuple[str, str]]:
    """The oracle: each row against every earlier one that stays."""
    distinct = list({row_id(row): row for row in rows}.items())  # type: ignore[arg-type]
    words = [row_words(row) for _, row in distinct]
    keys = pa.array([row_key(row) for row in words], pa.uint64()).to_numpy()
    templates = KnownHashes(template_ngrams(keys, [sampled_ngrams(row) for row in words]))
    words = [row_words(row, templates) for _, row in distinct]
    stays: list[int] = []
    copies = []
    for number, row in enumerate(words):
        kept = next((other for other in stays if near_copy(words[other], row, threshold) is not None), None)
        if kept is None:
            stays.append(number)
        else:
            copies.append((distinct[number][0], distinct[kept][0]))
    return copies


def find(folder: Folder, shards: list[str], run: Any = run_here, **settings: Any) -> list[dict[str, Any]]:
    run_passes(plan_passes(folder, shards, Data(**settings)), run)
    table: list[dict[str, Any]] = folder.read_table(TABLE).to_pylist()
    return table


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several groups, parts and tasks a band."""
    for name, rows in {"ROWS_PER_GROUP": 40, "ROWS_PER_PART": 30, "ROWS_PER_BAND_TASK": 60}.items():
        monkeypatch.setattr(near_duplicates, name, rows)


def test_near_copies_are_those_of_all_pairs(tmp_path: Path) -> None:
    rows, folder = make_rows(), Folder.at(tmp_path)
    found = find(folder, write_pool(folder, rows, 20))
    assert [(row["id"], row["kept_id"]) for row in found] == expected_copies(rows, Data().near_duplicate_threshold)
    assert len(found) > 40
    first = {row_id(row): number for number, row in reversed(list(enumerate(rows)))}  # type: ignore[arg-type]
    for row in found:
        number, kept = first[row["id"]], first[row["kept_id"]]
        assert number > kept
        assert (row["line"], row["kept_line"]) == (number + 1, kept + 1)
        assert (row["source"], row["kept_source"]) == (source_of(number), source_of(kept))
        assert 0.6 <= row["similarity"] <= 1
    assert not folder.exists(SCRATCH)


@pytest.mark.parametrize("shard_rows", [1, 7, 500])
@pytest.mark.usefixtures("small_groups")
def test_shards_groups_and_parts_change_nothing(shard_rows: int, tmp_path: Path) -> None:
    rows = make_rows()
    copies = expected_copies(rows, 0.6)
    folder = Folder.at(tmp_path)
    found = find(folder, write_pool(folder, rows, shard_rows))
    assert [(row["id"], row["kept_id"]) for row in found] == copies


@pytest.mark.usefixtures("small_groups")
def test_a_killed_pass_resumes_with_what_is_missing(tmp_path: Path) -> None:
    rows = make_rows()
    whole = Folder.at(tmp_path / "whole")
    find(whole, write_pool(whole, rows, 7), near_duplicates="drop")
    passes = [near_duplicate_passes.sign_group, near_duplicate_passes.pair_band, near_duplicate_passes.write_words]
    for number, killed in enumerate([*passes, near_duplicate_passes.compare_part, near_duplicate_passes.finish]):
        folder = Folder.at(tmp_path / str(number))
        shards = write_pool(folder, rows, 7)
        calls: list[str] = []

        def run(work: Work, function: Pass, items: int, killed: Pass = killed, calls: list[str] = calls) -> None:
            for item in range(items):
                if function is killed and item == items - 1:
                    raise KeyboardInterrupt
                function(work, item)
                calls.append(function.__name__)

        with pytest.raises(KeyboardInterrupt):
            find(folder, shards, run, near_duplicates="drop")
        files = {name: Path(folder.path, SCRATCH, "bands", name).stat().st_mtime_ns for name in bands(folder)}
        find(folder, shards, partial(_checked, files, folder), near_duplicates="drop")
        assert folder.read(TABLE) == whole.read(TABLE)
        assert (folder / "rejected").read(NEAR_COPIES) == (whole / "rejected").read(NEAR_COPIES)


def bands(folder: Folder) -> list[str]:
    return (folder / SCRATCH / "bands").names()


def _checked(files: dict[str, int], folder: Folder, work: Work, function: Pass, items: int) -> None:
    run_here(work, function, items)
    if bands(folder):
        assert all(Path(folder.path, SCRATCH, "bands", name).stat().st_mtime_ns == time for name, time in files.items())


def test_near_copies_are_dropped_with_the_id_of_the_row_that_stays(tmp_path: Path) -> None:
    rows, folder = make_rows(), Folder.at(tmp_path)
    shards = write_pool(folder, rows, 20)
    found = find(folder, shards, near_duplicates="drop")
    pool, _ = finish_pool(folder, shards, ["rows.jsonl"])
    index = folder.read_table("index.parquet")["id"].to_pylist()
    dropped = {row["id"]: row for row in found}
    kept = [row_id(row) for row in rows if row_id(row) not in dropped]  # type: ignore[arg-type]
    assert index == list(dict.fromkeys(kept))
    exact = len(rows) - len({row_id(row) for row in rows})  # type: ignore[arg-type]
    assert pool.rejected == {NEAR_COPY: len(found), DUPLICATE: exact}
    assert exact >= 2
    rejected = (folder / "rejected").read_table(NEAR_COPIES).to_pylist()
    assert [(line["line"], line["reason"]) for line in rejected] == [
        (row["line"], f"near copy of row {row['kept_id']}") for row in found
    ]
    assert all(len(line["text"]) == 200 and line["text"].startswith(FORM[:9]) for line in rejected[:1])


def test_reported_near_copies_stay_in_the_pool(tmp_path: Path) -> None:
    rows, folder = make_rows(), Folder.at(tmp_path)
    shards = write_pool(folder, rows, 20)
    found = find(folder, shards)
    pool, _ = finish_pool(folder, shards, ["rows.jsonl"])
    assert pool.rows == len({row_id(row) for row in rows})  # type: ignore[arg-type]
    assert not (folder / "rejected").exists(NEAR_COPIES)
    result = near_duplicates_result(folder, Data())
    assert (result.rows, result.groups) == (len(found), len({row["kept_id"] for row in found}))
    assert (result.dropped, result.threshold) == (False, Data().near_duplicate_threshold)
    assert sum(result.sources.values()) == len(found)
    assert list(result.sources) == ["source-0", "source-1", "source-2"]
    pairs = {(row["id"], row["kept_id"]) for row in found}
    assert {(example.id, example.kept_id) for example in result.examples} <= pairs
    assert len(result.examples) == 20
    assert {example.source for example in result.examples} == set(result.sources)


MORE_WORDS = " ".join(WORDS[:40])
TOOL_TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}\n{% endif %}{% for turn in messages %}<|im_start|>{{ turn['role'] }}\n"
    "{% if turn.reasoning_content %}{{ turn.reasoning_content }}\n{% endif %}{{ turn['content'] }}"
    "{% for call in turn.tool_calls or [] %}{{ call | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    ("first", "second", "copies"),
    [
        ({}, {}, 1),
        ({"tools": [{"name": "weather"}]}, {"tools": [{"name": "weather"}]}, 1),
        ({"tools": [{"name": "weather"}]}, {"tools": [{"name": "forecast"}]}, 0),
        ({"tools": [{"name": "weather"}]}, {}, 0),
        ({"reasoning": MORE_WORDS}, {"reasoning": f"{MORE_WORDS.upper()}."}, 1),
        ({"reasoning": MORE_WORDS}, {"reasoning": " ".join(WORDS[50:90])}, 0),
        ({"reasoning": MORE_WORDS}, {}, 0),
        ({"calls": ["Oslo"]}, {"calls": ["Oslo"]}, 1),
        ({"calls": ["Oslo"]}, {"calls": ["Lima"]}, 0),
        ({"calls": ["Oslo"]}, {}, 0),
        ({"weight": 0}, {"weight": 0}, 1),
        ({"weight": 0}, {"weight": 1}, 0),
    ],
)
def test_rows_of_other_tools_calls_thoughts_or_loss_marks_are_no_near_copies(
    first: dict[str, Any], second: dict[str, Any], copies: int, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    """Rows are prepared as stage *prepare* does; the second is written in capitals, so that it is no exact copy."""
    folder = Folder.at(tmp_path)
    question = f"What is the weather at this place, and what do you make of it? {FORM}"
    lines = [_line(question, **first), _line(question.upper(), **second)]
    tokenizer, options = copy.deepcopy(tiny_tokenizer), encoding_options(Data(max_length=4096))
    tokenizer.chat_template = TOOL_TEMPLATE
    examples, rejected = encode_lines(lines, 1, "rows.jsonl", tokenizer=tokenizer, options=options)
    assert rejected.to_pylist() == []
    (folder / "pool").write_table("00000-000000.parquet", examples)
    find_exact_copies(folder, ["00000-000000"])
    assert len(find(folder, ["00000-000000"])) == copies


def _line(question: str, tools: Any = None, reasoning: str = "", calls: Any = (), weight: Any = None) -> bytes:
    answer: dict[str, Any] = {"role": "assistant", "content": "It is fine."}
    if reasoning:
        answer["reasoning_content"] = reasoning
    if calls:
        answer["tool_calls"] = [{"function": {"name": "weather", "arguments": {"city": city}}} for city in calls]
    if weight is not None:
        answer["weight"] = weight
    turns = [{"role": "user", "content": question}, answer, {"role": "user", "content": "Thanks, and so?"}]
    turns.append({"role": "assistant", "content": "So I would stay at home and wait for better weather."})
    return json.dumps({"messages": turns, **({"tools": tools} if tools else {})}).encode()


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_a_pool_without_near_copies_has_none(rows: int, tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    shards = write_pool(folder, make_rows(3)[: max(1, rows)], 2)
    if not rows:
        (folder / "pool").write_table(f"{shards[0]}.parquet", EXAMPLES.empty_table())
    assert find(folder, shards) == []
    result = near_duplicates_result(folder, Data())
    assert (result.rows, result.groups, result.sources, result.examples) == (0, 0, {}, [])


LONG_ANSWER = "I would use all of these for a roof, a wall and a floor, and what is left over for the door."


@pytest.mark.parametrize("count", [5, 9, 10, 60])
@pytest.mark.parametrize("kind", ["prefix", "word"])
def test_a_row_that_is_there_many_times_is_no_form(kind: str, count: int, tmp_path: Path) -> None:
    """What ten rows share is their form, but not where it is all that they say but for a word, or words before."""
    words = [*FORM.split(), *WORDS[:20]]
    rows = []
    for number in range(count):
        changed = [*words[:15], WORDS[60 + number], *words[16:]] if kind == "word" else [WORDS[60 + number], *words]
        rows.append([{"role": "user", "content": " ".join(changed)}, {"role": "assistant", "content": LONG_ANSWER}])
    folder = Folder.at(tmp_path)
    copies = find(folder, write_pool(folder, rows, 20))
    assert len(copies) == count - 1
    assert {row["kept_id"] for row in copies} == {row_id(rows[0])}  # type: ignore[arg-type]


def test_one_row_with_a_word_changed_a_thousand_times_takes_no_time_by_pairs(tmp_path: Path) -> None:
    words = [*FORM.split(), *WORDS[:20]]
    rows = []
    for number in range(1000):
        place = number % 40
        changed = " ".join([*words[:place], f"new{WORDS[number // 10]}{WORDS[number % 10]}", *words[place + 1 :]])
        rows.append([{"role": "user", "content": changed}, {"role": "assistant", "content": LONG_ANSWER}])
    folder = Folder.at(tmp_path)
    pairs = 0

    def run(work: Work, function: Pass, items: int) -> None:
        nonlocal pairs
        run_here(work, function, items)
        if function.__name__ == "pair_band":
            tables = [(work.scratch / "pairs").read_table(name) for name in (work.scratch / "pairs").names()]
            pairs = sum(map(len, tables))

    copies = find(folder, write_pool(folder, rows, 100), run)
    # A row stays for each of the places.
    assert len(copies) == 1000 - 40
    assert pairs < 12 * 1000


def test_many_inputs_to_one_instruction_are_no_copies(tmp_path: Path) -> None:
    rows = [
        [{"role": "user", "content": f"{FORM} {word} {FORM}"}, {"role": "assistant", "content": answer}]
        for word, answer in zip(WORDS[:40], ["Yes", "No"] * 20, strict=True)
    ]
    rows += [
        [{"role": "user", "content": f"{FORM} {word}"}, {"role": "assistant", "content": f"{word}: {LONG_ANSWER}"}]
        for word in WORDS[:40]
    ]
    folder = Folder.at(tmp_path)
    assert find(folder, write_pool(folder, rows, 20)) == []


def test_a_row_without_words_is_no_copy(tmp_path: Path) -> None:
    rows = [[{"role": "user", "content": text}, {"role": "assistant", "content": "..."}] for text in ("?", "!", "?!")]
    folder = Folder.at(tmp_path)
    assert find(folder, write_pool(folder, rows, 2)) == []


@pytest.mark.usefixtures("small_groups")
def test_the_table_of_near_copies_is_written_some_rows_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The texts of all near-copies would not fit into one process of a large pool."""
    whole, parts = Folder.at(tmp_path / "whole"), Folder.at(tmp_path / "parts")
    shards = write_pool(whole, make_rows(), 7)
    shutil.copytree(whole.path, parts.path)
    find(whole, shards, near_duplicates="drop")
    monkeypatch.setattr(near_duplicate_passes, "COPIES_AT_ONCE", 9)
    find(parts, shards, near_duplicates="drop")
    assert parts.read(TABLE) == whole.read(TABLE)
    assert (parts / "rejected").read(NEAR_COPIES) == (whole / "rejected").read(NEAR_COPIES)


@pytest.mark.usefixtures("small_groups")
def test_work_is_dealt_out_to_more_tasks_in_a_larger_pool(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    work = plan_passes(folder, write_pool(folder, make_rows(), 7), Data())
    assert (work.band_tasks, work.part_rows) == (-(-work.rows // 60), 30)
    assert [shard.first for group in work.groups for shard in group][:2] == [0, 7]
    assert all(40 <= group[-1].end - group[0].first < 47 for group in work.groups[:-1])
    assert plan_passes(folder, [], Data()).band_tasks == 1


@pytest.mark.usefixtures("ray_session", "small_groups")
@pytest.mark.parametrize("mode", ["report", "drop"])
def test_tasks_of_ray_leave_the_same_bytes(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, data = make_rows(), Data(near_duplicates=mode)  # type: ignore[arg-type]
    here, there = Folder.at(tmp_path / "here"), Folder.at(tmp_path / "there")
    shards = write_pool(here, rows, 7)
    shutil.copytree(here.path, there.path)
    result = find_near_duplicates(here, shards, data, plan_resources(Resources()), Terminal())
    monkeypatch.setattr(near_duplicates, "_start", _plan)
    assert find_near_duplicates(there, shards, data, plan_resources(Resources()), Terminal()) == result
    assert result is not None
    assert result.rows > 40
    assert there.read(TABLE) == here.read(TABLE)
    assert (there / "rejected").names() == (here / "rejected").names() == [COPIES, NEAR_COPIES][: 1 + (mode == "drop")]


def _plan(folder: Folder, shards: list[str], data: Data) -> Work:
    return plan_passes(folder, shards, data)


@pytest.mark.usefixtures("ray_session")
def test_near_copies_are_not_looked_for_where_they_are_off(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    shards = write_pool(folder, make_rows(), 20)
    assert (
        find_near_duplicates(folder, shards, Data(near_duplicates="off"), plan_resources(Resources()), Terminal())
        is None
    )
    assert not folder.exists(TABLE)
