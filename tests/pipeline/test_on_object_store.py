"""A study whose data and folder are behind s3://, as it should be and while the server is away.

The server is away for 3 seconds, or for as many as OUTAGE_SECONDS in the environment says.
"""

import json
import os
import shutil
from pathlib import Path

import pytest

from instsel.choice.explain import explain
from instsel.choice.reselect import SelectionRequest, reselect
from instsel.config.file import load_study, parse_study
from instsel.console import Terminal
from instsel.io.store import Folder
from instsel.pipeline.runner import run_study
from instsel.search.run import search_study
from tests.object_store import KEYS, meanwhile

pytestmark = pytest.mark.long

BUCKET = "studies"
OUTAGE = float(os.environ.get("OUTAGE_SECONDS", "3"))
ADAPTER = "warmup/run/epoch-2/adapter_model.safetensors"


@pytest.fixture
def remote(object_store, finished_study, monkeypatch, tmp_path):
    """The keys of the finished study with its data, and the folder of the study to be, in the store."""
    monkeypatch.chdir(tmp_path)
    _put_below(finished_study["root"], Folder.at(f"s3://{BUCKET}/data"), "*.jsonl")
    return {**finished_study, "root": f"s3://{BUCKET}/data", "out": f"s3://{BUCKET}/study"}


def _put_below(root: str, folder: Folder, pattern: str = "*") -> None:
    for file in Path(root).rglob(pattern):
        if file.is_file():
            (folder / file.parent.relative_to(root).as_posix()).put(file.name, file)


def _local(finished_study, name):
    return Path(finished_study["out"], name).read_bytes()


def test_a_study_in_a_store_is_the_same_as_on_a_disk(remote, object_store, finished_study, capsys):
    run_study(parse_study(remote, "test"), Terminal())
    objects = {name.removeprefix("study/"): data for name, data in object_store.objects(BUCKET).items()}
    for name in ("prepare/index.parquet", ADAPTER, "select/bids/selected.jsonl", "select/random/selected.jsonl"):
        assert objects[name] == _local(finished_study, name)
    summaries = (objects["report/summary.json"], _local(finished_study, "report/summary.json"))
    assert json.loads(summaries[0])["losses"] == json.loads(summaries[1])["losses"]
    assert not [name for name in objects if name.endswith(".part")]
    written = b"".join(data for name, data in objects.items() if not name.endswith((".parquet", ".safetensors")))
    assert not [key for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if KEYS[key].encode() in written]

    before = {name: data for name, data in objects.items() if name.endswith("manifest.json")}
    run_study(parse_study(remote, "test"), Terminal())
    assert "nothing to do" in capsys.readouterr().out
    after = {name.removeprefix("study/"): data for name, data in object_store.objects(BUCKET).items()}
    assert {name: after[name] for name in before} == before
    assert after["instsel.log"].startswith(objects["instsel.log"]) and b"nothing to do" in after["instsel.log"]

    selection = reselect(remote["out"], SelectionRequest("less", "4"), print)
    rows = selection.folder.read("selected.jsonl").splitlines()
    assert (selection.result.rows, len(rows)) == (4, 4)
    row = json.loads(rows[0])["id"]
    told, expected = explain(remote["out"], row), explain(finished_study["out"], row)
    assert (told.helped, told.hurt) == (expected.helped, expected.hurt)


def test_a_study_goes_on_where_the_store_was_away(remote, object_store, finished_study):
    def away() -> None:
        object_store.wait_for(BUCKET, "study/prepare/started.json")
        object_store.hang(OUTAGE)
        # The first file of a checkpoint is there, the others are under way.
        object_store.wait_for(BUCKET, "study/warmup/run/epoch-1/adapter_config.json")
        object_store.refuse(OUTAGE)

    outages = meanwhile(away)
    run_study(parse_study(remote, "test"), Terminal(), until="warmup")
    outages.join()
    objects = object_store.objects(BUCKET)
    for name in ("prepare/index.parquet", ADAPTER):
        assert objects[f"study/{name}"] == _local(finished_study, name)
    epochs = json.loads(objects["study/warmup/manifest.json"])["result"]["checkpoints"]
    assert [(epoch["epoch"], epoch["step"]) for epoch in epochs.values()] == [(1, 3), (2, 6)]


def test_a_mixture_and_a_search_in_a_store_are_those_of_a_disk(remote, object_store, finished_study, tmp_path, capsys):
    runs = {"bases": 1, "base_rows": 6, "added_rows": 3, "removals": False}
    mixture = {"categories": "source", "evaluation_rows": 2, "least_rows": 4, "unknown": "zero"}
    mixture |= {"estimator": "interventions", "interventions": runs}
    search = {"space": {"finetune.learning_rate": [1e-3, 1e-2]}, "searcher": "grid", "trials": 2}
    selection = {"budget": 4, "methods": [{"method": "random", "mixture": "pool"}]}
    more = {"mixture": mixture, "search": search, "selection": selection}
    places = [tmp_path / "study", f"s3://{BUCKET}/study"]
    shutil.copytree(finished_study["out"], places[0])
    _put_below(finished_study["out"], Folder.at(places[1]))
    for raw, place in zip((finished_study, remote), places, strict=True):
        study = parse_study({**raw, **more, "out": str(place)}, "test")
        run_study(study, Terminal(), until="select")
        search_study(study, Terminal())
        capsys.readouterr()
        run_study(study, Terminal(), until="select")
        search_study(study, Terminal())
        told = capsys.readouterr().out
        assert "study tiny: nothing to do" in told and "search of tiny: nothing to do" in told

    ours, theirs = ((Folder.at(place) / "search").read_json("summary.json")["trials"] for place in places)
    assert [(one["point"], one["searched"], one["judged"]) for one in ours] == [
        (one["point"], one["searched"], one["judged"]) for one in theirs
    ]
    for name in ("select/random/selected.jsonl", "interaction/interventions/runs.parquet"):
        assert Folder.at(places[0]).read(name) == Folder.at(places[1]).read(name)
    best = load_study(f"s3://{BUCKET}/study/search/best.yaml")
    assert best.out == f"s3://{BUCKET}/study-best"
