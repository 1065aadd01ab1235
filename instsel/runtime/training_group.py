"""A group of Ray Train workers: its settings, its start, restarts after failures, and its end."""

from collections.abc import Mapping
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from instsel.config.study import StudyConfig
from instsel.config.training import Training
from instsel.errors import InputError
from instsel.io.store import Folder
from instsel.models.dtypes import dtype_of
from instsel.runtime.environment import default_variables
from instsel.runtime.session import cluster_nodes
from instsel.runtime.training_follower import TrainingFollower
from instsel.runtime.training_run import OnEnd, TrainingRun, TrainingSession
from instsel.runtime.training_worker import GroupWork, WorkerRun, last_checkpoint, partitioned, work
from instsel.study.folder import StageFolder
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
    minutes = config.resources.checkpoint_minutes
    group = GroupWork(config.model, config.lora, open_runs, resources.worker_threads, progress, minutes)
    scratch = next(iter(runs.values())).stage.folder
    # Ray Train would restore what lies there, but the runs' own checkpoints say where they resume.
    (scratch / RAY_TRAIN_FOLDER).remove()
    variables = RAY_TRAIN | (SINGLE_NODE if len(cluster_nodes()) == 1 else {})
    with default_variables(variables):
        trainer = _trainer(session, group, scratch)
        with TrainingFollower(session, runs, progress, on_end, until).following():
            failure = trainer.fit().return_value if open_runs else None
    (scratch / RAY_TRAIN_FOLDER).remove()
    if failure is not None:
        raise InputError(failure)


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


def _deepspeed(config: StudyConfig) -> dict[str, Any]:
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
    trainer_class: Any = TorchTrainer
    return trainer_class(
        work,
        train_loop_config=group,
        torch_config=TorchConfig(backend="nccl" if resources.worker_gpus else "gloo"),
        scaling_config=api.ScalingConfig(
            num_workers=resources.workers,
            use_gpu=bool(resources.worker_gpus),
            resources_per_worker=per_worker,
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
