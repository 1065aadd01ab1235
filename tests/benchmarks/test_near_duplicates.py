"""The benchmark of near-copies, on a small pool in this process, and what it plants."""

import json
from pathlib import Path
from random import Random

import pytest

from benchmarks.near_duplicates import KINDS, PREFIXES, PoolRow, main, plant, recall_table

WORDS = [f"{first}{second}{third}" for first in "bdgklm" for second in "aeiou" for third in "nrst"]


def make_pool(count: int) -> list[PoolRow]:
    lot = Random(0)
    rows = []
    for number in range(count):
        text, answer = (" ".join(lot.choices(WORDS, k=length)) for length in (lot.randint(8, 60), 10))
        turns = [("user", text), ("assistant", answer)]
        rows.append(PoolRow([{"role": role, "content": text} for role, text in turns], f"source-{number % 2}"))
    return rows


def test_planted_rows_differ_by_a_word_or_a_prefix() -> None:
    pool = make_pool(60)
    originals = {row.id: row for row in pool}
    planted = plant(pool, 30, Random(1))
    assert len(planted) == len({row.id for row in [*pool, *planted]}) - 60 == 30
    assert len({row.original for row in planted}) == 30
    for row in planted:
        before, after = (
            [message["content"] for message in messages]
            for messages in (originals[row.original or ""].messages, row.messages)
        )
        prefix = after[0].removesuffix(before[0]) if "word" not in row.kind else ""
        assert (prefix.strip() in PREFIXES) == (row.kind == "prefix")
        if row.kind == "word":
            pairs = [
                pair for texts in zip(before, after, strict=True) for pair in zip(*map(str.split, texts), strict=True)
            ]
            assert sum(one != other for one, other in pairs) == 1
    assert {row.kind for row in planted} == set(KINDS)


def test_recall_counts_a_copy_of_the_same_row() -> None:
    pool = make_pool(9)
    planted = plant(pool, 3, Random(1))
    first, second, third = ({"id": row.id, "kept_id": row.original} for row in planted)
    # The second is a copy of the row that its original is a copy of, the third one of another row.
    kept = next(row.id for row in pool if row.id not in {each.original for each in planted})
    copies = [first, {"id": second["kept_id"], "kept_id": kept}, {"id": second["id"], "kept_id": kept}]
    table = recall_table(pool, planted, [*copies, {"id": third["id"], "kept_id": kept}])
    shares = [line.split(" | ")[-1] for line in table.splitlines() if line.startswith("| ") and "% of" in line]
    assert sum(float(share.split("%")[0]) * int(share.split()[2]) for share in shares[:-2]) == pytest.approx(200)


def test_the_benchmark_tells_recall_and_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.dumps({"messages": row.messages}) for row in make_pool(80)]
    (tmp_path / "pool.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    pairs = tmp_path / "pairs.md"
    arguments = [
        str(tmp_path / "*.jsonl"),
        "--cores",
        "0",
        "--pairs",
        str(pairs),
        "--targets",
        str(tmp_path / "pool.jsonl"),
    ]
    main([*arguments, "--planted", "0.5"])
    printed = capsys.readouterr().out
    assert "80 rows and 40 planted ones; " in printed
    recall = next(line for line in printed.splitlines() if line.startswith("| 30 or more |"))
    assert float(recall.split("|")[-2].split("%")[0]) >= 95
    assert "0 near-copies were not planted" in printed
    assert "| shares a run of words with a target | 80 |" in printed
    assert pairs.read_text() == ""
