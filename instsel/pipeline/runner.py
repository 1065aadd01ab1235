"""A study from its file to its report: the stages that are not done, in order."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from instsel.choice.budget import Budget
from instsel.config.study import StudyConfig
from instsel.console import Terminal, log_to
from instsel.interrupts import interruptible, is_sigterm
from instsel.io.store import Folder
from instsel.models.dtypes import dtype_of, with_dtype
from instsel.pipeline.preflight import problems_listed, require_no_problem
from instsel.pipeline.registry import build_graph, stage_names
from instsel.study.dtype import with_recorded_dtype
from instsel.study.folder import GRAPH, StageFolder, open_folder
from instsel.study.graph import StageGraph
from instsel.study.lease import Lease, hold_lease
from instsel.study.redo import check_redo, restore_stale
from instsel.study.results import PrepareResult
from instsel.study.revisions import with_pinned_revisions
from instsel.study.runs import check_sources
from instsel.study.stage import RunContext
from instsel.tracking import check_tracking

LOG = "instsel.log"
CONFIG = "config.json"
# What stages load when they run, loaded while Ray's own processes start, which takes as long.
LOADED_AHEAD = ("instsel.runtime.actors", "instsel.runtime.training", "instsel.runtime.devices", "instsel.choice.picks")


def run_study(
    config: StudyConfig,
    console: Terminal,
    until: str | None = None,
    then: Callable[[RunContext], None] | None = None,
    redo: bool = False,
) -> StageGraph:
    """Run every stage through `until` that is not done yet.

    Args:
        config: the checked study file.
        console: where progress is shown.
        until: name of the last stage; by default the report.
        then: called when the stages are done, while Ray and the log are still there.
        redo: delete results behind a URI that are stale and took long; on a disk they are kept in any case.

    Returns:
        The stages, all done through `until`.

    Raises:
        InputError: the user's files or settings are wrong, another command is writing to the folder, or stages behind a
            URI would be redone that took long.
        StudyError: a stage failed.
    """
    check_tracking(config.tracking)
    until = until or stage_names()[-1]
    folder = open_folder(config.out, config.name)
    with _log_file(folder, config.name) as log_file, log_to(log_file):
        asked = with_pinned_revisions(config, folder, console)
        config = with_recorded_dtype(asked, folder)
        # Where the type of the model is not settled, that of this machine stands for it: what is wrong with the user's
        # files is said at once.
        with problems_listed(config, console):
            graph = build_graph(config, folder, redo=redo)
        if not graph.open_keys(until) and then is None:
            _write_config(with_dtype(config, dtype_of(config.model)), graph)
            console.say(f"study {config.name}: nothing to do, every stage is done")
            return graph
        require_no_problem(config, console)
        with hold_lease(folder, console.say) as lease, _stopping(lease, graph, until, console):
            restore_stale(graph, until, console.say)
            waiting = graph.open_keys(until)
            check_redo(
                [graph[stage, key] for stage, keys in waiting.items() for key in keys], folder, redo, console.say
            )
            graph = _run_with_ray(asked, lease, console, RunRequest(until, then, redo, log_file))
    return graph


@dataclass(frozen=True)
class RunRequest:
    """What is asked of a run: see `run_study`; and the file that it logs to."""

    until: str
    then: Callable[[RunContext], None] | None
    redo: bool
    log_file: Path


def _run_with_ray(asked: StudyConfig, lease: Lease, console: Terminal, request: RunRequest) -> StageGraph:
    # Imported here: a finished study is shown without the seconds that Ray and torch take to load.
    from instsel.console import capture_native_stderr
    from instsel.runtime.autoscaling import requested_capacity
    from instsel.runtime.errors import clear_errors
    from instsel.runtime.session import plan_resources, ray_session

    loading = threading.Thread(target=lambda: [import_module(name) for name in LOADED_AHEAD], daemon=True)
    loading.start()
    with (
        capture_native_stderr(request.log_file),
        clear_errors(),
        ray_session(asked.resources),
        # Ray has its own handlers, under which a command ends without a word.
        interruptible(),
        requested_capacity(asked.resources, console),
    ):
        loading.join()
        from instsel.runtime.devices import settle_dtype

        config = settle_dtype(asked, lease.folder, console)
        graph = build_graph(config, lease.folder, redo=request.redo)
        waiting = graph.open_keys(request.until)
        # Also where nothing is left to do: what is asked of the folder later goes by it.
        _write_config(config, graph)
        context = RunContext(config, graph, plan_resources(config.resources), console)
        _run_stages(context, waiting, lease)
        if request.then is not None:
            request.then(context)
    _say_what_was_reprocessed([graph[stage, key] for stage, keys in waiting.items() for key in keys], console)
    return graph


@contextmanager
def _stopping(lease: Lease, graph: StageGraph, until: str, console: Terminal) -> Iterator[None]:
    """Say what is kept and how to resume where SIGTERM or Ctrl-C ends the block."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        # Where the lease was lost, that is the reason, and an error says so.
        if lease.lost_to is not None or not (isinstance(error, KeyboardInterrupt) or is_sigterm(error)):
            raise
        by = "SIGTERM" if is_sigterm(error) else "Ctrl-C"
        stages = graph.until(until)
        kept = [stage.name for stage in stages if stage.done()]
        unfinished = [stage.name for stage in stages if stage.name not in kept and stage.is_started()]
        console.say(
            f"stopped by {by}; finished and kept: {', '.join(kept) or 'no stage yet'}"
            + (f"; under way, its finished parts are kept: {', '.join(unfinished)}" if unfinished else "")
            + "; run the same command again to resume"
        )
        raise


def _run_stages(context: RunContext, waiting: Mapping[str, Sequence[str]], lease: Lease) -> None:
    """Run the stages that have something to do, each with its keys that are not done."""
    selection = context.config.selection
    budget = Budget(selection.largest_budget, selection.unit)
    is_checked = False
    for name, keys in waiting.items():
        if not is_checked and context.stage("prepare").done():
            # A budget that cannot be met and a source that is not there are said now, not after the hours between.
            pool = context.stage("prepare").result(PrepareResult).pool
            budget.of(pool)
            for method in selection.methods:
                check_sources(method, pool)
            is_checked = True
        lease.require()
        context.graph.stage(name).run(context, keys)
        context.study.forget_manifests()


def _write_config(config: StudyConfig, graph: StageGraph) -> None:
    """Write down the study file as it is run, and the stages that it has, for those who read the folder."""
    graph.folder.write_json(CONFIG, config.model_dump(mode="json"))
    graph.folder.write_json(GRAPH, graph.describe())


def _say_what_was_reprocessed(stages: Sequence[StageFolder], console: Terminal) -> None:
    rows = {stage.name: stage.manifest()["cost"]["rows_reprocessed"] for stage in stages}
    reprocessed = ", ".join(f"{name} {count}" for name, count in rows.items() if count)
    if reprocessed:
        console.say(f"rows whose work was done again after processes or machines were lost: {reprocessed}")


@contextmanager
def _log_file(folder: Folder, name: str) -> Iterator[Path]:
    """The log on this machine; for a folder elsewhere NAME.log, and what this run wrote is added to the log there."""
    if folder.is_local:
        yield Path(folder.path, LOG)
        return
    here = Path(f"{name}.log")
    before = here.stat().st_size if here.exists() else 0
    try:
        yield here
    finally:
        there = folder.read(LOG) if folder.exists(LOG) else b""
        folder.write(LOG, there + here.read_bytes()[before:])
