"""Ray Train around the training loop: workers, restarts after failures, checkpoints into the stage's folder."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from instsel.config import StudyConfig, Training
from instsel.progress import Bar, Terminal
from instsel.stages.memory import peak_memory
from instsel.stages.progress import ProgressBoard
from instsel.stages.session import Allotment
from instsel.storage import Folder
from instsel.study import Stage
from instsel.training.deepspeed_config import read_json
from instsel.training.settings import TrainSettings

RUN = "run"
METRICS = "metrics.json"
POLL_SECONDS = 1.0


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
) -> Trained:
    """Train fresh LoRA matrices; each epoch leaves a checkpoint `run/epoch-N` in the stage's folder.

    A run that was stopped goes on after the last epoch it finished, whoever stopped it: Ray Train restarts workers
    that died, and finds the run again by its name when the driver is started anew.

    Args:
        study: model, LoRA and DeepSpeed settings, and how many worker failures to survive.
        stage: whose folder the checkpoints go to.
        training: epochs, learning rate and the like.
        training_set: folder and name of the Arrow file of examples.
        allot: workers and what each holds.
        terminal: where progress is shown.

    Returns:
        A result of "run", the folder of the checkpoints, and "checkpoints", name -> metrics of its epoch.
    """
    board = ProgressBoard.remote()
    loop = {
        "model": study.model,
        "lora": study.lora,
        "training": training,
        "deepspeed": _deepspeed(study),
        "training_set": training_set,
        "threads": allot.worker_threads,
        "board": board,
    }
    resources = {"CPU": allot.worker_cpus, **({"GPU": allot.worker_gpus} if allot.worker_gpus else {})}
    trainer = TorchTrainer(
        _worker,
        train_loop_config=loop,
        torch_config=TorchConfig(backend="nccl" if allot.worker_gpus else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=allot.workers, use_gpu=bool(allot.worker_gpus), resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name=RUN,
            storage_path=stage.folder.path,
            storage_filesystem=stage.folder.filesystem,
            failure_config=ray.train.FailureConfig(max_failures=study.resources.max_failures),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    with terminal.bar(stage.name, None, "steps") as bar, _following(board, bar):
        trainer.fit()
    seen = ray.get(board.read.remote())
    names = [f"epoch-{epoch}" for epoch in range(1, training.epochs + 1)]
    checkpoints = {name: (stage.folder / RUN / name).read_json(METRICS) for name in names}
    return Trained({"run": RUN, "checkpoints": checkpoints}, seen.get("tokens", 0), seen.get("peak_memory", 0))


def _deepspeed(study: StudyConfig) -> dict[str, Any]:
    """The DeepSpeed configuration as the user wrote it."""
    if study.deepspeed.config is not None:
        return read_json(study.deepspeed.config)
    return {"zero_optimization": {"stage": study.deepspeed.stage}}


def _worker(plain: dict[str, Any]) -> None:
    """What each Ray Train worker does."""
    # Imported here: the driver needs neither, and loads faster without.
    import torch
    from ray.train.torch import get_device

    from instsel.data.batches import collate
    from instsel.loss import answer_losses
    from instsel.model import attach_lora, load_base
    from instsel.training.dataset import TrainingSet
    from instsel.training.loop import EpochMetrics, train

    torch.set_num_threads(plain["threads"])
    device = get_device()
    training: Training = plain["training"]
    model = attach_lora(load_base(plain["model"]), plain["lora"], training.seed).to(device)
    board = plain["board"] if ray.train.get_context().get_world_rank() == 0 else None

    def on_step(step: int, steps: int, tokens: int, loss: float) -> None:
        if board is not None:
            board.update.remote(step=step, steps=steps, tokens=tokens, loss=loss, peak_memory=peak_memory())

    def on_epoch(folder: Path | None, metrics: EpochMetrics) -> None:
        values, name = asdict(metrics), f"epoch-{metrics.epoch}"
        if folder is None:
            ray.train.report(values, checkpoint_dir_name=name)
            return
        (folder / METRICS).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        ray.train.report(values, ray.train.Checkpoint.from_directory(folder), checkpoint_dir_name=name)

    settings = TrainSettings(
        **training.model_dump(exclude={"share"}), dtype=plain["model"].dtype, deepspeed=plain["deepspeed"]
    )
    last = ray.train.get_checkpoint()
    train(
        model,
        TrainingSet(*plain["training_set"]),
        settings,
        lambda network, examples: answer_losses(network, collate(examples, device=device)),
        on_epoch=on_epoch,
        on_step=on_step,
        resume=Path(last.to_directory()) if last else None,
    )


@contextmanager
def _following(board: Any, bar: Bar) -> Iterator[None]:
    """Show on the bar what the workers write on the board, for as long as the block runs."""
    stop = threading.Event()

    def follow() -> None:
        while not stop.wait(POLL_SECONDS):
            seen = ray.get(board.read.remote())
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
