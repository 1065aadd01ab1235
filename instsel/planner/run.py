"""What a study will take, told before any of its stages starts. Nothing is written into its folder."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from instsel.config.study import StudyConfig
from instsel.console import Terminal, capture_native_stderr, log_to
from instsel.errors import InputError, StudyError
from instsel.io.store import Folder
from instsel.pipeline.registry import build_graph
from instsel.planner.elsewhere import NOTHING, TargetCluster
from instsel.planner.facts import StagePlan
from instsel.planner.fit import Capacity, what_will_not_fit
from instsel.planner.measure import measure
from instsel.planner.stages import plan_stages
from instsel.planner.table import plan_table
from instsel.runtime.devices import settle_dtype
from instsel.runtime.errors import clear_errors
from instsel.runtime.session import ray_session
from instsel.study.dtype import with_recorded_dtype
from instsel.study.folder import find_folder
from instsel.study.graph import StageGraph

LAST = "evaluate"


@dataclass(frozen=True)
class StudyPlan:
    """The stages of a study from *prepare* to *evaluate* that its methods need, and what will not fit."""

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
    study: StudyConfig,
    terminal: Terminal,
    free_disk: Callable[[Folder], int | None] = free_bytes,
    elsewhere: TargetCluster | None = None,
) -> StudyPlan:
    """Count the rows, time a few batches of every stage that is not done, and show what the study will take.

    Args:
        study: the checked study file.
        terminal: where to show it.
        free_disk: says how many bytes are free at the study's folder.
        elsewhere: a cluster that is not there, and rates; by default the plan is for what is here.

    Raises:
        InputError: the user's files or settings are wrong.
        StudyError: a batch could not be done.
    """
    elsewhere = elsewhere or TargetCluster()
    folder = find_folder(study.out, study.name)
    asked, study = study, elsewhere.with_dtype(with_recorded_dtype(study, folder))
    graph = build_graph(study, folder)
    todo = _open_parts(graph)
    if not any(todo.values()):
        if elsewhere.save is not None:
            raise InputError(NOTHING)
        terminal.say(f"study {study.name}: nothing to do, every stage is done")
        return StudyPlan([StagePlan(name, done=True) for name in todo], [])
    with _log_file() as log_file:
        with log_to(log_file), capture_native_stderr(log_file), clear_errors(), ray_session(study.resources):
            terminal.head(f"plan {study.name}")
            elsewhere.check_session()
            if elsewhere.rates is None:
                study = settle_dtype(asked, folder, terminal, write=False)
                graph = build_graph(study, folder)
            measured, machine = measure(study, graph, todo, terminal, elsewhere)
    elsewhere.keep(study, measured)
    facts = elsewhere.moved(study, measured)
    stages = plan_stages(study, facts)
    here = elsewhere.cluster is None
    room = Capacity(study.out, free_disk(folder) if here else None, machine if here else None, study.features.storage)
    warnings = what_will_not_fit(stages, room)
    terminal.result(plan_table(stages, elsewhere.cost_a_second))
    for line in elsewhere.told(study, facts, stages):
        terminal.say(line)
    for warning in warnings:
        terminal.say(f"warning: {warning}")
    return StudyPlan(stages, warnings)


def _open_parts(graph: StageGraph) -> dict[str, list[str]]:
    """Stage -> its parts that are not done, or itself where it has none; see `Facts.todo`."""
    found: dict[str, list[str]] = {}
    for stage in graph.until(LAST):
        name, _, part = stage.name.partition("/")
        parts = found.setdefault(name, [])
        if not stage.done():
            parts.append(part or name)
    return found


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
