"""Ray Train around the training loop: workers, restarts after failures, checkpoints into the stage's folder."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from instsel.config import StudyConfig, Training
from instsel.errors import Diverged, InputError, StudyError
from instsel.progress import Bar, Terminal, log
from instsel.stages.board import board_of
from instsel.stages.metrics import Meter
from instsel.stages.pauses import PAUSES, PauseFolder
from instsel.stages.session import Allotment
from instsel.stages.told import Told, tell_epochs
from instsel.stages.training_worker import METRICS, RUN, work
from instsel.storage import Folder
from instsel.study import Stage
from instsel.tracking import tracked
from instsel.training.deepspeed_config import complete, read_json
from instsel.training.settings import TrainSettings

POLL_SECONDS = 1.0
SNAPSHOT = "checkpoint_manager_snapshot.json"
# Each is a minute: long enough for a cluster to grow, and not for ever.
FAILED_STARTS = 10
ERRORS = {"InputError": InputError, "StudyError": StudyError, "Diverged": Diverged}
# Ray Train reads these where a trainer is made. It looks after its workers every 2 s by default, and the end of every
# run would wait for that; in a folder of their own, relative paths would mean something else to the workers.
RAY_TRAIN = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
# Saves a process on a single machine, which nobody takes away in part.
ONE_NODE = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}


@dataclass(frozen=True)
class Trained:
    """What a training run leaves: its part of the stage's result, and what this call of it took.

    `rows_again` counts over all calls: rows of steps that had to be taken again.
    """

    result: dict[str, Any]
    tokens: int
    peak_memory: int
    rows_again: int = 0

    @property
    def cost(self) -> dict[str, int]:
        """What `Stage.commit` takes."""
        return {"tokens": self.tokens, "peak_memory": self.peak_memory, "rows_again": self.rows_again}


def run_training(
    study: StudyConfig,
    stage: Stage,
    training: Training,
    training_set: tuple[Folder, str],
    allot: Allotment,
    terminal: Terminal,
    until: int | None = None,
) -> Trained:
    """Train fresh LoRA matrices; each epoch leaves a checkpoint `run/epoch-N` in the stage's folder.

    A run that was stopped goes on from its last checkpoint, whoever stopped it: Ray Train restarts workers that died,
    and finds the run again by its name when the driver is started anew. Beside those of epochs there is one every
    `resources.checkpoint_minutes`; the rows behind it are not trained on again in their epoch. The rows come in the
    order that stands in the stage's folder (`training.order`), by default in one that the seed draws.

    Args:
        study: model, LoRA and DeepSpeed settings, and how many worker failures to survive.
        stage: whose folder the checkpoints go to.
        training: epochs, learning rate and the like.
        training_set: folder and name of the Arrow file of examples.
        allot: workers and what each holds.
        terminal: where progress is shown.
        until: epoch to stop after, for now; by default the last one.

    Returns:
        A result of "run", the folder of the checkpoints, and "checkpoints", name -> metrics of its epoch.

    Raises:
        InputError: DeepSpeed's configuration, the training set or a checkpoint does not fit.
        Diverged: the run diverged.
        ray.train.TrainingFailedError: workers failed more often than the study allows.
    """
    settings = train_settings(study, training, allot.workers)
    drop_unreadable(stage.folder)
    names = [f"epoch-{epoch}" for epoch in range(1, (until or training.epochs) + 1)]
    board = board_of(stage.folder)
    pauses = PauseFolder(stage.folder, study.resources.checkpoint_minutes)
    loop = {
        "model": study.model,
        "lora": study.lora,
        "settings": settings,
        "key": f"{_section(study, stage)}.micro_batch_size",
        "training_set": training_set,
        "out": stage.folder,
        "until": until,
        "threads": allot.worker_threads,
        "board": board,
        "checkpoint_minutes": study.resources.checkpoint_minutes,
    }
    resources = {"CPU": allot.worker_cpus, **({"GPU": allot.worker_gpus} if allot.worker_gpus else {})}
    # Typed as version 1 of Ray Train, which they are not.
    api: Any = ray.train
    make_trainer: Any = TorchTrainer
    with _ray_train_variables():
        trainer = make_trainer(
            work,
            train_loop_config=loop,
            torch_config=TorchConfig(backend="nccl" if allot.worker_gpus else "gloo"),
            scaling_config=api.ScalingConfig(
                num_workers=allot.workers,
                use_gpu=bool(allot.worker_gpus),
                resources_per_worker=resources,
                placement_strategy="PACK" if allot.worker_gpus else "SPREAD",
            ),
            run_config=api.RunConfig(
                name=RUN,
                storage_path=stage.folder.path,
                storage_filesystem=stage.folder.enduring(),
                failure_config=api.FailureConfig(
                    max_failures=study.resources.max_failures, controller_failure_limit=FAILED_STARTS
                ),
                logging_config=api.LoggingConfig(log_level="ERROR"),
            ),
        )
        settings_shown = {"model": study.model.name, **training.model_dump()}
        with (
            terminal.bar(stage.name, None, "steps") as bar,
            tracked(study, stage.folder, stage.fingerprint, settings_shown) as run,
            _following(board, bar, Told(Meter(study.name, stage.name), run)),
        ):
            failure = trainer.fit().return_value
            if failure is None:
                tell_epochs(run, stage.folder / RUN, names)
    if failure is not None:
        kind, message = failure
        raise ERRORS[kind](message)
    seen = _ended(board)
    pauses.remove()
    checkpoints = {name: (stage.folder / RUN / name).read_json(METRICS) for name in names}
    result = {"run": RUN, "checkpoints": checkpoints}
    return Trained(result, seen["tokens"], seen["peak_memory"], seen["rows_again"])


def _ended(board: Any) -> dict[str, Any]:
    """What the board has at the end; it is gone afterwards."""
    ray.get(board.write.remote())
    seen: dict[str, Any] = ray.get(board.read.remote())
    ray.kill(board)
    return seen


def train_settings(study: StudyConfig, training: Training, workers: int) -> TrainSettings:
    """The settings of a training run by `workers` workers.

    Raises:
        InputError: DeepSpeed's configuration contradicts the study file; told before any worker starts.
    """
    settings = TrainSettings(
        **training.model_dump(exclude={"share"}), dtype=study.model.dtype, deepspeed=_deepspeed(study)
    )
    complete(settings, workers)
    return settings


def _section(study: StudyConfig, stage: Stage) -> str:
    """The key of the study file that says how a stage trains."""
    if stage.name == "warmup":
        return "warmup"
    of_runs = stage.name.startswith("interaction/") and study.mixture is not None and study.mixture.training is not None
    return "mixture.training" if of_runs else "finetune"


def _deepspeed(study: StudyConfig) -> dict[str, Any]:
    """The DeepSpeed configuration as the user wrote it."""
    if study.deepspeed.config is not None:
        return read_json(study.deepspeed.config)
    return {"zero_optimization": {"stage": study.deepspeed.stage}}


def drop_unreadable(stage: Folder) -> None:
    """Remove a run whose list of checkpoints this Ray does not read: cut off while written, or of another version."""
    run = stage / RUN
    if not run.exists(SNAPSHOT):
        return
    try:
        written_by = run.read_json(SNAPSHOT)["ray_version"]
    except (InputError, KeyError, TypeError):
        written_by = None
    if written_by == ray.__version__:
        return
    log.warning("%s: Ray %s cannot read its list of checkpoints; the training starts anew", run, ray.__version__)
    run.remove()
    (stage / PAUSES).remove()


@contextmanager
def _ray_train_variables() -> Iterator[None]:
    """Set Ray Train's environment variables while a trainer is made and runs; what the user set stays."""
    wanted = RAY_TRAIN | (ONE_NODE if len(ray.nodes()) == 1 else {})
    ours = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]


@contextmanager
def _following(board: Any, bar: Bar, told: Told) -> Iterator[None]:
    """Show on the bar what the workers write on the board, for as long as the block runs; tell of each step."""
    stop = threading.Event()

    def follow() -> None:
        ended = False
        while not ended:
            ended = stop.wait(POLL_SECONDS)
            seen = ray.get(board.read.remote())
            told.steps(ray.get(board.news.remote()))
            if seen["steps"] is not None:
                bar.total = seen["steps"]
                bar.move_to(seen["step"], seen["tokens"])

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
