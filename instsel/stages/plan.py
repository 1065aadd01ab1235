"""What a study will take, told before any of its stages starts. Nothing is written into its folder."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from instsel.config import StudyConfig
from instsel.errors import StudyError
from instsel.planning.fit import Room, what_will_not_fit
from instsel.planning.stages import StagePlan, plan_stages
from instsel.planning.table import plan_table
from instsel.progress import Terminal, log_to
from instsel.stages.chatter import native_errors_to
from instsel.stages.errors import clear_errors
from instsel.stages.graph import ORDER, Graph, build_graph
from instsel.stages.plan_measure import measure
from instsel.stages.session import ray_session
from instsel.storage import Folder
from instsel.study import Stage, look_at_folder

PLANNED = ORDER[: ORDER.index("report")]


@dataclass(frozen=True)
class StudyPlan:
    """The stages of a study from *prepare* to *evaluate*, and what will not fit."""

    stages: list[StagePlan]
    warnings: list[str]


def free_bytes(folder: Folder) -> int | None:
    """Bytes free where a folder is or will be; None where nobody can tell, as on an object store."""
    if not folder.is_local:
        return None
    place = Path(folder.path)
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def plan_study(
    study: StudyConfig, terminal: Terminal, free_disk: Callable[[Folder], int | None] = free_bytes
) -> StudyPlan:
    """Count the rows, time a few batches of every stage that is not done, and show what the study will take.

    Args:
        study: the checked study file.
        terminal: where to show it.
        free_disk: says how many bytes are free at the study's folder.

    Raises:
        InputError: the user's files or settings are wrong.
        StudyError: a batch could not be done.
    """
    folder = look_at_folder(study.out, study.name)
    graph = build_graph(study, folder)
    todo = {name: _open_parts(graph, name) for name in PLANNED}
    if not any(todo.values()):
        terminal.say(f"study {study.name}: nothing to do, every stage is done")
        return StudyPlan([StagePlan(name, done=True) for name in PLANNED], [])
    with _log_file() as log_file:
        with log_to(log_file), native_errors_to(log_file), clear_errors(), ray_session(study.resources):
            terminal.head(f"plan {study.name}")
            facts, machine = measure(study, graph, todo, terminal)
    stages = plan_stages(study, facts)
    warnings = what_will_not_fit(stages, Room(study.out, free_disk(folder), machine, study.features.storage))
    terminal.verdict(plan_table(stages))
    for warning in warnings:
        terminal.say(f"warning: {warning}")
    return StudyPlan(stages, warnings)


def _open_parts(graph: Graph, name: str) -> list[str]:
    """Parts of a stage that are not done: the methods of *select*, runs of *finetune* and *evaluate*, else itself."""
    stages: Stage | dict[str, Stage] = getattr(graph, name)
    if isinstance(stages, Stage):
        return [] if stages.done() else [name]
    runs = [run for run, stage in stages.items() if not stage.done()]
    return [graph.runs[run].method.method for run in runs] if name == "select" else runs


@contextmanager
def _log_file() -> Iterator[Path]:
    """A log file that is kept, and named, only where the plan fails."""
    folder = Path(tempfile.mkdtemp(prefix="instsel-plan-"))
    try:
        yield folder / "plan.log"
    except StudyError as error:
        raise StudyError(f"{error} ({folder / 'plan.log'})") from error
    except BaseException:
        shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)
