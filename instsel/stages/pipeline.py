"""A study from its file to its report: the stages that are not done, in order."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from instsel.choice.budget import Budget
from instsel.choice.inputs import Inputs
from instsel.choice.ways import influences_of
from instsel.config import StudyConfig
from instsel.progress import Terminal, log_to
from instsel.stages.graph import ORDER, Graph, build_graph
from instsel.storage import Folder
from instsel.study import Stage, open_folder
from instsel.tracking import check_tracking

LOG = "instsel.log"
CONFIG = "config.json"


def run_study(
    study: StudyConfig,
    terminal: Terminal,
    until: str = ORDER[-1],
    then: Callable[[Graph], None] | None = None,
) -> Graph:
    """Run every stage through `until` that is not done yet.

    Args:
        study: the checked study file.
        terminal: where to tell what happens.
        until: name of the last stage, one of `ORDER`.
        then: called with the stages when they are done, while Ray and the log are still there.

    Returns:
        The stages, all done through `until`.

    Raises:
        InputError: the user's files or settings are wrong.
        StudyError: a stage failed.
    """
    check_tracking(study.tracking)
    folder = open_folder(study.out, study.name)
    with _log_file(folder, study.name) as log_file, log_to(log_file):
        graph = build_graph(study, folder)
        # Also where nothing is left to do: what is asked of the folder later goes by it.
        folder.write_json(CONFIG, study.model_dump())
        waiting = [stage for stage in graph.until(until) if not stage.done()]
        if not waiting and then is None:
            terminal.say(f"study {study.name}: nothing to do, every stage is done")
            return graph
        # Imported here: a finished study is told without the seconds that Ray and torch take to load.
        from instsel.stages.chatter import native_errors_to
        from instsel.stages.errors import clear_errors
        from instsel.stages.gather import gathered
        from instsel.stages.session import ray_session

        with (
            native_errors_to(log_file),
            clear_errors(),
            ray_session(study.resources),
            gathered(study.resources, terminal),
        ):
            if waiting:
                _run(study, graph, waiting, terminal, folder)
            if then is not None:
                then(graph)
        _tell_what_was_done_again(waiting, terminal)
    return graph


def _tell_what_was_done_again(stages: list[Stage], terminal: Terminal) -> None:
    rows = {stage.name: stage.manifest()["cost"]["rows_again"] for stage in stages}
    again = ", ".join(f"{name} {count}" for name, count in rows.items() if count)
    if again:
        terminal.say(f"rows whose work was done again after processes or machines were lost: {again}")


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


def _run(study: StudyConfig, graph: Graph, waiting: list[Stage], terminal: Terminal, folder: Folder) -> None:
    from instsel.stages import (
        attribution,
        embed,
        evaluate,
        features,
        finetune,
        likelihood,
        prepare,
        report,
        represent,
        select,
        tag,
        warmup,
    )  # fmt: skip
    from instsel.stages.estimators import run_estimators
    from instsel.stages.session import allot

    share = allot(study.resources)
    inputs = Inputs(folder)
    names = {stage.name for stage in waiting}
    if "prepare" in names:
        terminal.head("prepare")
        prepare.run(study, graph.prepare, terminal)
    # A budget that cannot be met is told now, not after the hours that lie between.
    Budget(study.selection.budget, study.selection.unit).of(inputs.prepared["pool"])
    extractions = ((graph.embed, embed), (graph.represent, represent), (graph.likelihood, likelihood))
    for stage, extraction in extractions:
        if stage.name in names:
            terminal.head(stage.name)
            extraction.run(study, stage, graph.prepare, share, terminal)
    if "tag" in names and study.mixture is not None:
        terminal.head("tag")
        tag.run(study, study.mixture, graph.tag, graph.prepare, inputs, share, terminal)
    if "warmup" in names:
        terminal.head("warmup")
        warmup.run(study, graph.warmup, graph.prepare, share, terminal)
    if "features" in names:
        terminal.head("features")
        features.run(study, graph.features, graph.prepare, graph.warmup, share, terminal)
    for name, influence in influences_of(study).items():
        if f"attribution/{name}" in names:
            terminal.head(f"attribution {name}")
            made = (graph.prepare, graph.warmup, graph.features)
            attribution.run(study, graph.attribution[name], influence, *made, terminal)
    run_estimators(study, graph, names, share, terminal)
    selections = {run.selection: run for run in graph.runs.values()}
    for name, run in selections.items():
        if f"select/{name}" in names:
            terminal.head(f"select {name}")
            select.run(study, graph.select[name], run, graph.prepare, inputs, terminal)
    untrained = [name for name in graph.runs if f"finetune/{name}" in names]
    finetune.run_all(study, graph, untrained, inputs, share, terminal)
    open_sets = {name: stage for name, stage in graph.evaluate.items() if stage.name in names}
    if open_sets:
        terminal.head(f"evaluate {', '.join(open_sets)}")
        evaluate.run(study, open_sets, graph.finetune, graph.prepare, share, terminal)
    if "report" in names:
        report.run(study, graph)
        terminal.say(f"report: {folder}/report/report.html, report.md")
