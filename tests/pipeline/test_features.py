"""The features stage: the same store whoever makes it and whoever dies on the way, and nothing of another store."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml

from instsel.arrays import unit_rows
from instsel.config.file import parse_study
from instsel.errors import StudyError
from instsel.gradients.features import feature_table, read_features, read_norms, read_provenance
from instsel.io.store import Folder
from instsel.pipeline import features
from instsel.pipeline.registry import build_graph
from instsel.runtime.actors import ActorPool
from instsel.runtime.errors import clear_errors
from instsel.runtime.session import ResourcePlan
from instsel.study.folder import StageFolder
from tests.studies import run_stage, stage_context

CHECKPOINTS = ["epoch-1", "epoch-2"]
# One row a batch: slow enough to be killed between two shards.
SLOW = {"dim": 64, "token_budget": 16}
RESOURCES = {"actors": 2, "threads_per_actor": 1}
KILL_SECONDS = 200


@pytest.fixture(scope="module")
def raw(finished_study: dict[str, Any]) -> dict[str, Any]:
    return {**finished_study, "features": SLOW, "resources": RESOURCES}


@pytest.fixture
def make(raw: dict[str, Any], tmp_path: Path) -> Callable[..., StageFolder]:
    return lambda **options: make_features(raw, tmp_path / "features", **options)


@pytest.fixture(scope="module")
def undisturbed(raw: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a features stage made by two actors of one thread each."""
    return Path(make_features(raw, tmp_path_factory.mktemp("undisturbed") / "features").folder.path)


def make_features(raw: dict[str, Any], folder: Path, actors: int = 2, **keys: Any) -> StageFolder:
    """Run the stage into a folder of its own, on the rows and the warmup of the finished study."""
    study = parse_study({**raw, "features": {**raw["features"], **keys}}, "test")
    stage = dataclasses.replace(build_graph(study, Folder.at(raw["out"]))["features"], folder=Folder.at(folder))
    resources = ResourcePlan(
        actors=actors, gpus=0, cpus=0.5, threads=1, workers=1, worker_gpus=0, worker_cpus=1, worker_threads=1
    )
    return run_stage(stage_context(study, resources, features=stage), "features")


def in_this_process(token_limit: int, ran_out: list[int]) -> Callable[..., Iterator[dict[str, Any]]]:
    """In place of `ActorPool.run`: two actors, here, whose memory takes so many tokens at once."""

    def run(pool: ActorPool, resources: ResourcePlan) -> Iterator[dict[str, Any]]:
        workers: list[Any] = [pool.actor(resources.threads, *pool.arguments) for _ in range(2)]
        for number, item in enumerate(pool.items):

            def embed(_: Any, reader: Any, number: int = number) -> None:
                if reader[0].numel() > token_limit:
                    ran_out.append(number)
                    raise torch.OutOfMemoryError

            worker = workers[number % 2]
            table = pool.rows.read_table(item["rows"], ["id", "input_ids", "labels"])
            with worker.base.get_input_embeddings().register_forward_pre_hook(embed):
                yield worker(item, table["id"].to_pylist(), table.select(["input_ids", "labels"]).to_pylist())

    return run


def shards(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.arrow"))}


def directions(folder: Path) -> np.ndarray:
    """Unit rows of all shards, in the order of their names."""
    tables = [Folder.at(folder).read_table(name) for name in shards(folder)]
    return np.concatenate([unit_rows(read_features(table)[1]) for table in tables])


def prepared_rows(raw: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Rows of every shard that a features stage makes at a checkpoint."""
    folder = Path(raw["out"], "prepare")
    places = {f"pool/{path.stem}": path for path in folder.glob("pool/*.parquet")}
    places |= {f"validation/{target}": folder / f"targets/{target}/validation.parquet" for target in raw["targets"]}
    return {name: Folder.at(path.parent).read_table(path.name).to_pylist() for name, path in places.items()}


def wait_for_first_shard(folder: Path, alive: Callable[[], bool]) -> None:
    deadline = time.monotonic() + KILL_SECONDS
    while not list(folder.rglob("*.arrow")):
        assert alive() and time.monotonic() < deadline, "it ended before it could be killed"
        time.sleep(0.005)


def test_every_row_has_one_feature_a_checkpoint(raw, undisturbed):
    expected = {name: [row["id"] for row in rows] for name, rows in prepared_rows(raw).items()}
    for checkpoint in CHECKPOINTS:
        folder = Folder.at(undisturbed / checkpoint)
        found = {name: read_features(folder.read_table(f"{name}.arrow"))[0] for name in expected}
        assert found == expected
    assert len(shards(undisturbed)) == len(CHECKPOINTS) * len(expected)


def test_one_actor_and_another_order_of_shards_give_the_same_bytes(make, undisturbed, monkeypatch):
    in_order = features.missing_items
    monkeypatch.setattr(features, "missing_items", lambda *work: in_order(*work)[::-1])
    assert shards(Path(make(actors=1).folder.path)) == shards(undisturbed)


@pytest.mark.long
@pytest.mark.guard
def test_an_actor_killed_in_the_middle_leaves_no_trace(make, undisturbed, tmp_path):
    folder, missing = tmp_path / "features", []

    def kill_an_actor() -> None:
        wait_for_first_shard(folder, lambda: True)
        actors = [p for p in psutil.Process().children(recursive=True) if p.name().startswith("ray::MapWorker")]
        actors[0].send_signal(signal.SIGKILL)
        missing.append(len(shards(undisturbed)) - len(shards(folder)))

    killer = threading.Thread(target=kill_an_actor, daemon=True)
    killer.start()
    make()
    killer.join(timeout=5)
    assert missing and missing[0] > 0
    assert shards(folder) == shards(undisturbed)
    assert not list(folder.rglob("*.part"))


@pytest.mark.long
@pytest.mark.guard
def test_driver_and_workers_killed_the_next_run_makes_only_what_was_missing(raw, undisturbed, tmp_path):
    out = tmp_path / "study"
    for part in ("prepare", "warmup"):
        shutil.copytree(Path(raw["out"], part), out / part)
    shutil.copy(Path(raw["out"], "study.json"), out)
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**raw, "out": str(out)}))
    command = [sys.executable, "-c", "from instsel.cli.app import app; app()", "run", str(path), "--until", "features"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_first_shard(out / "features", lambda: first.poll() is None)
    processes = psutil.Process(first.pid).children(recursive=True)
    for process in [first, *processes]:
        process.send_signal(signal.SIGKILL)
    first.wait()
    psutil.wait_procs(processes, timeout=30)
    kept = {name: (out / "features" / name).stat().st_mtime_ns for name in shards(out / "features")}
    missing = shards(undisturbed).keys() - kept.keys()
    assert kept and missing

    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert again.returncode == 0, again.stderr
    assert f"{len(kept)} of {len(kept) + len(missing)} shards were there already" in again.stdout
    assert {name: (out / "features" / name).stat().st_mtime_ns for name in kept} == kept
    assert shards(out / "features") == shards(undisturbed)
    rows = prepared_rows(raw)
    tokens = sum(row["tokens"] for name in missing for row in rows[name.partition("/")[2].removesuffix(".arrow")])
    assert json.loads((out / "features/manifest.json").read_text())["cost"]["tokens"] == tokens


def test_a_worker_that_runs_out_of_memory_goes_on_with_smaller_batches_and_it_is_told_once(
    make, undisturbed, monkeypatch, capsys
):
    ran_out: list[int] = []
    monkeypatch.setattr(ActorPool, "run", in_this_process(100, ran_out))
    made = Path(make(token_budget=512).folder.path)
    # Each of the two actors learned it at its first shard, and kept to it.
    assert set(ran_out) == {0, 1}
    told = [line for line in capsys.readouterr().out.splitlines() if "ran out of memory" in line]
    assert len(told) == 1
    assert "(features.token_budget is 512)" in told[0]
    assert shards(made).keys() == shards(undisturbed).keys()
    np.testing.assert_allclose(directions(made), directions(undisturbed), atol=1e-3)


def test_int8_takes_about_half_and_points_the_same_way(make, undisturbed, monkeypatch):
    monkeypatch.setattr(ActorPool, "run", in_this_process(10**6, []))
    stage = make(storage="int8")
    cosines = (directions(Path(stage.folder.path)) * directions(undisturbed)).sum(axis=1)
    assert cosines.min() > 0.999
    table = stage.folder.read_table("epoch-1/pool/00000-000000.arrow")
    assert read_features(table)[1].dtype == np.int8
    assert read_provenance(table.schema)["storage"] == "int8"


def test_the_manifest_says_what_every_checkpoints_features_depend_on(raw, undisturbed):
    provenance = json.loads((undisturbed / "manifest.json").read_text())["result"]["provenance"]
    assert list(provenance) == CHECKPOINTS
    for name in shards(undisturbed):
        checkpoint, kind, _ = name.split("/")
        assert read_provenance(Folder.at(undisturbed).read_table(name).schema) == provenance[checkpoint][kind]
    pool, validation = provenance["epoch-1"]["pool"], provenance["epoch-1"]["validation"]
    assert pool["gradient"] == {"kind": "Adam direction", "betas": [0.9, 0.999], "eps": 1e-8}
    assert pool["sketch"] == {"kind": "count sketch", "dim": 64, "seed": 0}
    assert "tokenizer.json" in pool["model"]
    assert (validation["gradient"], validation["moments"]) == ({"kind": "plain"}, None)
    later = provenance["epoch-2"]["pool"]
    assert {key for key in pool if pool[key] != later[key]} == {"adapter", "moments"}


def test_shards_of_another_warmup_are_not_gone_on_with(make, undisturbed, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "features"
    shutil.copytree(undisturbed, folder)
    (folder / "manifest.json").unlink()
    provenance = json.loads((folder / "provenance.json").read_text())
    ours, provenance["epoch-2"]["pool"]["adapter"] = provenance["epoch-2"]["pool"]["adapter"], "older"
    (folder / "provenance.json").write_text(json.dumps(provenance))
    monkeypatch.setattr(ActorPool, "run", in_this_process(10**6, []))
    before = {name: (folder / name).stat().st_mtime_ns for name in shards(folder)}
    make()
    assert f'made again: epoch-2.pool.adapter is "older", expected "{ours}"' in capsys.readouterr().out
    assert shards(folder) == shards(undisturbed)
    assert all((folder / name).stat().st_mtime_ns > before[name] for name in before)


@pytest.mark.parametrize(("place", "name"), [("epoch-2/pool", "00000-000001"), ("epoch-1/validation", "sums")])
def test_attribution_refuses_a_shard_with_one_other_pin_and_names_it(place, name, raw, undisturbed, tmp_path):
    graph = build_graph(parse_study(raw, "test"), Folder.at(raw["out"]))
    shutil.copytree(undisturbed, tmp_path / "features")
    folder = Folder.at(tmp_path / "features")
    table = (folder / place).read_table(f"{name}.arrow")
    provenance = read_provenance(table.schema)
    other = feature_table(
        *read_features(table), read_norms(table), {**provenance, "sketch": {**provenance["sketch"], "seed": 7}}
    )
    (folder / place).write_table(f"{name}.arrow", other)
    made = dataclasses.replace(graph["features"], folder=folder)
    stage = dataclasses.replace(graph["attribution", "cosine"], folder=Folder.at(tmp_path / "attribution"))
    refusal = rf"^features/{place}/{name}\.arrow is not of this study: sketch\.seed is 7, expected 0; delete"
    with pytest.raises(StudyError, match=refusal), clear_errors():
        folders = {"features": made, "attribution/cosine": stage}
        run_stage(stage_context(raw, **folders), "attribution", "cosine")


def test_attribution_refuses_features_of_a_warmup_that_was_made_again(raw, undisturbed, tmp_path):
    """The features are done, and their fingerprint holds: only the adapter's weights tell."""
    graph = build_graph(parse_study(raw, "test"), Folder.at(raw["out"]))
    shutil.copytree(Path(graph["warmup"].folder.path), tmp_path / "warmup")
    run = tmp_path / "warmup" / graph["warmup"].manifest()["result"]["run"]
    shutil.copy(run / "epoch-2" / "adapter_model.safetensors", run / "epoch-1" / "adapter_model.safetensors")
    warmup = dataclasses.replace(graph["warmup"], folder=Folder.at(tmp_path / "warmup"))
    made = dataclasses.replace(graph["features"], folder=Folder.at(undisturbed))
    stage = dataclasses.replace(graph["attribution", "cosine"], folder=Folder.at(tmp_path / "attribution"))
    with pytest.raises(StudyError, match=r"is not of this study: adapter is .*, expected"), clear_errors():
        folders = {"warmup": warmup, "features": made, "attribution/cosine": stage}
        run_stage(stage_context(raw, **folders), "attribution", "cosine")
