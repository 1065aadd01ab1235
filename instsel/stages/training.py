"""Ray Train around the training loop: workers, restarts after failures, checkpoints into the stage's folder."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from instsel.config import StudyConfig, Training
from instsel.errors import Diverged, InputError, StudyError
from instsel.progress import Bar, Terminal, log
from instsel.stages.board import ProgressBoard
from instsel.stages.memory import peak_memory
from instsel.stages.metrics import Meter
from instsel.stages.session import Allotment
from instsel.stages.told import METRICS, Told, tell_epochs
from instsel.storage import Folder
from instsel.study import Stage
from instsel.tracking import tracked
from instsel.training.deepspeed_config import complete, read_json
from instsel.training.settings import TrainSettings

RUN = "run"
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
    """What a training run leaves: its part of the stage's result, and what this call of it took."""

    result: dict[str, Any]
    tokens: int
    peak_memory: int


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

    A run that was stopped goes on after the last epoch it finished, whoever stopped it: Ray Train restarts workers
    that died, and finds the run again by its name when the driver is started anew. The rows come in the order that
    stands in the stage's folder (`training.order`), by default in one that the seed draws.

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
    _drop_unreadable(stage.folder / RUN)
    names = [f"epoch-{epoch}" for epoch in range(1, (until or training.epochs) + 1)]
    board = ProgressBoard.remote()  # type: ignore[attr-defined]
    loop = {
        "model": study.model,
        "lora": study.lora,
        "settings": settings,
        "training_set": training_set,
        "out": stage.folder,
        "until": until,
        "threads": allot.worker_threads,
        "board": board,
    }
    resources = {"CPU": allot.worker_cpus, **({"GPU": allot.worker_gpus} if allot.worker_gpus else {})}
    # Typed as version 1 of Ray Train, which they are not.
    api: Any = ray.train
    make_trainer: Any = TorchTrainer
    with _ray_train_variables():
        trainer = make_trainer(
            _work,
            train_loop_config=loop,
            torch_config=TorchConfig(backend="nccl" if allot.worker_gpus else "gloo"),
            scaling_config=api.ScalingConfig(
                num_workers=allot.workers, use_gpu=bool(allot.worker_gpus), resources_per_worker=resources
            ),
            run_config=api.RunConfig(
                name=RUN,
                storage_path=stage.folder.path,
                storage_filesystem=stage.folder.filesystem,
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
    seen = ray.get(board.read.remote())
    ray.kill(board)
    checkpoints = {name: (stage.folder / RUN / name).read_json(METRICS) for name in names}
    return Trained({"run": RUN, "checkpoints": checkpoints}, seen.get("tokens", 0), seen.get("peak_memory", 0))


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


def _deepspeed(study: StudyConfig) -> dict[str, Any]:
    """The DeepSpeed configuration as the user wrote it."""
    if study.deepspeed.config is not None:
        return read_json(study.deepspeed.config)
    return {"zero_optimization": {"stage": study.deepspeed.stage}}


def _work(plain: dict[str, Any]) -> tuple[str, str] | None:
    """What each worker does. An error of ours meets all of them and would again: returned, it makes Ray Train stop."""
    try:
        _train(plain)
    except (InputError, StudyError) as error:
        return type(error).__name__, str(error)
    return None


def _train(plain: dict[str, Any]) -> None:
    # Imported here: the driver needs neither, and loads faster without.
    import torch
    from ray.train.torch import get_device

    from instsel.data.batches import collate
    from instsel.loss import answer_losses
    from instsel.model import attach_lora, load_base
    from instsel.training.dataset import TrainingSet
    from instsel.training.loop import EpochMetrics, train
    from instsel.training.order import read_order
    from instsel.training.schedule import learning_rate_at

    torch.set_num_threads(plain["threads"])
    device = get_device()
    settings: TrainSettings = plain["settings"]
    model = attach_lora(load_base(plain["model"]), plain["lora"], settings.seed).to(device)
    board = plain["board"] if ray.train.get_context().get_world_rank() == 0 else None

    def on_step(step: int, steps: int, tokens: int, loss: float) -> None:
        if board is not None:
            rate = learning_rate_at(step - 1, steps, settings.learning_rate, settings.schedule, settings.warmup_ratio)
            told = {"step": step, "steps": steps, "tokens": tokens, "loss": loss, "learning_rate": rate}
            board.update.remote(**told, peak_memory=peak_memory())

    def on_epoch(folder: Path | None, metrics: EpochMetrics) -> None:
        values, name = asdict(metrics), f"epoch-{metrics.epoch}"
        if folder is None:
            ray.train.report(values, checkpoint_dir_name=name)
            return
        (folder / METRICS).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        ray.train.report(values, ray.train.Checkpoint.from_directory(folder), checkpoint_dir_name=name)

    last = ray.train.get_checkpoint()
    with last.as_directory() if last else nullcontext() as resume:
        train(
            model,
            TrainingSet(*plain["training_set"]),
            settings,
            lambda network, examples: answer_losses(network, collate(examples, device=device)),
            on_epoch=on_epoch,
            on_step=on_step,
            resume=Path(resume) if resume else None,
            order=read_order(plain["out"]),
            until=plain["until"],
        )


def _drop_unreadable(run: Folder) -> None:
    """Remove a run whose list of checkpoints this Ray does not read: cut off while written, or of another version."""
    if not run.exists(SNAPSHOT):
        return
    try:
        written_by = run.read_json(SNAPSHOT)["ray_version"]
    except (ValueError, KeyError, TypeError):
        written_by = None
    if written_by == ray.__version__:
        return
    log.warning("%s: Ray %s cannot read its list of checkpoints; the training starts anew", run, ray.__version__)
    run.remove()


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
            if "step" in seen:
                bar.total = seen["steps"]
                bar.move_to(seen["step"], seen["tokens"])

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
