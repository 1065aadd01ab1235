"""Losses of training runs, sent to TensorBoard, MLflow or Weights & Biases while they come.

Ray's and transformers' own callbacks are for their own loops: those of Ray Tune live in a folder that a search removes,
those of transformers want a Trainer's state, and `ray.air.integrations` does not know the ranks of Ray Train 2. What is
left of them are the clients below, which this process calls; workers need neither packages nor keys.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

from instsel.config.study import StudyConfig, Tracking
from instsel.console import log
from instsel.errors import InputError
from instsel.io.fingerprint import fingerprint
from instsel.io.store import Folder
from instsel.study.folder import path_in_study

PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
RUN_TAG = "instsel.run"
# Seconds that a run waits for a tracker at its start and at its end. MLflow's client would take 4 minutes to give up a
# server that is away, W&B's 90 s, and for ever at the end of a run.
LONGEST_WAIT = 30
MLFLOW_REQUEST = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}


@dataclass(frozen=True)
class RunName:
    """How a run is called: the study, the folder in it, and a key that stays the same when the run is resumed."""

    study: str
    label: str
    key: str


class Tracker(Protocol):
    """Where values go."""

    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


def check_tracking(tracking: Tracking) -> None:
    """Refuse a tracker whose package is missing, before any stage starts.

    Raises:
        InputError: it is.
    """
    for key, package in PACKAGES.items():
        if getattr(tracking, key) is not None and find_spec(package) is None:
            raise InputError(
                f"tracking.{key} needs the package {package}; install it: python -m pip install 'instsel[track]'"
            )


@contextmanager
def tracked(study: StudyConfig, folder: Folder, dependencies: str, settings: Mapping[str, Any]) -> Iterator["Tracked"]:
    """A run of a study to log to; whatever a tracker does wrong is logged once and ends that tracker alone.

    Args:
        study: names the trackers.
        folder: of the run, in that of the study: gives the run its name.
        dependencies: what the run depends on; with the same, it is resumed under the same key.
        settings: shown beside the run.
    """
    _, label = path_in_study(folder)
    name = RunName(study.name, label, fingerprint([str(folder), dependencies]))
    run = Tracked(label)
    for make, where in (
        (TensorBoard, study.tracking.tensorboard),
        (MLflow, study.tracking.mlflow),
        (WeightsAndBiases, study.tracking.wandb),
    ):
        if where is not None:
            run.add(make, where, name, _plain(settings))
    try:
        yield run
    finally:
        run.close()


class Tracked:
    """The trackers of a run that still work."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.trackers: list[Tracker] = []

    def add(self, make: Any, where: str, name: RunName, settings: Mapping[str, Any]) -> None:
        """Open a tracker."""
        try:
            self.trackers.append(make(where, name, settings))
        except Exception as error:
            self._warn(make.__name__, error)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send values of a step."""
        for tracker in list(self.trackers):
            try:
                tracker.log(values, step)
            except Exception as error:
                self._warn(type(tracker).__name__, error)
                self.trackers.remove(tracker)

    def close(self) -> None:
        """Close all trackers."""
        for tracker in self.trackers:
            with suppress(Exception):
                tracker.close()

    def _warn(self, tracker: str, error: Exception) -> None:
        log.warning("%s: %s takes nothing more: %s", self.label, tracker, " ".join(str(error).split())[:300])


class TensorBoard:
    """Event files below a folder."""

    def __init__(self, where: str, name: RunName, settings: Mapping[str, Any]) -> None:
        from tensorboardX import SummaryWriter

        uri = os.path.join(where, name.study, name.label)
        self.writer = SummaryWriter(uri, write_to_disk=True)
        self.writer.add_text("settings", "\n".join(f"- {key}: {value}" for key, value in settings.items()))

    def log(self, values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            self.writer.add_scalar(key, value, step)

    def close(self) -> None:
        self.writer.close()


class MLflow:
    """A run of the experiment that is called as the study; a run that is resumed is found by its tag."""

    def __init__(self, where: str, name: RunName, settings: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient

        # Only the environment sets these; what the user has set there stays.
        for variable, value in MLFLOW_REQUEST.items():
            os.environ.setdefault(variable, value)
        self.client: Any = MlflowClient(where)
        known = self.client.get_experiment_by_name(name.study)
        experiment = known.experiment_id if known else self.client.create_experiment(name.study)
        runs = self.client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{name.key}'", max_results=1)
        if runs:
            self.run = runs[0].info.run_id
            self.client.update_run(self.run, status="RUNNING")
            return
        self.run = self.client.create_run(experiment, run_name=name.label, tags={RUN_TAG: name.key}).info.run_id
        for key, value in settings.items():
            self.client.log_param(self.run, key, value)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            self.client.log_metric(self.run, key, value, step=step)

    def close(self) -> None:
        self.client.set_terminated(self.run)


class WeightsAndBiases:
    """A run in a project, in the group of the study; several at a time do not meet."""

    def __init__(self, where: str, name: RunName, settings: Mapping[str, Any]) -> None:
        import wandb

        self.run: Any = wandb.init(
            project=where,
            group=name.study,
            name=name.label,
            id=name.key,
            resume="allow",
            reinit="create_new",
            config=dict(settings),
            # No output, code or machine of the study is sent, only what is logged.
            settings=wandb.Settings(
                silent=True,
                init_timeout=LONGEST_WAIT,
                finish_timeout=LONGEST_WAIT,
                console="off",
                disable_code=True,
                disable_git=True,
                x_disable_meta=True,
                x_disable_stats=True,
            ),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        # A step of its own: W&B's can only grow, and a resumed run repeats some steps.
        self.run.log({**values, "step": step})

    def close(self) -> None:
        self.run.finish()


def _plain(settings: Mapping[str, object]) -> dict[str, int | float | str]:
    """Settings as every tracker takes them."""
    return {key: value if isinstance(value, int | float | str) else str(value) for key, value in settings.items()}
