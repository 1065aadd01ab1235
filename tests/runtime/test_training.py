import io
import json
import os
import signal
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pyarrow as pa
import pytest
import ray
import torch
from peft import PeftModel
from ray.exceptions import RayActorError
from rich.console import Console
from safetensors.torch import load_file

from instsel.config.study import Lora, Model, StudyConfig, Tracking
from instsel.console import Terminal
from instsel.errors import Diverged, InputError, StudyError
from instsel.io.store import Folder
from instsel.models.loading import attach_lora, load_base
from instsel.runtime import training_worker
from instsel.runtime.errors import clear_errors
from instsel.runtime.session import TOKENS_PER_PROCESS
from instsel.runtime.training import run_training, run_trainings, train_side_by_side
from instsel.runtime.training_group import TrainingFollower
from instsel.runtime.training_progress import progress_actor
from instsel.runtime.training_run import Trained, TrainingRun, TrainingSession
from instsel.runtime.training_worker import GroupWork, WorkerRun, last_checkpoint
from instsel.study.folder import StageFolder
from instsel.study.resources import ResourcePlan
from instsel.study.results import Checkpoint
from instsel.training.checkpoint import read_checkpoint
from instsel.training.dataset import SCHEMA
from instsel.training.schedule import TrainSettings
from tests.events import scalars

ROWS, LENGTH = 120, 9
TWO_WORKERS = ResourcePlan(
    actors=1, gpus=0, cpus=1, threads=1, workers=2, worker_gpus=0, worker_cpus=0.5, worker_threads=1
)
EPOCHS = ["epoch-1", "epoch-2", "epoch-3"]


@pytest.fixture
def study(tiny_study: Any) -> StudyConfig:
    warmup = {"share": 0.5, "epochs": 3, "learning_rate": 1e-2, "batch_size": 4, "micro_batch_size": 1}
    return StudyConfig.model_validate(tiny_study(warmup=warmup))


def train(study: StudyConfig, folder: Path) -> Any:
    """Train as the warmup stage does, on random rows."""
    stage = StageFolder(Folder.at(folder).create(), "warmup", {})
    return run_training(session(study), TrainingRun("warmup", stage, study.warmup, written(stage), 0))


def written(stage: StageFolder, seed: int = 0) -> tuple[Folder, str]:
    """Random rows as the training set of a stage."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 200, (ROWS, LENGTH), generator=generator).tolist()
    table = [{"id": str(row), "input_ids": ids, "labels": [-100, *ids[1:]]} for row, ids in enumerate(tokens)]
    stage.folder.write_table("rows.arrow", pa.Table.from_pylist(table, schema=SCHEMA))
    return stage.folder, "rows.arrow"


def session(study: StudyConfig, workers: int = 2) -> TrainingSession:
    return TrainingSession(study, replace(TWO_WORKERS, workers=workers), Terminal(Console(file=io.StringIO())))


def kill_a_worker_at(step: int, run: Path, killed: list[int]) -> None:
    """Kill one training worker once there is a checkpoint of this step or a later one inside an epoch."""
    latest = run / "step-checkpoints" / "latest.json"
    while not latest.exists() or json.loads(latest.read_text())["step"] < step:
        time.sleep(0.01)
    for process in psutil.Process().children(recursive=True):
        if process.name().startswith("ray::RayTrain"):
            process.send_signal(signal.SIGKILL)
            killed.append(process.pid)
            return


def weights(folder: Path) -> dict[str, torch.Tensor]:
    names = ("adapter_model.safetensors", "moments.safetensors")
    return {key: tensor for name in names for key, tensor in load_file(folder / name).items()}


@pytest.mark.long
@pytest.mark.guard
def test_a_worker_killed_inside_an_epoch_costs_a_step_and_changes_nothing(
    ray_session, study: StudyConfig, tmp_path: Path
):
    run = tmp_path / "run"
    often = study.model_copy(update={"resources": study.resources.model_copy(update={"checkpoint_minutes": 1e-6})})
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker_at, args=(40, tmp_path, killed), daemon=True)
    killer.start()
    trained = train(often, tmp_path)
    killer.join(timeout=5)
    assert killed
    metrics = trained.result.checkpoints
    assert list(metrics) == EPOCHS
    assert [metrics[name].step for name in EPOCHS] == [30, 60, 90]
    # Every row was learned from once an epoch; what was taken again came after the last checkpoint, and is counted.
    assert sum(metrics[name].tokens for name in EPOCHS) == 3 * ROWS * LENGTH
    assert trained.rows_reprocessed <= 8
    assert trained.tokens == (3 * ROWS + trained.rows_reprocessed) * LENGTH
    assert metrics["epoch-3"].loss < metrics["epoch-1"].loss
    assert not (tmp_path / "step-checkpoints").exists()

    # Its checkpoints are PEFT adapters, and their moments fit the model that the next stage builds.
    PeftModel.from_pretrained(load_base(study.model), str(run / "epoch-3"))
    moments, state = read_checkpoint(run / "epoch-3", attach_lora(load_base(study.model), study.lora, 0))
    assert (state.epoch, state.step) == (3, 90)
    assert len(moments) == 2 * 4 * 2

    # Without the files that make its checkpoints count it starts from the beginning; undisturbed, it leaves the same.
    disturbed = {name: weights(run / name) for name in EPOCHS}
    for name in EPOCHS:
        (run / name / "metrics.json").unlink()
    tracking = Tracking(tensorboard=str(tmp_path / "boards"))
    again = train(study.model_copy(update={"tracking": tracking}), tmp_path)
    assert (again.tokens, again.rows_reprocessed) == (3 * ROWS * LENGTH, trained.rows_reprocessed + 3 * ROWS)
    for name in EPOCHS:
        whole = weights(run / name)
        assert all(torch.equal(disturbed[name][key], whole[key]) for key in whole)
        assert timeless(again.result.checkpoints[name]) == timeless(metrics[name])

    # Its tracker has every step and epoch.
    (board,) = {path.parent for path in (tmp_path / "boards").rglob("events.out.tfevents.*")}
    logged = scalars(board)
    assert [step for name, step, _ in logged if name == "loss"] == list(range(1, 91))
    epochs = [(step, loss) for name, step, loss in logged if name == "epoch_loss"]
    assert epochs == [(30 * n, pytest.approx(metrics[f"epoch-{n}"].loss)) for n in (1, 2, 3)]


@pytest.mark.long
@pytest.mark.guard
def test_fault_05_a_run_resumes_inside_an_epoch_with_another_number_of_workers(
    ray_session, study: StudyConfig, tmp_path: Path
):
    """Every step takes the rows that it would have taken, so that the losses are those of an undisturbed run."""
    resources = study.resources.model_copy(update={"checkpoint_minutes": 1e-6, "max_failures": 0})
    often = study.model_copy(update={"resources": resources})
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker_at, args=(40, tmp_path / "one", killed), daemon=True)
    killer.start()
    with pytest.raises(Exception), clear_errors():  # noqa: B017
        train(often, tmp_path / "one")
    killer.join(timeout=5)
    assert killed

    stage = StageFolder(Folder.at(tmp_path / "one"), "warmup", {})
    alone, out = session(often, workers=1), io.StringIO()
    alone = replace(alone, console=Terminal(Console(file=out, width=500)))
    resumed = run_training(alone, TrainingRun("warmup", stage, study.warmup, (stage.folder, "rows.arrow"), 0))
    assert "warmup resumes at step" in out.getvalue()
    assert "with 1 worker in place of 2: every step has the rows that it would have had" in out.getvalue()
    whole = train(study, tmp_path / "other")
    for name in EPOCHS:
        ended, undisturbed = resumed.result.checkpoints[name], whole.result.checkpoints[name]
        assert (ended.step, ended.tokens) == (undisturbed.step, undisturbed.tokens)
        assert ended.loss == pytest.approx(undisturbed.loss, rel=1e-4)


@pytest.fixture
def worker_run(tmp_path: Path) -> WorkerRun:
    """A run of two epochs of 30 steps."""
    settings = TrainSettings(epochs=2, batch_size=4, micro_batch_size=4, learning_rate=1e-2)
    return WorkerRun(
        Folder.at(tmp_path), settings, (Folder.at(tmp_path), "rows.arrow"), None, "warmup.micro_batch_size"
    )


def leave(folder: Folder, path: str, epoch: int, step: int, *, whole: bool = True) -> None:
    """Leave the files of a checkpoint that a run looks for."""
    (folder / path).write_json("checkpoint.json", {"epoch": epoch, "step": step})
    if not whole:
        return
    if path.startswith("step-checkpoints"):
        (folder / "step-checkpoints").write_json("latest.json", {"step": step})
    else:
        (folder / path).write_json("metrics.json", {})


def test_a_run_goes_on_at_its_last_whole_checkpoint(worker_run: WorkerRun):
    folder = worker_run.folder
    assert last_checkpoint(worker_run) == (0, 0)
    leave(folder, "step-checkpoints/step-12", 0, 12)
    assert last_checkpoint(worker_run) == (0, 12)
    # Cut off while it was copied: what is written last is not there.
    leave(folder, "run/epoch-1", 1, 30, whole=False)
    assert last_checkpoint(worker_run) == (0, 12)
    leave(folder, "run/epoch-1", 1, 30)
    assert last_checkpoint(worker_run) == (1, 0)
    leave(folder, "step-checkpoints/step-45", 1, 45)
    assert last_checkpoint(worker_run) == (1, 45)
    leave(folder, "run/epoch-2", 2, 60)
    assert last_checkpoint(worker_run) == (2, 0)


def test_a_checkpoint_inside_an_epoch_whose_own_is_gone_is_not_gone_on_from(worker_run: WorkerRun):
    leave(worker_run.folder, "step-checkpoints/step-45", 1, 45)
    assert last_checkpoint(worker_run) == (0, 0)


def test_runs_of_a_group_leave_what_they_leave_alone_and_one_that_diverges_ends_no_other(
    ray_session, study: StudyConfig, tmp_path: Path
):
    """The base model is the same for each run, though the runs before it had their LoRA matrices on it."""
    good = study.warmup.model_copy(update={"epochs": 1, "micro_batch_size": 4})
    kinds = {"first": good, "broken": good.model_copy(update={"learning_rate": 1e30}), "last": good}
    stages = {name: StageFolder(Folder.at(tmp_path / name).create(), "warmup", {"name": name}) for name in kinds}
    runs = [
        TrainingRun(name, stages[name], kinds[name], written(stages[name], seed), 0) for seed, name in enumerate(kinds)
    ]
    ended: dict[int, Any] = {}
    run_trainings(session(study), runs, ended.__setitem__)
    assert list(ended) == [0, 1, 2]
    assert isinstance(ended[1], Diverged)
    assert not (tmp_path / "first" / "ray-train").exists()
    alone = StageFolder(Folder.at(tmp_path / "alone").create(), "warmup", {})
    trained = run_training(session(study), TrainingRun("alone", alone, good, written(alone, 2), 0))
    assert timeless(trained.result.checkpoints["epoch-1"]) == timeless(ended[2].result.checkpoints["epoch-1"])
    in_group, by_itself = (weights(tmp_path / name / "run" / "epoch-1") for name in ("last", "alone"))
    assert all(torch.equal(in_group[key], by_itself[key]) for key in in_group)

    # What is whole is not trained again.
    ended.clear()
    run_trainings(session(study), [runs[0], runs[2]], ended.__setitem__)
    assert [ended[index].tokens for index in (0, 1)] == [0, 0]


@pytest.mark.long
def test_groups_side_by_side_commit_their_own_runs_and_a_lost_one_goes_on(
    ray_session, study: StudyConfig, tmp_path: Path
):
    good = study.warmup.model_copy(update={"epochs": 1, "micro_batch_size": 4})
    names = ("first", "second", "third")
    stages = {name: StageFolder(Folder.at(tmp_path / name).create(), "warmup", {"name": name}) for name in names}
    # As many tokens as two groups are worth.
    runs = [
        TrainingRun(name, stages[name], good, written(stages[name], seed), 10 * TOKENS_PER_PROCESS)
        for seed, name in enumerate(names)
    ]
    single = session(study, workers=1)
    train_side_by_side(single, "runs", runs, 2, partial(note, folder=tmp_path))
    ended = {name: json.loads((tmp_path / f"{index}.json").read_text()) for index, name in enumerate(names)}
    assert all(tokens == ROWS * LENGTH for tokens in ended.values())
    whole = {name: weights(tmp_path / name / "run" / "epoch-1") for name in names}
    alone = StageFolder(Folder.at(tmp_path / "alone").create(), "warmup", {})
    run_training(single, TrainingRun("alone", alone, good, written(alone, 1), 0))
    same = weights(tmp_path / "alone" / "run" / "epoch-1")
    assert all(torch.equal(whole["second"][key], same[key]) for key in same)

    # A group that fails names its runs, and the other one's are kept.
    for name in ("first", "second"):
        stages[name].folder.remove()
    written(stages["second"], 1)
    with pytest.raises((InputError, StudyError), match="rows.arrow does not exist"), clear_errors():
        train_side_by_side(single, "runs", runs[:2], 2, partial(note, folder=tmp_path))
    assert (tmp_path / "second" / "run" / "epoch-1" / "metrics.json").exists()


@pytest.mark.long
def test_two_runs_under_zero_3_have_workers_of_their_own(ray_session, study: StudyConfig, tmp_path: Path):
    """A shared group trained the second run on the parts of a model that the first had left."""
    good = study.warmup.model_copy(update={"epochs": 1, "micro_batch_size": 4})
    names = ("first", "second", "alone")
    stages = {name: StageFolder(Folder.at(tmp_path / name).create(), "warmup", {"name": name}) for name in names}
    first, second, alone = (
        TrainingRun(name, stages[name], good, written(stages[name], min(seed, 1)), 0) for seed, name in enumerate(names)
    )
    zero3 = session(study.model_copy(update={"deepspeed": study.deepspeed.model_copy(update={"stage": 3})}))
    ended: dict[int, Any] = {}
    run_trainings(zero3, [first, second], ended.__setitem__)
    assert list(ended) == [0, 1]
    assert [ended[index].tokens for index in ended] == [ROWS * LENGTH] * 2
    run_training(zero3, alone)
    in_call, by_itself = (weights(tmp_path / name / "run" / "epoch-1") for name in ("second", "alone"))
    assert all(torch.equal(in_call[key], by_itself[key]) for key in in_call)


@pytest.mark.parametrize("max_failures", [0, 3])
def test_an_error_at_the_end_of_a_run_stops_the_runs_after_it(
    ray_session, study: StudyConfig, tmp_path: Path, max_failures: int
):
    """It was raised only after all other runs of the group had been trained."""
    short = study.warmup.model_copy(update={"epochs": 1, "micro_batch_size": 4})
    endless = short.model_copy(update={"epochs": 1000})
    stages = {name: StageFolder(Folder.at(tmp_path / name).create(), "warmup", {}) for name in ("short", "endless")}
    runs = [
        TrainingRun(name, stages[name], training, written(stages[name]), 0)
        for name, training in (("short", short), ("endless", endless))
    ]
    resources = study.resources.model_copy(update={"max_failures": max_failures})

    def on_end(index: int, outcome: Trained | Diverged) -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        run_trainings(session(study.model_copy(update={"resources": resources})), runs, on_end)
    assert (tmp_path / "short/run/epoch-1/metrics.json").exists()
    assert not (tmp_path / "endless/run/epoch-1000").exists()


def note(index: int, outcome: Trained | Diverged, folder: Path) -> None:
    assert isinstance(outcome, Trained)
    (folder / f"{index}.json").write_text(json.dumps(outcome.tokens))


def timeless(metrics: Checkpoint) -> Checkpoint:
    return metrics.model_copy(update={"seconds": 0.0})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {},
            "in a step of 4 rows: set finetune.micro_batch_size below 4, and the training resumes at its last",
        ),
        # Of 8 rows, each of 4 workers has 2.
        ({"batch_size": 8}, "in a step of 2 rows: set finetune.micro_batch_size below 2, and"),
        (
            {"micro_batch_size": 1},
            r"in a step of one row: train again with a lower data\.max_length \(CUDA out of memory\)$",
        ),
        (
            {"deepspeed": {"train_micro_batch_size_per_gpu": 4}},
            r"in a step of 4 rows: lower finetune\.micro_batch_size and what deepspeed\.config says of it, or",
        ),
    ],
)
def test_memory_that_runs_out_in_training_ends_with_what_to_lower(monkeypatch, settings: dict[str, Any], message: str):
    """It was raised as an error of torch, without the key to change."""
    workers(monkeypatch, 4, torch.OutOfMemoryError("CUDA out of memory"))
    values = {"epochs": 1, "batch_size": 16, "micro_batch_size": 4, "learning_rate": 1e-2, **settings}
    with pytest.raises(StudyError, match=f"ran out of memory {message}"):
        training_worker.work(group(TrainSettings(**values)))


def test_memory_that_does_not_hold_the_model_is_reported_as_that(monkeypatch):
    def load(model: Model) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    workers(monkeypatch, 2, RuntimeError("not reached"))
    monkeypatch.setattr(training_worker, "_load_base", load)
    with pytest.raises(StudyError, match="while it loaded the model, .* GPUs with more memory"):
        training_worker.work(group())


def test_another_error_of_a_training_worker_stays_what_it_is(monkeypatch):
    workers(monkeypatch, 2, RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="^something else$"):
        training_worker.work(group())


def workers(monkeypatch: Any, count: int, error: Exception) -> None:
    """Training fails so in one of `count` workers."""

    def train(*arguments: Any) -> None:
        raise error

    context = SimpleNamespace(get_world_size=lambda: count, get_world_rank=lambda: 0)
    monkeypatch.setattr(training_worker.ray.train, "get_context", lambda: context)
    monkeypatch.setattr(training_worker, "_starting_point", lambda group, index: training_worker.StartingPoint(None))
    monkeypatch.setattr(training_worker, "_load_base", lambda model: "a model")
    monkeypatch.setattr(training_worker, "_train_run", train)


def group(settings: TrainSettings | None = None) -> GroupWork:
    """Work of one run."""
    settings = settings or TrainSettings(epochs=1, batch_size=4, micro_batch_size=4, learning_rate=1e-2)
    folder = Folder.at("/nowhere")
    run = WorkerRun(folder, settings, (folder, "rows.arrow"), None, "finetune.micro_batch_size")
    return GroupWork(Model(name="model"), Lora(), {0: run}, 1, None, 10.0)


@pytest.mark.long
def test_what_deepspeed_refuses_comes_back_as_the_users_error(ray_session, study: StudyConfig, tmp_path: Path):
    # Were it raised in the workers, Ray Train would try again and end with an error of its own.
    before = dict(os.environ)
    with pytest.raises(InputError, match=r"deepspeed\.config: DeepSpeed rejects it: .*stagee"):
        train(with_deepspeed(study, tmp_path, {"zero_optimization": {"stagee": 2}}), tmp_path)
    assert dict(os.environ) == before


def test_a_contradiction_in_deepspeeds_json_is_raised_before_anything_starts(study: StudyConfig, tmp_path: Path):
    with pytest.raises(InputError, match="gradient_clipping is 7"):
        train(with_deepspeed(study, tmp_path, {"gradient_clipping": 7}), tmp_path)


def with_deepspeed(study: StudyConfig, folder: Path, content: dict[str, Any]) -> StudyConfig:
    path = folder / "ds.json"
    path.write_text(json.dumps(content))
    return study.model_copy(update={"deepspeed": study.deepspeed.model_copy(update={"config": str(path)})})


@pytest.mark.usefixtures("ray_session")
def test_bug_a_lost_progress_actor_ends_the_training_at_once(study: StudyConfig, tmp_path: Path) -> None:
    stage = StageFolder(Folder.at(tmp_path / "run").create(), "warmup", {})
    runs = {0: TrainingRun("warmup", stage, study.warmup, written(stage), 0)}
    progress, aborted = progress_actor([stage.folder]), threading.Event()
    follower = TrainingFollower(session(study), runs, progress, lambda index, outcome: None)
    with pytest.raises(RayActorError), follower.following(aborted.set):
        ray.kill(progress)
        was_aborted = aborted.wait(30)
    # Not after the minute in which workers could hear of it.
    assert was_aborted
