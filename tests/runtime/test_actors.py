"""Items that go through a pool of actors, some of which die."""

import os
import signal
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
import ray
from ray._private.internal_api import get_memory_info_reply, get_state_from_address

from instsel.errors import StudyError
from instsel.io.store import Folder
from instsel.runtime import actors, attempts
from instsel.runtime.actors import ActorPool
from instsel.runtime.errors import clear_errors
from instsel.runtime.session import TOKENS_PER_PROCESS
from instsel.study.resources import ResourcePlan

SINGLE_ACTOR = ResourcePlan(
    actors=1, gpus=0, cpus=0.5, threads=1, workers=1, worker_gpus=0, worker_cpus=1, worker_threads=1
)


@pytest.fixture
def rows(tmp_path: Path) -> Folder:
    folder = Folder.at(tmp_path)
    for name in ("a", "b", "c"):
        table = pa.table({"id": [name], "tokens": [2], "input_ids": [[1, 2]], "labels": [[-100, 2]], "more": ["x"]})
        folder.write_table(f"{name}.parquet", table)
    return folder


def store_bytes() -> int:
    """Bytes in Ray's object store."""
    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    return get_memory_info_reply(state).store_stats.object_store_bytes_used


def items(**keys: str) -> list[dict[str, str]]:
    return [{"rows": f"{name}.parquet", **keys} for name in ("a", "b", "c")]


def test_every_item_meets_its_rows_once(rows, ray_session):
    class Worker:
        def __init__(self, threads, greeting):
            self.greeting = greeting

        def __call__(self, item, ids, examples):
            return {"said": f"{self.greeting} {item['name']}", "ids": ids, "first": examples[0]["input_ids"]}

    results = list(ActorPool("test", items(name="you"), rows, Worker, ("hello",), lambda item: rows).run(SINGLE_ACTOR))
    assert sorted(result["ids"] for result in results) == [["a"], ["b"], ["c"]]
    assert all(result["said"] == "hello you" and result["first"] == [1, 2] for result in results)


def counters() -> set[int]:
    """Processes that count attempts."""
    children = psutil.Process().children(recursive=True)
    return {each.pid for each in children if each.is_running() and "_AttemptCo" in each.name()}


def test_bug_the_process_that_counts_attempts_outlived_its_stage(rows, ray_session):
    class Worker:
        def __init__(self, threads):
            pass

        def __call__(self, item, ids, examples):
            return {"rows": len(ids)}

    before, seen = counters(), set()
    for _ in ActorPool("test", items(), rows, Worker, (), lambda item: rows).run(SINGLE_ACTOR):
        seen |= counters() - before
    assert seen
    deadline = time.monotonic() + 30
    while counters() & seen and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not counters() & seen


def test_examples_have_the_columns_asked_for(rows, ray_session):
    class Worker:
        def __init__(self, threads):
            pass

        def __call__(self, item, ids, examples):
            return {"keys": sorted(examples[0]), "more": examples[0]["more"][0]["role"]}

    messages = pa.table({"id": ["a"], "tokens": [1], "more": [[{"role": "user"}]], "labels": [[1]]})
    rows.write_table("a.parquet", messages)
    (result,) = ActorPool("test", items()[:1], rows, Worker, (), lambda item: rows, ["more"]).run(SINGLE_ACTOR)
    assert (result["keys"], result["more"]) == (["more"], "user")


def test_tokens_wait_for_an_actor_in_the_type_they_are_stored_in(rows):
    stored = pa.table({"id": ["a", "b"], "input_ids": pa.array([[1, 2], [3]], pa.list_(pa.int32()))})
    rows.write_table("a.parquet", stored)
    table = actors._read_rows(pa.table({"item": ['{"rows": "a.parquet"}']}), rows=rows, columns=["input_ids"])
    assert (table["id"].to_pylist(), table["input_ids"].to_pylist()) == ([["a", "b"]], [[[1, 2], [3]]])
    assert table.schema.field("input_ids").type == pa.list_(pa.list_(pa.int32()))


@pytest.mark.parametrize(
    ("tokens", "actors"),
    [(10, 1), (4 * TOKENS_PER_PROCESS, 4), (100 * TOKENS_PER_PROCESS, 8), (2 * TOKENS_PER_PROCESS - 2, 1)],
)
def test_no_more_actors_are_started_than_the_work_is_worth(tmp_path, tokens, actors):
    Folder.at(tmp_path).write_table("a.parquet", pa.table({"tokens": [tokens // 2]}))
    work = [{"rows": "a.parquet"}, {"rows": "a.parquet"}]
    pool = ActorPool("test", work, Folder.at(tmp_path), None, (), lambda item: Folder.at(tmp_path))
    assert pool.useful_actors(8) == actors


@pytest.mark.long
def test_what_is_read_ahead_of_slow_actors_is_bounded(rows, ray_session, monkeypatch):
    class Worker:
        def __init__(self, threads):
            self.first = True

        def __call__(self, item, ids, examples):
            if self.first:
                time.sleep(6)
            self.first = False
            return {"rows": len(ids)}

    tokens = pa.array([[7] * 250_000], pa.list_(pa.int32()))
    rows.write_table("a.parquet", pa.table({"id": ["a"], "tokens": [250_000], "input_ids": tokens}))
    work = [{"rows": "a.parquet", "name": str(number)} for number in range(80)]
    monkeypatch.setattr(actors, "AHEAD_BYTES", 4 * 2**20)
    before, seen = store_bytes(), []
    for _ in ActorPool("test", work, rows, Worker, (), lambda item: rows, ["input_ids"]).run(SINGLE_ACTOR):
        seen.append(store_bytes() - before)
    # Without the bound most of the 80 tables of 1 MB lie there when the first is done. On a busy
    # machine what was worked on takes a while to go, so that with the bound up to 18 MB were seen.
    assert 1e6 <= max(seen) < 40e6


@pytest.mark.long
@pytest.mark.parametrize("where", ["loading", "working"])
def test_rows_at_which_every_worker_dies_end_the_run(where, rows, ray_session, monkeypatch):
    class Worker:
        def __init__(self, threads):
            if where == "loading":
                os.kill(os.getpid(), signal.SIGKILL)

        def __call__(self, item, ids, examples):
            if ids == ["b"]:
                os.kill(os.getpid(), signal.SIGKILL)
            return {}

    monkeypatch.setattr(attempts, "MOST_ATTEMPTS", 2)
    with pytest.raises(StudyError, match=r"^[abc]\.parquet: 2 workers died at these rows"), clear_errors():
        list(ActorPool("test", items(), rows, Worker, (), lambda item: rows).run(SINGLE_ACTOR))
