"""Training runs on Ray Train: one group of workers for runs one after another, or several groups side by side."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray

from instsel.config.study import StudyConfig
from instsel.console import Terminal
from instsel.errors import Diverged, InputError, StudyError
from instsel.runtime.errors import last_line
from instsel.runtime.session import on_this_node, useful_processes
from instsel.runtime.training_group import POLL_SECONDS, train_group, train_settings
from instsel.runtime.training_progress import progress_actor
from instsel.runtime.training_run import OnEnd, Trained, TrainingRun, TrainingSession
from instsel.study.resources import ResourcePlan


def run_training(session: TrainingSession, run: TrainingRun, until: int | None = None) -> Trained:
    """Train a single run, see `run_trainings`.

    Raises:
        Diverged: a loss, gradient, weight or moment is not finite.
    """
    outcomes: list[Trained | Diverged] = []
    run_trainings(session, [run], lambda _, outcome: outcomes.append(outcome), until)
    (outcome,) = outcomes
    if isinstance(outcome, Diverged):
        raise outcome
    return outcome


def run_trainings(
    session: TrainingSession, runs: Sequence[TrainingRun], on_end: OnEnd, until: int | None = None
) -> None:
    """Train some runs by one group of workers, one run after another.

    A run that was stopped resumes from its last checkpoint, whatever stopped it: Ray Train restarts workers that died,
    and a new call reads what an earlier call left. Beside the checkpoints of epochs there is one every
    `resources.checkpoint_minutes`; the rows before it are not trained on again in their epoch.

    Args:
        session: configuration, workers and terminal.
        runs: in the order in which they are trained.
        on_end: called when a run has ended, from another thread, with its outcome; a run that diverged does not end the
            others. If it raises, the workers are stopped.
        until: epoch to stop after in this call; by default the last one.

    Raises:
        InputError: DeepSpeed's configuration, a training set or a checkpoint does not fit.
        ray.train.TrainingFailedError: workers failed more often than the study allows.
    """
    check_trainings(session, runs)
    with _progress_of(runs) as progress:
        train_group(session, dict(enumerate(runs)), progress, on_end, until)


def train_side_by_side(
    session: TrainingSession, title: str, runs: Sequence[TrainingRun], groups: int, on_end: OnEnd
) -> None:
    """Train some runs by several groups of workers at once, each of which has a part of the runs.

    Args:
        session: as `run_trainings` takes it, with the resources of one group.
        title: of the progress bar, which counts runs.
        runs: assigned to the groups in turn.
        groups: most of them; fewer where the runs are so small that another group is not worth its start.
        on_end: as `run_trainings` takes it; called in the process that drives the group.

    Raises:
        InputError: as `run_trainings`.
        StudyError: a group failed; the others have finished.
    """
    groups = useful_processes(min(groups, len(runs)), sum(run.tokens for run in runs))
    if groups == 1:
        run_trainings(session, runs, on_end)
        return
    check_trainings(session, runs)
    parts = [dict(list(enumerate(runs))[first::groups]) for first in range(groups)]
    driver: Any = ray.remote(num_cpus=0, max_retries=session.config.resources.max_failures)(_drive_group)
    # On this machine: any other machine could go away, and the group's driver with it.
    driver = driver.options(scheduling_strategy=on_this_node())
    failures: dict[Any, Exception] = {}
    with _progress_of(runs) as progress, session.console.bar(title, len(runs), "runs") as bar:
        tasks = {driver.remote(session.config, session.resources, part, progress, on_end): part for part in parts}
        waiting = list(tasks)
        while waiting:
            done, waiting = ray.wait(waiting, timeout=POLL_SECONDS)
            for task in done:
                try:
                    ray.get(task)
                except Exception as error:
                    failures[task] = error
            ended = [run.ended is not None for run in ray.get(progress.take.remote(())).runs]
            bar.move_to(sum(ended), 0)
    for reason in failures.values():
        if isinstance(reason, InputError):
            raise reason
    if failures:
        open_runs = [run.name for task in failures for index, run in tasks[task].items() if not ended[index]]
        raise StudyError(
            f"{title}: {len(failures)} of {len(parts)} groups of workers failed, with {', '.join(open_runs[:5])} not "
            f"trained: {last_line(next(iter(failures.values())))}; run the same command again, the others are kept"
        )


def check_trainings(session: TrainingSession, runs: Sequence[TrainingRun]) -> None:
    """Reject, before any process starts, settings that DeepSpeed's configuration contradicts.

    Raises:
        InputError: it contradicts those of a run.
    """
    for run in runs:
        train_settings(session.config, run.training, session.resources.workers)


def _drive_group(
    config: StudyConfig, resources: ResourcePlan, runs: Mapping[int, TrainingRun], progress: Any, on_end: OnEnd
) -> None:
    train_group(TrainingSession(config, resources, Terminal()), runs, progress, on_end)


@contextmanager
def _progress_of(runs: Sequence[TrainingRun]) -> Iterator[Any]:
    """Start an actor that counts the steps of runs, for as long as the block runs."""
    progress = progress_actor([run.stage.folder for run in runs])
    try:
        yield progress
    finally:
        ray.kill(progress)
