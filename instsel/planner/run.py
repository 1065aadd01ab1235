"""What a study will take, before any of its stages starts. Nothing is written into its folder."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from instsel.config.study import Resources, StudyConfig
from instsel.console import Terminal, capture_native_stderr, log_to
from instsel.errors import InputError, StudyError
from instsel.io.store import Folder
from instsel.pipeline.preflight import problems_listed, require_no_problem
from instsel.pipeline.registry import build_graph
from instsel.planner.cluster import TargetCluster
from instsel.planner.estimate import Capacity, estimate_stages, find_shortages, open_stages, plan_table
from instsel.planner.profile import ClusterProfiler
from instsel.planner.rates import NOTHING, save_rates
from instsel.planner.sample import prepared_rows
from instsel.planner.sampled_files import sampled_rows
from instsel.runtime.devices import settle_dtype
from instsel.runtime.errors import clear_errors
from instsel.runtime.session import plan_resources, ray_session
from instsel.study.dtype import with_recorded_dtype
from instsel.study.estimates import PlanContext, StageEstimate
from instsel.study.folder import find_folder
from instsel.study.revisions import with_pinned_revisions


@dataclass(frozen=True)
class StudyPlan:
    """The stages of a study that its methods need and that make estimates, and what will not fit."""

    stages: list[StageEstimate]
    warnings: list[str]


def free_bytes(folder: Folder) -> int | None:
    """Return the bytes free where a folder is or will be; None where nobody can tell, as on an object store."""
    if not folder.is_local:
        return None
    path = Path(folder.path)
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def plan_study(
    study: StudyConfig,
    terminal: Terminal,
    free_disk: Callable[[Folder], int | None] = free_bytes,
    target: TargetCluster | None = None,
) -> StudyPlan:
    """Count the rows, time a few batches of every stage that is not done, and show what the study will take.

    Args:
        study: the checked study file.
        terminal: where to show it.
        free_disk: says how many bytes are free at the study's folder.
        target: a cluster that is not there, and rates; by default the plan is for what is here.

    Raises:
        InputError: the user's files or settings are wrong.
        StudyError: a batch could not be done.
    """
    target = target or TargetCluster()
    folder = find_folder(study.out, study.name)
    asked = with_pinned_revisions(study, folder)
    study = target.with_dtype(with_recorded_dtype(asked, folder))
    with problems_listed(study, terminal):
        stages = open_stages(build_graph(study, folder))
    if not any(stages.values()):
        if target.save is not None:
            raise InputError(NOTHING)
        terminal.say(f"study {study.name}: nothing to do, every stage is done")
        return StudyPlan([StageEstimate(name, done=True) for name in stages], [])
    require_no_problem(study, terminal)
    with _log_file() as log_file:  # noqa: SIM117
        with log_to(log_file), capture_native_stderr(log_file), clear_errors(), ray_session(study.resources):
            terminal.head(f"plan {study.name}")
            target.check_session()
            if target.rates is None:
                study = settle_dtype(asked, folder, terminal, write=False)
            return _plan(study, folder, terminal, free_disk, target)


def _plan(
    study: StudyConfig,
    folder: Folder,
    terminal: Terminal,
    free_disk: Callable[[Folder], int | None],
    target: TargetCluster,
) -> StudyPlan:
    graph = build_graph(study, folder)
    stages = open_stages(graph)
    sample = prepared_rows(graph["prepare"]) if graph["prepare"].done() else sampled_rows(study, terminal)
    terminal.say(sample.summary)
    # Where the processes of the study are known, what it asks for need not be here.
    resources = plan_resources(study.resources if target.rates is None else Resources())
    profiler = ClusterProfiler(study, sample, resources, terminal, target)
    estimates = estimate_stages(PlanContext(study, graph, profiler.counts, profiler), stages)
    if target.save is not None:
        save_rates(target.save, profiler.rates, profiler.counts.mean_tokens)
    if profiler.failure is not None:
        raise profiler.failure
    is_here = target.cluster is None
    capacity = Capacity(study.out, free_disk(folder) if is_here else None, profiler.machine if is_here else None)
    warnings = find_shortages(estimates, capacity)
    terminal.result(plan_table(estimates, target.cost_a_second))
    names = [estimate.name for estimate in estimates if not estimate.done]
    for line in target.describe(names, profiler.rates, profiler.counts.mean_tokens):
        terminal.say(line)
    for warning in warnings:
        terminal.say(f"warning: {warning}")
    return StudyPlan(estimates, warnings)


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
