"""Items that go through a pool of actors, some of which die."""

import os
import signal
from pathlib import Path

import pyarrow as pa
import pytest

from instsel.errors import StudyError
from instsel.stages import starts
from instsel.stages.actors import through_actors
from instsel.stages.errors import clear_errors
from instsel.stages.session import Allotment
from instsel.storage import Folder

ONE = Allotment(actors=1, gpus=0, cpus=0.5, threads=1, workers=1, worker_gpus=0, worker_cpus=1, worker_threads=1)


@pytest.fixture
def rows(tmp_path: Path) -> Folder:
    folder = Folder.at(tmp_path)
    for name in ("a", "b", "c"):
        table = pa.table({"id": [name], "input_ids": [[1, 2]], "labels": [[-100, 2]], "more": ["x"]})
        folder.write_table(f"{name}.parquet", table)
    return folder


def items(**keys: str) -> list[dict[str, str]]:
    return [{"rows": f"{name}.parquet", **keys} for name in ("a", "b", "c")]


def test_every_item_meets_its_rows_once(rows, ray_session):
    class Worker:
        def __init__(self, threads, greeting):
            self.greeting = greeting

        def __call__(self, item, ids, examples):
            return {"said": f"{self.greeting} {item['name']}", "ids": ids, "first": examples[0]["input_ids"]}

    results = list(through_actors(items(name="you"), rows, Worker, ("hello",), ONE, lambda item: rows))
    assert sorted(result["ids"] for result in results) == [["a"], ["b"], ["c"]]
    assert all(result["said"] == "hello you" and result["first"] == [1, 2] for result in results)


def test_examples_have_the_columns_asked_for(rows, ray_session):
    class Worker:
        def __init__(self, threads):
            pass

        def __call__(self, item, ids, examples):
            return {"keys": sorted(examples[0]), "more": examples[0]["more"][0]["role"]}

    messages = pa.table({"id": ["a"], "more": [[{"role": "user"}]], "labels": [[1]]})
    rows.write_table("a.parquet", messages)
    (result,) = through_actors(items()[:1], rows, Worker, (), ONE, lambda item: rows, columns=["more"])
    assert (result["keys"], result["more"]) == (["more"], "user")


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

    monkeypatch.setattr(starts, "MOST_STARTS", 2)
    with pytest.raises(StudyError, match=r"^[abc]\.parquet: 2 workers died at these rows"), clear_errors():
        list(through_actors(items(), rows, Worker, (), ONE, lambda item: rows))
