"""Trackers get what is logged, go on where a run goes on, and never stop it."""

import logging
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from instsel import tracking
from instsel.config.file import parse_study
from instsel.config.study import StudyConfig, Tracking
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.study.folder import open_folder
from instsel.tracking import check_tracking, tracked
from tests.events import scalars


@pytest.fixture
def study(tmp_path: Path) -> Any:
    """Makes a study with trackers, and its folder."""

    def make(**trackers: str) -> tuple[StudyConfig, Folder]:
        raw = {
            "name": "s",
            "out": str(tmp_path / "out"),
            "model": {"name": "m"},
            "pool": [{"path": "p.jsonl"}],
            "targets": {"t": {"validation": "v.jsonl"}},
            "selection": {"budget": 1, "methods": ["random"]},
            "tracking": trackers,
        }
        checked = parse_study(raw, "test")
        return checked, open_folder(checked.out, checked.name)

    return make


def send(study: StudyConfig, folder: Folder, losses: list[float], first: int = 1) -> None:
    with tracked(study, folder / "finetune" / "bids", "f00d", {"epochs": 2, "betas": (0.9, 0.99)}) as run:
        for step, loss in enumerate(losses, start=first):
            run.log({"loss": loss}, step)


def test_tensorboard_has_event_files_by_study_and_run(study: Any, tmp_path: Path) -> None:
    made, folder = study(tensorboard=str(tmp_path / "boards"))
    send(made, folder, [2.5, 1.5])
    assert scalars(tmp_path / "boards/s/finetune/bids") == [("loss", 1, 2.5), ("loss", 2, 1.5)]


@pytest.mark.process
def test_mlflow_goes_on_with_the_run_that_goes_on(study: Any, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    place = f"sqlite:///{tmp_path / 'mlflow.db'}"
    made, folder = study(mlflow=place)
    send(made, folder, [2.5, 1.5])
    send(made, folder, [1.25], first=3)
    client = MlflowClient(place)
    (run,) = client.search_runs([client.get_experiment_by_name("s").experiment_id])
    assert (run.info.run_name, run.info.status) == ("finetune/bids", "FINISHED")
    assert run.data.params == {"epochs": "2", "betas": "(0.9, 0.99)"}
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(one.step, one.value) for one in history] == [(1, 2.5), (2, 1.5), (3, 1.25)]


@pytest.mark.process
def test_weights_and_biases_gets_the_losses_and_nothing_of_the_machine(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    made, folder = study(wandb="project")
    send(made, folder, [2.5, 1.5])
    (log,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    # The service of W&B writes the file on its own time.
    deadline = time.monotonic() + 60
    while b"2.5" not in (written := log.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.1)
    for expected in (b"finetune/bids", b"project", b"loss", b"2.5", b"epochs"):
        assert expected in written
    for name in ("HF_TOKEN", "OPENAI_API_KEY", "WANDB_API_KEY"):
        assert os.environ[name].encode() not in written


@pytest.mark.process
def test_a_server_that_is_away_holds_a_run_up_for_seconds(
    study: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{taken.getsockname()[1]}"
        checked, folder = study(tensorboard=str(tmp_path / "boards"), mlflow=away)
        began = time.monotonic()
        with caplog.at_level(logging.WARNING, logger="instsel"):
            send(checked, folder, [2.5, 1.5])
    assert time.monotonic() - began < 60
    warnings = [record.getMessage() for record in caplog.records if record.name == "instsel"]
    assert [warning.partition(" takes")[0] for warning in warnings] == ["finetune/bids: MLflow"]
    assert len(scalars(tmp_path / "boards/s/finetune/bids")) == 2


class Broken:
    """Takes one value."""

    opened = 0

    def __init__(self, where: str, *_: Any) -> None:
        if where == "nowhere":
            raise ConnectionError("nobody is there")
        self.taken = 0

    def log(self, values: Any, step: int) -> None:
        self.taken += 1
        if self.taken > 1:
            raise ConnectionError("it has\ngone")

    def close(self) -> None:
        raise ConnectionError("still gone")


@pytest.mark.parametrize(("where", "why"), [("nowhere", "nobody is there"), ("somewhere", "it has gone")])
def test_a_tracker_that_fails_is_told_of_once_and_the_others_go_on(
    where: str,
    why: str,
    study: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tracking, "MLflow", Broken)
    made, folder = study(tensorboard=str(tmp_path / "boards"), mlflow=where)
    with caplog.at_level(logging.WARNING, logger="instsel"):
        send(made, folder, [3.0, 2.0, 1.0])
    assert [record.getMessage() for record in caplog.records] == [f"finetune/bids: Broken takes nothing more: {why}"]
    assert len(scalars(tmp_path / "boards/s/finetune/bids")) == 3


def test_a_missing_package_is_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    check_tracking(Tracking(tensorboard="boards", mlflow="http://host:5000", wandb="project"))
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    check_tracking(Tracking())
    with pytest.raises(InputError, match=r"tracking.wandb needs the package wandb; .* 'instsel\[track\]'"):
        check_tracking(Tracking(wandb="project"))


def test_nothing_of_a_result_depends_on_trackers(tiny_study: Any, tmp_path: Path) -> None:
    from instsel.pipeline.registry import build_graph

    folder = Folder.at(tmp_path / "study")
    without = build_graph(parse_study(tiny_study(), "test"), folder)
    told = build_graph(parse_study(tiny_study(tracking={"wandb": "project"}), "test"), folder)
    assert [stage.fingerprint for stage in without.until("report")] == [s.fingerprint for s in told.until("report")]
