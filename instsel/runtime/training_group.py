"""A group of Ray Train workers: settings, start, restarts and end, and the thread that follows its runs."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import ray
import ray.train
from pydantic import JsonValue
from ray.exceptions import RayError
from ray.train.torch import TorchConfig, TorchTrainer

from instsel.config.study import StudyConfig
from instsel.config.training import Training
from instsel.errors import Diverged, InputError
from instsel.io.store import Folder
from instsel.models.dtypes import dtype_of
from instsel.runtime.observability import Meter
from instsel.runtime.session import cluster_nodes, default_variables
from instsel.runtime.training_progress import RunProgress, StepCheckpointer, StepEvent, TrainingLogger
from instsel.runtime.training_run import (
    METRICS,
    RUN,
    OnEnd,
    Trained,
    TrainingRun,
    TrainingSession,
    checkpoint_names,
)
from instsel.runtime.training_worker import GroupWork, WorkerRun, last_checkpoint, partitioned, work
from instsel.runtime.watchdog import Watchdog
from instsel.study.folder import StageFolder
from instsel.study.results import Checkpoint, TrainingResult
from instsel.tracking import tracked
from instsel.training.deepspeed import complete, read_json
from instsel.training.schedule import TrainSettings

# Ray Train's own files: whether all nodes see the same storage, and nothing that outlives the workers.
RAY_TRAIN_FOLDER = "ray-train"
# Each is a minute: long enough for a cluster to grow, and not for ever.
FAILED_STARTS = 10
# Ray Train reads these when a trainer is created. By default it polls its workers every 2 s, and the end of every group
# would wait for that; and in a working directory of their own, workers would resolve relative paths differently.
RAY_TRAIN = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
# Saves a process on a single machine, no part of which can be preempted.
SINGLE_NODE = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
POLL_SECONDS = 1.0
# How long workers that stand still have to end by themselves, and their controller to end them.
STOP_SECONDS, ABORT_SECONDS = 60.0, 90.0


def train_group(
    session: TrainingSession,
    runs: Mapping[int, TrainingRun],
    progress: Any,
    on_end: OnEnd,
    until: int | None = None,
) -> None:
    """Train runs by one group of workers; see `run_trainings`.

    Under ZeRO 3 each run has workers of its own: DeepSpeed keeps the parts of a model until its process ends.

    Args:
        session: configuration, workers and terminal.
        runs: by their indices among those that `progress` counts.
        progress: a `ProgressActor`.
        on_end: as `run_trainings` takes it.
        until: epoch to stop after in this call; by default the last one.
    """
    config, resources = session.config, session.resources
    settings = [train_settings(config, run.training, resources.workers) for run in runs.values()]
    if len(runs) > 1 and any(map(partitioned, settings)):
        for index, run in runs.items():
            train_group(session, {index: run}, progress, on_end, until)
        return
    worker_runs = {index: _worker_run(session, run, until) for index, run in runs.items()}
    open_runs = {
        index: run for index, run in worker_runs.items() if last_checkpoint(run) != (len(run.checkpoint_names), 0)
    }
    for index in worker_runs.keys() - open_runs.keys():
        ray.get(progress.end.remote(index))
    for index, open_run in open_runs.items():
        _say_where_it_resumes(session, runs[index].name, open_run)
    minutes = config.resources.checkpoint_minutes
    group = GroupWork(config.model, config.lora, open_runs, resources.worker_threads, progress, minutes)
    scratch = next(iter(runs.values())).stage.folder
    # Ray Train would restore what lies there, but the runs' own checkpoints say where they resume.
    (scratch / RAY_TRAIN_FOLDER).remove()
    variables = RAY_TRAIN | (SINGLE_NODE if len(cluster_nodes()) == 1 else {})
    with default_variables(variables):
        trainer = _trainer(session, group, scratch)
        with TrainingFollower(session, runs, progress, on_end, until).following(trainer.abort):
            failure = trainer.fit().return_value if open_runs else None
    (scratch / RAY_TRAIN_FOLDER).remove()
    if failure is not None:
        raise InputError(failure)


def _say_where_it_resumes(session: TrainingSession, name: str, run: WorkerRun) -> None:
    """Say at which step a run resumes, and that another number of workers keeps the order of its rows.

    Every step takes the same rows whatever the number of workers, which only divides them. What would not be the same,
    a DeepSpeed configuration with sizes for another number, `train_settings` has rejected.
    """
    epoch, step = last_checkpoint(run)
    workers = session.resources.workers
    before = StepCheckpointer(run.folder).workers_before(workers)
    if before is None or not (epoch or step):
        return
    where = f"step {step} in epoch {epoch + 1}" if step else f"epoch {epoch + 1}"
    change = ""
    if before != workers:
        dropout = " and the masks of dropout" if session.config.lora.dropout else ""
        change = (
            f" with {workers} worker{'s' if workers > 1 else ''} in place of {before}: every step has the rows that it "
            f"would have had, and the result differs by rounding{dropout}"
        )
    session.console.say(f"{name} resumes at {where}{change}")


def train_settings(config: StudyConfig, training: Training, workers: int) -> TrainSettings:
    """Build the settings of a training run by `workers` workers.

    Raises:
        InputError: DeepSpeed's configuration contradicts the study file; raised before any worker starts.
    """
    settings = TrainSettings(
        **training.model_dump(exclude={"share"}), dtype=dtype_of(config.model), deepspeed=_deepspeed(config)
    )
    complete(settings, workers)
    return settings


def _deepspeed(config: StudyConfig) -> dict[str, JsonValue]:
    """Read the DeepSpeed configuration as the user wrote it."""
    if config.deepspeed.config is not None:
        return read_json(config.deepspeed.config)
    return {"zero_optimization": {"stage": config.deepspeed.stage}}


def _worker_run(session: TrainingSession, run: TrainingRun, until: int | None) -> WorkerRun:
    settings = train_settings(session.config, run.training, session.resources.workers)
    key = f"{_config_section(session.config, run.stage)}.micro_batch_size"
    return WorkerRun(run.stage.folder, settings, run.training_set, until, key)


def _config_section(config: StudyConfig, stage: StageFolder) -> str:
    """Return the key of the study file that says how a stage trains."""
    if stage.name == "warmup":
        return "warmup"
    mixture = config.mixture
    by_mixture = stage.name.startswith("interaction/") and mixture is not None and mixture.training is not None
    return "mixture.training" if by_mixture else "finetune"


def _trainer(session: TrainingSession, group: GroupWork, scratch: Folder) -> Any:
    resources = session.resources
    per_worker = {"CPU": resources.worker_cpus, **({"GPU": resources.worker_gpus} if resources.worker_gpus else {})}
    # Ray's types are those of version 1 of Ray Train.
    api: Any = ray.train
    trainer_class: Any = _Trainer
    return trainer_class(
        work,
        train_loop_config=group,
        torch_config=TorchConfig(backend="nccl" if resources.worker_gpus else "gloo"),
        scaling_config=api.ScalingConfig(
            num_workers=resources.workers,
            use_gpu=bool(resources.worker_gpus),
            resources_per_worker=per_worker,
            label_selector=resources.label_selector,
            placement_strategy="PACK" if resources.worker_gpus else "SPREAD",
        ),
        run_config=api.RunConfig(
            name=RAY_TRAIN_FOLDER,
            storage_path=scratch.path,
            storage_filesystem=scratch.retrying_filesystem(),
            failure_config=api.FailureConfig(
                max_failures=session.config.resources.max_failures * max(1, len(group.runs)),
                controller_failure_limit=FAILED_STARTS,
            ),
            logging_config=api.LoggingConfig(log_level="ERROR"),
        ),
    )


class _Trainer(TorchTrainer):
    """A trainer whose workers another thread can end, also those that wait for room or for each other.

    It leaves Ctrl-C to the command: Ray Train's handler stays after training, and ends later stages with status 0.
    """

    controller: Any = None

    def _register_sigint_handler(self, controller: Any) -> None:
        """Keep the handler that is there; the workers end with the session of Ray."""
        self.controller = controller

    def abort(self) -> None:
        """End the workers, and `fit` with an error; not in a trial, whose trainer is in no main thread."""
        if self.controller is not None:
            with suppress(RayError):
                ray.get(self.controller.abort.remote(), timeout=ABORT_SECONDS)
            ray.kill(self.controller)


class TrainingFollower:
    """Follows the runs of a group: moves their progress bar, logs their steps, and hands on their outcomes."""

    def __init__(
        self,
        session: TrainingSession,
        runs: Mapping[int, TrainingRun],
        progress: Any,
        on_end: OnEnd,
        until: int | None = None,
    ) -> None:
        """Prepare to follow.

        Args:
            session: configuration and terminal.
            runs: by their indices among those that `progress` counts.
            progress: a `ProgressActor`.
            on_end: called with the index and the outcome of each run that has ended.
            until: epoch that the runs stop after in this call; by default their last one.
        """
        self._session, self._runs, self._progress = session, runs, progress
        self._on_end, self._until = on_end, until
        self._open = list(runs)
        self._last_end = 0.0
        self._resources = ExitStack()
        self._failure: Exception | None = None
        resources = session.resources
        gpus = f" and {resources.worker_gpus:g} GPU" if resources.worker_gpus else ""
        names = ", ".join(run.name for run in list(runs.values())[:3])
        waits_for = f"{names}: {resources.workers} training workers of {resources.worker_cpus:g} CPU{gpus} each"
        self._watchdog = Watchdog(waits_for, resources)

    @contextmanager
    def following(self, abort: Callable[[], None]) -> Iterator[None]:
        """Follow the runs while the block runs, and to their ends if it ends without an error.

        An error of following, such as one that `on_end` raises, stops the group and is raised where the block ends.

        Args:
            abort: ends workers that do not stop by themselves.
        """
        done = threading.Event()
        thread = threading.Thread(target=self._follow, args=(done, abort), daemon=True)
        self._show_next()
        thread.start()
        try:
            yield
        except BaseException as error:
            done.set()
            thread.join()
            if self._failure is not None and isinstance(error, Exception):
                self._resources.close()
                raise self._failure from error
            with self._resources, suppress(RayError):
                self._look()
            raise
        done.set()
        thread.join()
        with self._resources:
            if self._failure is not None:
                raise self._failure
            self._look()

    def _follow(self, done: threading.Event, abort: Callable[[], None]) -> None:
        try:
            while not done.wait(POLL_SECONDS):
                self._look()
                self._watchdog.look()
        except Exception as error:
            self._failure = error
            # The main thread waits for the workers, which therefore have to end.
            try:
                ray.get(self._progress.stop.remote(list(self._runs)))
                seconds = STOP_SECONDS
            except RayError:
                # The actor that the workers ask is gone, and they would not hear of it.
                seconds = 0.0
            if not done.wait(seconds):
                abort()

    def _look(self) -> None:
        snapshot = ray.get(self._progress.take.remote(list(self._runs)))
        for index in list(self._open):
            events = [event for event in snapshot.events if event.run == index]
            run = snapshot.runs[index]
            if events or run.ended is not None:
                self._watchdog.moved()
            if events:
                self._show_steps(run, events)
            if run.ended is not None:
                self._end(index, run)

    def _show_next(self) -> None:
        """Open the progress bar and the trackers of the next run."""
        if not self._open:
            return
        run, config = self._runs[self._open[0]], self._session.config
        settings = {"model": config.model.name, **run.training.model_dump()}
        self._bar = self._resources.enter_context(self._session.console.bar(run.name, None, "steps"))
        trackers = self._resources.enter_context(tracked(config, run.stage.folder, run.stage.fingerprint, settings))
        self._logger = TrainingLogger(Meter(config.name, run.stage.name), trackers)

    def _show_steps(self, run: RunProgress, events: Sequence[StepEvent]) -> None:
        for event in events:
            self._logger.log_step(event.moment, event.step)
        self._bar.total = run.steps
        self._bar.move_to(run.step, run.tokens)

    def _end(self, index: int, progress: RunProgress) -> None:
        assert progress.ended is not None
        self._open.remove(index)
        if progress.failure is not None:
            outcome: Trained | Diverged = Diverged(progress.failure)
        else:
            outcome = self._trained(self._runs[index], progress, progress.ended - self._last_end)
        self._last_end = progress.ended
        self._resources.close()
        self._on_end(index, outcome)
        self._show_next()

    def _trained(self, run: TrainingRun, progress: RunProgress, seconds: float) -> Trained:
        names, folder = checkpoint_names(self._until or run.training.epochs), run.stage.folder
        checkpoints = {name: Checkpoint.model_validate((folder / RUN / name).read_json(METRICS)) for name in names}
        self._logger.log_epochs(folder / RUN, names)
        StepCheckpointer(folder).remove()
        return Trained(
            TrainingResult(run=RUN, checkpoints=checkpoints),
            progress.tokens,
            progress.peak_memory,
            progress.rows_reprocessed,
            seconds,
        )
