"""A thread that shows and logs the runs of a group while the main thread waits for its workers."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import ray
from ray.exceptions import RayError

from instsel.errors import Diverged
from instsel.runtime.observability import Meter
from instsel.runtime.step_checkpoints import StepCheckpointer
from instsel.runtime.training_progress import RunProgress, StepEvent, TrainingLogger
from instsel.runtime.training_run import (
    METRICS,
    RUN,
    OnEnd,
    Trained,
    TrainingRun,
    TrainingSession,
    checkpoint_names,
)
from instsel.tracking import tracked

POLL_SECONDS = 1.0


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

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follow the runs while the block runs, and to their ends if it ends without an error.

        An error of following, such as one that `on_end` raises, stops the group and is raised where the block ends.
        """
        done = threading.Event()
        thread = threading.Thread(target=self._follow, args=(done,), daemon=True)
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

    def _follow(self, done: threading.Event) -> None:
        try:
            while not done.wait(POLL_SECONDS):
                self._look()
        except Exception as error:
            self._failure = error
            # The main thread waits for the workers, which therefore have to end.
            with suppress(RayError):
                ray.get(self._progress.stop.remote(list(self._runs)))

    def _look(self) -> None:
        snapshot = ray.get(self._progress.take.remote(list(self._runs)))
        for index in list(self._open):
            events = [event for event in snapshot.events if event.run == index]
            run = snapshot.runs[index]
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
        checkpoints = {name: (folder / RUN / name).read_json(METRICS) for name in names}
        self._logger.log_epochs(folder / RUN, names)
        StepCheckpointer(folder).remove()
        return Trained(
            {"run": RUN, "checkpoints": checkpoints},
            progress.tokens,
            progress.peak_memory,
            progress.rows_reprocessed,
            seconds,
        )
