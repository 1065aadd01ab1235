"""A study on three nodes whose processes and machines go away, one after another: what it makes stays the same.

Run by `pytest -m long`; every disturbance takes a minute or two.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.numpy import load_file

from instsel.io.store import Folder
from instsel.study.folder import ATTEMPTS
from tests.cluster.nodes import WAIT_SECONDS, Nodes, three_nodes, wait_for
from tests.object_store import ObjectStore

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

POOL_ROWS, SHARD_ROWS = 240, 8
ACTOR, TRAINER = "ray::MapWorker(", "ray::RayTrainWorker"
DRIVER = "python jobs/run.py"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    # A short path: Ray's sockets lie below it.
    with three_nodes(tmp_path_factory.mktemp("ray")) as made:
        yield made


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, study_writer: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Keys of a study with thirty shards at two checkpoints, one row a batch, two workers on two nodes."""
    return study_writer(
        tmp_path_factory.mktemp("disturbed"),
        pool_rows=POOL_ROWS,
        data={"max_length": 128, "shard_rows": SHARD_ROWS},
        features={"dim": 64, "token_budget": 64},
        warmup={"share": 0.3, "epochs": 2, "learning_rate": 1e-2, "batch_size": 4},
        selection={"budget": 0.5, "methods": ["bids"]},
        finetune={"epochs": 2, "learning_rate": 1e-2, "batch_size": 4},
        resources={"actors": 2, "training_workers": 2, "checkpoint_minutes": 1e-6, "max_failures": 10},
    )


@pytest.fixture(scope="module")
def undisturbed(nodes: Nodes, study: dict[str, Any]) -> Path:
    """The folder of the study, run from its file to its report by a job that nothing happened to."""
    job = nodes.submit(write(study))
    assert nodes.ended(job) == "SUCCEEDED", nodes.log(job)
    return Path(study["out"])


@pytest.fixture
def again(undisturbed: Path, study: dict[str, Any], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Keys of the same study in another folder, with these of its stages done."""

    def make(*done: str) -> dict[str, Any]:
        out = tmp_path / "study"
        out.mkdir()
        for name in ("study.json", "prepare", "warmup", *done):
            place = undisturbed / name
            (shutil.copytree if place.is_dir() else shutil.copy)(place, out / name)
        return {**study, "out": str(out)}

    return make


def write(study: dict[str, Any]) -> Path:
    path = Path(study["out"]).with_suffix(".yaml")
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    return path


def shards(study: dict[str, Any], least: int) -> Callable[[], bool]:
    """Whether so many shards of features are there."""
    folder = Path(study["out"], "features")
    return lambda: sum(1 for _ in folder.rglob("*.arrow")) >= least


def amid_shards(study: dict[str, Any]) -> Callable[[], bool]:
    """Whether both actors have begun a shard of features that they have not committed.

    Where one is halted it stays so. What was begun is counted first: a shard that the other commits meanwhile can only
    make the answer no.
    """
    folder = Path(study["out"], "features")

    def look() -> bool:
        begun = sum(1 for path in (folder / ATTEMPTS).glob("[!.]*"))
        return begun - sum(1 for _ in folder.rglob("*.arrow")) >= 2

    return look


def assert_same(out: Path, other: Path) -> None:
    """The same features, selections, adapters and losses."""
    files = sorted(path.relative_to(other) for path in (other / "features").rglob("*.arrow"))
    files += [Path("select/bids", name) for name in ("selected.jsonl", "selected.parquet")]
    assert len(files) == 2 * (POOL_ROWS // SHARD_ROWS + 2) + 2
    for file in files:
        assert (out / file).read_bytes() == (other / file).read_bytes(), file
    for epoch in ("epoch-1", "epoch-2"):
        for name in ("adapter_model.safetensors", "moments.safetensors"):
            one, two = (load_file(place / "finetune/bids/run" / epoch / name) for place in (out, other))
            assert all((one[key] == two[key]).all() for key in two), name
    for target in ("sums", "cities"):
        one, two = (Folder.at(place / "evaluate/bids").read_table(f"{target}.parquet") for place in (out, other))
        assert one.equals(two)


def cost(study: dict[str, Any], stage: str) -> dict[str, Any]:
    return json.loads(Path(study["out"], stage, "manifest.json").read_text())["cost"]


def finish(nodes: Nodes, job: str, study: dict[str, Any], undisturbed: Path) -> str:
    """Wait for the job and compare what it made; its log."""
    status, log = nodes.ended(job), nodes.log(job)
    assert status == "SUCCEEDED", log
    assert_same(Path(study["out"]), undisturbed)
    return log


def test_a_submitted_study_runs_to_its_end_on_both_working_nodes(nodes: Nodes, undisturbed: Path) -> None:
    assert (undisturbed / "report" / "report.md").exists()
    again = {path.parent.name: json.loads(path.read_text())["cost"] for path in undisturbed.glob("*/manifest.json")}
    assert all(cost["rows_reprocessed"] == 0 for cost in again.values())


def test_a_feature_actor_is_killed(nodes: Nodes, again: Callable[..., dict[str, Any]], undisturbed: Path) -> None:
    study = again()
    job = nodes.submit(write(study))
    wait_for(shards(study, 8), "shards")
    nodes.halt(ACTOR, amid_shards(study)).kill()
    log = finish(nodes, job, study, undisturbed)
    rows = cost(study, "features")["rows_reprocessed"]
    assert 0 < rows <= 3 * SHARD_ROWS
    assert f"rows whose work was done again after processes or machines were lost: features {rows}" in log
    assert "rows again" in Path(study["out"], "report", "report.md").read_text()


def test_a_working_node_is_lost_and_another_joins(
    nodes: Nodes, again: Callable[..., dict[str, Any]], undisturbed: Path
) -> None:
    study = again()
    job = nodes.submit(write(study))
    wait_for(shards(study, 8), "shards")
    nodes.lose(nodes.halt(ACTOR, amid_shards(study)))
    nodes.add()
    finish(nodes, job, study, undisturbed)
    assert 0 < cost(study, "features")["rows_reprocessed"] < POOL_ROWS


def test_the_driver_is_killed_and_the_job_submitted_again(
    nodes: Nodes, again: Callable[..., dict[str, Any]], undisturbed: Path
) -> None:
    study = again()
    path = write(study)
    job = nodes.submit(path)
    wait_for(shards(study, 8), "shards")
    actor = nodes.halt(ACTOR, amid_shards(study))
    nodes.kill(DRIVER)
    assert nodes.ended(job) == "FAILED"
    actor.kill()
    # The other one may commit what it has under way.
    wait_for(lambda: not nodes.processes(ACTOR), "the end of the actors")
    there = sum(1 for _ in Path(study["out"], "features").rglob("*.arrow"))
    log = finish(nodes, nodes.submit(path), study, undisturbed)
    assert f"{there} of {2 * (POOL_ROWS // SHARD_ROWS + 2)} shards were there already" in log
    assert 0 < cost(study, "features")["rows_reprocessed"] <= 3 * SHARD_ROWS


def test_a_training_worker_is_killed_in_the_middle_of_an_epoch(
    nodes: Nodes, again: Callable[..., dict[str, Any]], undisturbed: Path
) -> None:
    study = again("features", "attribution", "select")
    job = nodes.submit(write(study))
    latest = Path(study["out"], "finetune", "bids", "step-checkpoints", "latest.json")
    # Thirty steps an epoch.
    wait_for(lambda: latest.exists() and json.loads(latest.read_text())["step"] >= 5, "a checkpoint inside an epoch")
    nodes.kill(TRAINER)
    finish(nodes, job, study, undisturbed)
    spent, whole = cost(study, "finetune/bids"), json.loads((undisturbed / "finetune/bids/manifest.json").read_text())
    assert 0 <= spent["rows_reprocessed"] <= 12
    epochs = [one["tokens"] for one in whole["result"]["checkpoints"].values()]
    # Every row once an epoch, and beside that only what is counted.
    assert sum(epochs) <= spent["tokens"] <= sum(epochs) + spent["rows_reprocessed"] * 128


@pytest.mark.guard
def test_the_object_store_is_away_for_20_seconds(
    nodes: Nodes, study: dict[str, Any], undisturbed: Path, object_store: ObjectStore, tmp_path: Path
) -> None:
    for name in ("study.json", "prepare", "warmup"):
        files = [undisturbed / name] if name.endswith(".json") else (undisturbed / name).rglob("*.*")
        for file in files:
            if file.is_file():
                place = Folder.at("s3://studies/one") / file.parent.relative_to(undisturbed).as_posix()
                place.put(file.name, file)
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**study, "out": "s3://studies/one"}), encoding="utf-8")
    job = nodes.submit(path)
    object_store.wait_for("studies", "one/features/epoch-1/pool/00000-000004.arrow", WAIT_SECONDS)
    object_store.refuse(20)
    status, log = nodes.ended(job), nodes.log(job)
    assert status == "SUCCEEDED", log
    copy = Folder.at(tmp_path / "copy")
    for name, data in object_store.objects("studies").items():
        parent, _, last = name.rpartition("/")
        (copy / parent).write(last, data)
    assert_same(tmp_path / "copy" / "one", undisturbed)
    manifest = (copy / "one" / "features").read_json("manifest.json")
    # Whoever met the outage waited; nobody had to begin again.
    assert manifest["cost"]["rows_reprocessed"] == 0 and manifest["cost"]["seconds"] > 20
