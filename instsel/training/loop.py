"""The fine-tuning loop of one worker: start, epochs, checkpoints, resumption; DeepSpeed shards the state."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from instsel.data.batching import Example
from instsel.errors import InputError, StudyError
from instsel.training.checkpoint import (
    CheckpointState,
    Moments,
    check_finite,
    load_adapter,
    read_checkpoint,
    trainable,
    write_checkpoint,
)
from instsel.training.dataset import check_order
from instsel.training.deepspeed import collect_parameters, complete, import_deepspeed, restore
from instsel.training.deepspeed_schema import why_rejected
from instsel.training.schedule import EpochMetrics, PartialEpoch, Step, TrainSettings
from instsel.training.steps import Steps

LossFunction = Callable[[nn.Module, Sequence[Example]], Tensor]


@dataclass(frozen=True)
class StepCheckpoints:
    """Checkpoints inside an epoch.

    Attributes:
        due: called on the first worker after each step; returns whether to write a checkpoint now.
        save: called on the first worker with the checkpoint's folder, which is deleted afterwards, and the number of
            steps; the other workers wait for it at their next step.
    """

    due: Callable[[], bool]
    save: Callable[[Path, int], None]


class _LossModule(nn.Module):
    """A module whose forward pass is the loss, as DeepSpeed only sees forward passes."""

    def __init__(self, model: nn.Module, loss_fn: LossFunction) -> None:
        super().__init__()
        self.model, self.loss_fn = model, loss_fn

    def forward(self, examples: Sequence[Example]) -> Tensor:
        return self.loss_fn(self.model, examples)


def train(  # noqa: PLR0913
    model: nn.Module,
    examples: Sequence[Example],
    settings: TrainSettings,
    loss_fn: LossFunction,
    *,
    on_epoch: Callable[[EpochMetrics, Path | None], None],
    on_step: Callable[[Step], None],
    step_checkpoints: StepCheckpoints | None = None,
    resume: Path | None = None,
    order: Sequence[NDArray[np.int64]] | None = None,
    until: int | None = None,
) -> None:
    """Train the LoRA matrices of a PEFT model in place.

    The workers are those of the default torch.distributed process group; the variable LOCAL_RANK selects a worker's
    device. The gradient of a step is that of the mean loss over its global batch, so the number of workers changes the
    result only by rounding (and, with LoRA dropout, by the random masks). With the same number of workers, a run that
    stops and resumes, after an epoch or inside one, ends with exactly the weights of an uninterrupted run: it continues
    in the epoch's order after the last row of the checkpoint.

    Args:
        model: PEFT model whose trainable parameters are its LoRA matrices.
        examples: rows with at least one answer token each; read by index, every worker has all of them.
        settings: all settings that affect the result.
        loss_fn: maps the model and B rows to their losses, float32 (B,), differentiable.
        on_epoch: called on every worker after each epoch with its metrics and a checkpoint folder, which is deleted
            afterwards; the folder is None on all workers but the first.
        on_step: called on every worker after each step.
        step_checkpoints: checkpoints inside epochs; by default none.
        resume: checkpoint folder to resume from.
        order: row indices, int64 (N,) per epoch; by default each epoch is shuffled by the seed.
        until: epoch to stop after; by default the last one. The learning rate schedule is that of the whole run.

    Raises:
        InputError: DeepSpeed rejects the configuration, the checkpoint belongs to another model, or the order to
            another training.
        StudyError: the workers do not have the same checkpoint.
        Diverged: a loss, gradient, weight or moment is not finite.
    """
    if order is not None:
        check_order(order, len(examples), settings.epochs)
    last_epoch, step, partial_epoch = 0, 0, PartialEpoch()
    if resume is not None:
        moments, state = _read_together(resume, model)
        last_epoch, step = state.epoch, state.step
        partial_epoch = PartialEpoch(*state.partial_epoch)
    masters = {name: parameter.detach().float().clone() for name, parameter in trainable(model).items()}
    engine = _start(model, settings, loss_fn)
    try:
        if resume is not None:
            restore(engine, model, masters, moments, step)
        steps = Steps(engine, examples, settings, step, order)
        for epoch in range(last_epoch + 1, (until or settings.epochs) + 1):
            metrics = steps.epoch(epoch, partial_epoch, _after_step(steps, model, epoch, on_step, step_checkpoints))
            partial_epoch = PartialEpoch()
            state_of_epoch = CheckpointState(epoch, metrics.step, metrics.learning_rate, settings.betas, settings.eps)
            _checkpoint(steps, model, state_of_epoch, partial(on_epoch, metrics))
    finally:
        engine.destroy()


def _read_together(resume: Path, model: nn.Module) -> tuple[Moments, CheckpointState]:
    """Read a checkpoint on every worker, and check that all have the same.

    Workers that resumed at different steps would train on mixed batches, and wait for each other in the end; so would
    those that have a checkpoint for one that has none.

    Raises:
        InputError: no worker can read it.
        StudyError: some cannot, or they have different ones.
    """
    failure, read = None, None
    try:
        read = read_checkpoint(resume, model)
        load_adapter(resume, model)
    except InputError as error:
        failure = error
    point = (-1, -1) if failure is not None or read is None else (read[1].epoch, read[1].step)
    of_worker = torch.tensor(point, dtype=torch.int64, device=next(model.parameters()).device)
    of_workers = [torch.empty_like(of_worker) for _ in range(dist.get_world_size())]
    dist.all_gather(of_workers, of_worker)
    points = [tuple(each.tolist()) for each in of_workers]
    if failure is not None and len(set(points)) == 1:
        raise failure
    if read is None or len(set(points)) > 1:
        checkpoints = ", ".join(
            f"worker {rank} {'none' if step < 0 else f'step {step} after epoch {epoch}'}"
            for rank, (epoch, step) in enumerate(points)
        )
        raise StudyError(
            f"training workers do not resume from the same checkpoint {resume.name} ({checkpoints}); `out` has to be "
            f"storage that all machines see alike{'' if failure is None else f' ({failure})'}"
        )
    return read


def _start(model: nn.Module, settings: TrainSettings, loss_fn: LossFunction) -> Any:
    deepspeed = import_deepspeed()
    config = complete(settings, dist.get_world_size())
    optimizer = torch.optim.AdamW(
        trainable(model).values(),
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )
    try:
        engine, *_ = deepspeed.initialize(
            model=_LossModule(model, loss_fn), optimizer=optimizer, config=config, dist_init_required=False
        )
    except (ValueError, AssertionError) as error:
        raise InputError(f"deepspeed.config: DeepSpeed rejects it: {why_rejected(error)}") from error
    engine.train()
    return engine


def _after_step(
    steps: Steps, model: nn.Module, epoch: int, on_step: Callable[[Step], None], checkpoints: StepCheckpoints | None
) -> Callable[[Step, PartialEpoch], None]:
    """Return a callback that reports a step, and writes a checkpoint if it is due."""

    def after(step: Step, partial_epoch: PartialEpoch) -> None:
        on_step(step)
        # At the end of an epoch a checkpoint is written anyway.
        if checkpoints is None or step.number == epoch * steps.in_epoch or not _all_agree(steps, checkpoints.due):
            return
        settings = steps.settings
        state = CheckpointState(
            epoch - 1,
            step.number,
            step.learning_rate,
            settings.betas,
            settings.eps,
            partial_epoch=astuple(partial_epoch),
        )

        def save(folder: Path | None) -> None:
            if folder is not None:
                checkpoints.save(folder, step.number)

        _checkpoint(steps, model, state, save)

    return after


def _all_agree(steps: Steps, due: Callable[[], bool]) -> bool:
    """Return the first worker's answer on all workers, as writing a checkpoint takes collectives of all of them."""
    answer = torch.tensor([int(steps.rank == 0 and due())], device=steps.engine.device)
    dist.broadcast(answer, src=0)
    return bool(answer.item())


def _checkpoint(steps: Steps, model: nn.Module, state: CheckpointState, save: Callable[[Path | None], None]) -> None:
    weights, moments = collect_parameters(steps.engine, model)
    # Checked on every worker, so that all of them stop: if one stopped alone, the others would wait for it.
    check_finite(weights, moments, state.step)
    if steps.rank != 0:
        save(None)
        return
    with tempfile.TemporaryDirectory(prefix="instsel-") as folder:
        write_checkpoint(Path(folder), model, weights, moments, state)
        save(Path(folder))
