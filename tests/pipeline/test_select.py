"""Stage *select* writes by tasks of Ray: the same bytes as in one process, and what a task raises."""

import pytest

from benchmarks.selection_writing import make_picks, make_pool
from instsel.choice import parts
from instsel.choice.output import ROWS, TABLE, TRAINING_SET, write_rows
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.pipeline.select import run_in_tasks


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """A pool of 5,000 rows in five shards, and its ids."""
    prepared = Folder.at(tmp_path_factory.mktemp("study")) / "prepare"
    return prepared, make_pool(prepared, 5000, 20)


def test_fault_14_tasks_write_what_one_process_writes(pool, ray_session, tmp_path, monkeypatch):
    prepared, ids = pool
    # Several tasks.
    monkeypatch.setattr(parts, "JOB_SHARDS", 2)
    picks = make_picks(ids, 700)
    results = [
        write_rows(prepared, Folder.at(tmp_path / "tasks"), picks, run_in_tasks),
        write_rows(prepared, Folder.at(tmp_path / "here"), picks),
    ]
    assert results[0] == results[1]
    for name in (ROWS, TABLE, TRAINING_SET):
        assert (tmp_path / "tasks" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    assert len(list((tmp_path / "tasks").iterdir())) == 3


def test_a_damaged_shard_is_named_by_the_task_that_reads_it(pool, ray_session, tmp_path):
    prepared, ids = pool
    name = "00000-002000.parquet"
    whole = (prepared / "pool").read(name)
    (prepared / "pool").write(name, whole[:-100])
    try:
        with pytest.raises(InputError, match=f"{name} is damaged"):
            write_rows(prepared, Folder.at(tmp_path / "select"), make_picks(ids, 700), run_in_tasks)
    finally:
        (prepared / "pool").write(name, whole)
    assert not (Folder.at(tmp_path / "select")).names()
