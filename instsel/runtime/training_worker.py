"""The work of each worker of a group: train the runs one after another, each from its last checkpoint.

The runs of a group share the workers and the base model, since starting a process and loading a model takes longer than
many a small run. Between runs the LoRA matrices are removed from the base model, whose weights no run changes.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train

from instsel.config.study import Lora, Model
from instsel.errors import Diverged, InputError, StudyError
from instsel.io.store import Folder
from instsel.runtime.session import peak_memory
from instsel.runtime.training_progress import StepCheckpointer
from instsel.runtime.training_run import METRICS, RUN, checkpoint_names
from instsel.training.deepspeed import AUTO, section
from instsel.training.schedule import STATE, EpochMetrics, Step, TrainSettings, rows_at_once

MODEL_TOO_LARGE = (
    "while it loaded the model, which each worker holds whole: take GPUs with more memory, model.dtype bfloat16, or a "
    "smaller model"
)


@dataclass(frozen=True)
class WorkerRun:
    """A run of a group, as its workers need it.

    Attributes:
        folder: of the run's stage; checkpoints go to `run/epoch-N` below it.
        settings: everything that the result depends on, except the rows.
        training_set: folder and name of the Arrow file of examples.
        until: epoch to stop after in this call; by default the last one.
        key: key of the study file for the size of micro batches.
    """

    folder: Folder
    settings: TrainSettings
    training_set: tuple[Folder, str]
    until: int | None
    key: str

    @property
    def checkpoint_names(self) -> list[str]:
        """Return the names of the checkpoints that this call leaves."""
        return checkpoint_names(self.until or self.settings.epochs)


@dataclass(frozen=True)
class GroupWork:
    """The work of a group, which every worker gets.

    Attributes:
        model, lora: of the study.
        runs: to train, in this order, by their indices among those that `progress` counts.
        threads: torch threads of a worker.
        progress: a `ProgressActor`.
        checkpoint_minutes: time between checkpoints inside epochs.
    """

    model: Model
    lora: Lora
    runs: Mapping[int, WorkerRun]
    threads: int
    progress: Any
    checkpoint_minutes: float


def work(group: GroupWork) -> str | None:
    """Train the runs of a group, in each of its workers.

    A run that diverges would do so again: it ends, and the others are trained.

    Returns:
        The message of an InputError. All workers meet it, and would meet it again: where nothing is raised, Ray Train
        does not restart them.

    Raises:
        StudyError: memory or disk ran out, possibly in this worker alone: the others wait for its part of the step,
            and only an error that is raised ends them.
    """
    # Imported here and below: the driver needs none of it, and starts faster without.
    from instsel.data.batching import is_out_of_memory

    base, run = None, None
    try:
        import torch

        torch.set_num_threads(group.threads)
        for index in group.runs:
            run = group.runs[index]
            resume = _starting_point(group, index)
            if resume.stopped:
                return None
            if base is None and not resume.complete:
                base = _load_base(group.model)
            failure = None if resume.complete else _train_run(group, index, base, resume)
            if ray.train.get_context().get_world_rank() == 0:
                ray.get(group.progress.end.remote(index, failure))
    except InputError as error:
        return str(error)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        advice = MODEL_TOO_LARGE if base is None or run is None else _smaller_steps(run)
        raise StudyError(
            f"a training worker ran out of memory {advice} ({' '.join(str(error).split())[:200]})"
        ) from error
    return None


def partitioned(settings: TrainSettings) -> bool:
    """Return whether training leaves a base model in parts: ZeRO 3 partitions its weights among workers for good."""
    return bool(section(settings.deepspeed, "zero_optimization").get("stage") == 3)


def _smaller_steps(run: WorkerRun) -> str:
    """Say what to change where the model fits into memory and a step does not."""
    settings = run.settings
    workers = ray.train.get_context().get_world_size()
    rows = rows_at_once(settings.batch_size, settings.micro_batch_size, workers)
    set_by_user = settings.deepspeed.get("train_micro_batch_size_per_gpu", AUTO) != AUTO
    if rows == 1:
        lower = ""
    elif set_by_user:
        lower = f"lower {run.key} and what deepspeed.config says of it, or "
    else:
        lower = f"set {run.key} below {rows}, and the training resumes at its last checkpoint; or "
    step = "one row" if rows == 1 else f"{rows} rows"
    return f"in a step of {step}: {lower}train again with a lower data.max_length"


def _load_base(model: Model) -> Any:
    from ray.train.torch import get_device

    from instsel.models.loading import load_base

    return load_base(model).to(get_device())


class _StepReporter:
    """Reports the steps of a run to the driver, without waiting for its answers."""

    def __init__(self, progress: Any, run: int) -> None:
        self._progress, self._run = progress, run
        self._answer: Any = None

    def report(self, step: Step) -> None:
        """Report a step.

        Raises:
            StudyError: the driver has stopped the run, or is gone.
        """
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            if ray.get(self._answer):
                raise StudyError("the driver has stopped this training")
            self._answer = None
        answer = self._progress.count.remote(self._run, step, peak_memory())
        if self._answer is None:
            self._answer = answer


def _train_run(group: GroupWork, index: int, base: Any, resume: "StartingPoint") -> str | None:
    """Train a run on the base model and restore that afterwards; return why the run diverged, if it did."""
    from ray.train.torch import get_device

    from instsel.data.batching import collate
    from instsel.models.loading import attach_lora
    from instsel.models.loss import answer_losses
    from instsel.training.dataset import TrainingSet, read_order
    from instsel.training.loop import StepCheckpoints, train

    run, device = group.runs[index], get_device()
    checkpoints = run.folder / RUN
    step_checkpoints = StepCheckpointer(run.folder, group.checkpoint_minutes)
    reporter = _StepReporter(group.progress, index) if ray.train.get_context().get_world_rank() == 0 else None

    def on_step(step: Step) -> None:
        if reporter is not None:
            reporter.report(step)

    def on_epoch(metrics: EpochMetrics, folder: Path | None) -> None:
        if folder is not None:
            _commit(checkpoints / f"epoch-{metrics.epoch}", folder, metrics)

    model: Any = attach_lora(base, group.lora, run.settings.seed).to(device)
    try:
        with resume.local() as checkpoint:
            train(
                model,
                TrainingSet(*run.training_set),
                run.settings,
                lambda network, examples: answer_losses(network, collate(examples, device=device)),
                on_epoch=on_epoch,
                on_step=on_step,
                step_checkpoints=StepCheckpoints(step_checkpoints.due, step_checkpoints.save),
                resume=checkpoint,
                order=read_order(run.folder),
                until=run.until,
            )
    except Diverged as error:
        return str(error)
    finally:
        if not partitioned(run.settings):
            model.unload()
    return None


def _commit(out: Folder, checkpoint: Path, metrics: EpochMetrics) -> None:
    """Copy the checkpoint of an epoch into the run's folder; its metrics, written last, make it valid."""
    for file in sorted(checkpoint.iterdir()):
        out.put(file.name, file)
    out.write_json(METRICS, asdict(metrics))


@dataclass(frozen=True)
class StartingPoint:
    """Where a run starts or resumes.

    Attributes:
        checkpoint: to resume from; None for a run that starts from scratch.
        complete: whether nothing is left to do.
        stopped: whether the driver has stopped the group.
    """

    checkpoint: Folder | None
    complete: bool = False
    stopped: bool = False

    @contextmanager
    def local(self) -> Iterator[Path | None]:
        """Copy the checkpoint to this machine, if it is not there, and give its folder."""
        if self.checkpoint is None:
            yield None
            return
        with self.checkpoint.local() as folder:
            yield folder


def _starting_point(group: GroupWork, index: int) -> StartingPoint:
    """Agree among all workers where a run resumes: the first one looks, others may see a checkpoint earlier or later.

    A run that ended before workers were lost is complete, also if it diverged.
    """
    import torch
    import torch.distributed as dist
    from ray.train.torch import get_device

    run, values = group.runs[index], [0, 0, 0, 0]
    if dist.get_rank() == 0:
        values = [*last_checkpoint(run), *map(int, ray.get(group.progress.state.remote(index)))]
    shared = torch.tensor(values, dtype=torch.int64, device=get_device())
    dist.broadcast(shared, src=0)
    epoch, step, ended, stopped = shared.tolist()
    if ended or stopped:
        return StartingPoint(None, complete=bool(ended), stopped=bool(stopped))
    if step:
        return StartingPoint(StepCheckpointer(run.folder).at(step))
    if epoch:
        return StartingPoint(run.folder / RUN / f"epoch-{epoch}", complete=epoch == len(run.checkpoint_names))
    return StartingPoint(None)


def last_checkpoint(run: WorkerRun) -> tuple[int, int]:
    """Return the last epoch that has a checkpoint, and the step of a checkpoint inside the next epoch; 0 for none."""
    epoch = 0
    for number, name in enumerate(run.checkpoint_names, start=1):
        if not (run.folder / RUN / name).exists(METRICS):
            break
        epoch = number
    if epoch == len(run.checkpoint_names):
        return epoch, 0
    ended = (run.folder / RUN / f"epoch-{epoch}").read_json(STATE)["step"] if epoch else 0
    return epoch, StepCheckpointer(run.folder).latest(epoch, ended) or 0
