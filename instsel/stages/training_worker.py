"""What each worker of a training run does: join the others, go on from the last checkpoint, report and upload."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import ray.train

from instsel.errors import InputError, StudyError
from instsel.stages.memory import peak_memory
from instsel.stages.pauses import PauseFolder
from instsel.storage import Folder
from instsel.training.checkpoint import STATE
from instsel.training.deepspeed_config import AUTO
from instsel.training.schedule import rows_at_once
from instsel.training.settings import TrainSettings

RUN = "run"
METRICS = "metrics.json"
MODEL_TOO_LARGE = (
    "while it loaded the model, which each worker holds whole: take GPUs with more memory, model.dtype bfloat16, or a "
    "smaller model"
)


def work(plain: dict[str, Any]) -> tuple[str, str] | None:
    """What each worker does. An error of ours meets all of them and would again: returned, it makes Ray Train stop.

    Raises:
        StudyError: memory ran out, which may meet one worker alone: only what is raised ends the others, which wait for
            its part of the step.
    """
    # Imported here, and below: the driver needs none of it, and loads faster without.
    from instsel.data.fitting import is_out_of_memory

    model = None
    try:
        model = _load(plain)
        _train(plain, model)
    except (InputError, StudyError) as error:
        return type(error).__name__, str(error)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        advice = MODEL_TOO_LARGE if model is None else _smaller_steps(plain)
        raise StudyError(
            f"a training worker ran out of memory {advice} ({' '.join(str(error).split())[:200]})"
        ) from error
    return None


def _smaller_steps(plain: dict[str, Any]) -> str:
    """What to change where the model fits and a step of it does not."""
    settings: TrainSettings = plain["settings"]
    workers = ray.train.get_context().get_world_size()
    rows = rows_at_once(settings.batch_size, settings.micro_batch_size, workers)
    own = settings.deepspeed.get("train_micro_batch_size_per_gpu", AUTO) != AUTO
    if rows == 1:
        lower = ""
    elif own:
        lower = f"lower {plain['key']} and what deepspeed.config says of it, or "
    else:
        lower = f"set {plain['key']} below {rows}, and the training goes on at its last checkpoint; or "
    step = "one row" if rows == 1 else f"{rows} rows"
    return f"in a step of {step}: {lower}train anew with a lower data.max_length"


def _load(plain: dict[str, Any]) -> Any:
    import torch
    from ray.train.torch import get_device

    from instsel.model import attach_lora, load_base

    torch.set_num_threads(plain["threads"])
    return attach_lora(load_base(plain["model"]), plain["lora"], plain["settings"].seed).to(get_device())


def _train(plain: dict[str, Any], model: Any) -> None:
    from ray.train.torch import get_device

    from instsel.data.batches import collate
    from instsel.loss import answer_losses
    from instsel.training.dataset import TrainingSet
    from instsel.training.figures import EpochMetrics, Step
    from instsel.training.loop import Pauses, train
    from instsel.training.order import read_order

    device = get_device()
    board = plain["board"] if ray.train.get_context().get_world_rank() == 0 else None

    def on_step(step: Step) -> None:
        if board is not None:
            board.count.remote(step, peak_memory())

    def on_epoch(metrics: EpochMetrics, folder: Path | None) -> None:
        values, name = asdict(metrics), f"epoch-{metrics.epoch}"
        if folder is None:
            ray.train.report(values, checkpoint_dir_name=name)
            return
        (folder / METRICS).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        made = ray.train.Checkpoint.from_directory(folder)
        ray.train.report(values, made, checkpoint_dir_name=name, checkpoint_upload_fn=partial(_upload, run))

    run: Folder = plain["out"] / RUN
    pauses = PauseFolder(plain["out"], plain["checkpoint_minutes"])
    with _last_checkpoint(run, pauses) as resume:
        train(
            model,
            TrainingSet(*plain["training_set"]),
            plain["settings"],
            lambda network, examples: answer_losses(network, collate(examples, device=device)),
            on_epoch=on_epoch,
            on_step=on_step,
            pauses=Pauses(pauses.due, pauses.save),
            resume=resume,
            order=read_order(plain["out"]),
            until=plain["until"],
        )


@contextmanager
def _last_checkpoint(run: Folder, pauses: PauseFolder) -> Iterator[Path | None]:
    """The folder to go on from, on this machine: one inside an epoch, else the last epoch's, else None."""
    last = ray.train.get_checkpoint()
    ended = None if last is None else run / Path(last.path).name
    state = {"epoch": 0, "step": 0} if ended is None else ended.read_json(STATE)
    place = pauses.after(state["epoch"], state["step"]) or ended
    if place is None:
        yield None
        return
    with place.local() as folder:
        yield folder


def _upload(run: Folder, made: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
    """Copy a checkpoint into the run's folder. Ray Train's own upload does not notice if the end of a file is lost."""
    out = run / name
    for file in sorted(Path(made.path).iterdir()):
        out.put(file.name, file)
    return ray.train.Checkpoint(out.path, run.enduring())
