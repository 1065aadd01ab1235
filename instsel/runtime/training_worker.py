"""What each worker of a group does: join the others, and train one run after another, each from its last checkpoint.

The runs of a group share the workers and the base model: to start a process and to load what it needs takes longer than
many a small run. Between runs the LoRA matrices are taken off the base model, whose own weights no run changes.
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
from instsel.runtime.step_checkpoints import StepCheckpointer
from instsel.training.checkpoint import STATE
from instsel.training.deepspeed import AUTO
from instsel.training.schedule import TrainSettings, rows_at_once

RUN = "run"
METRICS = "metrics.json"
MODEL_TOO_LARGE = (
    "while it loaded the model, which each worker holds whole: take GPUs with more memory, model.dtype bfloat16, or a "
    "smaller model"
)


@dataclass(frozen=True)
class WorkerRun:
    """One of the runs of a group, as its workers need to know it.

    Attributes:
        folder: of the run's stage; checkpoints go to `run/epoch-N` below it.
        settings: what decides the result.
        training_set: folder and name of the Arrow file of examples.
        until: epoch to stop after, for now; by default the last one.
        key: of the study file that says how large micro batches are.
    """

    folder: Folder
    settings: TrainSettings
    training_set: tuple[Folder, str]
    until: int | None
    key: str

    @property
    def epochs(self) -> list[str]:
        """Names of the checkpoints that the run leaves."""
        return [f"epoch-{epoch}" for epoch in range(1, (self.until or self.settings.epochs) + 1)]


@dataclass(frozen=True)
class GroupWork:
    """What the workers of a group are given.

    Attributes:
        model, lora: of the study.
        runs: to train, in this order, by their places among those that `progress` counts.
        threads: torch threads of a worker.
        progress: a `ProgressActor`.
        checkpoint_minutes: between checkpoints inside epochs.
    """

    model: Model
    lora: Lora
    runs: Mapping[int, WorkerRun]
    threads: int
    progress: Any
    checkpoint_minutes: float


def work(group: GroupWork) -> tuple[str, str] | None:
    """What each worker does. An InputError meets all of them and would again: returned, it makes Ray Train stop.

    A run that diverges would do so again: it ends, and the others are trained.

    Raises:
        StudyError: memory or disk ran out, which may meet one worker alone: only what is raised ends the others, which
            wait for its part of the step.
    """
    # Imported here, and below: the driver needs none of it, and loads faster without.
    from instsel.data.batching import is_out_of_memory

    base, run = None, None
    try:
        import torch

        torch.set_num_threads(group.threads)
        for place in group.runs:
            run = group.runs[place]
            resume = _starting_point(group, place)
            if base is None and not resume.complete:
                base = _load_base(group.model)
            failure = None if resume.complete else _train_run(group, place, base, resume)
            if ray.train.get_context().get_world_rank() == 0:
                ray.get(group.progress.end.remote(place, failure))
    except InputError as error:
        return type(error).__name__, str(error)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        advice = MODEL_TOO_LARGE if base is None or run is None else _smaller_steps(run)
        raise StudyError(
            f"a training worker ran out of memory {advice} ({' '.join(str(error).split())[:200]})"
        ) from error
    return None


def partitioned(settings: TrainSettings) -> bool:
    """Whether training leaves a base model in parts: ZeRO 3 spreads its weights over the workers for good."""
    return bool(settings.deepspeed.get("zero_optimization", {}).get("stage") == 3)


def _smaller_steps(run: WorkerRun) -> str:
    """What to change where the model fits and a step of it does not."""
    settings = run.settings
    workers = ray.train.get_context().get_world_size()
    rows = rows_at_once(settings.batch_size, settings.micro_batch_size, workers)
    own = settings.deepspeed.get("train_micro_batch_size_per_gpu", AUTO) != AUTO
    if rows == 1:
        lower = ""
    elif own:
        lower = f"lower {run.key} and what deepspeed.config says of it, or "
    else:
        lower = f"set {run.key} below {rows}, and the training goes on at its last checkpoint; or "
    step = "one row" if rows == 1 else f"{rows} rows"
    return f"in a step of {step}: {lower}train anew with a lower data.max_length"


def _load_base(model: Model) -> Any:
    from ray.train.torch import get_device

    from instsel.models.loading import load_base

    return load_base(model).to(get_device())


def _train_run(group: GroupWork, place: int, base: Any, resume: "StartingPoint") -> str | None:
    """Train one run on the base model, which is as before when it ends; why the run diverged, if it did."""
    from ray.train.torch import get_device

    from instsel.data.batching import collate
    from instsel.models.loading import attach_lora
    from instsel.models.loss import answer_losses
    from instsel.training.dataset import TrainingSet, read_order
    from instsel.training.loop import StepCheckpoints, train
    from instsel.training.schedule import EpochMetrics, Step

    run, device = group.runs[place], get_device()
    checkpoints = run.folder / RUN
    inside = StepCheckpointer(run.folder, group.checkpoint_minutes)
    progress = group.progress if ray.train.get_context().get_world_rank() == 0 else None

    def on_step(step: Step) -> None:
        if progress is not None:
            progress.count.remote(place, step, peak_memory())

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
                step_checkpoints=StepCheckpoints(inside.due, inside.save),
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


def _commit(out: Folder, made: Path, metrics: Any) -> None:
    """Copy the checkpoint of an epoch into the run's folder; its metrics, written last, make it count."""
    for file in sorted(made.iterdir()):
        out.put(file.name, file)
    out.write_json(METRICS, asdict(metrics))


@dataclass(frozen=True)
class StartingPoint:
    """Where a run goes on.

    Attributes:
        checkpoint: to go on from; None for a run that starts from the beginning.
        complete: whether nothing is left to do.
    """

    checkpoint: Folder | None
    complete: bool = False

    @contextmanager
    def local(self) -> Iterator[Path | None]:
        """The checkpoint's folder on this machine."""
        if self.checkpoint is None:
            yield None
            return
        with self.checkpoint.local() as folder:
            yield folder


def _starting_point(group: GroupWork, place: int) -> StartingPoint:
    """Where all workers take up a run: the first one looks, since others may see a checkpoint earlier or later.

    A run that ended before workers were lost, also one that diverged, is complete.
    """
    import torch
    import torch.distributed as dist
    from ray.train.torch import get_device

    run, found = group.runs[place], (0, 0, 0)
    if dist.get_rank() == 0:
        found = (*last_checkpoint(run), int(ray.get(group.progress.has_ended.remote(place))))
    said = torch.tensor(found, dtype=torch.int64, device=get_device())
    dist.broadcast(said, src=0)
    epoch, step, ended = said.tolist()
    if ended:
        return StartingPoint(None, complete=True)
    if step:
        return StartingPoint(StepCheckpointer(run.folder).at(step))
    if epoch:
        return StartingPoint(run.folder / RUN / f"epoch-{epoch}", complete=epoch == len(run.epochs))
    return StartingPoint(None)


def last_checkpoint(run: WorkerRun) -> tuple[int, int]:
    """The last epoch that has its checkpoint, and the step of one inside the next epoch; 0 where there is none."""
    epoch = 0
    for number, name in enumerate(run.epochs, start=1):
        if not (run.folder / RUN / name).exists(METRICS):
            break
        epoch = number
    if epoch == len(run.epochs):
        return epoch, 0
    ended = (run.folder / RUN / f"epoch-{epoch}").read_json(STATE)["step"] if epoch else 0
    return epoch, StepCheckpointer(run.folder).latest(epoch, ended) or 0
