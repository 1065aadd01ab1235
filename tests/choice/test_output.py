"""What a choice leaves: the same bytes as with all rows in memory, whatever the parts; few bytes of memory."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from instsel.choice import output, parts
from instsel.choice.output import ROWS, TABLE, TRAINING_SET, write_rows, write_training_sets
from instsel.choice.picks import Picks
from instsel.data.encode import EXAMPLES
from instsel.errors import InputError
from instsel.io.store import Folder
from tests.choice.plain_output import write_plainly

SHARD = 13


@pytest.fixture
def prepared(tmp_path):
    """A pool of 130 rows with all that a row may have, in ten shards, and a target of three rows."""
    draw = np.random.default_rng(0)

    def row(number):
        tokens = draw.integers(1, 400, draw.integers(1, 30)).tolist()
        question = {"role": "user", "content": f"U+2028 \u2028 and ü {number}"}
        return {
            "id": f"{number:05d}",
            "source": ["web", "book"][number % 2],
            "task": [None, "", "sums", "Ä"][number % 4],
            "messages": [question, {"role": "assistant", "content": "x" * (number % 7)}],
            "turn_keys": None if number % 3 else [None, '{"weight": 1}'],
            "tools": '[{"name": "f"}]' if number % 5 == 0 else None,
            "extra": '{"bad": "\\ud800", "n": 1.50}' if number % 6 == 0 else None,
            "original_id": str(number) if number % 2 else None,
            "choices": None,
            "input_ids": tokens,
            "labels": tokens,
            "tokens": len(tokens),
            "answer_tokens": 1,
            "truncated": False,
            "file": f"rows-{number % 3}.jsonl",
            "line": number,
        }

    folder = Folder.at(tmp_path / "prepare")
    table, index = pa.Table.from_pylist([row(number) for number in range(130)], EXAMPLES), []
    for start in range(0, 130, SHARD):
        name, shard = f"00000-{start:06d}", table.slice(start, SHARD)
        (folder / "pool").write_table(f"{name}.parquet", shard)
        index.append(shard.select(["id"]).append_column("shard", pa.array([name] * SHARD)))
    folder.write_table("index.parquet", pa.concat_tables(index))
    validation = pa.Table.from_pylist([{**row(number), "id": f"v{number}"} for number in range(3)], EXAMPLES)
    (folder / "targets" / "t").write_table("validation.parquet", validation)
    return folder


def picks_of(rows, **options):
    count = len(rows)
    columns = {
        "id": pa.array([f"{row:05d}" for row in rows], pa.string()),
        "rank": pa.array(np.arange(count)),
        "score": pa.array(np.linspace(1, 0, count)),
        "reason": pa.array([f"reason {row % 3}" for row in rows], pa.string()),
    }
    return Picks(pa.table(columns), **options)


CHOICES = {
    "some": {"rows": np.random.default_rng(1).permutation(130)[:40]},
    "all": {"rows": np.arange(130)},
    "one": {"rows": [77]},
    "none": {"rows": [], "validation": ["v2", "v0", "v2", "v1"]},
    "repeated": {"rows": np.random.default_rng(2).permutation(130)[:9], "lines": 31, "validation": ["v1", "v0"]},
    "fewer": {"rows": [5, 3, 8], "lines": 2},
}


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("small_parts", [False, True])
def test_the_bytes_are_those_of_all_rows_in_memory(name, small_parts, prepared, tmp_path, monkeypatch):
    if small_parts:
        for key, value in {"PART_BYTES": 500, "WINDOW_ROWS": 3, "JOB_SHARDS": 2, "OPEN_PARTS": 2}.items():
            monkeypatch.setattr(parts, key, value)
    picks = picks_of(**CHOICES[name])
    expected = write_plainly(prepared, Folder.at(tmp_path / "plain"), picks)
    result = write_rows(prepared, Folder.at(tmp_path / "own"), picks)
    for file in (ROWS, TABLE, TRAINING_SET):
        assert (tmp_path / "own" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes(), file
    assert {key: getattr(result, key) for key in expected} == expected
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == sorted([ROWS, TABLE, TRAINING_SET])


def test_the_size_of_the_training_set_counts_repeated_and_validation_rows(prepared, tmp_path):
    picks = picks_of(**CHOICES["repeated"])
    result = write_rows(prepared, Folder.at(tmp_path / "own"), picks)
    lengths = [len(row) for row in (Folder.at(tmp_path / "own")).read_table(TRAINING_SET)["input_ids"].to_pylist()]
    assert (result.training.rows, result.training.tokens) == (33, sum(lengths))
    assert (result.validation.rows, result.validation.tokens) == (2, sum(lengths[-2:]))


def test_large_batches_are_cut_and_have_the_same_rows(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(output, "BATCH_BYTES", 1000)
    picks, folder = picks_of(CHOICES["some"]["rows"]), Folder.at(tmp_path / "own")
    monkeypatch.setattr(parts, "WINDOW_ROWS", 3)
    write_rows(prepared, folder, picks)
    write_plainly(prepared, Folder.at(tmp_path / "plain"), picks)
    for file in (TABLE, TRAINING_SET):
        assert folder.read_table(file).equals(Folder.at(tmp_path / "plain").read_table(file))
    assert pq.ParquetFile(tmp_path / "own" / TABLE).num_row_groups > 1


def test_a_row_that_the_pool_lacks_is_an_error(prepared, tmp_path):
    with pytest.raises(InputError, match="lacks 2 of 3 rows that were chosen"):
        write_rows(prepared, Folder.at(tmp_path / "own"), picks_of([4, 400, 500]))


def test_shards_that_are_not_of_the_index_are_an_error(prepared, tmp_path):
    first, second = ((prepared / "pool").read_table(f"00000-{start:06d}.parquet") for start in (0, SHARD))
    (prepared / "pool").write_table("00000-000000.parquet", second)
    with pytest.raises(InputError, match="is not of the shards beside it"):
        write_rows(prepared, Folder.at(tmp_path / "own"), picks_of([4, 20]))
    (prepared / "pool").write_table("00000-000000.parquet", first.slice(0, 3))
    with pytest.raises(InputError, match="has 3 rows, fewer than the index says"):
        write_rows(prepared, Folder.at(tmp_path / "own"), picks_of([4, 20]))
    assert not (tmp_path / "own").exists() or not list((tmp_path / "own").iterdir())


def test_training_sets_of_several_runs_share_a_look_at_the_shards(prepared, tmp_path):
    sets = {"a": ["00100", "00003", "00040"], "b": ["00003"], "c": ["00129", "00003", "00003"]}
    folders = {name: Folder.at(tmp_path / name) for name in sets}
    write_training_sets(prepared, folders, sets)
    for name, ids in sets.items():
        table = folders[name].read_table(TRAINING_SET)
        assert table["id"].to_pylist() == ids
        shards = [(prepared / "pool").read_table(f"00000-{int(row) // SHARD * SHARD:06d}.parquet") for row in ids]
        expected = [shard["labels"][int(row) % SHARD].as_py() for shard, row in zip(shards, ids, strict=True)]
        assert table["labels"].to_pylist() == expected
