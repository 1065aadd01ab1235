"""The stages that a study has to run, one after another. Imports all of them, and Ray and torch with them."""

from collections.abc import Sequence

from instsel.choice.budget import Budget
from instsel.config.study import StudyConfig
from instsel.console import Terminal
from instsel.io.store import Folder
from instsel.pipeline import (
    attribution,
    embed,
    evaluate,
    features,
    finetune,
    likelihood,
    prepare,
    report,
    select,
    warmup,
)
from instsel.pipeline import (
    categorize as tag,
)
from instsel.pipeline import (
    hidden_states as represent,
)
from instsel.pipeline.estimators import run_estimators
from instsel.runtime.session import plan_resources
from instsel.study.attribution_specs import attribution_specs
from instsel.study.folder import StageFolder
from instsel.study.graph import Graph
from instsel.study.reader import StudyReader


def run_stages(
    study: StudyConfig, graph: Graph, waiting: Sequence[StageFolder], terminal: Terminal, folder: Folder
) -> None:
    """Run the stages of a study that are not done, in their order.

    Args:
        study: the checked study file.
        graph: all its stages.
        waiting: those to run.
        terminal: where to tell what happens.
        folder: of the study.

    Raises:
        InputError: the user's files or settings are wrong.
        StudyError: a stage failed.
    """
    share = plan_resources(study.resources)
    reader = StudyReader(folder)
    names = {stage.name for stage in waiting}
    if "prepare" in names:
        terminal.head("prepare")
        prepare.run(study, graph.prepare, terminal)
    # A budget that cannot be met is told now, not after the hours that lie between.
    Budget(study.selection.budget, study.selection.unit).of(reader.prepared["pool"])
    extractions = ((graph.embed, embed), (graph.hidden_states, represent), (graph.likelihood, likelihood))
    for stage, extraction in extractions:
        if stage.name in names:
            terminal.head(stage.name)
            extraction.run(study, stage, graph.prepare, share, terminal)
    if "categorize" in names and study.mixture is not None:
        terminal.head("categorize")
        tag.run(study, study.mixture, graph.categorize, graph.prepare, reader, share, terminal)
    if "warmup" in names:
        terminal.head("warmup")
        warmup.run(study, graph.warmup, graph.prepare, share, terminal)
    if "features" in names:
        terminal.head("features")
        features.run(study, graph.features, graph.prepare, graph.warmup, share, terminal)
    for name, influence in attribution_specs(study).items():
        if f"attribution/{name}" in names:
            terminal.head(f"attribution {name}")
            made = (graph.prepare, graph.warmup, graph.features)
            attribution.run(study, graph.attribution[name], influence, *made, terminal)
    run_estimators(study, graph, names, share, terminal)
    selections = {run.selection: run for run in graph.runs.values()}
    for name, run in selections.items():
        if f"select/{name}" in names:
            terminal.head(f"select {name}")
            select.run(study, graph.select[name], run, graph.prepare, reader, terminal)
    untrained = [name for name in graph.runs if f"finetune/{name}" in names]
    finetune.run_all(study, graph, untrained, reader, share, terminal)
    open_sets = {name: stage for name, stage in graph.evaluate.items() if stage.name in names}
    if open_sets:
        terminal.head(f"evaluate {', '.join(open_sets)}")
        evaluate.run(study, open_sets, graph.finetune, graph.prepare, share, terminal)
    if "report" in names:
        report.run(study, graph)
        terminal.say(f"report: {folder}/report/report.html, report.md")
