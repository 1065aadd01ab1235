"""Ray Train around the training loop: a group of workers, restarts after failures, what becomes of each run."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
from ray.exceptions import RayError
from ray.train.torch import TorchConfig, TorchTrainer

from instsel.config.study import StudyConfig, Training
from instsel.console import Terminal
from instsel.errors import Diverged, InputError, StudyError
from instsel.io.store import Folder
from instsel.models.dtypes import dtype_of
from instsel.runtime.observability import Meter
from instsel.runtime.session import here, useful_processes
from instsel.runtime.step_checkpoints import StepCheckpointer
from instsel.runtime.training_progress import RunProgress, TrainingLogger, progress_actor
from instsel.runtime.training_worker import (
    METRICS,
    RUN,
    GroupWork,
    WorkerRun,
    last_checkpoint,
    partitioned,
    work,
)
from instsel.study.folder import Cost, StageFolder
from instsel.study.resources import ResourcePlan
from instsel.tracking import tracked
from instsel.training.deepspeed import complete, read_json
from instsel.training.schedule import Step, TrainSettings

POLL_SECONDS = 1.0
# Ray Train's own files: whether all nodes see the same storage, and nothing that outlives the workers.
RAY_TRAIN_FOLDER = "ray-train"
# Each is a minute: long enough for a cluster to grow, and not for ever.
FAILED_STARTS = 10
ERRORS = {"InputError": InputError, "StudyError": StudyError}
# Ray Train reads these where a trainer is made. It looks after its workers every 2 s by default, and the end of every
# group would wait for that; in a folder of their own, relative paths would mean something else to the workers.
RAY_TRAIN = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
# Saves a process on a single machine, which nobody takes away in part.
ONE_NODE = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}


@dataclass(frozen=True)
class TrainingRun:
    """A training of fresh LoRA matrices on a set of rows.

    Attributes:
        name: as a person knows the run.
        stage: whose folder the checkpoints go to, `run/epoch-N`. Where it has an order (`training.order`), the rows
            come in that one, else in one that the seed draws.
        training: epochs, learning rate and the like.
        training_set: folder and name of the Arrow file of examples.
        tokens: of all epochs, about.
    """

    name: str
    stage: StageFolder
    training: Training
    training_set: tuple[Folder, str]
    tokens: float


@dataclass(frozen=True)
class Trained:
    """What a training run leaves: its part of the stage's result, and what this call of it took.

    `rows_reprocessed` counts over all calls: rows of steps that had to be taken again. `seconds` are those from the
    end of
    the run before it in its group.
    """

    result: dict[str, Any]
    tokens: int
    peak_memory: int
    rows_reprocessed: int = 0
    seconds: float | None = None

    @property
    def cost(self) -> Cost:
        """What it took, for `StageFolder.commit`."""
        return Cost(self.tokens, self.peak_memory, self.rows_reprocessed, self.seconds)


OnEnd = Callable[[int, Trained | Diverged], None]
"""Takes a run's place among those of the call, and what became of it."""


def run_training(
    study: StudyConfig, run: TrainingRun, resources: ResourcePlan, terminal: Terminal, until: int | None = None
) -> Trained:
    """Train a single run, see `run_trainings`.

    Raises:
        Diverged: it did.
    """
    ended: list[Trained | Diverged] = []
    run_trainings(study, [run], resources, terminal, lambda _, outcome: ended.append(outcome), until)
    (outcome,) = ended
    if isinstance(outcome, Diverged):
        raise outcome
    return outcome


def run_trainings(
    study: StudyConfig,
    runs: Sequence[TrainingRun],
    resources: ResourcePlan,
    terminal: Terminal,
    on_end: OnEnd,
    until: int | None = None,
) -> None:
    """Train some runs by one group of workers, one run after another.

    A run that was stopped goes on from its last checkpoint, whoever stopped it: Ray Train restarts workers that died,
    and a new call finds what an earlier one left. Beside the checkpoints of epochs there is one every
    `resources.checkpoint_minutes`; the rows behind it are not trained on again in their epoch.

    Args:
        study: model, LoRA and DeepSpeed settings, and how many worker failures to survive.
        runs: in the order in which they are trained.
        resources: workers and what each holds.
        terminal: where progress is shown.
        on_end: called when a run ended, from another thread: with the folder of its checkpoints as "run" and
            "checkpoints", name -> metrics of its epoch; or with the error where it diverged, which does not end the
            others.
        until: epoch to stop after, for now; by default the last one.

    Raises:
        InputError: DeepSpeed's configuration, a training set or a checkpoint does not fit.
        ray.train.TrainingFailedError: workers failed more often than the study allows.
    """
    check_trainings(study, runs, resources.workers)
    with _progress_of(runs) as progress:
        train_group(study, dict(enumerate(runs)), progress, resources, terminal, on_end, until)


def train_side_by_side(
    study: StudyConfig,
    title: str,
    runs: Sequence[TrainingRun],
    resources: ResourcePlan,
    groups: int,
    terminal: Terminal,
    on_end: OnEnd,
) -> None:
    """Train some runs by several groups of workers at once, each of which has its share of the runs.

    Args:
        study: as `run_trainings` takes it.
        title: of the bar, which counts runs.
        runs: dealt out to the groups in turn.
        resources: what one group gets.
        groups: most of them; fewer where the runs are so small that another group is not worth its start.
        terminal: where progress is shown.
        on_end: as `run_trainings` takes it; called in the process that looks after the group.

    Raises:
        InputError: as `run_trainings`.
        StudyError: a group failed; the others were carried to their ends.
    """
    groups = useful_processes(min(groups, len(runs)), sum(run.tokens for run in runs))
    if groups == 1:
        run_trainings(study, runs, resources, terminal, on_end)
        return
    check_trainings(study, runs, resources.workers)
    dealt = [dict(list(enumerate(runs))[first::groups]) for first in range(groups)]
    looking_after: Any = ray.remote(num_cpus=0, max_retries=study.resources.max_failures)(_train_group_quietly)
    # Beside the driver, as on another machine it could go away with that one.
    looking_after = looking_after.options(scheduling_strategy=here())
    failed: dict[Any, Exception] = {}
    with _progress_of(runs) as progress, terminal.bar(title, len(runs), "runs") as bar:
        tasks = {looking_after.remote(study, group, progress, resources, on_end): group for group in dealt}
        waiting = list(tasks)
        while waiting:
            done, waiting = ray.wait(waiting, timeout=POLL_SECONDS)
            for task in done:
                try:
                    ray.get(task)
                except Exception as error:
                    failed[task] = error
            ended = [run.ended is not None for run in ray.get(progress.take.remote(())).runs]
            bar.move_to(sum(ended), 0)
    for reason in failed.values():
        if isinstance(reason, InputError):
            raise reason
    if failed:
        open_runs = [run.name for task in failed for place, run in tasks[task].items() if not ended[place]]
        raise StudyError(
            f"{title}: {len(failed)} of {len(dealt)} groups of workers failed, with {', '.join(open_runs[:5])} not "
            f"trained: {_last_line(next(iter(failed.values())))}; run the same command again, the others are kept"
        )


def _train_group_quietly(
    study: StudyConfig, runs: Mapping[int, TrainingRun], progress: Any, resources: ResourcePlan, on_end: OnEnd
) -> None:
    train_group(study, runs, progress, resources, Terminal(), on_end)


def train_group(
    study: StudyConfig,
    runs: Mapping[int, TrainingRun],
    progress: Any,
    resources: ResourcePlan,
    terminal: Terminal,
    on_end: OnEnd,
    until: int | None = None,
) -> None:
    """Train runs, by their places among those that `progress` counts; see `run_trainings`.

    Under ZeRO 3 each run has workers of its own: DeepSpeed keeps the parts of a model until its process ends.
    """
    settings = [train_settings(study, run.training, resources.workers) for run in runs.values()]
    if len(runs) > 1 and any(map(partitioned, settings)):
        for place, run in runs.items():
            train_group(study, {place: run}, progress, resources, terminal, on_end, until)
        return
    work_of_runs = {place: _worker_run(study, run, resources.workers, until) for place, run in runs.items()}
    left = {place: run for place, run in work_of_runs.items() if last_checkpoint(run) != (len(run.epochs), 0)}
    for place in work_of_runs.keys() - left.keys():
        ray.get(progress.end.remote(place))
    minutes = study.resources.checkpoint_minutes
    group = GroupWork(study.model, study.lora, left, resources.worker_threads, progress, minutes)
    scratch = next(iter(runs.values())).stage.folder
    follower = _Follower(study, runs, work_of_runs, progress, terminal, on_end)
    # Ray Train would take up what lies there; where runs go on is told by their own checkpoints.
    (scratch / RAY_TRAIN_FOLDER).remove()
    with _ray_train_variables():
        trainer = _trainer(study, group, resources, scratch)
        with follower.following():
            failure = trainer.fit().return_value if left else None
    (scratch / RAY_TRAIN_FOLDER).remove()
    if failure is not None:
        kind, message = failure
        raise ERRORS[kind](message)


def check_trainings(study: StudyConfig, runs: Sequence[TrainingRun], workers: int) -> None:
    """Refuse, before any process starts, settings that DeepSpeed's configuration contradicts.

    Raises:
        InputError: they do.
    """
    for run in runs:
        train_settings(study, run.training, workers)


@contextmanager
def _progress_of(runs: Sequence[TrainingRun]) -> Iterator[Any]:
    """An actor that counts the steps of runs, for as long as the block runs."""
    progress = progress_actor([run.stage.folder for run in runs])
    try:
        yield progress
    finally:
        ray.kill(progress)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _worker_run(study: StudyConfig, run: TrainingRun, workers: int, until: int | None) -> WorkerRun:
    settings = train_settings(study, run.training, workers)
    key = f"{_section(study, run.stage)}.micro_batch_size"
    return WorkerRun(run.stage.folder, settings, run.training_set, until, key)


def _trainer(study: StudyConfig, group: GroupWork, resources: ResourcePlan, scratch: Folder) -> Any:
    each = {"CPU": resources.worker_cpus, **({"GPU": resources.worker_gpus} if resources.worker_gpus else {})}
    # Typed as version 1 of Ray Train, which they are not.
    api: Any = ray.train
    make_trainer: Any = TorchTrainer
    return make_trainer(
        work,
        train_loop_config=group,
        torch_config=TorchConfig(backend="nccl" if resources.worker_gpus else "gloo"),
        scaling_config=api.ScalingConfig(
            num_workers=resources.workers,
            use_gpu=bool(resources.worker_gpus),
            resources_per_worker=each,
            placement_strategy="PACK" if resources.worker_gpus else "SPREAD",
        ),
        run_config=api.RunConfig(
            name=RAY_TRAIN_FOLDER,
            storage_path=scratch.path,
            storage_filesystem=scratch.retrying_filesystem(),
            failure_config=api.FailureConfig(
                max_failures=study.resources.max_failures * max(1, len(group.runs)),
                controller_failure_limit=FAILED_STARTS,
            ),
            logging_config=api.LoggingConfig(log_level="ERROR"),
        ),
    )


def train_settings(study: StudyConfig, training: Training, workers: int) -> TrainSettings:
    """The settings of a training run by `workers` workers.

    Raises:
        InputError: DeepSpeed's configuration contradicts the study file; told before any worker starts.
    """
    settings = TrainSettings(
        **training.model_dump(exclude={"share"}), dtype=dtype_of(study.model), deepspeed=_deepspeed(study)
    )
    complete(settings, workers)
    return settings


def _section(study: StudyConfig, stage: StageFolder) -> str:
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


class _Follower:
    """Looks at how far the runs of a group are, from a thread beside the one that waits for the group."""

    def __init__(
        self,
        study: StudyConfig,
        runs: Mapping[int, TrainingRun],
        work_of_runs: Mapping[int, WorkerRun],
        progress: Any,
        terminal: Terminal,
        on_end: OnEnd,
    ) -> None:
        self._study, self._runs, self._work, self._progress = study, runs, work_of_runs, progress
        self._terminal, self._on_end = terminal, on_end
        self._waiting = list(runs)
        self._since = 0.0
        self._shown = ExitStack()

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follow the runs for as long as the block runs, and to their ends where it ends without an error."""
        stop, failures = threading.Event(), list[Exception]()

        def follow() -> None:
            try:
                while not stop.wait(POLL_SECONDS):
                    self._look()
            except Exception as error:
                failures.append(error)

        thread = threading.Thread(target=follow, daemon=True)
        self._show()
        thread.start()
        try:
            yield
        except BaseException:
            stop.set()
            thread.join()
            with self._shown, suppress(RayError):
                self._look()
            raise
        stop.set()
        thread.join()
        with self._shown:
            if failures:
                raise failures[0]
            self._look()

    def _look(self) -> None:
        seen = ray.get(self._progress.take.remote(list(self._runs)))
        for place in list(self._waiting):
            steps = [(moment, step) for of, moment, step in seen.steps if of == place]
            run = seen.runs[place]
            if steps:
                self._advance(run, steps)
            if run.ended is not None:
                self._end(place, run)

    def _show(self) -> None:
        """Open what shows and logs the next run."""
        if not self._waiting:
            return
        run = self._runs[self._waiting[0]]
        stage, settings = run.stage, {"model": self._study.model.name, **run.training.model_dump()}
        self._bar = self._shown.enter_context(self._terminal.bar(run.name, None, "steps"))
        trackers = self._shown.enter_context(tracked(self._study, stage.folder, stage.fingerprint, settings))
        self._logger = TrainingLogger(Meter(self._study.name, stage.name), trackers)

    def _advance(self, run: RunProgress, steps: Sequence[tuple[float, Step]]) -> None:
        for moment, step in steps:
            self._logger.log_step(moment, step)
        self._bar.total = run.steps
        self._bar.move_to(run.step, run.tokens)

    def _end(self, place: int, run: RunProgress) -> None:
        assert run.ended is not None
        stage, names = self._runs[place].stage, self._work[place].epochs
        self._waiting.remove(place)
        if run.failure is not None:
            outcome: Trained | Diverged = Diverged(run.failure)
        else:
            checkpoints = {name: (stage.folder / RUN / name).read_json(METRICS) for name in names}
            self._logger.log_epochs(stage.folder / RUN, names)
            StepCheckpointer(stage.folder).remove()
            result = {"run": RUN, "checkpoints": checkpoints}
            outcome = Trained(result, run.tokens, run.peak_memory, run.rows_reprocessed, run.ended - self._since)
        self._since = run.ended
        self._shown.close()
        self._on_end(place, outcome)
        self._show()
